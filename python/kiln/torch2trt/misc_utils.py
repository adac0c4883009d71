"""``torch2trt.misc_utils``."""

from __future__ import annotations

from typing import Any

from kiln.torch2trt.converters import torch_dtype_from_trt, torch_dtype_to_trt
from kiln.torch2trt.shapes import torch_device_from_trt, torch_device_to_trt

__all__ = ["torch_device_from_trt", "torch_device_to_trt", "torch_dtype_from_trt", "torch_dtype_to_trt", "trt_int_dtype"]


def trt_int_dtype() -> Any:
    """The NumPy type of sizes."""
    import numpy

    return numpy.int64
