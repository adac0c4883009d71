"""Small scripted programs (torchscript_case.py): each saved, imported in C, run on three inputs, and compared with PyTorch.

    pytest tests/python/test_torchscript_corpus.py -k write_through

Results and what became of the inputs must both agree: an input that the program writes to is written to.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import torchscript_language  # noqa: F401  (fills CASES)
import torchscript_modules  # noqa: F401
import torchscript_tensors  # noqa: F401
from compare import relative_errors
from torchscript_build import build, plain
from torchscript_case import CASES, Case


def check(case: Case, expected: Any, actual: Any, what: str) -> None:
    errors = relative_errors(plain(actual), plain(expected))
    assert not errors or max(errors) <= case.tolerance, f"{case.name}, {what}: error {max(errors):.2e}"


@pytest.mark.parametrize("name", CASES)
def test_corpus(name: str) -> None:
    case = CASES[name]
    script = case.script()
    compiled = build(script, case.arguments(0))
    for seed in range(3):
        if not case.calls:
            script = case.script()
        theirs, ours = case.arguments(seed), case.arguments(seed)
        expected = copy.deepcopy(script(*theirs))  # before later calls change state that it may be
        actual = compiled(*ours)
        check(case, expected, actual, f"call {seed}")
        check(case, theirs, ours, f"inputs after call {seed}")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.calls])
def test_state_is_reset(name: str) -> None:
    case = CASES[name]
    compiled = build(case.script(), case.arguments(0))
    first = [copy.deepcopy(compiled(*case.arguments(seed))) for seed in range(3)]
    compiled.reset()
    for seed in range(3):
        check(case, first[seed], compiled(*case.arguments(seed)), f"call {seed} after reset")


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not isinstance(case.target, type)])
def test_scripted_is_python(name: str) -> None:
    """The corpus itself: TorchScript computes what Python does."""
    case = CASES[name]
    args = case.arguments(1), case.arguments(1)
    expected, actual = case.target(*args[0]), case.script()(*args[1])
    errors = relative_errors(plain(actual), plain(expected))
    assert not errors or max(errors) <= case.tolerance
    assert all(torch.equal(a, b) for a, b in zip(_tensors(args[0]), _tensors(args[1])))


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]
