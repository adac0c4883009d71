"""Drop-in for Torch-TensorRT: ``import kiln.torch_tensorrt as torch_tensorrt``.

Names, parameters and semantics are Torch-TensorRT's; engines are Kiln's, for CPUs as well as GPUs. A setting that configures TensorRT
is accepted, and a warning says once why it has no effect.
"""

from __future__ import annotations

import sys

from kiln._kiln import __version__
from kiln.torch2trt import trt
from kiln.torch_tensorrt import _enums, _input, distributed, dynamo, executorch, fx, kernels, logging, ptq, runtime, ts
from kiln.torch_tensorrt._backend import register as _register_backends
from kiln.torch_tensorrt._compile import compile, convert_method_to_trt_engine, load, save
from kiln.torch_tensorrt._cross import cross_compile_for_windows, load_cross_compiled_exported_program
from kiln.torch_tensorrt._enums import Device, DeviceType, EngineCapability, Platform, dtype, memory_format
from kiln.torch_tensorrt._features import ENABLED_FEATURES
from kiln.torch_tensorrt._input import Input
from kiln.torch_tensorrt._settings import CompilationSettings
from kiln.torch_tensorrt.runtime import MutableTorchTensorRTModule, dump_build_info, get_build_info, set_device

__all__ = [
    "ENABLED_FEATURES",
    "CompilationSettings",
    "Device",
    "DeviceType",
    "EngineCapability",
    "Input",
    "MutableTorchTensorRTModule",
    "Platform",
    "__version__",
    "compile",
    "convert_method_to_trt_engine",
    "cross_compile_for_windows",
    "distributed",
    "dtype",
    "dump_build_info",
    "dynamo",
    "executorch",
    "fx",
    "get_build_info",
    "kernels",
    "load",
    "load_cross_compiled_exported_program",
    "logging",
    "memory_format",
    "ptq",
    "runtime",
    "save",
    "set_device",
    "trt",
    "ts",
]

_register_backends()
# Torch-TensorRT's names of these files. As files they would be one with _input.py where names do not tell capital letters.
sys.modules[f"{__name__}._Input"], sys.modules[f"{__name__}._Device"] = _input, _enums
