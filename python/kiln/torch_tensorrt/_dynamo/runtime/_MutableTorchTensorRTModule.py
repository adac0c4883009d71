"""``torch_tensorrt.dynamo.runtime._MutableTorchTensorRTModule``."""

from __future__ import annotations

from kiln.torch_tensorrt.runtime import MutableTorchTensorRTModule

__all__ = ["MutableTorchTensorRTModule"]
