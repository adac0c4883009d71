"""``torch_tensorrt.dynamo._settings``."""

from __future__ import annotations

from kiln.torch_tensorrt._settings import CompilationSettings

__all__ = ["CompilationSettings"]
