"""refit_module_weights, and what it shares with MutableTorchTensorRTModule."""

from __future__ import annotations

import copy
import operator
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
from torch.utils import _pytree as pytree

import kiln
from kiln.partition import HybridModule, _EngineModule
from kiln.torch_tensorrt import logging

__all__ = ["refit_module_weights", "refit_with"]


def _error(text: str) -> kiln.KilnError:
    error = kiln.KilnError(text)
    error.status = "KILN_INVALID_ARGUMENT"
    return error


def refit_module_weights(
    compiled_module: torch.nn.Module,
    new_weight_module: Any,
    arg_inputs: Optional[Sequence[Any]] = None,
    kwarg_inputs: Optional[Mapping[str, Any]] = None,
    verify_output: bool = False,
    use_weight_map_cache: bool = True,
    in_place: bool = False,
) -> torch.nn.Module:
    """The compiled module with the weights of another exported program of the same model.

    Args:
        compiled_module: of ``compile``, in one engine or with parts in PyTorch, or a ScriptModule of it that is not frozen.
        new_weight_module: an ExportedProgram, or an nn.Module.
        arg_inputs, kwarg_inputs: with ``verify_output``, what to compare the results on.
        use_weight_map_cache: accepted; engines know which weights came from where.
        in_place: False leaves ``compiled_module`` as it is and returns a copy.

    Raises:
        KilnError: weights do not fit (all are listed), or the results differ; ``compiled_module`` is as it was in the first case.
    """
    if not isinstance(compiled_module, (kiln.CompiledModule, HybridModule, torch.jit.ScriptModule)):
        raise TypeError(
            f"compiled_module must be what torch_tensorrt.compile returned, got {type(compiled_module).__name__}: loaded programs have "
            "their engines as constants"
        )
    if not isinstance(new_weight_module, (torch.export.ExportedProgram, torch.nn.Module)):
        raise TypeError(f"new_weight_module must be an ExportedProgram, got {type(new_weight_module).__name__}")
    state = new_weight_module.state_dict
    state = state() if callable(state) else state
    module = compiled_module if in_place else _copy(compiled_module)
    refit_with(module, state)
    if verify_output:
        _verify(module, new_weight_module, arg_inputs, kwarg_inputs)
    return module


def refit_with(module: torch.nn.Module, state: Mapping[str, Any]) -> None:
    """Gives all engines of a compiled module, and what runs in PyTorch beside them, the weights of a state dict."""
    if isinstance(module, (kiln.CompiledModule, torch.jit.ScriptModule)):
        kiln.refit(module, state)
        return
    assert isinstance(module, HybridModule)
    graph = module.graph_module
    held = {str(node.target): operator.attrgetter(str(node.target))(graph) for node in graph.graph.nodes if node.op == "get_attr"}
    # Several attributes may be one tensor; a name of the state that no attribute has belongs to a weight without a use.
    wrong = [
        f"`{name}`: expected {tensor.dtype}{list(tensor.shape)}, got {state[name].dtype}{list(state[name].shape)}"
        for name, tensor in held.items()
        if name in state and (state[name].shape != tensor.shape or state[name].dtype != tensor.dtype)
    ]
    if not any(name in state for name in held):
        wrong.append("none of the names is one of the module's")
    if wrong:
        raise _error("the module keeps its weights, for some of those given do not fit:\n  " + "\n  ".join(wrong))
    with torch.no_grad():
        for name, tensor in held.items():
            if name in state:
                tensor.copy_(state[name])
    for child in graph.modules():
        if isinstance(child, _EngineModule):
            child.call.build()


def _copy(module: torch.nn.Module) -> torch.nn.Module:
    """With engines of its own."""
    if isinstance(module, kiln.CompiledModule):
        return _own_engine(module)
    made = copy.deepcopy(module)  # ScriptModules load engines of their own
    for child in made.modules():
        if isinstance(child, _EngineModule) and isinstance(child.call.engine, kiln.CompiledModule):
            child.call.engine = _own_engine(child.call.engine)
    return made


def _own_engine(module: kiln.CompiledModule) -> kiln.CompiledModule:
    return kiln.CompiledModule(kiln.Engine.load(module.engine.serialize()), module.threads)


def _verify(module: torch.nn.Module, origin: Any, args: Optional[Sequence[Any]], kwargs: Optional[Mapping[str, Any]]) -> None:
    if args is None and kwargs is None:
        raise ValueError("verify_output needs arg_inputs or kwarg_inputs")
    expected = origin.module() if isinstance(origin, torch.export.ExportedProgram) else origin
    with torch.no_grad():
        results = [pytree.tree_leaves(run(*(args or ()), **(kwargs or {}))) for run in (module, expected)]
    for got, wanted in zip(*results):
        if isinstance(wanted, torch.Tensor) and wanted.is_floating_point():
            wanted = wanted.to(got.device)
            similarity = torch.nn.functional.cosine_similarity(got.double().flatten(), wanted.double().flatten(), dim=0)
            if wanted.numel() and wanted.abs().max() > 0 and not similarity > 0.99:
                raise _error(f"verify_output: results differ after the refit (cosine similarity {float(similarity):.4f})")
    logging.logger.info("refit_module_weights: results agree")
