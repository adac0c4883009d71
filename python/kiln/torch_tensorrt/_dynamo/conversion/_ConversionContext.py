"""``torch_tensorrt.dynamo.conversion._ConversionContext``."""

from __future__ import annotations

from kiln.torch_tensorrt._converters import ConversionContext

__all__ = ["ConversionContext"]
