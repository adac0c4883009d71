"""Saving modules with engines, also such that run partly in PyTorch: as exported programs and as ScriptModules.

Both hold the engines as constants and call them by the operator ``kiln::execute``, so a new process needs ``import kiln`` before it
loads them, and nothing else.
"""

from __future__ import annotations

import inspect
import operator
import warnings
from types import SimpleNamespace
from typing import Any

import torch
from torch.export.graph_signature import InputKind
from torch.fx.graph import CodeGen
from torch.utils import _pytree as pytree

from kiln import interface as nesting
from kiln._kiln import KilnError
from kiln.module import CompiledModule
from kiln.partition import EngineCall, HybridModule, _EngineModule

__all__ = ["export_engine", "export_hybrid", "script_hybrid"]


def _error(text: str, status: str = "KILN_UNSUPPORTED") -> KilnError:
    error = KilnError(text)
    error.status = status
    return error


def _calls(module: HybridModule) -> dict[str, EngineCall]:
    return {name: child.call for name, child in module.graph_module.named_modules() if isinstance(child, _EngineModule)}


def _check(module: HybridModule) -> None:
    for name, call in _calls(module).items():
        if not hasattr(call.engine, "engine"):
            raise _error(f"{name} was compiled in pieces of its own and cannot be saved; compile with a larger min_block_size")
        if call.engine.engine.state_count:
            raise _error(
                f"{name} has an engine with state, which can be saved only alone: compile with require_full_compilation=True"
            )


# ---- Exported programs -----------------------------------------------------------------------------------------------------


class _Callable(torch.nn.Module):
    """What torch.export captures: parameters as the module's, engines as calls of one operator."""

    def __init__(self, module: HybridModule) -> None:
        super().__init__()
        self.graph_module = module.graph_module
        self.training = False

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.graph_module(*args, **kwargs)


def export_hybrid(module: HybridModule) -> torch.export.ExportedProgram:
    """The module as an exported program with the sizes that varied before; ``torch.export.save`` writes it.

    Raises:
        KilnError: the module cannot be captured; the text says why.
    """
    from kiln.compiler import _name_return_types

    _check(module)
    origin = module.origin
    args, kwargs = origin.example
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(_Callable(module), args, kwargs, dynamic_shapes=origin.dynamic_shapes(), strict=False)
    except Exception as error:
        raise _error(f"torch.export could not capture the compiled module: {error}") from error
    inputs = [n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"]
    tensors = inputs[len(inputs) - len(origin.ranges) :]
    for ranges, value in zip(origin.ranges, tensors):
        if isinstance(value, torch.Tensor):
            _set_ranges(program, value, ranges)
    _name_return_types()
    return program


# ---- ScriptModules -----------------------------------------------------------------------------------------------------------

_HOLDER = """\
class Compiled(torch.nn.Module):
    def __init__(self, graph):
        super().__init__()
        self.graph = graph

    def run(self, inputs: List[Tensor]) -> List[Tensor]:
        {result} = self.graph({arguments})
        return [{result}]
"""


def script_hybrid(module: HybridModule) -> torch.jit.ScriptModule:
    """The module as a ScriptModule; ``torch.jit.save`` writes it.

    Raises:
        KilnError: an operator that runs in PyTorch has no place in TorchScript, or the module takes or returns what TorchScript has no
            type for.
    """
    from kiln.script import _interface_of_export

    _check(module)
    origin = module.origin
    graph, outputs = _flat_graph(module)
    flat = SimpleNamespace(
        inputs=[{"name": name, "tensor": i} for i, name in enumerate(origin.names)],
        outputs=outputs,
        in_spec=origin.in_spec,
        out_spec=origin.out_spec,
        names=origin.positional,
        keywords=origin.keywords,
    )
    n = 1 + max((item.get("tensor", -1) for item in outputs), default=-1)
    if not n or any(leaf is None for leaf in origin.names):
        raise _error("output_format torchscript: the module takes or returns values that are no tensors; use exported_program")
    try:
        kind = nesting.generate(_interface_of_export(flat), list(range(len(flat.inputs))), outputs)
    except nesting.Unrepresentable as error:
        raise _error(f"output_format torchscript: {error}; use exported_program") from None
    result = ", ".join(f"y{i}" for i in range(n)) + ("," if n == 1 else "")
    source = _HOLDER.format(result=result, arguments=", ".join(f"inputs[{i}]" for i in range(len(flat.inputs))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            holder = nesting._make_class(source, {})(graph)
            return torch.jit.script(kind(holder).eval())
        except RuntimeError as error:
            raise _error(f"output_format torchscript: TorchScript does not take what runs in PyTorch: {error}") from error


def _flat_graph(module: HybridModule) -> tuple[torch.fx.GraphModule, list[dict[str, Any]]]:
    """The cut graph with tensors in and out, written with what TorchScript knows: operators without overloads, scripted engines."""
    from kiln.script import embed_engine

    source = module.graph_module
    graph = torch.fx.Graph()
    values: dict[torch.fx.Node, Any] = {}
    calls = _calls(module)
    root: dict[str, Any] = {}
    outputs: list[dict[str, Any]] = []
    for node in source.graph.nodes:
        if node.op == "output":
            results: list[torch.fx.Node] = []
            for leaf in pytree.tree_leaves(node.args[0], is_leaf=lambda x: isinstance(x, torch.fx.Node) or x is None):
                if isinstance(leaf, torch.fx.Node) and isinstance(leaf.meta.get("val", torch.empty(0)), torch.Tensor):
                    outputs.append({"tensor": len(results)})
                    results.append(values[leaf])
                elif isinstance(leaf, torch.fx.Node):
                    raise _error("output_format torchscript: the module returns a size; use exported_program")
                else:
                    outputs.append({"value": leaf})
            graph.output(tuple(results))
        elif node.op == "call_module" and str(node.target) in calls:
            call = calls[str(node.target)]
            root.setdefault(str(node.target), embed_engine(call.engine))
            values[node] = graph.call_module(str(node.target), tuple(values[node.args[i]] for i in call.places))
        elif node.op == "call_module" and not node.users:
            continue  # checks of the arguments' sizes; the engines make their own
        elif node.op == "call_function":
            values[node] = _call(graph, node, values)
        elif node.op == "get_attr":
            value = operator.attrgetter(str(node.target))(source)
            name = str(node.target).replace(".", "_")
            root[name] = value
            values[node] = graph.get_attr(name)
        else:
            values[node] = graph.node_copy(node, values.__getitem__)
    graph.set_codegen(CodeGen())
    parts = torch.nn.Module()
    for name, value in root.items():
        if isinstance(value, torch.nn.Parameter):
            parts.register_parameter(name, value)
        elif isinstance(value, torch.Tensor):
            parts.register_buffer(name, value)
        else:
            setattr(parts, name, value)
    return torch.fx.GraphModule(parts, graph), outputs


def _call(graph: torch.fx.Graph, node: torch.fx.Node, values: dict[torch.fx.Node, Any]) -> torch.fx.Node:
    target: Any = node.target
    if target is torch.ops.aten.sym_size.int:
        target = torch.ops.aten.size
    elif isinstance(target, torch._ops.OpOverload):
        target = target.overloadpacket
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    kwargs = {name: str(value) if isinstance(value, torch.device) else value for name, value in kwargs.items()}
    return graph.call_function(target, args, kwargs)


# ---- Modules that are one engine ------------------------------------------------------------------------------------------------


def export_engine(module: CompiledModule) -> torch.export.ExportedProgram:
    """A compiled module as an exported program that holds its engine, with the same arguments, nesting and ranges.

    Raises:
        KilnError: the engine has state, or takes numbers as inputs.
    """
    from kiln.compiler import _name_return_types
    from kiln.operators import _DTYPES
    from kiln.script import embed_engine

    interface, infos = module._interface, module.engine.inputs
    if module.engine.state_count or interface.mutated:
        raise _error("an engine with state, or that writes to its arguments, is no exported program; save it with kiln.save")
    leaves, shapes = [], []
    for item in interface.inputs:
        if "tensor" not in item:
            leaves.append(item.get("value"))
            shapes.append(None)
            continue
        info = infos[item["tensor"]]
        bounds = list(zip(info.min_shape, info.opt_shape, info.max_shape))
        sizes = [opt if low == high or opt >= 2 else max(low, 2) for low, opt, high in bounds]
        leaves.append(torch.zeros(sizes, dtype=_DTYPES[info.dtype], device=_device_of(module)))
        shapes.append({i: torch.export.Dim.AUTO for i, (low, _, high) in enumerate(bounds) if low != high} or None)
    args, kwargs = tuple(leaves), {}
    shape_args, shape_kwargs = tuple(shapes), {}
    if interface.in_spec is not None:
        args, kwargs = pytree.tree_unflatten(leaves, interface.in_spec)
        shape_args, shape_kwargs = pytree.tree_unflatten(shapes, interface.in_spec)
    holder = embed_engine(module.engine, script=False)
    names = list(inspect.signature(holder.forward).parameters)
    dynamic = {**dict(zip(names, shape_args)), **shape_kwargs} if any(shapes) else None
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(holder, args, kwargs, dynamic_shapes=dynamic, strict=False)
    except Exception as error:
        raise _error(f"torch.export could not capture the compiled module: {error}") from error
    users = [s.arg.name for s in program.graph_signature.input_specs if s.kind is InputKind.USER_INPUT]
    values = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    for item, name in zip(interface.inputs, users):
        value = values.get(name)
        if "tensor" in item and isinstance(value, torch.Tensor):
            info = infos[item["tensor"]]
            _set_ranges(program, value, dict(enumerate(zip(info.min_shape, info.max_shape))))
    _name_return_types()
    return program


def _device_of(module: CompiledModule) -> str:
    target = str(module.engine.target)
    return "cuda" if target.startswith("cuda") and torch.cuda.is_available() else "cpu"


def _set_ranges(program: torch.export.ExportedProgram, value: torch.Tensor, ranges: dict[int, tuple[Any, Any]]) -> None:
    """torch.export reasons as if no size were 0 or 1; the engine takes what it was built for."""
    for axis, (low, high) in ranges.items():
        size = value.shape[axis]
        symbol = size.node.expr if isinstance(size, torch.SymInt) else None
        if symbol in program.range_constraints:
            kind = type(program.range_constraints[symbol])
            program.range_constraints[symbol] = kind(low, program.range_constraints[symbol].upper if high is None else high)
