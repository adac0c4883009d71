"""``torch_tensorrt.dynamo.conversion._ConverterRegistry``."""

from __future__ import annotations

from kiln.torch_tensorrt._converters import (
    DYNAMO_ATEN_CONVERTERS,
    ConverterPriority,
    ConverterSupport,
    dynamo_tensorrt_converter,
    has_static_shapes,
)

DYNAMO_CONVERTERS = DYNAMO_ATEN_CONVERTERS

__all__ = [
    "DYNAMO_ATEN_CONVERTERS",
    "DYNAMO_CONVERTERS",
    "ConverterPriority",
    "ConverterSupport",
    "dynamo_tensorrt_converter",
    "has_static_shapes",
]
