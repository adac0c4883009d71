"""``torch.compile(model, backend="tensorrt", options={settings})``, by the names that Torch-TensorRT registers."""

from __future__ import annotations

from typing import Any, Callable

import torch

from kiln.dynamo import kiln_backend
from kiln.partition import Choices
from kiln.torch_tensorrt import _converters, _lowering
from kiln.torch_tensorrt._settings import CompilationSettings, note

__all__ = ["BACKENDS", "register", "tensorrt_backend"]

BACKENDS = ("tensorrt", "torch_tensorrt", "aot_torch_tensorrt_aten")


def _choices(settings: CompilationSettings) -> Choices:
    """What Torch-TensorRT's users registered, and what they leave to PyTorch."""
    registered = (
        _lowering.ATEN_POST_LOWERING_PASSES.passes,
        _lowering.ATEN_PRE_LOWERING_PASSES.passes,
        _converters.DYNAMO_ATEN_CONVERTERS,
    )

    def prepare(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
        return _converters.apply(_lowering.apply(program, settings), settings)

    return Choices(
        prepare if any(registered) else None,
        settings.torch_executed_ops,
        settings.torch_executed_modules,
        settings.min_block_size,
    )


def tensorrt_backend(graph: torch.fx.GraphModule, examples: list[Any], **kwargs: Any) -> Callable[..., Any]:
    """Kiln's backend with Torch-TensorRT's settings as ``options``."""
    chosen = CompilationSettings.of(**dict(kwargs.get("options") or {}))
    on_gpu = any(isinstance(e, torch.Tensor) and e.device.type == "cuda" for e in examples)
    target = str(chosen.device.to(torch.device)) if chosen.device else ("cuda" if on_gpu else "cpu")
    for name in ("calibrator", "dryrun", "strip_engine_weights"):
        if getattr(chosen, name):
            note(name, 'torch.compile hands over parts of a model, without their names; use ir="dynamo"')
    options = {**chosen.options(target), "require_full_compilation": chosen.require_full_compilation}
    return kiln_backend(
        graph,
        examples,
        choices=_choices(chosen),
        raise_failures=chosen.pass_through_build_failures,
        inference=True,
        options=options,
    )


def register() -> None:
    """A name that another package has taken stays its own."""
    from torch._dynamo.backends import registry

    taken = set(registry.list_backends(exclude_tags=()))
    for name in BACKENDS:
        if name not in taken:
            registry.register_backend(tensorrt_backend, name=name)
