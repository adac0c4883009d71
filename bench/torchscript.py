"""Figures of compiled ScriptModules: bytes, call overhead, memory over many calls and loads, and threads.

    python bench/torchscript.py [--quick]

Prints one line for each figure; times are the best of several repeats, of this thread's processor time.
"""

from __future__ import annotations

import argparse
import gc
import io
import threading
import time
import warnings
from typing import Any, Callable

import torch

import kiln
from kiln import _kiln


def resident() -> int:
    """Bytes of memory of this process that are not files."""
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return sum(int(fields[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem"))


def best_us(call: Callable[[], Any], calls: int, repeats: int = 7) -> float:
    for _ in range(calls // 4):
        call()
    best = float("inf")
    for _ in range(repeats):
        start = time.thread_time()
        for _ in range(calls):
            call()
        best = min(best, (time.thread_time() - start) / calls)
    return best * 1e6


def saved(module: torch.jit.ScriptModule) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    return buffer.getvalue()


def loaded(data: bytes) -> torch.jit.ScriptModule:
    return torch.jit.load(io.BytesIO(data))


def small() -> tuple[bytes, torch.Tensor]:
    x = torch.randn(2, 16)
    module = torch.jit.script(torch.nn.Linear(16, 16).eval())
    return saved(kiln.compile(module, inputs=[x])), x


def overhead(calls: int) -> None:
    data, x = small()
    module = loaded(data)
    frozen = loaded(saved(torch.jit.freeze(loaded(data))))
    relu = torch.jit.script(torch.nn.ReLU())
    engine = module.engine.kiln_engine
    print(f"saved module: {len(data)} bytes, engine + {len(data) - len(kiln.engine_bytes(module))}")
    print(f"call, Linear(16, 16), loaded ScriptModule: {best_us(lambda: module(x), calls):.2f} us")
    print(f"call, the same frozen, saved and loaded:   {best_us(lambda: frozen(x), calls):.2f} us")
    print(
        f"call, operator kiln::execute alone:        {best_us(lambda: torch.ops.kiln.execute.default(engine, [x]), calls):.2f} us"
    )
    print(f"call, ScriptModule of torch.relu alone:    {best_us(lambda: relu(x), calls):.2f} us")


def memory(calls: int, loads: int) -> None:
    data, x = small()
    module = loaded(data)
    for _ in range(1000):
        module(x)
    before = resident()
    for _ in range(calls):
        module(x)
    print(f"{calls} calls: memory grew by {(resident() - before) / 1024:.0f} KiB")

    def cycle() -> None:
        loaded(data)(x)

    plain = saved(torch.jit.script(torch.nn.Linear(16, 16).eval()))

    def plain_cycle() -> None:
        loaded(plain)(x)

    for name, run in (("compiled module", cycle), ("module of PyTorch's own, for comparison", plain_cycle)):
        for _ in range(100):
            run()
        gc.collect()
        before = resident()
        for _ in range(loads):
            run()
        gc.collect()
        print(f"{loads} loads, calls and frees, {name}: memory grew by {(resident() - before) / 1024:.0f} KiB")
    del module
    gc.collect()
    _kiln.torch_clear_cache()
    print(f"instances and engines alive at the end: {_kiln.torch_counts()}")


def threads(seconds: float) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(*[layer for _ in range(4) for layer in (torch.nn.Linear(512, 512), torch.nn.ReLU())]).eval()
    xs = [torch.randn(32, 512) for _ in range(8)]
    expected = [model(x) for x in xs]
    torch.set_num_threads(1)  # one call, one thread: what scales is the number of calls
    module = loaded(saved(kiln.compile(torch.jit.script(model), inputs=[xs[0]])))
    rates = {}
    for count in (1, 2, 8):
        done, wrong = [0] * count, [0] * count

        def work(i: int, done: list[int] = done, wrong: list[int] = wrong) -> None:
            end = time.perf_counter() + seconds
            while time.perf_counter() < end:
                wrong[i] += not torch.allclose(module(xs[i]), expected[i], rtol=1e-4, atol=1e-5)
                done[i] += 1

        workers = [threading.Thread(target=work, args=(i,)) for i in range(count)]
        start, used = time.perf_counter(), time.process_time()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        rates[count] = sum(done) / (time.perf_counter() - start)
        used = (time.process_time() - used) / sum(done)
        print(
            f"{count} threads on one module: {rates[count]:.0f} calls/s ({rates[count] / rates[1]:.2f} x), "
            f"{used * 1e6:.0f} us of processor time for each, {sum(wrong)} wrong results"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a tenth of the repeats")
    scale = 10 if parser.parse_args().quick else 1
    warnings.simplefilter("ignore")
    with torch.no_grad():
        overhead(20_000 // scale)
        memory(100_000 // scale, 1_000 // scale)
        threads(3 / scale)


if __name__ == "__main__":
    main()
