"""The TorchScript path."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from torch.utils import _pytree as pytree

import kiln
from kiln import checks, quantization
from kiln.modes import for_inference
from kiln.torch_tensorrt import logging, ptq
from kiln.torch_tensorrt._enums import Device
from kiln.torch_tensorrt._input import Input as TorchScriptInput
from kiln.torch_tensorrt._input import to_kiln
from kiln.torch_tensorrt._settings import CompilationSettings

__all__ = [
    "TensorRTCompileSpec",
    "TorchScriptInput",
    "check_method_op_support",
    "compile",
    "convert_method_to_trt_engine",
    "embed_engine_in_new_module",
    "ptq",
]


def _scripted(module: Any) -> Any:
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return module
    checks.check(
        "torch_tensorrt.ts", "module", module, checks.instance(torch.nn.Module, "a ScriptModule, ScriptFunction or nn.Module")
    )
    return torch.jit.script(module)


def _signature(module: Any, inputs: Optional[Sequence[Any]], input_signature: Any) -> list[Any]:
    if (inputs is None) == (input_signature is None):
        raise ValueError("give one of inputs and input_signature")
    kinds = {p.dtype for p in module.parameters() if p.is_floating_point()} if isinstance(module, torch.nn.Module) else set()
    usual = kinds.pop() if len(kinds) == 1 else torch.float32

    def typed(leaf: Any) -> Any:
        if not isinstance(leaf, TorchScriptInput) or leaf.dtype_is_given or usual is torch.float32:
            return leaf
        leaf = copy.copy(leaf)
        leaf.dtype = usual  # what the module computes with
        return leaf

    given = list(inputs if inputs is not None else input_signature)
    return list(to_kiln(pytree.tree_map(typed, given, is_leaf=lambda leaf: isinstance(leaf, TorchScriptInput))))


def _target(module: Any, chosen: CompilationSettings) -> str:
    if chosen.device is not None:
        return str(chosen.device.to(torch.device))
    parameters = list(module.parameters()) if isinstance(module, torch.nn.Module) else []
    return parameters[0].device.type if parameters else "cpu"


def compile(
    module: Any, inputs: Optional[Sequence[Any]] = None, input_signature: Any = None, **settings: Any
) -> torch.jit.ScriptModule:
    """Compiles a ScriptModule (or scripts an nn.Module) into a ScriptModule for torch.jit.save and torch.jit.load.

    The whole method must fit into one engine; KilnError lists what does not, with source lines.
    """
    return _compile(module, "forward", inputs, input_signature, settings)


def _compile(module: Any, method_name: str, inputs: Any, input_signature: Any, settings: dict[str, Any]) -> torch.jit.ScriptModule:
    chosen = CompilationSettings.of(**settings)
    with for_inference(module, "torch_tensorrt"):
        return _compile_script(_scripted(module), method_name, inputs, input_signature, chosen)


def _compile_script(
    scripted: Any, method_name: str, inputs: Any, input_signature: Any, chosen: CompilationSettings
) -> torch.jit.ScriptModule:
    options = chosen.script_options(_target(scripted, chosen))
    specs = _signature(scripted, inputs, input_signature)
    if isinstance(scripted, torch.nn.Module) and not scripted._c._has_method(method_name):
        raise ValueError(f"method_name: the module has no method {method_name!r}")
    if chosen.calibrator is not None:
        scripted = quantization.quantize_script(scripted, chosen.calibrator.calibration(), method_name)
        method_name = "forward"
    return kiln.compile(
        scripted,
        inputs=specs,
        method=method_name,
        progress=logging.progress,
        **options,
    )


def convert_method_to_trt_engine(
    module: Any, method_name: str = "forward", inputs: Optional[Sequence[Any]] = None, input_signature: Any = None, **settings: Any
) -> bytes:
    """The bytes of an engine file for one method."""
    return kiln.engine_bytes(_compile(module, method_name, inputs, input_signature, settings))


def embed_engine_in_new_module(
    serialized_engine: bytes,
    input_binding_names: Optional[Sequence[str]] = None,
    output_binding_names: Optional[Sequence[str]] = None,
    device: Union[Device, torch.device, str, None] = None,
) -> torch.jit.ScriptModule:
    """A ScriptModule that runs an engine. Engines know the names of their inputs and outputs; other names are not needed."""
    words = "the bytes of an engine file"
    checks.check(
        "embed_engine_in_new_module", "serialized_engine", serialized_engine, checks.instance((bytes, bytearray, memoryview), words)
    )
    return kiln.embed_engine(serialized_engine)


def check_method_op_support(module: Any, method_name: str = "forward") -> bool:
    """Whether Kiln has every operator that a module's code names, in any branch of any method; prints those that it lacks."""
    scripted = _scripted(module)
    if not scripted._c._has_method(method_name):
        raise ValueError(f"method_name: the module has no method {method_name!r}")
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/module.pt"
        torch.jit.save(scripted, path)
        report = kiln.model_report(path, "summary")
    missing = report.partition("\nnot supported:")[2].splitlines()[1:]
    for line in missing:
        print(f"not supported: {line.strip()}")
    return not missing


def TensorRTCompileSpec(inputs: Optional[Sequence[Any]] = None, input_signature: Any = None, **settings: Any) -> dict[str, Any]:
    """The arguments of :func:`compile` as one value."""
    return {"inputs": inputs, "input_signature": input_signature, **settings}
