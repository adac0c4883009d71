"""Enumerations of Torch-TensorRT's interface."""

from __future__ import annotations

import enum
from typing import Any, Optional, Union

import torch

from kiln import checks
from kiln.torch2trt import trt

__all__ = ["Device", "DeviceType", "EngineCapability", "Platform", "dtype", "memory_format"]


class dtype(enum.Enum):
    """Data types; ``dtype.half`` and the like are members under their other names."""

    u8 = torch.uint8
    i8 = torch.int8
    i32 = torch.int32
    i64 = torch.int64
    f16 = torch.float16
    f32 = torch.float32
    f64 = torch.float64
    b = torch.bool
    bf16 = torch.bfloat16
    f8 = torch.float8_e4m3fn
    f4 = "float4_e2m1"  # engines have no such type
    unknown = "unknown"
    # other names
    uint8 = torch.uint8
    int8 = torch.int8
    int32 = torch.int32
    int = torch.int32
    int64 = torch.int64
    long = torch.int64
    float16 = torch.float16
    fp16 = torch.float16
    half = torch.float16
    float32 = torch.float32
    fp32 = torch.float32
    float = torch.float32
    float64 = torch.float64
    fp64 = torch.float64
    double = torch.float64
    bool = torch.bool
    bfloat16 = torch.bfloat16
    float8 = torch.float8_e4m3fn
    fp8 = torch.float8_e4m3fn
    fp4 = "float4_e2m1"

    def __eq__(self, other: object) -> Any:
        """Equal to what it stands for, too: ``dtype.half == torch.float16``."""
        return self is other or (isinstance(other, torch.dtype) and self.value is other)

    def __hash__(self) -> Any:
        return hash(self.value)

    def to(self, kind: Any, use_default: Any = False) -> Any:
        """This type as a ``torch.dtype``, a ``numpy.dtype`` (or ``numpy.generic``), a ``trt.DataType`` or itself.

        ``use_default`` gives float32 for types that have no such counterpart; without it they are a TypeError.
        """
        result = self.try_to(kind)
        if result is None and use_default:
            result = dtype.f32.try_to(kind)
        if result is None:
            raise TypeError(f"dtype.{self.name} has no counterpart among {kind}; to takes torch.dtype, numpy.dtype or trt.DataType")
        return result

    def try_to(self, kind: Any, use_default: Any = False) -> Any:
        """The same; None: there is none."""
        if kind is dtype:
            return self
        if not isinstance(self.value, torch.dtype):
            return None
        if kind is torch.dtype:
            return self.value
        if kind is trt.DataType:
            return trt.DataType(self.value) if self.value in [member.value for member in trt.DataType] else None
        if getattr(kind, "__module__", "") == "numpy":
            try:
                return torch.empty(0, dtype=self.value).numpy().dtype
            except TypeError:
                return None
        return None

    @staticmethod
    def from_(value: Any, use_default: Any = False) -> dtype:
        """From a torch.dtype, a NumPy type, a trt.DataType, a Python type or a dtype."""
        result = dtype.try_from(value)
        if result is None and use_default:
            return dtype.f32
        if result is None:
            raise TypeError(f"dtype: expected a torch.dtype, numpy.dtype, trt.DataType or torch_tensorrt.dtype, got {value!r}")
        return result

    @staticmethod
    def try_from(value: Any, use_default: Any = False) -> Optional[dtype]:
        """The same; None: there is none."""
        if isinstance(value, trt.DataType):
            return dtype(value.value)
        if type(value).__module__.partition(".")[0] == "numpy" or getattr(value, "__module__", "") == "numpy":
            import numpy

            value = getattr(torch, {"bool": "bool"}.get(numpy.dtype(value).name, numpy.dtype(value).name), None)
        try:
            return dtype(to_torch_dtype(value))
        except (TypeError, ValueError):
            return None

    _from = from_


def to_torch_dtype(value: Union[dtype, torch.dtype, type]) -> torch.dtype:
    """A torch.dtype from any of the ways in which users name one."""
    if isinstance(value, dtype):
        if not isinstance(value.value, torch.dtype):
            raise TypeError(f"dtype: engines have no type {value.name}")
        return value.value
    if isinstance(value, torch.dtype):
        return value
    known = {float: torch.float32, int: torch.int32, bool: torch.bool}
    if value in known:
        return known[value]
    raise TypeError(f"dtype: expected a torch.dtype or torch_tensorrt.dtype, got {value!r}")


class memory_format(enum.Enum):
    linear = "linear"
    chw2 = "chw2"
    chw4 = "chw4"
    chw16 = "chw16"
    chw32 = "chw32"
    hwc = "hwc"
    hwc8 = "hwc8"
    hwc16 = "hwc16"
    dhwc = "dhwc"
    dhwc8 = "dhwc8"
    cdhw32 = "cdhw32"
    dla_linear = "dla_linear"
    dla_hwc4 = "dla_hwc4"
    contiguous = "linear"
    channels_last = "hwc"
    channels_last_3d = "dhwc"

    def to(self, kind: Any) -> torch.memory_format:
        """This format as a ``torch.memory_format``."""
        known = {"linear": torch.contiguous_format, "hwc": torch.channels_last, "dhwc": torch.channels_last_3d}
        if kind is not torch.memory_format or self.value not in known:
            raise TypeError(f"memory_format.{self.name} has no counterpart among {kind}")
        return known[self.value]

    @staticmethod
    def from_(value: Any) -> memory_format:
        """From a torch.memory_format or a memory_format."""
        known = {torch.contiguous_format: "linear", torch.channels_last: "hwc", torch.channels_last_3d: "dhwc"}
        if not isinstance(value, memory_format) and value not in known:
            raise TypeError(f"memory_format: expected a torch.memory_format or torch_tensorrt.memory_format, got {value!r}")
        return value if isinstance(value, memory_format) else memory_format(known[value])

    _from = from_


class DeviceType(enum.Enum):
    UNKNOWN = "unknown"
    GPU = "cuda"
    DLA = "dla"
    CPU = "cpu"


class EngineCapability(enum.Enum):
    STANDARD = "standard"
    SAFETY = "safety"
    DLA_STANDALONE = "dla_standalone"


class Platform(enum.Enum):
    LINUX_X86_64 = "linux_x86_64"
    LINUX_AARCH64 = "linux_aarch64"
    WIN_X86_64 = "windows_x86_64"
    WIN_ARM64 = "windows_arm64"

    @classmethod
    def current_platform(cls) -> Platform:
        import platform

        return cls.LINUX_AARCH64 if platform.machine() == "aarch64" else cls.LINUX_X86_64


class Device:
    """A device: ``Device("cuda:1")``, ``Device("cpu")``, ``Device(gpu_id=1)``. Kiln has no DLA backend."""

    def __init__(
        self,
        spec: Optional[str] = None,
        *,
        gpu_id: Optional[int] = None,
        dla_core: Optional[int] = None,
        allow_gpu_fallback: bool = False,
    ) -> None:
        for name, value, rule in (
            ("spec", spec, checks.optional(checks.TEXT)),
            ("gpu_id", gpu_id, checks.optional(checks.count())),
            ("dla_core", dla_core, checks.optional(checks.count())),
            ("allow_gpu_fallback", allow_gpu_fallback, checks.BOOL),
        ):
            checks.check("Device", name, value, rule)
        kind, index = "cuda", gpu_id if gpu_id is not None else -1
        if spec is not None:
            kind, _, number = spec.partition(":")
            kind = {"gpu": "cuda"}.get(kind, kind)
            if kind not in ("cuda", "cpu", "dla") or (number and not number.isdigit()):
                raise ValueError(f'device: expected "cuda:N", "gpu:N" or "cpu", got {spec!r}')
            index = int(number) if number else -1
        if kind == "dla" or dla_core is not None:
            raise ValueError("device: Kiln has no DLA backend; use a GPU or the CPU")
        self.device_type = DeviceType(kind)
        self.gpu_id = index if kind == "cuda" else -1  # "cpu:0" is the CPU
        self.dla_core = -1
        self.allow_gpu_fallback = allow_gpu_fallback

    @staticmethod
    def of(value: Any) -> Device:
        """From a Device, torch.device, text, or dict of Device's arguments."""
        if isinstance(value, Device):
            return value
        if isinstance(value, torch.device):
            return Device(str(value))
        if isinstance(value, str):
            return Device(value)
        if isinstance(value, dict):
            return Device(**{key: item for key, item in value.items() if key != "device_type"})
        raise TypeError(f"device: expected a Device, torch.device, text or dict, got {type(value).__name__}")

    _from_torch_device = of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Device) and (self.device_type, self.gpu_id) == (other.device_type, other.gpu_id)

    def __hash__(self) -> int:
        return hash((self.device_type, self.gpu_id))

    def to(self, kind: Any = torch.device) -> torch.device:
        return torch.device(self.device_type.value, self.gpu_id if self.gpu_id >= 0 else None)

    def __repr__(self) -> str:
        return f"Device({self.device_type.value}{':' + str(self.gpu_id) if self.gpu_id >= 0 else ''})"
