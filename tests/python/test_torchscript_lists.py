"""Lists that grow in loops whose length is known at run time only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import kiln


class Recurrent(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.GRUCell(3, 6)

    def forward(self, x: torch.Tensor):
        h = torch.zeros(1, 6)
        outs: list[torch.Tensor] = []
        for i in range(x.size(0)):
            h = self.cell(x[i : i + 1], h)
            outs.append(h)
        return torch.stack(outs), torch.stack(outs, 1), torch.stack(outs, dim=-1), torch.cat(outs), outs[-1], len(outs)


class Several(torch.nn.Module):
    """Two in each iteration, behind one from before the loop, and one more after it."""

    def forward(self, x: torch.Tensor):
        outs = [x[0:1] * 2]
        for i in range(x.size(0)):
            outs.append(x[i : i + 1] + i)
            outs.append(x[i : i + 1] * 3)
        outs.append(x[-1:])
        return torch.cat(outs), torch.cat(outs, 1), outs[0], outs[-1], len(outs)


class Backwards(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        sums: list[torch.Tensor] = []
        totals: list[torch.Tensor] = []
        t = torch.zeros(3)
        for i in range(x.size(0)):
            t = t + x[i]
            sums.append(t)
            totals.append(x[i].sum())
        totals.reverse()
        y = torch.zeros(3)
        for i in range(len(sums)):
            y = y + sums[i] * i
        return torch.stack(sums), torch.stack(totals), y


class Looking(torch.nn.Module):
    """Reads what it has appended."""

    def forward(self, x: torch.Tensor):
        a: list[torch.Tensor] = []
        b: list[torch.Tensor] = [x[0]]
        for i in range(x.size(0)):
            if len(a) > 1:  # noqa: SIM108
                y = a[len(a) // 2] + a[0] + a[-2] * len(a)
            else:
                y = x[i]
            a.append(x[i] * 2)
            b.append(y + a[-1])
        return torch.stack(b)


class Changed(torch.nn.Module):
    """The tensor in the list is written after it was appended."""

    def forward(self, x: torch.Tensor):
        a: list[torch.Tensor] = []
        t = torch.zeros(3)
        for i in range(x.size(0)):
            t = t + x[i]
            a.append(t)
            t.mul_(0.5)
        return torch.stack(a)


class While(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.GRUCell(3, 3)

    def forward(self, x: torch.Tensor):
        outs: list[torch.Tensor] = []
        h = torch.zeros(1, 3)
        i = 0
        while i < x.size(0) and bool(h.abs().max() < 0.5):
            h = self.cell(x[i : i + 1], h)
            outs.append(h)
            i += 1
        return torch.cat(outs), i


class WhileShort(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        a = [x.sum(0)]
        while len(a) < x.size(0):
            a.append(x[len(a)] + len(a))
        return torch.stack(a)


class Nested(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        rows: list[torch.Tensor] = []
        for i in range(x.size(0)):
            row: list[torch.Tensor] = []
            for k in range(x.size(0)):
                row.append((x[i] * x[k]).sum())
            rows.append(torch.stack(row))
        return torch.stack(rows)


def assert_same(module: torch.nn.Module, arguments: list[tuple[Any, ...]], inputs: list[Any]) -> None:
    compiled = kiln.compile(torch.jit.script(module.eval()), inputs, threads=1)
    for given in arguments:
        found, expected = compiled(*given), module(*given)
        for f, e in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected)):
            torch.testing.assert_close(f, e, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", [Recurrent, Several, Backwards, Looking, Changed, While, WhileShort, Nested])
def test_lists(kind: type) -> None:
    ranged = kiln.Input(min_shape=(1, 3), max_shape=(20, 3))
    assert_same(kind(), [(torch.randn(n, 3),) for n in (1, 2, 5, 20)], [ranged])


def test_length_in_a_tensor() -> None:
    class Repeat(torch.nn.Module):
        def forward(self, x: torch.Tensor, n: torch.Tensor):
            a: list[torch.Tensor] = []
            for i in range(int(n)):
                a.append(x * i)
            return torch.stack(a)

    assert_same(Repeat(), [(torch.randn(3), torch.tensor(n)) for n in (1, 4, 9)], [torch.randn(3), torch.tensor(4)])


class Sometimes(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        a: list[torch.Tensor] = []
        for i in range(x.size(0)):
            if bool(x[i].sum() > 0):
                a.append(x[i])
        return torch.stack(a)


class Written(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        a: list[torch.Tensor] = []
        t = torch.zeros(3)
        for i in range(x.size(0)):
            t += x[i]
            a.append(t)
        return torch.stack(a)


class WrittenBefore(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        a: list[torch.Tensor] = []
        t = torch.zeros(3)
        for i in range(x.size(0)):
            t.mul_(0.5)
            t = t + x[i]
            a.append(t)
        return torch.stack(a)


class WrittenLater(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        a: list[torch.Tensor] = []
        for i in range(x.size(0)):
            a.append(x[i])
        x.mul_(2)
        return torch.stack(a)


class Longer(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        a = [x[0]]
        for i in range(x.size(0)):
            a.append(torch.cat([a[-1], x[i]]))
        return torch.cat(a)


class Numbers(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        a: list[int] = []
        for i in range(x.size(0)):
            a.append(i)
        return x * len(a)


class Popped(torch.nn.Module):
    def forward(self, x: torch.Tensor):
        a: list[torch.Tensor] = []
        for i in range(x.size(0)):
            a.append(x[i])
        return a.pop() + torch.stack(a).sum()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Sometimes, "different lengths"),
        (Written, "append its clone"),
        (WrittenBefore, "clone\\(\\)"),
        (WrittenLater, "clone\\(\\)"),
        (Longer, "a list that it appends to|known at run time only"),
        (Numbers, "of which an item is a number"),
        (Popped, "pop\\(\\) of a list that grew"),
    ],
)
def test_refused(kind: type, reason: str) -> None:
    inputs = [kiln.Input(min_shape=(1, 3), max_shape=(20, 3))]
    with pytest.raises(kiln.KilnError, match=reason) as caught:
        kiln.compile(torch.jit.script(kind().eval()), inputs, threads=1)
    assert "test_torchscript_lists.py:" in str(caught.value) or "in forward()" in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_logspace(dtype: torch.dtype) -> None:
    class Logspace(torch.nn.Module):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__()
            self.dtype = dtype

        def forward(self, x: torch.Tensor):
            return x + torch.logspace(0, 3, 5, dtype=self.dtype), torch.logspace(-1, 2, 6, base=2.0)

    assert_same(Logspace(dtype), [(torch.zeros(5),)], [torch.zeros(5)])
