"""Times engines on a GPU against torch.compile and a CUDA graph of eager PyTorch, fp16, in one call.

bench.py OUT.jsonl MODEL[,MODEL] BATCH[,BATCH] PEER[,PEER] [--jobs N] [--seconds S]   peers: kiln, kiln-tuned, compile, graph
Each model and batch has a process of its own. N of them build their peers at the same time; then, one after the other and with nothing else
running, each times its peers in turns. A row: median milliseconds of CUDA-event-timed calls over rotated inputs, milliseconds of
back-to-back calls, microseconds of the host, relative L2 error against fp32 eager, seconds to build, achieved TFLOP/s and TB/s, and the
share of the floor (the larger of operations / 747 TFLOP/s and bytes of weights, inputs and outputs / 2.97 TB/s, measured on an H100).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import multiprocessing
import multiprocessing.connection
import os
import statistics
import sys
import time
import traceback
from collections.abc import Iterator
from typing import Any, Callable

import torch

sys.path.insert(0, os.path.dirname(__file__))
from models import make

torch.backends.cudnn.benchmark = True
PEAK_FLOPS, PEAK_BYTES = 747e12, 2.97e12
ROUNDS = 3

Tensors = tuple[torch.Tensor, ...]
Call = Callable[..., Any]


def event_times(call: Call, sets: list[Tensors], seconds: float) -> list[float]:
    """Milliseconds of single calls."""
    for _ in range(4):
        for x in sets:
            call(*x)
    torch.cuda.synchronize()
    times: list[float] = []
    end, i = time.time() + seconds, 0
    while time.time() < end or len(times) < 20:
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
    return times


def stream_time(call: Call, sets: list[Tensors]) -> float:
    """Milliseconds of a call among calls back to back."""
    a, b = torch.cuda.Event(True), torch.cuda.Event(True)
    a.record()
    for k in range(60):
        call(*sets[k % len(sets)])
    b.record()
    torch.cuda.synchronize()
    return a.elapsed_time(b) / 60


def host_microseconds(call: Call, x: Tensors, row: int = 1) -> float:
    """What one call takes of the host, with an empty GPU queue each time, or of so many that follow each other. After long waits the
    caches of a busy machine are others', and all that one call touches comes from memory."""
    times = []
    for i in range(50):
        if i % row == 0:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call(*x)
        times.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return median(times) * 1e6


def median(x: list[float]) -> float:
    return sorted(x)[len(x) // 2]


def halves(x: Tensors) -> Tensors:
    moved = tuple(t.cuda().half() if t.is_floating_point() else t.cuda() for t in x)
    return tuple(t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for t in moved)


def graphed(model: torch.nn.Module, x: Tensors) -> Call:
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

    run.model = model  # type: ignore[attr-defined]  # the graph reads its parameters
    return run


def build(peer: str, model: torch.nn.Module, x: Tensors) -> Call:
    if peer.startswith("kiln"):
        import kiln

        half = model if os.environ.get("KILN_BENCH_FP32") else copy.deepcopy(model).half()
        inputs = [t.half() if t.is_floating_point() else t for t in x]
        return kiln.compile(half, inputs=inputs, target="cuda", tune=100.0 if peer == "kiln-tuned" else 0.0)
    half = copy.deepcopy(model).cuda().half()
    if x[0].dim() == 4:
        half = half.to(memory_format=torch.channels_last)
    if peer == "graph":
        return graphed(half, halves(x))
    import torch._inductor.config as inductor

    inductor.freezing = True
    return torch.compile(half, mode="reduce-overhead")


def first(y: Any) -> torch.Tensor:
    return y[0] if isinstance(y, (tuple, list)) else y


def error_of(a: Any, b: torch.Tensor) -> float:
    return float((first(a).float() - b).norm() / b.norm())


class Row:
    """A model at one batch with its peers, built in this process."""

    def __init__(self, name: str, batch: int, peers: list[str]) -> None:
        self.calls: dict[str, Call] = {}
        self.rows: dict[str, dict[str, Any]] = {p: {"model": name, "batch": batch, "peer": p} for p in peers}
        model, x = make(name, batch)
        with torch.inference_mode():
            reference = first(model.cuda()(*[t.cuda() for t in x])).float()
            half_error = error_of(copy.deepcopy(model).half()(*halves(x)), reference)
            model = model.cpu()
        self.sets = [halves(x)]
        for _ in range(2):
            self.sets.append(halves(tuple(torch.randn_like(t) if t.is_floating_point() else t for t in x)))
        held = [*model.parameters(), *model.buffers()]
        self.bytes = sum(t.numel() for t in held) * 2 + sum(t.nbytes for t in self.sets[0]) + reference.numel() * 2
        for peer, row in self.rows.items():
            try:
                torch.cuda.empty_cache()
                start = time.time()
                with torch.no_grad():
                    call = build(peer, model, x)
                    out = call(*self.sets[0])
                torch.cuda.synchronize()
                row["build_s"] = round(time.time() - start, 2)
                row["error"], row["eager_half_error"] = error_of(out, reference), half_error
                del out
                with torch.no_grad():
                    call(*self.sets[1])
                self.calls[peer] = call
            except Exception as e:
                row["failed"] = f"{type(e).__name__}: {str(e)[:600]}"
                if os.environ.get("KILN_BENCH_TRACE"):
                    traceback.print_exc()
        del reference
        torch.cuda.empty_cache()

    def measure(self) -> list[dict[str, Any]]:
        times: dict[str, list[float]] = {p: [] for p in self.calls}
        streams: dict[str, list[float]] = {p: [] for p in self.calls}
        with torch.no_grad():
            for _ in range(ROUNDS):  # in turns, so that a drift of clocks meets all alike
                for peer, call in self.calls.items():
                    times[peer] += event_times(call, self.sets, 0.12)
                    streams[peer].append(stream_time(call, self.sets))
            for peer, call in self.calls.items():
                row = self.rows[peer]
                row["ms"], row["ms_stream"] = median(times[peer]), median(streams[peer])
                row["host_us"] = round(host_microseconds(call, self.sets[0]), 1)
                row["host_row_us"] = round(host_microseconds(call, self.sets[0], 5), 1)
        steps: list[dict[str, Any]] = []
        for peer, call in self.calls.items():
            if peer.startswith("kiln"):
                steps = call.profile(*self.sets[0])
                row, worst = self.rows[peer], sorted(steps, key=lambda s: -s["seconds"])
                row["steps"] = len(steps)
                row["worst"] = [
                    f"{s['tactic']} {s['name']} {s['seconds'] * 1e6:.1f}us {s['flops'] / max(s['seconds'], 1e-9) / 1e12:.0f}T"
                    for s in worst[:8]
                ]
        flops = sum(s["flops"] for s in steps)
        for peer in self.calls:
            row = self.rows[peer]
            floor = max(flops / PEAK_FLOPS, self.bytes / PEAK_BYTES) * 1e3
            row["tflops"] = round(flops / row["ms"] / 1e9, 1)
            row["tbytes"] = round(self.bytes / row["ms"] / 1e9, 3)
            row["floor_ms"], row["of_floor"] = floor, round(floor / row["ms"], 3)
        return list(self.rows.values())


def worker(pipe: multiprocessing.connection.Connection, name: str, batch: int, peers: list[str]) -> None:
    try:
        row = Row(name, batch, peers)
        pipe.send("built")
        pipe.recv()
        pipe.send(row.measure())
    except BaseException as e:
        pipe.send([{"model": name, "batch": batch, "failed": f"{type(e).__name__}: {str(e)[:400]}"}])


def wave(todo: list[tuple[str, int]], peers: list[str], end: float) -> Iterator[dict[str, Any]]:
    """Builds all at once, then times one after the other; gives rows as they come."""
    spawn = multiprocessing.get_context("spawn")
    running = []
    for name, batch in todo:
        ours, theirs = spawn.Pipe()
        process = spawn.Process(target=worker, args=(theirs, name, batch, peers), daemon=True)
        process.start()
        theirs.close()
        running.append((name, batch, ours, process))
    ready = []
    for name, batch, pipe, process in running:
        try:
            said = pipe.recv() if pipe.poll(max(end - time.time(), 0)) else "out of time while building"
        except EOFError:
            said = "the process ended"
        if said == "built":
            ready.append((name, batch, pipe, process))
        else:
            yield from said if isinstance(said, list) else [{"model": name, "batch": batch, "failed": said}]
            process.kill()
    for name, batch, pipe, process in ready:
        try:
            pipe.send("time")
            late = [{"model": name, "batch": batch, "failed": "timing took over 60 s"}]
            yield from pipe.recv() if pipe.poll(60) else late
        except EOFError:
            yield {"model": name, "batch": batch, "failed": "the process ended while timing"}
        process.kill()
        process.join()


def summary(rows: list[dict[str, Any]]) -> None:
    """A table, and how much faster than each peer."""
    timed: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for row in rows:
        if "ms" in row:
            timed.setdefault((row["model"], row["batch"]), {})[row["peer"]] = row
    peers = sorted({p for by in timed.values() for p in by})
    print(f"{'model':18} batch " + " ".join(f"{p:>10}" for p in peers) + "  host us  in a row  of floor")
    for (name, batch), by in timed.items():
        ours = by.get("kiln") or next(iter(by.values()))
        cells = " ".join(f"{by[p]['ms']:10.4f}" if p in by else f"{'-':>10}" for p in peers)
        print(f"{name:18} {batch:5} {cells}  {ours['host_us']:7}  {ours['host_row_us']:8}  {ours['of_floor']:7.1%}")
    for peer in peers:
        ratios = {k: by[peer]["ms"] / by["kiln"]["ms"] for k, by in timed.items() if peer in by and "kiln" in by}
        if peer == "kiln" or not ratios:
            continue
        single = [r for (_, batch), r in ratios.items() if batch == 1]
        mean = math.exp(statistics.fmean(map(math.log, ratios.values())))
        worst = min(ratios, key=lambda k: ratios[k])
        print(
            f"kiln against {peer}: geometric mean {mean:.3f}x over {len(ratios)} rows, batch 1 "
            f"{statistics.fmean(single or [math.nan]):.3f}x, worst {ratios[worst]:.3f}x ({worst[0]} {worst[1]})"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("out", "models", "batches", "peers"):
        parser.add_argument(name)
    parser.add_argument("--jobs", type=int, default=6, help="processes that build at the same time")
    parser.add_argument("--seconds", type=float, default=440, help="no process is started after this")
    args = parser.parse_args()
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "4")
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}", flush=True)
    todo = [(name, int(batch)) for batch in args.batches.split(",") for name in args.models.split(",")]
    start, rows = time.time(), []
    with open(args.out, "a") as file:
        while todo and time.time() - start < args.seconds:
            for row in wave(todo[: args.jobs], args.peers.split(","), start + args.seconds):
                rows.append(row)
                file.write(json.dumps(row) + "\n")
                print({k: (round(v, 5) if isinstance(v, float) else v) for k, v in row.items()}, flush=True)
                file.flush()
            todo = todo[args.jobs :]
    for name, batch in todo:
        print(f"not reached in {args.seconds:.0f} s: {name} {batch}")
    summary(rows)


if __name__ == "__main__":
    main()
