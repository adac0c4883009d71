"""Shape wrappers, engine counts and versions: what else torch2trt's users import."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch

import kiln
from kiln import checks
from kiln.torch2trt import trt
from kiln.torch2trt.network import ITensor
from kiln.torch2trt.version_utils import torch_version, trt_version

__all__ = [
    "IntWrapper",
    "SizeWrapper",
    "infer_dynamic_axes",
    "load_plugins",
    "make_int_wrapper",
    "make_size_wrapper",
    "set_layer_precision",
    "torch_device_from_trt",
    "torch_device_to_trt",
    "torch_version",
    "trt_num_inputs",
    "trt_num_outputs",
    "trt_version",
    "use_shape_wrapping",
    "wrap_ints",
]


class _Sizes(type):
    """``isinstance(x, IntWrapper)`` holds for the sizes of traced tensors, which are symbolic ints."""

    def __instancecheck__(cls, value: Any) -> bool:
        return super().__instancecheck__(value) or isinstance(value, torch.SymInt)


def _plain(value: int) -> int:
    return value if isinstance(value, torch.SymInt) else int(value)


class IntWrapper(int, metaclass=_Sizes):
    """A size that layers take: ``_trt`` is its ITensor. Sizes of traced tensors need no wrapper here: they are symbolic ints, which
    have ``_trt`` while converters run."""

    def __add__(self, other: int) -> int:
        return make_int_wrapper(int(self) + _plain(other))

    def __sub__(self, other: int) -> int:
        return make_int_wrapper(int(self) - _plain(other))

    def __mul__(self, other: int) -> int:
        return make_int_wrapper(int(self) * _plain(other))

    def __floordiv__(self, other: int) -> int:
        return make_int_wrapper(int(self) // _plain(other))

    def __rsub__(self, other: int) -> int:
        return make_int_wrapper(_plain(other) - int(self))

    def __rfloordiv__(self, other: int) -> int:
        return make_int_wrapper(_plain(other) // int(self))

    __radd__, __rmul__ = __add__, __mul__

    @property
    def _trt(self) -> ITensor:
        return ITensor(sizes=[int(self)])


class SizeWrapper(tuple):
    """A shape of :class:`IntWrapper`; symbolic sizes stay as they are."""

    def __new__(cls, sizes: Iterable[int]) -> SizeWrapper:
        return super().__new__(cls, wrap_ints(sizes))

    def numel(self) -> int:
        return make_int_wrapper(trt.volume(self))

    @property
    def _trt(self) -> ITensor:
        return ITensor(sizes=[_plain(size) for size in self])


def make_int_wrapper(x: int) -> int:
    return x if isinstance(x, IntWrapper) else IntWrapper(x)


def wrap_ints(x: Iterable[int]) -> Iterator[int]:
    return (make_int_wrapper(size) for size in x)


def make_size_wrapper(args: Iterable[int]) -> SizeWrapper:
    return SizeWrapper(args)


@contextlib.contextmanager
def use_shape_wrapping(value: bool = True) -> Iterator[None]:
    """Accepted: shapes are symbolic while a model is traced, wrapped or not."""
    checks.check("use_shape_wrapping", "value", value, checks.BOOL)
    yield


def infer_dynamic_axes(min_shapes_flat: Sequence[Sequence[int]], max_shapes_flat: Sequence[Sequence[int]]) -> list[list[int]]:
    """For each input, the axes whose size is not the same in both."""
    if len(min_shapes_flat) != len(max_shapes_flat):
        raise ValueError(f"max_shapes_flat has {len(max_shapes_flat)} shapes, min_shapes_flat has {len(min_shapes_flat)}")
    return [[i for i, (low, high) in enumerate(zip(a, b)) if low != high] for a, b in zip(min_shapes_flat, max_shapes_flat)]


def trt_num_inputs(engine: kiln.Engine) -> int:
    return len(engine.inputs)


def trt_num_outputs(engine: kiln.Engine) -> int:
    return len(engine.outputs)


def torch_device_to_trt(device: torch.device) -> Any:
    kind = torch.device(device).type
    if kind not in ("cuda", "cpu"):
        raise TypeError(f"device must be on a GPU or the CPU, got {device}")
    return trt.TensorLocation.DEVICE if kind == "cuda" else trt.TensorLocation.HOST


def torch_device_from_trt(location: Any) -> torch.device:
    checks.check("torch_device_from_trt", "location", location, checks.one_of(trt.TensorLocation))
    return torch.device("cuda" if location is trt.TensorLocation.DEVICE else "cpu")


def set_layer_precision(ctx: Any, layer: Any) -> None:
    """Accepted: the precision of an engine is chosen by ``fp16_mode`` and ``int8_mode`` for all layers."""


def load_plugins() -> bool:
    """There are none to load: False. ``kiln.load_plugin`` loads a library of kernels in C."""
    return False
