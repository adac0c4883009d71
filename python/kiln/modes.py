"""Modules in training mode, for front ends whose originals take them."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["for_inference"]

_noted: set[str] = set()


@contextlib.contextmanager
def for_inference(module: Any, who: str) -> Iterator[None]:
    """The module as after ``module.eval()``; afterwards each part has its mode back. A warning says once what that means."""
    training = [child for child in module.modules() if child.training] if isinstance(module, torch.nn.Module) else []
    if training and who not in _noted:
        _noted.add(who)
        warnings.warn(
            f"{who}: {type(module).__name__} is in training mode; it is converted as after module.eval(): dropout does nothing, and "
            "normalizations take their running statistics",
            stacklevel=4,
        )
    for child in training:
        child.training = False
    try:
        yield
    finally:
        for child in training:
            child.training = True
