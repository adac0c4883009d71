"""Drop-in for Torch-TensorRT: ``import kiln.torch_tensorrt as torch_tensorrt``.

Names, parameters and semantics are Torch-TensorRT's; engines are Kiln's, for CPUs as well as GPUs. A setting that configures TensorRT
is accepted, and a warning says once why it has no effect.
"""

from __future__ import annotations

from kiln.torch2trt import trt
from kiln.torch_tensorrt import dynamo, kernels, logging, ptq, runtime, ts
from kiln.torch_tensorrt._backend import register as _register_backends
from kiln.torch_tensorrt._compile import compile, convert_method_to_trt_engine, load, save
from kiln.torch_tensorrt._enums import Device, DeviceType, EngineCapability, Platform, dtype, memory_format
from kiln.torch_tensorrt._input import Input
from kiln.torch_tensorrt._settings import CompilationSettings
from kiln.torch_tensorrt.runtime import MutableTorchTensorRTModule, dump_build_info, get_build_info, set_device

__all__ = [
    "CompilationSettings",
    "Device",
    "DeviceType",
    "EngineCapability",
    "Input",
    "MutableTorchTensorRTModule",
    "Platform",
    "compile",
    "convert_method_to_trt_engine",
    "dtype",
    "dump_build_info",
    "dynamo",
    "get_build_info",
    "kernels",
    "load",
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
