"""kiln.Input: the shape range of one input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from kiln import checks

__all__ = ["Input"]

MAX_RANK = 8
_SHAPE = checks.optional(checks.shape())
_RULES = {
    "shape": _SHAPE,
    "min_shape": _SHAPE,
    "opt_shape": _SHAPE,
    "max_shape": _SHAPE,
    # By name: this file is used without PyTorch, too.
    "dtype": checks.optional(checks.Rule(lambda value: repr(type(value)) == "<class 'torch.dtype'>", "a torch.dtype")),
    "name": checks.optional(checks.TEXT),
}


class Input:
    """The shape, or range of shapes, and dtype of one tensor input, for :func:`kiln.compile`.

    Give either ``shape`` (static) or ``min_shape`` and ``max_shape`` (and ``opt_shape``, the one to plan for; default:
    ``max_shape``). Dimensions whose minimum and maximum agree are static.

    Args:
        shape: sizes of a static input.
        min_shape, opt_shape, max_shape: sizes of a dynamic input; equal lengths, min <= opt <= max.
        dtype: a ``torch.dtype``; default ``torch.float32``.
        name: the parameter of the model's ``forward`` that this input is for; default: by position.

    Raises:
        ValueError: the shapes contradict each other.
    """

    __slots__ = ("dtype", "max_shape", "min_shape", "name", "opt_shape")

    def __init__(
        self,
        shape: Optional[Sequence[int]] = None,
        *,
        min_shape: Optional[Sequence[int]] = None,
        opt_shape: Optional[Sequence[int]] = None,
        max_shape: Optional[Sequence[int]] = None,
        dtype: Any = None,
        name: Optional[str] = None,
    ) -> None:
        checks.check_all("kiln.Input", locals(), _RULES)
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

    @property
    def is_dynamic(self) -> bool:
        """Whether any dimension may vary."""
        return self.min_shape != self.max_shape

    def __repr__(self) -> str:
        parts = (
            [f"min_shape={self.min_shape}, opt_shape={self.opt_shape}, max_shape={self.max_shape}"]
            if self.is_dynamic
            else [f"shape={self.min_shape}"]
        )
        if self.dtype is not None:
            parts.append(f"dtype={self.dtype}")
        if self.name is not None:
            parts.append(f"name={self.name!r}")
        return f"kiln.Input({', '.join(parts)})"
