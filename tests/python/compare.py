"""How tests measure errors: per output, the largest difference relative to the largest magnitude that PyTorch gives."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree


def relative_errors(actual: Any, expected: Any) -> list[float]:
    """One number for each leaf. Shapes, dtypes and nesting must agree; leaves that are not tensors must be equal."""
    got, got_spec = pytree.tree_flatten(actual)
    want, want_spec = pytree.tree_flatten(expected)
    assert got_spec == want_spec, f"outputs are nested differently: {got_spec} instead of {want_spec}"
    errors = []
    for i, (a, b) in enumerate(zip(got, want)):
        if not isinstance(b, torch.Tensor):
            assert type(a) is type(b), f"output {i}: {type(a)} instead of {type(b)}"
            assert a == b, f"output {i}: {a} instead of {b}"
            continue
        assert a.shape == b.shape, f"output {i}: shape {tuple(a.shape)} instead of {tuple(b.shape)}"
        assert a.dtype == b.dtype, f"output {i}: dtype {a.dtype} instead of {b.dtype}"
        if not b.numel():
            errors.append(0.0)
            continue
        a, b = a.double(), b.double()
        assert torch.equal(a.isfinite(), b.isfinite()), f"output {i}: not finite in different places"
        a, b = a.nan_to_num(0, 0, 0), b.nan_to_num(0, 0, 0)
        scale = b.abs().max().item()
        errors.append((a - b).abs().max().item() / (scale or 1.0))
    return errors
