"""``torch_tensorrt.dynamo.conversion``: converters."""

from __future__ import annotations

from kiln._kiln import KilnError
from kiln.torch_tensorrt._converters import (
    DYNAMO_ATEN_CONVERTERS,
    ConversionContext,
    ConverterPriority,
    ConverterSupport,
    dynamo_tensorrt_converter,
    has_static_shapes,
    node_has_dynamic_shapes,
)
from kiln.torch_tensorrt._settings import CompilationSettings
from kiln.torch_tensorrt.dynamo.conversion import converter_utils, impl, plugins

UnsupportedOperatorException = KilnError  # with status KILN_UNSUPPORTED
DYNAMO_CONVERTERS = DYNAMO_ATEN_CONVERTERS  # those that users registered

__all__ = [
    "DYNAMO_ATEN_CONVERTERS",
    "DYNAMO_CONVERTERS",
    "CompilationSettings",
    "ConversionContext",
    "ConverterPriority",
    "ConverterSupport",
    "UnsupportedOperatorException",
    "converter_utils",
    "dynamo_tensorrt_converter",
    "has_static_shapes",
    "impl",
    "node_has_dynamic_shapes",
    "plugins",
]
