"""What one call of an engine takes of the host: by kernels, by outputs, and with outputs of the caller.

    python bench/gpu/host_time.py [KERNELS OUTPUTS ...]        pairs of layers and outputs; default: 1 1  50 1  200 1  10 8  10 32
    python bench/gpu/host_time.py NAME/BATCH ...               models of models.py in fp16: resnet50/1 llama1b_decode/1

Each call starts with an empty GPU queue. The first column calls the module, the second the object in C behind it, the third writes into
tensors that exist (run_into); the last one does so while the GPU is busy. Medians of 300, and the smallest in brackets; on a machine that
does nothing else: launching a graph reads its nodes, and other programs push them out of the processor's caches.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, Callable

import torch
from torch import nn

import kiln


class Layers(nn.Module):
    """Small layers one behind the other, and some outputs."""

    def __init__(self, layers: int, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.layers = nn.ModuleList(nn.Linear(64, 64) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> Any:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x if self.outputs == 1 else tuple(x * (i + 1) for i in range(self.outputs))


def microseconds(call: Callable[[], Any], runs: int = 300, queued: int = 1) -> str:
    """Of one call; `queued`: how many follow each other before the GPU is waited for."""
    times = []
    for i in range(runs):
        if i % queued == 0:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    times.sort()
    return f"{times[runs // 2] * 1e6:6.1f} ({times[0] * 1e6:.1f})"


def measure(what: str, engine: Any, x: tuple[torch.Tensor, ...]) -> None:
    y = engine(*x)
    outputs = len(engine.outputs)
    kernels = len(engine.profile(*x))
    runner = engine.engine.runner(single=outputs == 1)
    kept = [y] if isinstance(y, torch.Tensor) else list(runner(*x))
    ways: list[Callable[[], Any]] = [lambda: engine(*x), lambda: runner(*x), lambda: engine.run_into(x, kept)]
    for way in ways * 5:
        way()
    row = [*[microseconds(way) for way in ways], microseconds(ways[2], 48, 8)]
    print(f"{what:>20} {kernels:8d} {outputs:8d} " + " ".join(f"{cell:>16}" for cell in row), flush=True)


def layers(count: int, outputs: int) -> None:
    x = torch.randn(4, 64, device="cuda")
    engine = kiln.compile(Layers(count, outputs).eval(), inputs=[x], target="cuda", precision="fp16")
    measure(f"{count} layers", engine, (x,))


def model(name: str) -> None:
    import models

    base, _, batch = name.partition("/")
    module, x = models.make(base, int(batch or 1))
    x = tuple(t.cuda().half() if t.is_floating_point() else t.cuda() for t in x)
    if x[0].dim() == 4:
        x = tuple(t.contiguous(memory_format=torch.channels_last) for t in x)
    measure(name, kiln.compile(module.half(), inputs=x, target="cuda"), x)


def main() -> None:
    arguments = sys.argv[1:]
    names = [a for a in arguments if not a.isdigit()]
    numbers = [int(a) for a in arguments if a.isdigit()] or ([] if names else [1, 1, 50, 1, 200, 1, 10, 8, 10, 32])
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    heads = ["module", "in C", "run_into", "queued"]
    print(f"{'':>20} {'kernels':>8} {'outputs':>8} " + " ".join(f"{head:>16}" for head in heads) + "   microseconds", flush=True)
    with torch.no_grad():
        for count, outputs in zip(numbers[::2], numbers[1::2]):
            layers(count, outputs)
        for name in names:
            model(name)


if __name__ == "__main__":
    main()
