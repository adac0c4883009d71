"""Rewriting exported programs node by node: calls of some operators become what a Python function computes instead."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping
from typing import Any, Callable, Optional

import torch
from torch.export.graph_signature import InputKind, InputSpec, TensorArgument
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils import _pytree as pytree

__all__ = ["Choice", "bake", "by_target", "call", "expand", "with_graph"]

# What to compute instead of a node; None leaves it.
Choice = Callable[[torch.fx.Node], Optional[Callable[..., Any]]]


def with_graph(
    program: torch.export.ExportedProgram, graph: torch.fx.Graph, constants: Optional[dict[str, torch.Tensor]] = None
) -> torch.export.ExportedProgram:
    """The program with another graph of the same inputs and outputs, whose nodes may have other names.

    ``constants`` are tensors that the program does not have yet; the graph reads each by a ``get_attr`` node of its name.
    """
    signature = copy.deepcopy(program.graph_signature)
    output = next(node for node in reversed(graph.nodes) if node.op == "output")
    for spec, node in zip(signature.output_specs, output.args[0]):
        if isinstance(node, torch.fx.Node) and hasattr(spec.arg, "name"):
            spec.arg.name = node.name
    places = [node for node in graph.nodes if node.op == "placeholder"]
    for spec, node in zip(signature.input_specs, places):  # copying a graph may rename those that look like Python's words
        node.name = node.target = getattr(spec.arg, "name", node.name)
    for name, tensor in (constants or {}).items():
        _lift(graph, signature, name, tensor)
    graph.lint()
    module = torch.fx.GraphModule(program.graph_module, graph)
    module.meta.update(program.graph_module.meta)
    return torch.export.ExportedProgram(
        root=module,
        graph=graph,
        graph_signature=signature,
        state_dict=program.state_dict,
        range_constraints=dict(program.range_constraints),
        module_call_graph=copy.deepcopy(program.module_call_graph),
        example_inputs=program.example_inputs,
        constants={**program.constants, **(constants or {})},
        verifiers=program.verifiers,
    )


def _lift(graph: torch.fx.Graph, signature: Any, name: str, tensor: torch.Tensor) -> None:
    """Makes a constant an input of the graph, before those of the user, as torch.export has them."""
    kinds = [spec.kind for spec in signature.input_specs]
    at = kinds.index(InputKind.USER_INPUT) if InputKind.USER_INPUT in kinds else len(kinds)
    places = [node for node in graph.nodes if node.op == "placeholder"]
    reads = [node for node in graph.nodes if node.op == "get_attr" and node.target == name]
    with graph.inserting_before(places[at] if at < len(places) else next(iter(n for n in graph.nodes if n.op != "placeholder"))):
        place = graph.placeholder(name)
    place.meta["val"] = _fake(graph, tensor)
    signature.input_specs.insert(at, InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(place.name), name, True))
    for node in reads:
        node.replace_all_uses_with(place)
        graph.erase_node(node)


def bake(program: torch.export.ExportedProgram, places: Collection[str]) -> torch.export.ExportedProgram:
    """Makes weights constants without their names, so that no refit takes others: numbers of theirs are in the graph already.

    ``places`` are the names of their inputs of the graph.
    """
    if not places:
        return program
    weights, constants = {**program.constants, **program.state_dict}, dict(program.constants)
    signature = copy.deepcopy(program.graph_signature)
    gone = set()
    for spec in signature.input_specs:
        if getattr(spec.arg, "name", None) not in places or spec.target not in weights:
            continue
        name = f"kiln_constant_{len(constants)}"
        constants[name] = weights[spec.target].detach()
        gone.add(spec.target)
        spec.kind, spec.target, spec.persistent = InputKind.CONSTANT_TENSOR, name, True
    return torch.export.ExportedProgram(
        root=program.graph_module,
        graph=program.graph,
        graph_signature=signature,
        state_dict={name: tensor for name, tensor in program.state_dict.items() if name not in gone},
        range_constraints=dict(program.range_constraints),
        module_call_graph=copy.deepcopy(program.module_call_graph),
        example_inputs=program.example_inputs,
        constants={name: tensor for name, tensor in constants.items() if name not in gone},
        verifiers=program.verifiers,
    )


def expand(program: torch.export.ExportedProgram, choose: Choice) -> torch.export.ExportedProgram:
    """Replaces each node for which ``choose`` gives a function by what that function computes, called with the node's arguments."""
    found = [(node, choose(node)) for node in program.graph.nodes if node.op == "call_function"]
    chosen = {node.name: function for node, function in found if function is not None}
    if not chosen:
        return program
    graph = copy.deepcopy(program.graph)
    constants: dict[str, torch.Tensor] = {}
    for node in list(graph.nodes):
        if node.name in chosen:
            _replace(graph, node, chosen[node.name], constants, len(program.constants))
    graph.eliminate_dead_code()
    used = {node.target for node in graph.nodes if node.op == "get_attr"}
    return with_graph(program, graph, {name: tensor for name, tensor in constants.items() if name in used})


def _value(node: Any) -> Any:
    return node.meta["val"] if isinstance(node, torch.fx.Node) else node


def call(graph: torch.fx.Graph, function: Callable[..., Any], *args: Any) -> torch.fx.Node:
    """A new node with its value."""
    node = graph.call_function(function, args)
    node.meta["val"] = function(*map(_value, args))
    return node


def _is_traced(value: Any) -> bool:
    return isinstance(value, (torch.Tensor, torch.SymInt, torch.SymFloat, torch.SymBool))


def _trace(node: torch.fx.Node, function: Callable[..., Any]) -> tuple[torch.fx.GraphModule, list[Any]]:
    """The function's graph, and the nodes of its placeholders."""
    leaves, spec = pytree.tree_flatten((node.args, node.kwargs))
    values = [_value(leaf) for leaf in leaves]
    inputs = [i for i, value in enumerate(values) if _is_traced(value)]

    def flat(*given: Any) -> Any:
        filled = list(values)
        for i, value in zip(inputs, given):
            filled[i] = value
        args, kwargs = pytree.tree_unflatten(filled, spec)
        return function(*args, **kwargs)

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traced = make_fx(flat, tracing_mode="symbolic", pre_dispatch=True, _allow_non_fake_inputs=True)(
            *[values[i] for i in inputs]
        )
    return traced, [leaves[i] for i in inputs]


def _replace(
    graph: torch.fx.Graph, node: torch.fx.Node, function: Callable[..., Any], constants: dict[str, torch.Tensor], first: int
) -> None:
    traced, inputs = _trace(node, function)
    copied: dict[torch.fx.Node, Any] = dict(zip((n for n in traced.graph.nodes if n.op == "placeholder"), inputs))
    result: Any = None
    with graph.inserting_before(node):
        for inner in traced.graph.nodes:
            if inner.op == "placeholder":
                continue
            if inner.op == "output":
                result = torch.fx.map_arg(inner.args[0], lambda n: copied[n])
            elif inner.op == "get_attr":
                name = f"kiln_constant_{first + len(constants)}"
                constants[name] = getattr(traced, str(inner.target)).detach().clone()
                copied[inner] = graph.create_node("get_attr", name)
                copied[inner].meta["val"] = _fake(graph, constants[name])
            else:
                copied[inner] = graph.node_copy(inner, lambda n: copied[n])
                for key in ("stack_trace", "nn_module_stack", "source_fn_stack"):
                    if key in node.meta:
                        copied[inner].meta[key] = node.meta[key]
    _check(node, result)
    _put(graph, node, result)


def _fake(graph: torch.fx.Graph, tensor: torch.Tensor) -> torch.Tensor:
    for node in graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None:
            return mode.from_tensor(tensor, static_shapes=True)
    return tensor


def _check(node: torch.fx.Node, result: Any) -> None:
    """The results must be of the types that the program goes on with."""
    expected, got = pytree.tree_leaves(_value(node)), [_value(n) for n in pytree.tree_leaves(result)]
    if len(expected) != len(got):
        raise ValueError(f"{node.target}: the replacement gives {len(got)} results, the operator has {len(expected)}")
    for i, (old, new) in enumerate(zip(expected, got)):
        if not isinstance(old, torch.Tensor):
            continue
        if not isinstance(new, torch.Tensor) or new.dtype != old.dtype or new.dim() != old.dim():
            kind = f"{new.dtype} with {new.dim()} dimensions" if isinstance(new, torch.Tensor) else type(new).__name__
            raise ValueError(
                f"{node.target}: result {i} of the replacement is {kind}, expected {old.dtype} with {old.dim()} dimensions"
            )
        for d, (a, b) in enumerate(zip(old.shape, new.shape)):
            if isinstance(a, int) and isinstance(b, int) and a != b:
                raise ValueError(f"{node.target}: result {i} of the replacement has size {b} in dimension {d}, expected {a}")


def _put(graph: torch.fx.Graph, node: torch.fx.Node, result: Any) -> None:
    if isinstance(result, torch.fx.Node):
        node.replace_all_uses_with(result)
    else:  # several: they are read by getitem
        for user in list(node.users):
            user.replace_all_uses_with(result[user.args[1]])
            graph.erase_node(user)
    graph.erase_node(node)


def by_target(table: Mapping[Any, Callable[..., Any]]) -> Choice:
    return lambda node: table.get(node.target)
