"""Small scripted and traced modules: the seeds of the TorchScript fuzz target, and files for unit tests.

A file of its own, because PyTorch reads the source of what it scripts.
"""

import warnings
from collections.abc import Iterator
from enum import Enum
from typing import Final, NamedTuple, Optional

import torch
from torch import nn


class Color(Enum):
    RED = 1
    GREEN = 2


class Point(NamedTuple):
    x: torch.Tensor
    n: int = 3


@torch.jit.script
class Box:
    def __init__(self, a: int):
        self.a = a
        self.items: list[int] = [a, 2]

    def get(self) -> int:
        return self.a + len(self.items)


def tint(x: torch.Tensor, c: Color) -> torch.Tensor:
    if c == Color.RED:
        return x + 1
    return x * 2


class Sub(nn.Module):
    k: Final[int]

    def __init__(self) -> None:
        super().__init__()
        self.k = 7
        self.weight = nn.Parameter(torch.randn(3, 3))
        self.register_buffer("b", torch.arange(6).view(2, 3).t())

    def forward(self, x):
        return x @ self.weight + self.k


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = torch.ones(2)
        self.n = 5

    def forward(self, x):
        return x + self.w

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, int, bool]:
        return (self.w, self.n, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, int, bool]) -> None:
        self.w = state[0]
        self.n = state[1]
        self.training = state[2]


class Everything(nn.Module):
    point: Point
    points: list[Point]

    def __init__(self) -> None:
        super().__init__()
        self.sub = Sub()
        self.sub2 = Sub()
        self.sub2.weight = self.sub.weight
        self.layers = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
        self.view = self.sub.weight.detach()[1]
        self.color = Color.GREEN
        self.strs: list[str] = ["a", "b\u00e9"]
        self.numbers: dict[str, int] = {"x": 1}
        self.ints: list[int] = [1, 2, 3]
        self.floats: list[float] = [1.5]
        self.absent: Optional[torch.Tensor] = None
        self.tensors: list[torch.Tensor] = [torch.ones(1), torch.zeros(0, 2), torch.tensor(3)]
        self.pair: tuple[int, str] = (1, "q")
        self.box = Box(4)
        self.device = torch.device("cpu")
        self.stateful = Stateful()
        self.point = Point(torch.ones(2), 4)
        self.points = [Point(torch.zeros(1), 1)]
        self.half = torch.ones(2, dtype=torch.half)
        self.truth = torch.ones(2, dtype=torch.bool)
        self.expanded = torch.ones(1).expand(5)

    def forward(self, x: torch.Tensor, n: int = 2, names: Optional[list[str]] = None):
        x = self.sub(x) + self.sub2(x)
        for layer in self.layers:
            x = layer(x)
        if n > 3:
            raise RuntimeError("b\u00e9d %d" % n)  # noqa: UP031
        x = tint(Point(x, n).x, self.color)
        y = torch.tensor([1.0, 2.0, 3.0]) + self.view
        return torch.nn.functional.pad(x + y, [1, 1]), self.box.get(), self.stateful(torch.ones(2)), self.numbers["x"]

    @torch.jit.export
    def other(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        z = torch.poisson(x)
        while bool(z.sum() > 1):
            z = z / 2
        return {"a": z, "b": torch.poisson(x) + self.ints[0], "c": torch.kaiser_window(3)}


class Conv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3)
        self.norm = nn.BatchNorm2d(2)

    def forward(self, x):
        return torch.relu(self.norm(self.conv(x)))


class Nested(nn.Module):
    def forward(self, d: dict[str, torch.Tensor], rest: tuple[torch.Tensor, list[torch.Tensor]]):
        return d["a"] + rest[0] + rest[1][0]


class Quantized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.per_tensor = torch.quantize_per_tensor(torch.randn(3), 0.1, 2, torch.quint8)
        scales, zeros = torch.rand(2) + 0.1, torch.zeros(2, dtype=torch.long)
        self.per_channel = torch.quantize_per_channel(torch.randn(3, 2), scales, zeros, 1, torch.qint8)
        self.conv = torch.ops.quantized.conv2d_prepack(
            torch.quantize_per_tensor(torch.randn(2, 1, 3, 3), 0.1, 0, torch.qint8), torch.ones(2), [1, 2], [0, 1], [1, 1], 1
        )

    def forward(self, x):
        return x + self.per_tensor.dequantize() + self.per_channel.dequantize().sum()


class Dynamic(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        return self.linear(x)


def modules() -> Iterator[tuple[str, torch.jit.ScriptModule]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield "scripted", torch.jit.script(Everything().eval())
        traced = torch.jit.trace(Conv().eval(), torch.randn(1, 1, 4, 4))
        yield "traced", traced
        yield "frozen", torch.jit.freeze(traced)
        example = ({"a": torch.ones(2)}, (torch.ones(2), [torch.ones(2)]))
        yield "nested", torch.jit.trace(Nested(), example, strict=False)
        yield "quantized", torch.jit.script(Quantized())
        dynamic = torch.ao.quantization.quantize_dynamic(Dynamic().eval(), {nn.Linear})
        yield "dynamic", torch.jit.script(dynamic)
