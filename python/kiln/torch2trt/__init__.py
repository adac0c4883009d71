"""Drop-in for torch2trt: ``from kiln.torch2trt import torch2trt, TRTModule``.

Names, parameters and semantics are torch2trt's; the engine is Kiln's, so no TensorRT is needed, and models on the CPU work too.
"""

from __future__ import annotations

from kiln.torch2trt import trt
from kiln.torch2trt.calibration import DEFAULT_CALIBRATION_ALGORITHM, DatasetCalibrator
from kiln.torch2trt.converters import (
    CONVERTERS,
    ConversionContext,
    add_missing_trt_tensors,
    add_trt_constant,
    broadcast_trt_tensors,
    check_torch_dtype,
    get_arg,
    get_conversion_context,
    tensorrt_converter,
    torch_dim_resolve_negative,
    torch_dim_to_trt_axes,
    torch_dtype_from_trt,
    torch_dtype_to_trt,
    trt_,
)
from kiln.torch2trt.dataset import Dataset, DatasetRecorder, FolderDataset, ListDataset, TensorBatchDataset
from kiln.torch2trt.flattener import Flatten, Flattener, Unflatten
from kiln.torch2trt.module import (
    TRTModule,
    default_input_names,
    default_output_names,
    torch2trt,
)

__all__ = [
    "CONVERTERS",
    "DEFAULT_CALIBRATION_ALGORITHM",
    "ConversionContext",
    "Dataset",
    "DatasetCalibrator",
    "DatasetRecorder",
    "Flatten",
    "Flattener",
    "FolderDataset",
    "ListDataset",
    "TRTModule",
    "TensorBatchDataset",
    "Unflatten",
    "add_missing_trt_tensors",
    "add_trt_constant",
    "broadcast_trt_tensors",
    "check_torch_dtype",
    "default_input_names",
    "default_output_names",
    "get_arg",
    "get_conversion_context",
    "tensorrt_converter",
    "torch2trt",
    "torch_dim_resolve_negative",
    "torch_dim_to_trt_axes",
    "torch_dtype_from_trt",
    "torch_dtype_to_trt",
    "trt",
    "trt_",
]
