"""``torch_tensorrt.dynamo.runtime._PythonTorchTensorRTModule``."""

from __future__ import annotations

from kiln.torch_tensorrt._engine_module import PythonTorchTensorRTModule

__all__ = ["PythonTorchTensorRTModule"]
