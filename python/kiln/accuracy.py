"""How far a compiled module's results are from fp32, output by output."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
from torch.utils import _pytree as pytree

__all__ = ["AccuracyReport", "OutputAccuracy", "accuracy"]


@dataclass(frozen=True)
class OutputAccuracy:
    """One output against fp32.

    Attributes:
        name: the engine's name of the output.
        shape, dtype: of the compiled module's output.
        relative_l2: ``norm(got - want) / norm(want)`` over all finite elements.
        max_abs: the largest difference.
        max_relative: the largest difference as a share of the largest magnitude.
        cosine: of the angle between the two.
        not_finite: elements that are infinite or NaN in one of the two, and not alike in both.
        half_relative_l2: ``relative_l2`` of the original model in 16 bits on the same device, if that was asked for; NaN otherwise.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    relative_l2: float
    max_abs: float
    max_relative: float
    cosine: float
    not_finite: int
    half_relative_l2: float = math.nan


class AccuracyReport(list[OutputAccuracy]):
    """One :class:`OutputAccuracy` for each output; ``print`` it for a table."""

    @property
    def worst(self) -> float:
        """The largest ``relative_l2``."""
        return max((row.relative_l2 for row in self), default=0.0)

    def __str__(self) -> str:
        lines = [f"{'output':24} {'shape':20} {'relative L2':>12} {'max abs':>10} {'max rel':>10} {'cosine':>10}"]
        halves = any(not math.isnan(row.half_relative_l2) for row in self)
        lines[0] += f" {'eager 16 bit':>13}" if halves else ""
        for row in self:
            line = f"{row.name[:24]:24} {'x'.join(map(str, row.shape)) or 'scalar':20} {row.relative_l2:12.3e} {row.max_abs:10.3e}"
            line += f" {row.max_relative:10.3e} {row.cosine:10.7f}" + (f" {row.half_relative_l2:13.3e}" if halves else "")
            lines.append(line + (f"  {row.not_finite} not finite" if row.not_finite else ""))
        return "\n".join(lines)


def accuracy(
    model: Any,
    compiled: Any,
    inputs: Union[Sequence[Any], torch.Tensor],
    *,
    kwargs: Optional[Mapping[str, Any]] = None,
    samples: Optional[Iterable[Sequence[Any]]] = None,
    half: Optional[torch.dtype] = None,
) -> AccuracyReport:
    """Runs ``compiled`` and the original ``model`` in fp32 and compares every output.

    Args:
        model: the original ``nn.Module`` or ScriptModule; a copy in fp32 is used if it is in 16 bits.
        compiled: what :func:`kiln.compile` or :func:`kiln.load` made of it, in any precision, for any device.
        inputs, kwargs: arguments of one call, on the device where ``compiled`` shall run.
        samples: more calls (sequences of positional arguments); errors are then those over all of them together.
        half: ``torch.float16`` or ``torch.bfloat16``: also runs the original in this type, for comparison.

    Raises:
        ValueError: the two give different numbers or shapes of outputs.
    """
    calls = [(inputs,) if isinstance(inputs, torch.Tensor) else tuple(inputs), *(tuple(sample) for sample in samples or ())]
    names = [info.name for info in getattr(compiled, "outputs", [])]
    truth, halved = _Runner(model, torch.float32), _Runner(model, half) if half is not None else None
    sums: list[_Sums] = []
    with torch.no_grad():
        for args in calls:
            want = truth(args, kwargs or {})
            got = _leaves(compiled(*args, **(kwargs or {})))
            other = halved(args, kwargs or {}) if halved else [None] * len(want)
            if [t.shape for t in want] != [t.shape for t in got]:
                raise ValueError(
                    f"the outputs differ in number or shape: {[tuple(t.shape) for t in want]} in the model, "
                    f"{[tuple(t.shape) for t in got]} in what was compiled"
                )
            sums = sums or [_Sums(tensor) for tensor in got]
            for each, a, b, c in zip(sums, got, want, other):
                each.add(a, b, c)
    known = names if len(names) == len(sums) else [f"output {i}" for i in range(len(sums))]
    return AccuracyReport(each.row(name) for each, name in zip(sums, known))


def _leaves(result: Any) -> list[torch.Tensor]:
    """Complex tensors as pairs of real numbers."""
    leaves = [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]
    return [torch.view_as_real(leaf.resolve_conj()) if leaf.is_complex() else leaf for leaf in leaves]


class _Runner:
    """The original in one type of numbers, where its inputs are."""

    def __init__(self, model: Any, dtype: torch.dtype) -> None:
        self.model, self.dtype, self.copies = model, dtype, {}

    def _on(self, device: torch.device) -> Any:
        if device not in self.copies:
            tensors = [*self.model.parameters(), *self.model.buffers()] if isinstance(self.model, torch.nn.Module) else []
            fits = all(t.device == device and (t.dtype == self.dtype or not t.is_floating_point()) for t in tensors)
            self.copies[device] = self.model if fits else copy.deepcopy(self.model).to(device=device, dtype=self.dtype)
        return self.copies[device]

    def __call__(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
        tensors = [leaf for leaf in pytree.tree_leaves((args, dict(kwargs))) if isinstance(leaf, torch.Tensor)]
        device = tensors[0].device if tensors else torch.device("cpu")

        def convert(leaf: Any) -> Any:
            return leaf.to(self.dtype) if isinstance(leaf, torch.Tensor) and leaf.is_floating_point() else leaf

        args, kwargs = pytree.tree_map(convert, (args, dict(kwargs)))
        switches = (torch.backends.cuda.matmul, torch.backends.cudnn)
        before = [switch.allow_tf32 for switch in switches]
        try:
            for switch in switches:
                switch.allow_tf32 = False
            return _leaves(self._on(device)(*args, **kwargs))
        finally:
            for switch, old in zip(switches, before):
                switch.allow_tf32 = old


class _Sums:
    """What the errors of one output are made of."""

    def __init__(self, like: torch.Tensor) -> None:
        self.shape, self.dtype = tuple(like.shape), like.dtype
        self.error = self.square = self.own = self.dot = self.half = 0.0
        self.largest = self.scale = 0.0
        self.odd, self.has_half = 0, False

    def add(self, got: torch.Tensor, want: torch.Tensor, half: Optional[torch.Tensor]) -> None:
        a, b = got.detach().double().cpu(), want.detach().double().cpu()
        same = (a == b) | (a.isnan() & b.isnan())
        finite = a.isfinite() & b.isfinite()
        self.odd += int((~finite & ~same).sum())
        if half is not None:
            c = half.detach().double().cpu()
            both = finite & c.isfinite()
            self.half += float(((c - b)[both] ** 2).sum())
            self.has_half = True
        a, b = a[finite], b[finite]
        if a.numel() == 0:
            return
        self.error += float(((a - b) ** 2).sum())
        self.square += float((b**2).sum())
        self.own += float((a**2).sum())
        self.dot += float((a * b).sum())
        self.largest = max(self.largest, float((a - b).abs().max()))
        self.scale = max(self.scale, float(b.abs().max()))

    def row(self, name: str) -> OutputAccuracy:
        norm = math.sqrt(self.square)
        return OutputAccuracy(
            name=name,
            shape=self.shape,
            dtype=self.dtype,
            relative_l2=math.sqrt(self.error) / norm if norm else math.sqrt(self.error),
            max_abs=self.largest,
            max_relative=self.largest / self.scale if self.scale else self.largest,
            cosine=self.dot / math.sqrt(self.own * self.square) if self.own * self.square > 0 else 1.0,
            not_finite=self.odd,
            half_relative_l2=(math.sqrt(self.half) / norm if norm else math.sqrt(self.half)) if self.has_half else math.nan,
        )
