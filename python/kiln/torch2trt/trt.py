"""The names of TensorRT's Python module that torch2trt's users and their converters need, with Kiln behind them.

There is no TensorRT here. Enumerations say what a layer of :mod:`kiln.torch2trt.network` computes; ``Logger`` holds a level.
"""

from __future__ import annotations

import enum
from typing import Any, Optional

import torch

__all__ = [
    "ActivationType",
    "BuilderFlag",
    "CalibrationAlgoType",
    "CumulativeOperation",
    "DataType",
    "DeviceType",
    "Dims",
    "ElementWiseOperation",
    "FillOperation",
    "GatherMode",
    "InterpolationMode",
    "Logger",
    "MatrixOperation",
    "NetworkDefinitionCreationFlag",
    "PaddingMode",
    "Permutation",
    "PoolingType",
    "ReduceOperation",
    "ResizeCoordinateTransformation",
    "ResizeMode",
    "Runtime",
    "SampleMode",
    "ScaleMode",
    "ScatterMode",
    "SliceMode",
    "TensorLocation",
    "TopKOperation",
    "UnaryOperation",
    "Weights",
    "bfloat16",
    "bool",
    "float16",
    "float32",
    "init_libnvinfer_plugins",
    "int8",
    "int32",
    "int64",
    "nptype",
    "uint8",
    "volume",
]


class Logger:
    """``Severity`` holds the levels too, as ``trt.Logger.Severity.ERROR``."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self, min_severity: int = 2) -> None:
        self.min_severity = min_severity

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def log(self, severity: int, text: str) -> None:
        if severity <= self.min_severity:
            print(f"[kiln] {text}")


class Runtime:
    """``runtime.deserialize_cuda_engine(data)`` gives the :class:`kiln.Engine` of an engine file's bytes, for ``TRTModule(engine)``."""

    def __init__(self, logger: Optional[Logger] = None) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, serialized_engine: Any) -> Any:
        from kiln import Engine, checks

        words = "the bytes of an engine file"
        kinds = checks.instance((bytes, bytearray, memoryview), words)
        checks.check("deserialize_cuda_engine", "serialized_engine", serialized_engine, kinds)
        return Engine.load(bytes(serialized_engine))

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: Any) -> None:
        pass


def init_libnvinfer_plugins(logger: Any = None, namespace: str = "") -> Any:
    """There are none to load."""
    return True


class DataType(enum.Enum):
    FLOAT = torch.float32
    HALF = torch.float16
    BF16 = torch.bfloat16
    INT8 = torch.int8
    UINT8 = torch.uint8
    INT32 = torch.int32
    INT64 = torch.int64
    BOOL = torch.bool


float32, float16, int8, int32, int64 = DataType.FLOAT, DataType.HALF, DataType.INT8, DataType.INT32, DataType.INT64
bfloat16, uint8, bool = DataType.BF16, DataType.UINT8, DataType.BOOL


def nptype(dtype: DataType) -> Any:
    """The NumPy type of a data type."""
    return torch.empty(0, dtype=dtype.value).numpy().dtype.type


class Dims(tuple):
    """A shape."""


class Dims2(Dims):
    pass


class Dims3(Dims):
    pass


class Dims4(Dims):
    pass


class Permutation(tuple):
    """An order of axes."""


class Weights:
    """A constant; nothing is an empty one, as for a convolution without bias."""

    def __init__(self, value: Any = None) -> None:
        self.value = None if isinstance(value, DataType) else value


def volume(dims: Any) -> int:
    total = 1
    for size in dims:
        total *= size
    return total


def _names(name: str, members: str) -> Any:
    return enum.Enum(name, members.split(), module=__name__)


ActivationType = _names(
    "ActivationType",
    "RELU SIGMOID TANH LEAKY_RELU ELU SELU SOFTSIGN SOFTPLUS CLIP HARD_SIGMOID SCALED_TANH THRESHOLDED_RELU GELU_ERF GELU_TANH",
)
CalibrationAlgoType = _names(
    "CalibrationAlgoType", "LEGACY_CALIBRATION ENTROPY_CALIBRATION ENTROPY_CALIBRATION_2 MINMAX_CALIBRATION"
)
BuilderFlag = _names(
    "BuilderFlag",
    "FP16 INT8 DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE OBEY_PRECISION_CONSTRAINTS "
    "PREFER_PRECISION_CONSTRAINTS DIRECT_IO STRICT_TYPES BF16 FP8 VERSION_COMPATIBLE STRIP_PLAN WEIGHT_STREAMING",
)
NetworkDefinitionCreationFlag = enum.IntEnum(  # flags are shifted by them
    "NetworkDefinitionCreationFlag", "EXPLICIT_BATCH EXPLICIT_PRECISION STRONGLY_TYPED".split(), module=__name__, start=0
)
DeviceType = _names("DeviceType", "GPU DLA")
ElementWiseOperation = _names("ElementWiseOperation", "SUM PROD MAX MIN SUB DIV POW FLOOR_DIV AND OR XOR EQUAL GREATER LESS")
FillOperation = _names("FillOperation", "LINSPACE RANDOM_UNIFORM RANDOM_NORMAL")
CumulativeOperation = _names("CumulativeOperation", "SUM")
GatherMode = _names("GatherMode", "DEFAULT ELEMENT ND")
SampleMode = _names("SampleMode", "STRICT_BOUNDS WRAP CLAMP FILL REFLECT DEFAULT")
SliceMode = SampleMode
ScatterMode = _names("ScatterMode", "ELEMENT ND")
InterpolationMode = _names("InterpolationMode", "NEAREST LINEAR CUBIC")
ResizeMode = InterpolationMode
ResizeCoordinateTransformation = _names("ResizeCoordinateTransformation", "ALIGN_CORNERS ASYMMETRIC HALF_PIXEL")
MatrixOperation = _names("MatrixOperation", "NONE TRANSPOSE VECTOR")
PaddingMode = _names("PaddingMode", "EXPLICIT_ROUND_DOWN EXPLICIT_ROUND_UP SAME_UPPER SAME_LOWER")
PoolingType = _names("PoolingType", "MAX AVERAGE MAX_AVERAGE_BLEND")
ReduceOperation = _names("ReduceOperation", "SUM PROD MAX MIN AVG")
ScaleMode = _names("ScaleMode", "UNIFORM CHANNEL ELEMENTWISE")
TensorLocation = _names("TensorLocation", "DEVICE HOST")
TopKOperation = _names("TopKOperation", "MAX MIN")
UnaryOperation = _names(
    "UnaryOperation",
    "EXP LOG SQRT RECIP ABS NEG SIN COS TAN SINH COSH ASIN ACOS ATAN ASINH ACOSH ATANH CEIL FLOOR ERF NOT SIGN ROUND ISINF ISNAN",
)

Logger.Severity = Logger  # type: ignore[attr-defined]

__version__ = "10.0.0"


def device_of(kind: Optional[Any]) -> str:
    """A word for texts."""
    return getattr(kind, "name", str(kind))
