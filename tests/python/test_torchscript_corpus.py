"""Small scripted programs (torchscript_case.py): each saved, imported in C, run on three inputs, and compared with PyTorch.

    pytest tests/python/test_torchscript_corpus.py -k write_through

Results and what became of the inputs must both agree: an input that the program writes to is written to.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import kiln
import torchscript_language  # noqa: F401  (fills CASES)
import torchscript_modules  # noqa: F401
import torchscript_tensors  # noqa: F401
from compare import relative_errors
from torchscript_build import build, named_specs, plain, saved
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
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def test_other_methods() -> None:
    """encode is compiled because forward calls it, decode because it is exported."""
    script, x = CASES["Methods"].script(), torch.randn(2, 4)
    assert relative_errors(build(script, (x,), method="decode")(x), script.decode(x)) == [0.0]
    assert relative_errors(build(script, (x, True), method="encode")(x), script.encode(x, True))[0] <= 1e-5
    with pytest.raises(kiln.KilnError, match="decode"):
        kiln.Engine.build(saved(script), method="nothing")


# Programs that need to know a size when they are built: they unroll over it, print it, or compare lists of sizes.
STATIC = set(
    "break_and_continue ternary_and_boolean mixed_number_types list_methods list_of_tensors list_repetition_and_membership comprehensions "
    "enumerate_and_zip string_formatting Gru RnnByHand write_through_select_narrow_unbind write_through_split_chunk "
    "write_through_unfold_and_strides views_of_views outputs_given_as_arguments list_and_tuple_arguments".split()
)


def _resized(value: Any, by: int) -> Any:
    if not isinstance(value, torch.Tensor) or not value.dim():
        return value
    shape = [max(1, size + by) for size in value.shape]
    return torch.randn(shape) if value.is_floating_point() else torch.randint(0, 4, shape)


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if not case.calls and name not in STATIC])
def test_dynamic_sizes(name: str) -> None:
    """Every size of every input may vary: one engine gives what PyTorch gives at all sizes that the program takes.

    It may refuse sizes that would mean another program (a size of 1 that broadcasts, where the engine took two for equal).
    """
    case = CASES[name]
    script = case.script()
    rows = [
        row if len(row) == 2 else (*row[:2], (1,) * len(row[2]), row[2], tuple(size + 5 for size in row[2]))
        for row in named_specs(script, case.arguments(0))
    ]
    compiled = kiln.CompiledModule(kiln.Engine.build(saved(script), inputs=rows))
    for by in (0, -2, -1, 1, 2):
        args = pytree.tree_map(lambda leaf, by=by: _resized(leaf, by), case.arguments(0)) if by else case.arguments(0)
        theirs, ours = copy.deepcopy(args), copy.deepcopy(args)
        try:
            expected = copy.deepcopy(script(*theirs))
        except Exception:  # the program has sizes in it
            assert by
            continue
        try:
            actual = compiled(*ours)
        except kiln.KilnError as error:
            if by and "needs the sizes" in str(error):
                continue
            raise
        check(case, expected, actual, f"sizes {by:+}")
        check(case, theirs, ours, f"inputs at sizes {by:+}")
