"""Times engines on a GPU against torch.compile and a CUDA graph of eager PyTorch, fp16, in one process per model.

bench.py OUT.jsonl MODEL[,MODEL] BATCH[,BATCH] PEER[,PEER]   peers: kiln, kiln-tuned, compile, graph
A row: median milliseconds of CUDA-event-timed calls over rotated inputs, relative L2 error against fp32 eager, seconds to build.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from typing import Any, Callable

import torch

sys.path.insert(0, os.path.dirname(__file__))
from models import make

torch.backends.cudnn.benchmark = True


def event_times(call: Callable[..., Any], sets: list[tuple[Any, ...]], seconds: float = 0.25) -> tuple[float, float]:
    """Median of single calls, and mean of back-to-back ones, in milliseconds."""
    for _ in range(8):
        for x in sets:
            call(*x)
    torch.cuda.synchronize()
    times: list[float] = []
    end, i = time.time() + seconds, 0
    while time.time() < end or len(times) < 50:
        marks = []
        for _ in range(20):
            a, b = torch.cuda.Event(True), torch.cuda.Event(True)
            a.record()
            call(*sets[i % len(sets)])
            b.record()
            marks.append((a, b))
            i += 1
        torch.cuda.synchronize()
        times += [a.elapsed_time(b) for a, b in marks]
    a, b = torch.cuda.Event(True), torch.cuda.Event(True)
    a.record()
    for k in range(100):
        call(*sets[k % len(sets)])
    b.record()
    torch.cuda.synchronize()
    times.sort()
    return times[len(times) // 2], a.elapsed_time(b) / 100


def host_microseconds(call: Callable[..., Any], x: tuple[Any, ...]) -> float:
    """What one call takes of the host, with an empty GPU queue each time."""
    times = []
    for _ in range(50):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call(*x)
        times.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return sorted(times)[len(times) // 2] * 1e6


def halves(x: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    moved = tuple(t.cuda().half() if t.is_floating_point() else t.cuda() for t in x)
    return tuple(t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in moved)


def graphed(model: Callable[..., Any], x: tuple[torch.Tensor, ...]) -> Callable[..., Any]:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            model(*x)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = model(*x)

    def run(*y: torch.Tensor) -> Any:
        for a, b in zip(x, y):
            a.copy_(b)
        graph.replay()
        return out

    return run


def build(peer: str, model: torch.nn.Module, x: tuple[torch.Tensor, ...]) -> Callable[..., Any]:
    if peer.startswith("kiln"):
        import kiln

        tune = 100.0 if peer == "kiln-tuned" else 0.0
        half = model if os.environ.get("KILN_BENCH_FP32") else __import__("copy").deepcopy(model).half()
        return kiln.compile(half, inputs=[t.half() if t.is_floating_point() else t for t in x], target="cuda", tune=tune)
    half = __import__("copy").deepcopy(model).cuda().half()
    if x[0].dim() == 4:
        half = half.to(memory_format=torch.channels_last)
    if peer == "graph":
        return graphed(half, halves(x))
    import torch._inductor.config as inductor

    inductor.freezing = True
    return torch.compile(half, mode="reduce-overhead")


def error_of(a: Any, b: torch.Tensor) -> float:
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


def measure(name: str, batch: int, peers: list[str]) -> list[dict[str, Any]]:
    model, x = make(name, batch)
    rows = []
    with torch.inference_mode():
        reference = model.cuda()(*[t.cuda() for t in x]).float()
        eager = __import__("copy").deepcopy(model).half()(*halves(x))
        half_error = error_of(eager, reference)
        model = model.cpu()
    for peer in peers:
        row = {"model": name, "batch": batch, "peer": peer}
        try:
            torch.cuda.empty_cache()
            start = time.time()
            with torch.no_grad():
                call = build(peer, model, x)
            with torch.no_grad():
                sets = [halves(tuple(torch.randn_like(t) if t.is_floating_point() else t for t in x)) for _ in range(3)]
                sets[0] = halves(x)
                out = call(*sets[0])
                torch.cuda.synchronize()
                row["build_s"] = round(time.time() - start, 2)
                row["error"], row["eager_half_error"] = error_of(out, reference), half_error
                row["ms"], row["ms_stream"] = event_times(call, sets)
                row["host_us"] = round(host_microseconds(call, sets[0]), 1)
            if peer.startswith("kiln"):
                steps = call.profile(*sets[0])
                row["steps"] = len(steps)
                worst = sorted(steps, key=lambda s: -s["seconds"])[:8]
                row["worst"] = [
                    f"{s['tactic']} {s['name']} {s['seconds'] * 1e6:.1f}us {s['flops'] / max(s['seconds'], 1e-9) / 1e12:.0f}T"
                    for s in worst
                ]
        except Exception as e:
            row["failed"] = f"{type(e).__name__}: {str(e)[:600]}"
            if os.environ.get("KILN_BENCH_TRACE"):
                traceback.print_exc()
        rows.append(row)
        torch._dynamo.reset()
    return rows


def main() -> None:
    out, names, batches, peers = sys.argv[1:5]
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}", flush=True)
    with open(out, "a") as file:
        for name in names.split(","):
            for batch in batches.split(","):
                try:
                    rows = measure(name, int(batch), peers.split(","))
                except Exception as e:
                    rows = [{"model": name, "batch": int(batch), "failed": f"{type(e).__name__}: {str(e)[:400]}"}]
                for row in rows:
                    file.write(json.dumps(row) + "\n")
                    print({k: (round(v, 4) if isinstance(v, float) else v) for k, v in row.items()}, flush=True)
                file.flush()


if __name__ == "__main__":
    main()
