"""kiln.Input: the shape range of one input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional

from kiln import checks

__all__ = ["Input"]

MAX_RANK = 8
MODES = ("min_shape", "opt_shape", "max_shape")
_SHAPE = checks.optional(checks.shape())


def _is_profile(value: Any) -> bool:
    return isinstance(value, Mapping) and set(value) == set(MODES) and all(checks.shape().holds(value[mode]) for mode in MODES)


PROFILES = checks.optional(
    checks.Rule(
        lambda value: isinstance(value, (list, tuple)) and all(map(_is_profile, value)),
        "a list of dictionaries with min_shape, opt_shape and max_shape",
        (list, tuple),
    )
)
SHARED_DIMS = checks.optional(
    checks.Rule(
        lambda value: all(isinstance(axis, int) and isinstance(name, str) for axis, name in value.items()),
        "a dictionary from axes to names",
        (dict,),
    )
)
_RULES = {
    "shape": _SHAPE,
    "min_shape": _SHAPE,
    "opt_shape": _SHAPE,
    "max_shape": _SHAPE,
    # By name: this file is used without PyTorch, too.
    "dtype": checks.optional(checks.Rule(lambda value: repr(type(value)) == "<class 'torch.dtype'>", "a torch.dtype")),
    "name": checks.optional(checks.TEXT),
    "profiles": PROFILES,
    "shared_dims": SHARED_DIMS,
}


class Input:
    """The shape, or range of shapes, and dtype of one tensor input, for :func:`kiln.compile`.

    Give either ``shape`` (static), or ``min_shape`` and ``max_shape`` (and ``opt_shape``, the one to plan for; default:
    ``max_shape``), or several of these as ``profiles``. Dimensions whose minimum and maximum agree are static.

    Args:
        shape: sizes of a static input.
        min_shape, opt_shape, max_shape: sizes of a dynamic input; equal lengths, min <= opt <= max.
        dtype: a ``torch.dtype``; default ``torch.float32``.
        name: the parameter of the model's ``forward`` that this input is for; default: by position.
        profiles: several ``{"min_shape": ..., "opt_shape": ..., "max_shape": ...}``, the same number for each input that has more than one.
            An engine chooses its kernels for the opt shape of each; sizes that no profile contains are refused.
        shared_dims: {axis: name}; axes of one name, of this and other inputs, must have one size in each call.

    Raises:
        ValueError: the shapes contradict each other.
    """

    __slots__ = ("dtype", "max_shape", "min_shape", "name", "opt_shape", "profiles", "shared_dims")

    def __init__(
        self,
        shape: Optional[Sequence[int]] = None,
        *,
        min_shape: Optional[Sequence[int]] = None,
        opt_shape: Optional[Sequence[int]] = None,
        max_shape: Optional[Sequence[int]] = None,
        dtype: Any = None,
        name: Optional[str] = None,
        profiles: Optional[Sequence[Mapping[str, Sequence[int]]]] = None,
        shared_dims: Optional[Mapping[int, str]] = None,
    ) -> None:
        checks.check_all("kiln.Input", locals(), _RULES)
        if profiles is not None:
            if not profiles:
                raise ValueError("profiles is empty")
            if shape is not None or min_shape is not None or opt_shape is not None or max_shape is not None:
                raise ValueError("give either profiles or shapes, not both")
            rows = [Input(**{mode: profile[mode] for mode in MODES}) for profile in profiles]  # finds contradictions
            if len({len(row.min_shape) for row in rows}) != 1:
                raise ValueError(f"profiles must have the same number of dimensions, got {[len(row.min_shape) for row in rows]}")
            min_shape = [min(sizes) for sizes in zip(*(row.min_shape for row in rows))]
            opt_shape = rows[0].opt_shape
            max_shape = [max(sizes) for sizes in zip(*(row.max_shape for row in rows))]
            self.profiles = tuple((row.min_shape, row.opt_shape, row.max_shape) for row in rows)
        if shape is not None:
            if min_shape is not None or opt_shape is not None or max_shape is not None:
                raise ValueError("give either shape or min_shape, opt_shape and max_shape, not both")
            min_shape = opt_shape = max_shape = shape
        if min_shape is None or max_shape is None:
            raise ValueError("give shape, or both min_shape and max_shape")
        self.min_shape = tuple(int(n) for n in min_shape)
        self.max_shape = tuple(int(n) for n in max_shape)
        self.opt_shape = tuple(int(n) for n in opt_shape) if opt_shape is not None else self.max_shape
        self.dtype = dtype
        self.name = name
        rank = len(self.min_shape)
        if len(self.opt_shape) != rank or len(self.max_shape) != rank:
            raise ValueError(
                f"min_shape {self.min_shape}, opt_shape {self.opt_shape} and max_shape {self.max_shape} "
                "must have the same number of dimensions"
            )
        if rank > MAX_RANK:
            raise ValueError(f"an input has at most {MAX_RANK} dimensions, got {rank}")
        for i, (low, opt, high) in enumerate(zip(self.min_shape, self.opt_shape, self.max_shape)):
            if not 0 <= low <= opt <= high:
                raise ValueError(
                    f"dimension {i} of min_shape, opt_shape, max_shape: expected 0 <= min <= opt <= max, got {low}, {opt}, {high}"
                )
        if profiles is None:
            self.profiles = ((self.min_shape, self.opt_shape, self.max_shape),)
        self.shared_dims = {axis % rank if -rank <= axis < rank else axis: shared for axis, shared in (shared_dims or {}).items()}
        if any(not 0 <= axis < rank for axis in self.shared_dims):
            raise ValueError(f"shared_dims has an axis that an input of {rank} dimensions lacks: {self.shared_dims}")

    @property
    def is_dynamic(self) -> bool:
        """Whether any dimension may vary."""
        return self.min_shape != self.max_shape

    def row(self, dtype: Optional[str] = None) -> tuple[Any, ...]:
        """What :meth:`kiln.Engine.build` takes."""
        return (None, dtype, self.min_shape, self.opt_shape, self.max_shape, self.profiles, self.shared_dims)

    def __repr__(self) -> str:
        parts = (
            [f"min_shape={self.min_shape}, opt_shape={self.opt_shape}, max_shape={self.max_shape}"]
            if self.is_dynamic
            else [f"shape={self.min_shape}"]
        )
        if len(self.profiles) > 1:
            parts = [f"profiles={[dict(zip(MODES, profile)) for profile in self.profiles]}"]
        if self.shared_dims:
            parts.append(f"shared_dims={self.shared_dims}")
        if self.dtype is not None:
            parts.append(f"dtype={self.dtype}")
        if self.name is not None:
            parts.append(f"name={self.name!r}")
        return f"kiln.Input({', '.join(parts)})"
