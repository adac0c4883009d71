"""``torch_tensorrt.dynamo.runtime``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from kiln.torch_tensorrt._engine_module import PythonTorchTensorRTModule, TorchTensorRTModule
from kiln.torch_tensorrt._settings import note

__all__ = ["PythonTorchTensorRTModule", "ResourceAllocationStrategy", "TorchTensorRTModule"]


@contextlib.contextmanager
def ResourceAllocationStrategy(compiled_module: Any, dynamically_allocate_resources: bool = False) -> Iterator[Any]:
    """Accepted: a context owns one arena, and gives it back when it is freed."""
    if dynamically_allocate_resources:
        note("ResourceAllocationStrategy", "a context owns one arena")
    yield compiled_module
