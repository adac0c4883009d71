"""Small TorchScript programs, each for one thing that serialized code can do: what is scripted, and three sets of inputs.

A case is a function or a module class under `@case(...)`, whose arguments describe forward's arguments: they are called with a
seed and give a tensor (or a list, tuple or dict of such). The programs are in torchscript_language.py, torchscript_tensors.py and
torchscript_modules.py; test_torchscript_corpus.py runs them. Modules are made anew from the same seed for each use. Cases with `calls`
are called three times in a row on one module: the state must agree after each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

import torch
from torch import Tensor


@dataclass(frozen=True)
class Case:
    name: str
    target: Any  # a function, or a class of modules
    inputs: tuple[Any, ...]
    calls: bool = False
    tolerance: float = 1e-5

    def script(self) -> Any:
        torch.manual_seed(0)
        return torch.jit.script(self.target().eval() if isinstance(self.target, type) else self.target)

    def arguments(self, seed: int) -> tuple[Any, ...]:
        return tuple(_make(spec, seed) for spec in self.inputs)


CASES: dict[str, Case] = {}


def case(*inputs: Any, **options: Any) -> Callable[[Any], Any]:
    def add(target: Any) -> Any:
        assert target.__name__ not in CASES
        CASES[target.__name__] = Case(target.__name__, target, inputs, **options)
        return target

    return add


def _make(spec: Any, seed: int) -> Any:
    if isinstance(spec, dict):
        return {key: _make(item, seed) for key, item in spec.items()}
    if isinstance(spec, (list, tuple)):
        return type(spec)(_make(item, seed) for item in spec)
    return spec(seed)


def X(*shape: int) -> Callable[[int], Tensor]:
    """Normal values; the shape alone also tells apart two inputs of a case."""
    return lambda seed: torch.randn(*shape, generator=torch.Generator().manual_seed(seed + 10 * sum(shape)))


def INTEGERS(*shape: int, high: int = 5) -> Callable[[int], Tensor]:
    return lambda seed: torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def VALUES(*tensors: Tensor) -> Callable[[int], Tensor]:
    """One tensor for each of the three calls."""
    return lambda seed: tensors[seed].clone()


def NUMBERS(*numbers: Any) -> Callable[[int], Tensor]:
    """A rank-0 tensor for each of the three calls."""
    return VALUES(*(torch.tensor(number) for number in numbers))
