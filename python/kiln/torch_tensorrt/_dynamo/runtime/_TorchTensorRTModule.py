"""``torch_tensorrt.dynamo.runtime._TorchTensorRTModule``."""

from __future__ import annotations

from kiln.torch_tensorrt._engine_module import TorchTensorRTModule

__all__ = ["TorchTensorRTModule"]
