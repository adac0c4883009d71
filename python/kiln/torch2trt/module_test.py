"""``torch2trt.module_test``: converter files register test modules with it beside their converters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional

import torch

__all__ = ["MODULE_TESTS", "ModuleTest", "add_module_test"]

MODULE_TESTS: list[ModuleTest] = []


class ModuleTest:
    """A function that makes a module, and what to call it with."""

    def __init__(
        self, module_fn: Callable[[], torch.nn.Module], dtype: torch.dtype, device: Any, input_shapes: Sequence[Any], **kwargs: Any
    ) -> None:
        self.module_fn, self.dtype, self.device = module_fn, dtype, device
        self.input_shapes, self.kwargs = input_shapes, kwargs

    def module_name(self) -> str:
        return f"{self.module_fn.__module__}.{self.module_fn.__name__}"

    def run(self, tolerance: float = 1e-3, device: Optional[Any] = None) -> float:
        """Builds, compares with PyTorch on random inputs, and returns the largest error; AssertionError if it is too large."""
        from kiln.torch2trt.module import torch2trt

        place = torch.device(self.device if device is None else device)
        module = self.module_fn().eval().to(place, self.dtype)
        inputs = [torch.randn(tuple(shape), dtype=self.dtype, device=place) for shape in self.input_shapes]
        with torch.no_grad():
            mine, theirs = torch2trt(module, inputs, **self.kwargs)(*inputs), module(*inputs)
        pairs = zip(*(r if isinstance(r, (tuple, list)) else [r] for r in (mine, theirs)))
        worst = max(float((a - b).abs().max()) if a.numel() else 0.0 for a, b in pairs)
        assert worst <= tolerance, f"{self.module_name()}: largest error {worst}, tolerance {tolerance}"
        return worst


def add_module_test(dtype: torch.dtype, device: Any, input_shapes: Sequence[Any], **kwargs: Any) -> Callable[[Any], Any]:
    """Decorator: adds a function that makes a module to ``MODULE_TESTS``."""

    def register(module_fn: Any) -> Any:
        MODULE_TESTS.append(ModuleTest(module_fn, dtype, device, input_shapes, **kwargs))
        return module_fn

    return register
