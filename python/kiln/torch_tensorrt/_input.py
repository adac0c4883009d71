"""torch_tensorrt.Input: the shape or shapes of one input."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
from torch.utils import _pytree as pytree

import kiln
from kiln import checks
from kiln.inputs import MODES, PROFILES, SHARED_DIMS
from kiln.torch_tensorrt._enums import memory_format, to_torch_dtype

__all__ = ["Input"]

Shape = tuple[int, ...]


def _is_domain(value: Any) -> bool:
    low, high = value
    return isinstance(value, (tuple, list)) and float(low) < float(high)


def _is_ranges(value: Any) -> bool:
    return all(len(bounds) == 3 and all(isinstance(n, int) for n in bounds) for bounds in value) or _is_whole_ranges(value)


def _is_whole_ranges(value: Any) -> bool:
    """[(min_shape, opt_shape, max_shape)], as the fx frontend has it."""
    return len(value) == 1 and len(value[0]) == 3 and all(checks.shape().holds(shape) for shape in value[0])


_SHAPE = checks.optional(checks.shape())
_RULES = {
    "shape": checks.optional(checks.shape(wild=True)),
    "min_shape": _SHAPE,
    "opt_shape": _SHAPE,
    "max_shape": _SHAPE,
    "format": checks.one_of(memory_format, torch.contiguous_format, torch.channels_last, torch.channels_last_3d),
    "tensor_domain": checks.Rule(_is_domain, "two numbers, the first below the second", (tuple, list)),
    "torch_tensor": checks.optional(checks.instance(torch.Tensor, "a tensor")),
    "name": checks.TEXT,
    "is_shape_tensor": checks.BOOL,
    "shape_ranges": checks.optional(
        checks.Rule(
            _is_ranges, "a list of (min, opt, max) for each size of -1, or of one (min_shape, opt_shape, max_shape)", (list, tuple)
        )
    ),
    "shared_dims": SHARED_DIMS,
    "profiles": PROFILES,
}


class _ShapeMode(enum.Enum):
    STATIC = 0
    DYNAMIC = 1


class Input:
    """``Input((1, 3, 224, 224))``, ``Input(shape=...)``, ``Input(min_shape=, opt_shape=, max_shape=)``, or several profiles.

    Args:
        shape: sizes of a static input; -1 for sizes that ``shape_ranges`` gives as (min, opt, max), or as one triple of whole shapes.
        min_shape, opt_shape, max_shape: sizes of a dynamic input; the fields of named tuples name its axes, as ``shared_dims``.
        dtype: a torch.dtype or torch_tensorrt.dtype; default float32, or that of ``torch_tensor``.
        format: accepted; an engine chooses its own layouts.
        tensor_domain: range [low, high) of the values that :meth:`example_tensor` draws.
        torch_tensor: an example, which gives shape and dtype.
        name: the parameter of ``forward`` that this input is for.
        is_shape_tensor: accepted; Kiln finds out by itself.
        shared_dims: {axis: name}; axes of one name, of this and other inputs, must have one size in each call.
        profiles: several {min_shape, opt_shape, max_shape}. Kernels are chosen for the opt shape of each; a call takes the profile that
            contains its sizes, or the one that ``runtime.optimization_profile`` chose.
    """

    _ShapeMode = _ShapeMode

    def __init__(
        self,
        *args: Any,
        shape: Optional[Sequence[int]] = None,
        min_shape: Optional[Sequence[int]] = None,
        opt_shape: Optional[Sequence[int]] = None,
        max_shape: Optional[Sequence[int]] = None,
        dtype: Any = None,
        format: Any = memory_format.linear,
        tensor_domain: tuple[float, float] = (0.0, 2.0),
        torch_tensor: Optional[torch.Tensor] = None,
        name: str = "",
        is_shape_tensor: bool = False,
        shape_ranges: Optional[Sequence[Sequence[int]]] = None,
        shared_dims: Optional[Mapping[int, str]] = None,
        profiles: Optional[Sequence[Mapping[str, Sequence[int]]]] = None,
    ) -> None:
        given = {**locals(), **({"shape": args[0]} if len(args) == 1 else {})}
        checks.check_all("torch_tensorrt.Input", given, _RULES)
        if len(args) > 1:
            raise ValueError(f"Input takes one shape, got {len(args)} positional arguments")
        if args:
            if shape is not None:
                raise ValueError("Input: shape is given twice")
            shape = args[0]
        if torch_tensor is not None:
            shape = tuple(torch_tensor.shape) if shape is None and min_shape is None else shape
            dtype = torch_tensor.dtype if dtype is None else dtype
        if shape is not None and shape_ranges is not None and _is_whole_ranges(shape_ranges):
            (min_shape, opt_shape, max_shape), shape, shape_ranges = shape_ranges[0], None, None
        dynamic = [s for s in (min_shape, opt_shape, max_shape) if s is not None]
        shared_dims = _named_axes(dynamic, shared_dims)
        if sum((shape is not None, bool(dynamic), profiles is not None)) != 1:
            raise ValueError("Input: give one of shape, min_shape with opt_shape and max_shape, or profiles")
        self.profiles: list[dict[str, Shape]] = []
        if profiles is not None:
            self.profiles = [{mode: tuple(map(int, profile[mode])) for mode in MODES} for profile in profiles]
            if not self.profiles:
                raise ValueError("Input: profiles is empty")
        elif dynamic:
            if len(dynamic) != 3:
                raise ValueError("Input: a dynamic input needs min_shape, opt_shape and max_shape")
            self.profiles = [dict(zip(MODES, (tuple(map(int, s)) for s in dynamic)))]
        else:
            assert shape is not None
            self.profiles = [_profile_of(tuple(map(int, shape)), shape_ranges)]
        self._dtype = to_torch_dtype(dtype) if dtype is not None else None
        self.format = format
        self.tensor_domain = tensor_domain
        self.torch_tensor = torch_tensor
        self.name = name
        self.is_shape_tensor = is_shape_tensor
        self.shared_dims = dict(shared_dims or {})
        rank = len(self.profiles[0]["min_shape"])
        if any(not -rank <= axis < rank for axis in self.shared_dims):
            raise ValueError(f"Input: shared_dims has an axis that an input of {rank} dimensions lacks: {self.shared_dims}")
        self.to_kiln()  # finds contradictions

    @property
    def is_dynamic(self) -> bool:
        return any(profile["min_shape"] != profile["max_shape"] for profile in self.profiles) or len(self.profiles) > 1

    @property
    def dtype(self) -> torch.dtype:
        return self._dtype or torch.float32

    @dtype.setter
    def dtype(self, value: Any) -> None:
        self._dtype = to_torch_dtype(value)

    @property
    def dtype_is_given(self) -> bool:
        """False: nobody said float32."""
        return self._dtype is not None

    @property
    def shape_mode(self) -> _ShapeMode:
        return _ShapeMode.DYNAMIC if self.is_dynamic else _ShapeMode.STATIC

    @property
    def shape(self) -> Any:
        """The static shape, or the first profile."""
        first = self.profiles[0]
        return dict(first) if self.is_dynamic else first["opt_shape"]

    def to_kiln(self) -> kiln.Input:
        return kiln.Input(profiles=self.profiles, dtype=self.dtype, name=self.name or None, shared_dims=self.shared_dims)

    def example_tensor(self, optimization_profile_field: Optional[str] = None) -> torch.Tensor:
        """A tensor of random values of ``tensor_domain``, of the static shape or that of "min_shape", "opt_shape" or "max_shape"."""
        if self.torch_tensor is not None and optimization_profile_field is None:
            return self.torch_tensor
        field = optimization_profile_field or "opt_shape"
        if field not in MODES:
            raise ValueError(f"optimization_profile_field must be one of {', '.join(MODES)}, got {field!r}")
        low, high = self.tensor_domain
        return (torch.rand(self.profiles[0][field]) * (high - low) + low).to(self.dtype)

    @classmethod
    def from_tensor(cls, tensor: torch.Tensor, *_: Any, **__: Any) -> Input:
        return cls(torch_tensor=tensor)

    @classmethod
    def from_tensors(cls, tensors: Any) -> Any:
        """The same structure with an Input for each tensor."""
        return pytree.tree_map(lambda leaf: cls.from_tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf, tensors)

    def equivalent_spec(self, other: Input) -> bool:
        return self.profiles == other.profiles and self.dtype == other.dtype and self.format == other.format

    def __repr__(self) -> str:
        return f"Input(shape={self.shape}, dtype={self.dtype})"


def _named_axes(shapes: Sequence[Any], shared_dims: Optional[Mapping[int, str]]) -> Optional[Mapping[int, str]]:
    """The axes that vary, by the fields of named tuples."""
    names = [getattr(shape, "_fields", None) for shape in shapes]
    if not names or names[0] is None:
        return shared_dims
    if any(fields is None for fields in names):
        raise TypeError("Input: min_shape, opt_shape and max_shape must all be named tuples, or none of them")
    if any(fields != names[0] for fields in names):
        raise ValueError("Input: min_shape, opt_shape and max_shape must be named tuples with the same fields")
    if shared_dims:
        raise ValueError("Input: give shared_dims or named tuples, not both")
    return {axis: name for axis, name in enumerate(names[0]) if shapes[0][axis] != shapes[-1][axis]}


def _profile_of(shape: Shape, ranges: Optional[Sequence[Sequence[int]]]) -> dict[str, Shape]:
    free = [i for i, size in enumerate(shape) if size == -1]
    if len(free) != len(ranges or ()):
        raise ValueError(f"Input: shape has {len(free)} sizes of -1, but shape_ranges has {len(ranges or ())} entries")
    columns = [list(shape), list(shape), list(shape)]
    for i, bounds in zip(free, ranges or ()):
        for column, size in zip(columns, bounds):
            column[i] = int(size)
    return dict(zip(MODES, map(tuple, columns)))


def check_shared(inputs: Any) -> None:
    """Axes of one name must have one range: a call can only have one size for all of them."""
    known: dict[str, tuple[tuple[int, int], str]] = {}
    for place, leaf in enumerate(pytree.tree_leaves(inputs, is_leaf=lambda leaf: isinstance(leaf, kiln.Input))):
        if not isinstance(leaf, kiln.Input):
            continue
        who = repr(leaf.name) if leaf.name else f"input {place}"
        for axis, name in leaf.shared_dims.items():
            bounds = (leaf.min_shape[axis], leaf.max_shape[axis])
            first, owner = known.setdefault(name, (bounds, who))
            if bounds != first:
                raise ValueError(
                    f'shared_dims: axis "{name}" is {first[0]} to {first[1]} in {owner}, but {bounds[0]} to {bounds[1]} in {who}'
                )


def to_kiln(value: Any) -> Any:
    """Inputs become kiln.Inputs, whatever they are nested in; tensors and other values stay."""
    return pytree.tree_map(
        lambda leaf: leaf.to_kiln() if isinstance(leaf, Input) else leaf, value, is_leaf=lambda leaf: isinstance(leaf, Input)
    )
