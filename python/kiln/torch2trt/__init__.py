"""Drop-in for torch2trt: ``from kiln.torch2trt import torch2trt, TRTModule``.

Names, parameters and semantics are torch2trt's; the engine is Kiln's, so no TensorRT is needed, and models on the CPU work too.
"""

from __future__ import annotations

import kiln.torch2trt.torch2trt  # noqa: F401 - before the function of this name, which takes its place
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
from kiln.torch2trt.shapes import (
    IntWrapper,
    SizeWrapper,
    infer_dynamic_axes,
    load_plugins,
    make_int_wrapper,
    make_size_wrapper,
    set_layer_precision,
    torch_device_from_trt,
    torch_device_to_trt,
    torch_version,
    trt_num_inputs,
    trt_num_outputs,
    trt_version,
    use_shape_wrapping,
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
    "IntWrapper",
    "ListDataset",
    "SizeWrapper",
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
    "infer_dynamic_axes",
    "load_plugins",
    "make_int_wrapper",
    "make_size_wrapper",
    "set_layer_precision",
    "tensorrt_converter",
    "torch2trt",
    "torch_device_from_trt",
    "torch_device_to_trt",
    "torch_dim_resolve_negative",
    "torch_dim_to_trt_axes",
    "torch_dtype_from_trt",
    "torch_dtype_to_trt",
    "torch_version",
    "trt",
    "trt_",
    "trt_num_inputs",
    "trt_num_outputs",
    "trt_version",
    "use_shape_wrapping",
]
