"""``torch_tensorrt.dynamo.backend``."""

from __future__ import annotations

from kiln.torch_tensorrt._backend import tensorrt_backend
from kiln.torch_tensorrt._backend import tensorrt_backend as torch_tensorrt_backend

__all__ = ["tensorrt_backend", "torch_tensorrt_backend"]
