"""``torch_tensorrt.dynamo._compiler``."""

from __future__ import annotations

from kiln.torch_tensorrt._cross import (
    cross_compile_for_windows,
    load_cross_compiled_exported_program,
    save_cross_compiled_exported_program,
)
from kiln.torch_tensorrt.dynamo import compile, convert_exported_program_to_serialized_trt_engine

__all__ = [
    "compile",
    "convert_exported_program_to_serialized_trt_engine",
    "cross_compile_for_windows",
    "load_cross_compiled_exported_program",
    "save_cross_compiled_exported_program",
]
