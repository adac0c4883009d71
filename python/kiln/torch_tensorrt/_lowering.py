"""Lowering passes written by users: functions that change the graph of ATen operators before it is compiled.

A pass takes and returns a ``torch.fx.GraphModule``. Post-lowering passes see the program after PyTorch has decomposed composite
operators, with its weights as attributes, as Torch-TensorRT shows it to them; what they leave is captured again, so nodes that they
add need no metadata. Pre-lowering passes see the exported graph as it is, with weights as inputs.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from types import TracebackType
from typing import Any, Callable, Optional

import torch
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from kiln import rewrite
from kiln._kiln import KilnError
from kiln.torch_tensorrt import _debugger
from kiln.torch_tensorrt._settings import CompilationSettings

__all__ = [
    "ATEN_POST_LOWERING_PASSES",
    "ATEN_PRE_LOWERING_PASSES",
    "PassList",
    "SubgraphBuilder",
    "_aten_lowering_pass",
    "_pre_aten_lowering_pass",
    "_remove_lowering_pass",
    "apply",
    "clean_up_graph_after_modifications",
    "dump_lowering_passes",
    "post_lowering",
    "pre_export_lowering",
]

Pass = Callable[..., torch.fx.GraphModule]


class PassList:
    """Passes in the order in which they run."""

    def __init__(self) -> None:
        self.passes: list[Pass] = []

    def add_pass_with_index(self, lowering_pass: Pass, index: Optional[int] = None) -> None:
        self.passes.insert(len(self.passes) if index is None else index, lowering_pass)

    def remove_pass_with_index(self, index: int) -> None:
        del self.passes[index]

    def __call__(self, module: torch.fx.GraphModule, settings: CompilationSettings) -> torch.fx.GraphModule:
        for function in self.passes:
            debugger = _debugger.current()
            if debugger is not None:
                debugger.graph(_pass_name(function), module, after=False)
            try:
                changed = function(module, settings)
            except Exception as error:
                raise _failure(f"lowering pass {_pass_name(function)} failed: {type(error).__name__}: {error}") from error
            if not isinstance(changed, torch.fx.GraphModule):
                raise _failure(f"lowering pass {_pass_name(function)} must return a GraphModule, got {type(changed).__name__}")
            module = changed
            module.recompile()
            if debugger is not None:
                debugger.graph(_pass_name(function), module, after=True)
        return module

    def __str__(self) -> str:
        return "\n".join(f"{i}: {_pass_name(function)}" for i, function in enumerate(self.passes)) or "no passes"


def _pass_name(function: Pass) -> str:
    return getattr(function, "__name__", str(function))


def _failure(text: str) -> KilnError:
    error = KilnError(text)
    error.status = "KILN_INVALID_ARGUMENT"
    return error


ATEN_POST_LOWERING_PASSES = PassList()
ATEN_PRE_LOWERING_PASSES = PassList()


def _decorator(passes: PassList, given: tuple[Any, ...], index: Optional[int], config: dict[str, Any]) -> Any:
    def add(function: Pass) -> Pass:
        if config:
            function._lowering_pass_config = config  # type: ignore[attr-defined]
        passes.add_pass_with_index(function, index)
        return function

    if not given:
        return add
    if len(given) != 1 or not callable(given[0]):
        raise TypeError("use @_aten_lowering_pass, or @_aten_lowering_pass(index=0)")
    return add(given[0])


def _aten_lowering_pass(*args: Pass, index: Optional[int] = None, **kwargs: Any) -> Any:
    """Decorator: a pass ``(graph_module, settings)`` over core ATen operators, at the end of the list or at ``index``."""
    return _decorator(ATEN_POST_LOWERING_PASSES, args, index, kwargs)


def _pre_aten_lowering_pass(*args: Pass, index: Optional[int] = None, **kwargs: Any) -> Any:
    """Decorator: the same over the exported graph, before composite operators are decomposed."""
    return _decorator(ATEN_PRE_LOWERING_PASSES, args, index, kwargs)


def _remove_lowering_pass(*, index: int) -> None:
    ATEN_POST_LOWERING_PASSES.remove_pass_with_index(index)


def dump_lowering_passes() -> str:
    """The names of the post-lowering passes."""
    return str(ATEN_POST_LOWERING_PASSES)


def post_lowering(module: torch.fx.GraphModule, settings: Optional[CompilationSettings] = None) -> torch.fx.GraphModule:
    """Runs the post-lowering passes."""
    return ATEN_POST_LOWERING_PASSES(module, settings or CompilationSettings())


def clean_up_graph_after_modifications(module: torch.fx.GraphModule) -> torch.fx.GraphModule:
    module.graph.eliminate_dead_code()
    module.graph.lint()
    module.recompile()
    return module


def pre_export_lowering(
    program: torch.export.ExportedProgram, settings: Optional[CompilationSettings] = None
) -> torch.export.ExportedProgram:
    """Runs the pre-lowering passes on a copy of the graph."""
    if not ATEN_PRE_LOWERING_PASSES.passes:
        return program
    module = torch.fx.GraphModule(program.graph_module, copy.deepcopy(program.graph))
    module = ATEN_PRE_LOWERING_PASSES(module, settings or CompilationSettings())
    missing = [n.name for n in module.graph.nodes if n.op == "call_function" and "val" not in n.meta]
    if missing:
        _fill_values(module)
    return rewrite.with_graph(program, module.graph)


def _fill_values(module: torch.fx.GraphModule) -> None:
    """Computes the types of nodes that a pass has added."""
    places = [n for n in module.graph.nodes if n.op == "placeholder"]
    mode = next((v.fake_mode for n in places if (v := n.meta.get("val")) is not None and hasattr(v, "fake_mode")), None)
    if mode is None:
        return
    interpreter = _Values(module)
    with mode, torch.no_grad():
        interpreter.run(*[n.meta.get("val") for n in places])


class _Values(torch.fx.Interpreter):
    def run_node(self, n: torch.fx.Node) -> Any:
        result = super().run_node(n)
        if n.op == "call_function" and "val" not in n.meta:
            n.meta["val"] = result
        return result


def apply(program: torch.export.ExportedProgram, settings: CompilationSettings) -> torch.export.ExportedProgram:
    """The program after all passes; the same one if there are none."""
    program = pre_export_lowering(program, settings)
    if not ATEN_POST_LOWERING_PASSES.passes:
        return program
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = program.run_decompositions()
        module = program.module(check_guards=False) if "check_guards" in _parameters(program.module) else program.module()
        module = post_lowering(module, settings)
        return _capture_again(program, module)


def _parameters(function: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(function).parameters)


def _user_values(program: torch.export.ExportedProgram) -> list[Any]:
    """What is known of each input of the user: a fake tensor, or a number."""
    specs = program.graph_signature.input_specs
    places = [n for n in program.graph.nodes if n.op == "placeholder"]
    return [n.meta.get("val") for n, spec in zip(places, specs) if spec.kind is InputKind.USER_INPUT]


def _hint(size: Any) -> int:
    return int(size.node.hint) if isinstance(size, torch.SymInt) else int(size)


def _capture_again(program: torch.export.ExportedProgram, module: torch.fx.GraphModule) -> torch.export.ExportedProgram:
    values = _user_values(program)
    leaves = [
        torch.zeros([_hint(s) for s in v.shape], dtype=v.dtype, device=v.device) if isinstance(v, torch.Tensor) else v
        for v in values
    ]
    shapes = [
        {d: torch.export.Dim.AUTO for d, size in enumerate(v.shape) if isinstance(size, torch.SymInt)} or None
        if isinstance(v, torch.Tensor)
        else None
        for v in values
    ]
    spec = program.call_spec.in_spec
    args, kwargs = pytree.tree_unflatten(leaves, spec)
    shape_args, shape_kwargs = pytree.tree_unflatten(shapes, spec)
    dynamic = any(shape is not None for shape in shapes)
    names = list(inspect.signature(module.forward).parameters)
    given: Any = {**dict(zip(names, shape_args)), **shape_kwargs} if dynamic else None
    again = torch.export.export(module, tuple(args), dict(kwargs), dynamic_shapes=given, strict=False)
    for old, new in zip(values, _user_values(again)):  # the ranges as they were: torch.export would begin at 2
        for a, b in zip(getattr(old, "shape", ()), getattr(new, "shape", ())):
            if not (isinstance(a, torch.SymInt) and isinstance(b, torch.SymInt)):
                continue
            if a.node.expr in program.range_constraints and b.node.expr in again.range_constraints:
                again.range_constraints[b.node.expr] = program.range_constraints[a.node.expr]
    return again


class SubgraphBuilder:
    """Adds nodes one behind another: ``with SubgraphBuilder(graph, node) as b: y = b(torch.ops.aten.mul.Tensor, x, 2)``."""

    def __init__(self, graph: torch.fx.Graph, cursor: torch.fx.Node) -> None:
        self.graph = graph
        self.cursor = cursor

    def __call__(self, op: Any, *args: Any) -> torch.fx.Node:
        with self.graph.inserting_after(self.cursor):
            self.cursor = self.graph.call_function(op, args)
        return self.cursor

    def __enter__(self) -> SubgraphBuilder:
        return self

    def __exit__(self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]) -> None:
        if error is None:
            self.graph.lint()
