"""Results whose size depends on data, against PyTorch: masks, nonzero, repeats by a tensor, numbers in tensors that are sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import kiln
from compare import relative_errors


class Fn(nn.Module):
    def __init__(self, fn: Callable[..., Any]) -> None:
        super().__init__()
        self.fn = fn

    def forward(self, *args: torch.Tensor) -> Any:
        return self.fn(*args)


def first(x: torch.Tensor, n: torch.Tensor) -> Any:
    k = n.item()
    torch._check(k >= 0)
    torch._check(k <= 5)
    return x[:k] * 2, torch.arange(k), x.sum()


def boxes(scores: torch.Tensor, corners: torch.Tensor) -> Any:
    """What detectors do: keep what scores well, then work on what was kept."""
    keep = torch.nonzero(scores > 0.3).squeeze(1)
    kept = corners[keep]
    area = (kept[:, 2] - kept[:, 0]) * (kept[:, 3] - kept[:, 1])
    return kept, torch.softmax(scores[keep], 0), area.abs().sum()


def twice(x: torch.Tensor) -> Any:
    y = x[x > 0] * 2
    return y[y < 1.5], torch.masked_select(x, x < 0), x + 1


X = torch.tensor([[0.5, -1, 2], [-0.3, -0.2, 0.1], [3, 0.7, -2], [0.9, 0.8, 0.6], [-1, -2, -3]])
WHOLE = torch.tensor([[1, 1, 2, 0], [0, 0, 5, 2], [-1, 7, 7, 1]])
NONE = -X.abs() - 1
M = torch.tensor([True, False, True, True, False])
CASES: dict[str, tuple[Callable[..., Any], list[tuple[torch.Tensor, ...]]]] = {
    "nonzero": (lambda x: torch.nonzero(x > 0), [(X,), (-X,), (NONE,)]),
    "mask": (lambda x: x[x > 0] * 2, [(X,), (NONE,), (-X,)]),
    "row mask": (lambda x, m: torch.relu(x[m] @ torch.ones(3, 2)), [(X, M), (X, ~M), (X, M & ~M), (X, M | ~M)]),
    "mask of a column": (lambda x, m: x.t()[:, m] * 2, [(X, M), (X, ~M), (X, M & ~M)]),
    "constant mask": (lambda x, m: x[torch.tensor([True, False, True, True, False])] + m.sum(), [(X, M)]),
    "masked_select": (lambda x, m: torch.masked_select(x, m[:, None]).sum(), [(X, M), (X, ~M), (X, M & ~M)]),
    "where": (lambda x: torch.where(x > 0), [(X,), (NONE,)]),
    "write": (lambda x: x.clone().masked_scatter(x > 0, -x) + x[x > 0].sum(), [(X,), (NONE,)]),
    "unique": (lambda x: torch.unique(x), [(WHOLE,), (WHOLE * 0,), (-WHOLE,)]),
    "unique all": (
        lambda x: torch.unique(x, return_inverse=True, return_counts=True),
        [(WHOLE,), (WHOLE * 0,), (torch.arange(12).reshape(3, 4),)],
    ),
    "unique floats": (lambda x: torch.unique(x.round(), return_counts=True), [(X,), (X * 3,), (X * 0,)]),
    "consecutive": (
        lambda x: torch.unique_consecutive(x, return_inverse=True, return_counts=True),
        [(WHOLE,), (WHOLE.flip(0),), (WHOLE * 0,)],
    ),
    "repeat rows": (
        lambda x, r: torch.repeat_interleave(x, r, dim=0) + 1,
        [(X, torch.tensor([1, 2, 0, 3, 1])), (X, torch.tensor([0, 0, 0, 0, 0])), (X, torch.tensor([4, 0, 0, 0, 1]))],
    ),
    "repeat all": (lambda r: torch.repeat_interleave(r), [(torch.tensor([1, 0, 3]),), (torch.tensor([0, 0, 9]),)]),
    "item": (first, [(X, torch.tensor(3)), (X, torch.tensor(0)), (X, torch.tensor(5))]),
    "float item": (lambda x: x / x.abs().max().item() + x.sum().item(), [(X,), (X * 3,)]),
    "boxes": (boxes, [(X[:, 0], torch.arange(20.0).reshape(5, 4)), (NONE[:, 0], torch.ones(5, 4))]),
    "twice": (twice, [(X,), (-X,), (NONE,)]),
}


@pytest.mark.parametrize("name", CASES)
def test_programs(name: str) -> None:
    fn, inputs = CASES[name]
    program = torch.export.export(Fn(fn), inputs[0], strict=False)
    for target in ("reference", "cpu"):
        compiled = kiln.compile(program, target=target)
        for given in (*inputs, inputs[0]):
            got, expected = compiled(*given), fn(*given)
            for a, b in zip(torch.utils._pytree.tree_leaves(got), torch.utils._pytree.tree_leaves(expected), strict=True):
                assert a.shape == b.shape and a.dtype == b.dtype
            assert max(relative_errors(got, expected), default=0) < 1e-5


def test_numpy_and_files(tmp_path: Any) -> None:
    compiled = kiln.compile(torch.export.export(Fn(lambda x: x[x > 0]), (X,), strict=False))
    kiln.save(compiled, tmp_path / "mask.kiln")
    loaded = kiln.load(tmp_path / "mask.kiln")
    assert torch.equal(loaded(X), X[X > 0])
    x = np.asarray(X)
    (got,) = loaded.engine(x)
    assert isinstance(got, np.ndarray) and np.array_equal(got, x[x > 0])


def test_a_size_outside_its_range_is_refused() -> None:
    compiled = kiln.compile(torch.export.export(Fn(first), (X, torch.tensor(3)), strict=False))
    with pytest.raises(kiln.KilnError, match="does not allow"):
        compiled(X, torch.tensor(6))
    with pytest.raises(kiln.KilnError, match="does not allow"):
        compiled(X, torch.tensor(-1))
    assert torch.equal(compiled(X, torch.tensor(1))[0], X[:1] * 2)
