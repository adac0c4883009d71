"""``torch_tensorrt.dynamo._defaults``: what settings are when they are not given."""

from __future__ import annotations

import os
from typing import Any

from kiln.torch_tensorrt._engine_cache import default_folder
from kiln.torch_tensorrt._enums import Device
from kiln.torch_tensorrt._settings import CompilationSettings
from kiln.torch_tensorrt.dynamo.utils import to_torch_tensorrt_device

__all__ = ["ENGINE_CACHE_DIR", "TIMING_CACHE_PATH", "default_device"]

ENGINE_CACHE_DIR = default_folder()
TIMING_CACHE_PATH = os.path.join(ENGINE_CACHE_DIR, "timing_cache")


def default_device() -> Device:
    """The current GPU, or the CPU where there is none."""
    return to_torch_tensorrt_device()


def __getattr__(name: str) -> Any:
    """MIN_BLOCK_SIZE and the like."""
    if name.isupper():
        try:
            return getattr(CompilationSettings(), name.lower())
        except AttributeError:
            pass
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
