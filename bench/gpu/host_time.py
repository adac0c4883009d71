"""What one call of an engine takes of the host: by kernels, by outputs, and with outputs of the caller.

    python bench/gpu/host_time.py [KERNELS OUTPUTS ...]        pairs of layers and outputs; default: 1 1  50 1  200 1  10 8  10 32

Each call starts with an empty GPU queue. The first column calls the module, the second the object in C behind it, the third writes into
tensors that exist (run_into). Medians of 300, and the smallest in brackets; on a machine that does nothing else.
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


def microseconds(call: Callable[[], Any], runs: int = 300) -> str:
    times = []
    for _ in range(runs):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    times.sort()
    return f"{times[runs // 2] * 1e6:6.1f} ({times[0] * 1e6:.1f})"


def measure(layers: int, outputs: int) -> None:
    x = torch.randn(4, 64, device="cuda")
    engine = kiln.compile(Layers(layers, outputs).eval(), inputs=[x], target="cuda", precision="fp16")
    kept = [torch.empty(4, 64, device="cuda") for _ in range(outputs)]
    kernels = len(engine.profile(x))
    runner = engine.engine.runner(single=outputs == 1)
    ways: list[Callable[[], Any]] = [lambda: engine(x), lambda: runner(x), lambda: engine.run_into([x], kept)]
    for way in ways * 5:
        way()
    row = [microseconds(way) for way in ways]
    print(f"{kernels:8d} {outputs:8d} {row[0]:>16} {row[1]:>16} {row[2]:>16}", flush=True)


def main() -> None:
    numbers = [int(a) for a in sys.argv[1:]] or [1, 1, 50, 1, 200, 1, 10, 8, 10, 32]
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, load {os.getloadavg()[0]:.1f}")
    print(f"{'kernels':>8} {'outputs':>8} {'module':>16} {'in C':>16} {'run_into':>16}   microseconds", flush=True)
    for layers, outputs in zip(numbers[::2], numbers[1::2]):
        measure(layers, outputs)


if __name__ == "__main__":
    main()
