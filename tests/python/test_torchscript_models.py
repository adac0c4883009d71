"""Every model of the list as a TorchScript file: traced, traced and frozen, and scripted where PyTorch can script it.

    pytest tests/python/test_torchscript_models.py -k "bert_base and frozen"

Tiny variants at batch 2 where there is one, else the real size at batch 1; KILN_TEST_FULL=1 takes real sizes everywhere.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch

import kiln
from compare import relative_errors
from models import LONGEST, MODELS, Model
from torchscript_build import DTYPES, build, saved

FULL = bool(os.environ.get("KILN_TEST_FULL"))

# torch.jit.script takes these; the others use Python that it does not know.
SCRIPTED = (
    "resnet18 resnet50 mobilenet_v2 efficientnet_b0 vgg16 densenet121 squeezenet lstm lstm_bidirectional gru tcn mtcnn_pnet mtcnn_rnet "
    "mtcnn_onet resemblyzer"
).split()


def _size(model: Model) -> str:
    return model.sizes[0 if FULL else -1]


def _check(model: Model, compiled: Any, module: torch.nn.Module, example: tuple[Any, ...], what: str) -> None:
    errors = relative_errors(compiled(*example), module(*example))
    print(f"{model.name} {what}: " + ", ".join(f"{error:.2e}" for error in errors))
    assert max(errors) <= model.tolerance, f"{model.name} {what}: error {max(errors):.2e} above {model.tolerance:.0e}"


def _script(model: Model, module: torch.nn.Module, example: tuple[Any, ...], form: str) -> torch.jit.ScriptModule:
    if form == "scripted":
        return torch.jit.script(module)
    traced = torch.jit.trace(module, example, check_trace=False)
    return torch.jit.freeze(traced) if form == "frozen" else traced


FORMS = [(name, form) for name in MODELS for form in ("traced", "frozen", "scripted") if form != "scripted" or name in SCRIPTED]


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_model(name: str, form: str) -> None:
    model = MODELS[name]
    size = _size(model)
    module = model.module(size)
    example = model.example(size, 2 if size == "tiny" else 1)
    script = _script(model, module, example, form)
    _check(model, build(script, example), module, example, form)


@pytest.mark.parametrize("name", ["resnet18", "lstm", "attacut"])
def test_traced_files_know_their_inputs(name: str) -> None:
    model = MODELS[name]
    module, example = model.module(model.sizes[-1]), model.example(model.sizes[-1])
    traced = torch.jit.trace(module, example, check_trace=False)
    compiled = kiln.CompiledModule(kiln.Engine.build(saved(traced)))
    _check(model, compiled, module, example, "without specs")


# Sizes that vary: traces that keep sizes as what they are, and scripted code.
DYNAMIC = [
    ("resnet18", "scripted"),
    ("resnet18", "frozen"),
    ("tcn", "scripted"),
    ("mobilenet_v2", "traced"),
    ("lstm", "scripted"),
    ("bert_base", "traced"),
]


@pytest.mark.parametrize(("name", "form"), DYNAMIC)
def test_dynamic(name: str, form: str) -> None:
    model = MODELS[name]
    module, example = model.module("tiny"), model.example("tiny", 3, 10 if model.sequence else None)
    script = _script(model, module, example, form)
    specs = [
        (None, DTYPES[r.dtype or torch.float32], r.min_shape, r.opt_shape, r.max_shape)
        for r in (model.ranges("tiny") if model.ranges else ())
    ]
    compiled = kiln.CompiledModule(kiln.Engine.build(saved(script), inputs=specs))
    for batch, length in [(2, 64), (1, 8), (8, LONGEST), (3, 9)]:
        example = model.example("tiny", batch, length if model.sequence else None)
        _check(model, compiled, module, example, f"{form} batch {batch} length {length}")
