"""Weights of engines: what Engine.refit takes, and how it becomes addresses and layouts for the C library."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple, Union

__all__ = ["WeightInfo", "Weights", "rows_of"]

Weights = Union[Mapping[str, Any], str, "os.PathLike[str]", Any]


class WeightInfo(NamedTuple):
    """A weight of the model an engine was built from, by one of its names.

    ``used`` is False for weights from which the model computes nothing. A ``required`` one must be given to each refit: the engine
    has it no more in its original form. The values of a ``fixed`` one decided what the engine computes, so no others are taken.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    used: bool
    required: bool
    fixed: bool


_TORCH = {
    "torch.float32": "f32",
    "torch.float64": "f64",
    "torch.float16": "f16",
    "torch.bfloat16": "bf16",
    "torch.int8": "i8",
    "torch.uint8": "u8",
    "torch.int16": "i16",
    "torch.int32": "i32",
    "torch.int64": "i64",
    "torch.bool": "bool",
}
_NUMPY = {"float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16", "bool": "bool"}
_NUMPY.update({f"int{bits}": f"i{bits}" for bits in (8, 16, 32, 64)}, uint8="u8")


def _row(name: str, value: Any, kept: list[Any]) -> tuple[str, int, str, tuple[int, ...], tuple[int, ...]]:
    """(name, address, dtype, shape, strides in elements); what has the address is added to ``kept``."""
    if hasattr(value, "untyped_storage"):  # torch.Tensor; torch itself is not needed here
        value = value.detach()
        if not _is_dense(value):
            raise TypeError(f"weight {name!r} must be a dense tensor, got one of layout {value.layout}")
        value = value.cpu().resolve_conj().resolve_neg()
        if value.is_complex():  # as engines have them: pairs in a last dimension more
            shape = tuple(value.shape)
            value = value.contiguous().reshape(-1).view(value.real.dtype).reshape(*shape, 2)
        kept.append(value)
        return name, value.data_ptr(), _TORCH.get(str(value.dtype), str(value.dtype)), tuple(value.shape), tuple(value.stride())
    import numpy as np

    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"weight {name!r} must be a torch.Tensor or a numpy.ndarray, got {type(value).__name__}")
    array = np.asarray(value)
    item = array.dtype.itemsize
    if not array.dtype.isnative or any(stride % item for stride in array.strides):
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))
    if array.dtype.kind == "c":
        array = np.ascontiguousarray(array).reshape(-1).view(array.real.dtype).reshape(*array.shape, 2)
        item = array.dtype.itemsize
    kept.append(array)
    strides = tuple(stride // item for stride in array.strides)
    return name, array.ctypes.data, _NUMPY.get(array.dtype.name, array.dtype.name), tuple(array.shape), strides


def _is_dense(value: Any) -> bool:
    return str(getattr(value, "layout", "")) == "torch.strided" and not value.is_quantized


def _address(value: Any) -> Any:
    """Tied tensors have the same; None if there is none."""
    return (str(value.device), value.data_ptr(), tuple(value.shape)) if _is_dense(value) else None


def rows_of(names: Collection[str], weights: Any, strict: bool) -> tuple[list[Any], list[Any]]:
    """What the C library takes, and what must stay alive meanwhile.

    With ``strict``, names that the engine lacks are passed on, for the library to complain about, unless they are further names of
    a tensor (tied weights) that it has.
    """
    if hasattr(weights, "state_dict") and not isinstance(weights, Mapping):
        weights = weights.state_dict()
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"weights must be a state dict, an nn.Module or the path of a .safetensors file, got {type(weights).__name__}"
        )
    addresses = {_address(value) for name, value in weights.items() if name in names} - {None}
    kept: list[Any] = []
    rows = []
    for name, value in weights.items():
        if not isinstance(name, str):
            raise TypeError(f"names of weights must be strings, got {name!r}")
        if name not in names and (not strict or _address(value) in addresses):
            continue
        rows.append(_row(name, value, kept))
    return rows, kept
