"""run_into: results in tensors of the caller."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import kiln


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(8, 4).eval()


@pytest.fixture(scope="module")
def engine(model: nn.Module) -> Any:
    return kiln.compile(model, inputs=[torch.randn(3, 8)])


def test_tensors_and_arrays(model: nn.Module, engine: Any) -> None:
    x = torch.randn(3, 8)
    with torch.no_grad():
        want = model(x)
    plain, turned, array = torch.empty(3, 4), torch.zeros(4, 3).t(), np.zeros((3, 4), np.float32)
    for out in (plain, turned):
        assert engine.run_into([x], [out]) is None
        torch.testing.assert_close(out, want)
    engine.engine.run_into([x.numpy()], [array])
    torch.testing.assert_close(torch.from_numpy(array), want)


@pytest.mark.parametrize(
    ("out", "text"),
    [
        (torch.empty(3, 5), "expected memory for f32"),
        (torch.empty(3, 4, dtype=torch.float64), "expected memory for f32"),
        (np.zeros((3, 5), np.float32), "shape and element size"),
        (np.zeros((3, 4), np.float64), "shape and element size"),
        (np.zeros((4, 3), np.float32).T, "writable, contiguous"),
        (torch.empty(3, 4, requires_grad=True), "require grad"),
        (3, "got int"),
    ],
)
def test_wrong_outputs(engine: Any, out: Any, text: str) -> None:
    with pytest.raises(kiln.KilnError, match=text):
        engine.run_into([torch.randn(3, 8)], [out])


def test_wrong_numbers(engine: Any) -> None:
    with pytest.raises(kiln.KilnError, match="1 inputs and gives 1 outputs, got 1 and 0"):
        engine.run_into([torch.randn(3, 8)], [])
    with pytest.raises(TypeError, match="sequence"):
        engine.run_into([torch.randn(3, 8)], 3)
