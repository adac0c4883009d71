"""Every model of the list through the whole path, compared with PyTorch.

    pytest tests/python/test_models.py -k "bert_base and dynamic"

Real sizes run at batch 1. Batch 3 and dynamic shapes run with the tiny variant where there is one: the same graph in less time.
KILN_TEST_FULL=1 takes real sizes everywhere.
Each test prints its errors (pytest -rP shows them).
"""

from __future__ import annotations

import os
import time
from typing import Any

import pytest
import torch

import kiln
from compare import relative_errors
from models import LONGEST, MODELS, Model

FULL = bool(os.environ.get("KILN_TEST_FULL"))


def check(model: Model, compiled: Any, module: torch.nn.Module, example: tuple[Any, ...], what: str) -> None:
    expected = module(*example)
    errors = relative_errors(compiled(*example), expected)
    print(f"{model.name} {what}: " + ", ".join(f"{error:.2e}" for error in errors))
    assert max(errors) <= model.tolerance, f"{model.name} {what}: error {max(errors):.2e} above {model.tolerance:.0e}"


# Batch 1 at the real size, batch 3 with the tiny variant where there is one.
@pytest.mark.parametrize("batch", [1, 3], ids=["batch1", "batch3"])
@pytest.mark.parametrize("name", MODELS)
def test_static(name: str, batch: int) -> None:
    model = MODELS[name]
    size = model.sizes[0 if batch == 1 or FULL else -1]
    module = model.module(size)
    example = model.example(size, batch)
    start = time.perf_counter()
    compiled = kiln.compile(module, inputs=example, threads=2)
    print(f"{name}: compiled in {time.perf_counter() - start:.2f} s for {compiled.engine.target}")
    check(model, compiled, module, example, f"static batch {batch}")


# The engine must give the same after a change of shapes and back.
BATCHES = [2, 1, 8, 3, 1]
LENGTHS = [64, 8, LONGEST, 9, 64]


@pytest.mark.parametrize("name", [name for name, model in MODELS.items() if model.ranges])
def test_dynamic(name: str) -> None:
    model = MODELS[name]
    size = model.sizes[0 if FULL else -1]
    module = model.module(size)
    compiled = kiln.compile(module, inputs=model.ranges(size), threads=2)
    for batch, length in zip(BATCHES, LENGTHS):
        example = model.example(size, batch, length if model.sequence else None)
        check(model, compiled, module, example, f"dynamic batch {batch}" + (f" length {length}" if model.sequence else ""))
