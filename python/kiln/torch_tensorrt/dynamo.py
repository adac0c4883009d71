"""The torch.export path: ``trace`` and ``compile``."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Mapping, Sequence
from typing import Any, Optional

import torch
from torch.utils import _pytree as pytree

import kiln
from kiln import checks, compiler, quantization
from kiln.modes import for_inference
from kiln.partition import HybridModule, PartitionReport, partition
from kiln.torch_tensorrt import _converters, _debugger, _lowering, logging
from kiln.torch_tensorrt._converters import SourceIR
from kiln.torch_tensorrt._debugger import Debugger
from kiln.torch_tensorrt._input import Input, check_shared, to_kiln
from kiln.torch_tensorrt._refit import refit_module_weights
from kiln.torch_tensorrt._settings import CompilationSettings, note

__all__ = [
    "CompilationSettings",
    "Debugger",
    "SourceIR",
    "compile",
    "convert_exported_program_to_serialized_trt_engine",
    "refit_module_weights",
    "trace",
]

# Makes dynamo.conversion and dynamo.lowering importable, as Torch-TensorRT's users write.
__path__ = [os.path.join(os.path.dirname(__file__), "_dynamo")]


def arguments(inputs: Optional[Sequence[Any]], arg_inputs: Optional[Sequence[Any]]) -> list[Any]:
    """The positional arguments, under whichever of the two names they came."""
    if inputs is not None and arg_inputs is not None:
        raise ValueError("inputs and arg_inputs are two names of one argument: give one of them")
    given = inputs if inputs is not None else arg_inputs
    if given is None:
        return []
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, (Sequence, torch.Tensor, Input, kiln.Input)):
        raise TypeError(f"inputs must be a list or tuple of tensors and torch_tensorrt.Inputs, got {type(given).__name__}")
    return list(to_kiln(list(given) if isinstance(given, (list, tuple)) else [given]))


def _by_name(mod: torch.nn.Module, args: list[Any]) -> list[Any]:
    """Names that are no parameters are labels: the Inputs are for the parameters of their places."""
    parameters = inspect.signature(mod.forward).parameters
    if all(arg.name in parameters for arg in args if isinstance(arg, kiln.Input) and arg.name):
        return args
    args = [copy.copy(arg) if isinstance(arg, kiln.Input) else arg for arg in args]
    for arg in args:
        if isinstance(arg, kiln.Input):
            arg.name = None
    return args


def trace(
    mod: torch.nn.Module,
    inputs: Optional[Sequence[Any]] = None,
    *,
    arg_inputs: Optional[Sequence[Any]] = None,
    kwarg_inputs: Optional[Mapping[str, Any]] = None,
    **kwargs: Any,
) -> torch.export.ExportedProgram:
    """Captures a module by torch.export; sizes vary as the Inputs say, or as ``dynamic_shapes`` (of torch.export) says.

    Settings of ``compile`` are accepted, too.
    """
    checks.check("torch_tensorrt.dynamo.trace", "mod", mod, checks.instance(torch.nn.Module, "a torch.nn.Module"))
    others = {
        name: value
        for name, value in kwargs.items()
        if name not in ("dynamic_shapes", "strict", "prefer_deferred_runtime_asserts_over_guards")
    }
    CompilationSettings(**others)
    args, named = _by_name(mod, arguments(inputs, arg_inputs)), dict(to_kiln(dict(kwarg_inputs or {})))
    check_shared((args, named))
    with for_inference(mod, "torch_tensorrt"):
        return compiler.capture(mod, args, named, kwargs.get("dynamic_shapes"))[0]


def compile(
    exported_program: torch.export.ExportedProgram,
    inputs: Optional[Sequence[Any]] = None,
    *,
    arg_inputs: Optional[Sequence[Any]] = None,
    kwarg_inputs: Optional[Mapping[str, Any]] = None,
    **settings: Any,
) -> torch.nn.Module:
    """Compiles an exported program. Operators that Kiln lacks run in PyTorch unless ``require_full_compilation``.

    With ``dryrun=True`` (or a path for the text) nothing is built: the result runs in PyTorch and has a ``report``.
    """
    checks.check(
        "torch_tensorrt.dynamo.compile",
        "exported_program",
        exported_program,
        checks.instance(torch.export.ExportedProgram, "a torch.export.ExportedProgram"),
    )
    chosen = CompilationSettings.of(**settings)
    specs = arguments(inputs, arg_inputs) + _in_order(exported_program, dict(to_kiln(dict(kwarg_inputs or {}))))
    check_shared(specs)
    return compile_program(exported_program, specs, chosen)


def _in_order(program: torch.export.ExportedProgram, named: dict[str, Any]) -> list[Any]:
    """Keyword arguments in the order of the program's inputs."""
    _, keywords = program.call_spec.in_spec.children()  # type: ignore[union-attr]
    order = {name: place for place, name in enumerate(keywords.context or [])}
    return [named[name] for name in sorted(named, key=lambda name: order.get(name, len(order)))]


def device_of(program: torch.export.ExportedProgram, chosen: CompilationSettings) -> str:
    if chosen.device is not None:
        return str(chosen.device.to(torch.device))
    kinds = {t.device.type for t in [*program.state_dict.values(), *program.constants.values()] if isinstance(t, torch.Tensor)}
    kinds |= {v.device.type for n in program.graph.nodes if isinstance(v := n.meta.get("val"), torch.Tensor)}
    return "cuda" if "cuda" in kinds else "cpu"


def _static(leaf: Any) -> Any:
    return kiln.Input(tuple(leaf.shape), dtype=leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf


def compile_program(program: torch.export.ExportedProgram, specs: Sequence[Any], chosen: CompilationSettings) -> torch.nn.Module:
    """``specs`` in the order of the program's inputs."""
    compiled = _compile_program(program, specs, chosen)
    if isinstance(compiled, (kiln.CompiledModule, HybridModule)):
        compiled.lenient = True
    debugger = _debugger.current()
    if debugger is not None:
        debugger.engine(compiled)
    return compiled


def _compile_program(program: torch.export.ExportedProgram, specs: Sequence[Any], chosen: CompilationSettings) -> torch.nn.Module:
    """``specs`` in the order of the program's inputs."""
    options = chosen.options(device_of(program, chosen))
    program = _converters.apply(_lowering.apply(program, chosen), chosen)
    specs = [_static(leaf) for leaf in pytree.tree_leaves(specs, is_leaf=lambda leaf: isinstance(leaf, kiln.Input))]
    if not any(isinstance(leaf, kiln.Input) and (leaf.is_dynamic or leaf.shared_dims) for leaf in specs):
        specs = []
    if chosen.calibrator is not None:
        program = quantization.quantize(program, chosen.calibrator.calibration())
    if not (chosen.torch_executed_ops or chosen.torch_executed_modules or chosen.dryrun):
        try:
            compiled = kiln.compile(
                program,
                inputs=specs,
                progress=logging.progress,
                **options,
            )
            return kiln.CompiledModule(compiled.engine.strip(), compiled.threads) if chosen.strip_engine_weights else compiled
        except kiln.KilnError as error:
            if chosen.require_full_compilation or error.status != "KILN_UNSUPPORTED":
                raise
    if any(len(leaf.profiles) > 1 or leaf.shared_dims for leaf in specs if isinstance(leaf, kiln.Input)):
        logging.logger.warning(
            "parts of the model run in PyTorch: its engines are built for one range of sizes, which spans the optimization "
            "profiles, and shared_dims are not checked"
        )
    program = compiler.decompose(program)
    module, report = partition(
        program,
        torch_executed_ops=chosen.torch_executed_ops,
        torch_executed_modules=chosen.torch_executed_modules,
        min_block_size=chosen.min_block_size,
        dryrun=bool(chosen.dryrun),
        options=options,
    )
    _say(report, chosen)
    if chosen.require_full_compilation and report.left and not chosen.dryrun:
        error = kiln.KilnError(f"require_full_compilation: some operators would run in PyTorch: {report.reasons()}")
        error.status = "KILN_UNSUPPORTED"
        raise error
    return module


def _say(report: PartitionReport, chosen: CompilationSettings) -> None:
    if isinstance(chosen.dryrun, str):
        with open(chosen.dryrun, "w") as file:
            file.write(f"{report}\n")
    elif chosen.dryrun:
        print(report)
    logging.logger.info("%s", report)


_BINDING_RULES = {
    "arg_input_binding_names": checks.optional(checks.NAMES),
    "output_binding_names": checks.optional(checks.NAMES),
    "lift_mutable_buffers": checks.BOOL,
}


def convert_exported_program_to_serialized_trt_engine(
    exported_program: torch.export.ExportedProgram,
    inputs: Optional[Sequence[Any]] = None,
    *,
    arg_inputs: Optional[Sequence[Any]] = None,
    kwarg_inputs: Optional[Mapping[str, Any]] = None,
    lift_mutable_buffers: bool = False,
    arg_input_binding_names: Optional[Sequence[str]] = None,
    kwarg_input_binding_names: Optional[Any] = None,
    output_binding_names: Optional[Sequence[str]] = None,
    **settings: Any,
) -> bytes:
    """The bytes of an engine file; the whole program must fit into one engine.

    ``lift_mutable_buffers`` and the binding names are accepted: engines keep mutated buffers as their state, and the names that the
    program gives to its inputs and outputs.
    """
    names = {
        "arg_input_binding_names": arg_input_binding_names,
        "output_binding_names": output_binding_names,
        "lift_mutable_buffers": lift_mutable_buffers,
    }
    checks.check_all("convert_exported_program_to_serialized_trt_engine", names, _BINDING_RULES)
    if lift_mutable_buffers:
        note("lift_mutable_buffers", "mutated buffers are the engine's state")
    if arg_input_binding_names or kwarg_input_binding_names or output_binding_names:
        note("arg_input_binding_names", "engines have the names that the program gives to its inputs and outputs")
    module = compile(
        exported_program, inputs, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs, **{**settings, "require_full_compilation": True}
    )
    assert not isinstance(module, HybridModule)
    return kiln.engine_bytes(module)


def __getattr__(name: str) -> Any:
    """Those of ``torch_tensorrt._cross``, which needs this module first."""
    if name in ("cross_compile_for_windows", "load_cross_compiled_exported_program", "save_cross_compiled_exported_program"):
        from kiln.torch_tensorrt import _cross

        return getattr(_cross, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
