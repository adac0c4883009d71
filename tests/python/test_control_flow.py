"""Loops and branches that torch.export keeps: torch.cond and while_loop, against PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch._higher_order_ops.while_loop import while_loop

import kiln
from compare import relative_errors

Tensors = tuple[torch.Tensor, ...]


class Fn(nn.Module):
    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *args: torch.Tensor) -> Any:
        return self.fn(*args)


def check(model: nn.Module, *inputs: Tensors, dynamic_shapes: Any = None) -> None:
    program = torch.export.export(model.eval(), inputs[0], dynamic_shapes=dynamic_shapes, strict=False)
    for target in ("reference", "cpu"):
        compiled = kiln.compile(program, target=target)
        for given in inputs:
            assert max(relative_errors(compiled(*given), model(*given)), default=0) < 1e-5


def count(n: int) -> torch.Tensor:
    return torch.tensor(n)


def power(x: torch.Tensor, n: torch.Tensor) -> Any:
    def body(i: torch.Tensor, y: torch.Tensor) -> Tensors:
        return i + 1, y * x

    return while_loop(lambda i, y: i < n, body, (torch.zeros((), dtype=torch.int64), torch.ones_like(x)))


def collatz(start: torch.Tensor) -> Any:
    """A branch in a loop, which ends when the data says so."""

    def body(x: torch.Tensor, steps: torch.Tensor) -> Tensors:
        x = torch.cond(x % 2 == 0, lambda v: v // 2, lambda v: v * 3 + 1, (x,))
        return x, steps + 1

    return while_loop(lambda x, steps: x != 1, body, (start.clone(), torch.zeros((), dtype=torch.int64)))


def swap(a: torch.Tensor, b: torch.Tensor, n: torch.Tensor) -> Any:
    def body(i: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> Tensors:
        return i + 1, b.clone(), a + b

    return while_loop(lambda i, a, b: i < n, body, (torch.zeros((), dtype=torch.int64), a, b))


def loop_in_loop(x: torch.Tensor, n: torch.Tensor) -> Any:
    zero = torch.zeros((), dtype=torch.int64)

    def outer(i: torch.Tensor, y: torch.Tensor) -> Tensors:
        def inner(j: torch.Tensor, z: torch.Tensor) -> Tensors:
            return j + 1, torch.sin(z) + x

        _, z = while_loop(lambda j, z: j < i, inner, (torch.zeros_like(i), y))
        return i + 1, z.flip(0)

    return while_loop(lambda i, y: i < n, outer, (zero, x.clone()))[1]


def cond_around_loop(x: torch.Tensor, n: torch.Tensor) -> Any:
    def run(v: torch.Tensor) -> torch.Tensor:
        def body(i: torch.Tensor, y: torch.Tensor) -> Tensors:
            return i + 1, y * 0.5

        return while_loop(lambda i, y: i < n, body, (torch.zeros((), dtype=torch.int64), v))[1]

    return torch.cond(x.sum() > 0, run, lambda v: v - 1, (x,))


def converge(x: torch.Tensor) -> Any:
    """Newton's square root: a condition on floats, far from its limit."""

    def body(y: torch.Tensor) -> Tensors:
        return (0.5 * (y + x / y),)

    return while_loop(lambda y: ((y * y - x).abs() > 0.1 * x).any(), body, (torch.ones_like(x),))


X = torch.linspace(-1, 1, 6).reshape(2, 3)
CASES: dict[str, tuple[Callable[..., Any], list[Tensors]]] = {
    "power": (power, [(X, count(3)), (X + 1, count(0)), (X, count(-2)), (X, count(1))]),
    "collatz": (collatz, [(count(7),), (count(1),), (count(27),)]),
    "swap": (swap, [(X, X + 1, count(4)), (X, X * 2, count(0)), (X, X * 2, count(1))]),
    "loop in loop": (loop_in_loop, [(X, count(4)), (X, count(0)), (X, count(1))]),
    "cond around loop": (cond_around_loop, [(X + 1, count(3)), (X - 1, count(3))]),
    "converge": (converge, [(X.abs() + 0.5,), (X.abs() * 50 + 3,)]),
}


@pytest.mark.parametrize("name", CASES)
def test_programs(name: str) -> None:
    fn, inputs = CASES[name]
    check(Fn(fn), *inputs)


def test_weights_inside() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.Linear(8, 8)
            self.gate = nn.Linear(8, 8)
            self.conv = nn.Conv1d(1, 1, 3, padding=1)

        def forward(self, x: torch.Tensor, n: torch.Tensor) -> Any:
            def body(i: torch.Tensor, h: torch.Tensor) -> Tensors:
                h = torch.tanh(self.cell(h)) * torch.sigmoid(self.gate(x)) + x
                h = torch.cond(h.sum() > 0, lambda v: self.conv(v[:, None])[:, 0], lambda v: torch.relu(v), (h,))
                return i + 1, h

            return while_loop(lambda i, h: i < n, body, (torch.zeros((), dtype=torch.int64), x * 0))[1]

    x = torch.randn(4, 8)
    model = Recurrent()
    check(model, (x, count(5)), (-x, count(2)), (x, count(0)))
    batch = torch.export.Dim("batch", min=1, max=16)
    check(model, (x, count(5)), (torch.randn(1, 8), count(3)), (torch.randn(16, 8), count(7)), dynamic_shapes=({0: batch}, {}))


def test_engine_file_and_threads(tmp_path: Any) -> None:
    program = torch.export.export(Fn(loop_in_loop), (X, count(4)), strict=False)
    kiln.save(kiln.compile(program, target="cpu"), tmp_path / "loop.kiln")
    loaded = kiln.load(tmp_path / "loop.kiln")
    for n in range(5):
        assert max(relative_errors(loaded(X, count(n)), loop_in_loop(X, count(n)))) < 1e-5
