"""Converters written by users: ``@dynamo_tensorrt_converter(torch.ops.mine.scale.default)``.

A converter adds layers to ``ctx.net``. Here they compute with PyTorch operators while they are traced (kiln.torch2trt.network), and
what they give takes the operator's place in the exported program, which is then compiled as any other.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any, Callable, Optional

import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import _disable_current_modes

from kiln import rewrite
from kiln._kiln import KilnError, operator_supported
from kiln.partition import written_name
from kiln.torch2trt.network import ITensor, Network
from kiln.torch_tensorrt._settings import CompilationSettings

__all__ = [
    "DYNAMO_ATEN_CONVERTERS",
    "ConversionContext",
    "ConverterPriority",
    "ConverterSupport",
    "SourceIR",
    "apply",
    "dynamo_tensorrt_converter",
    "has_static_shapes",
    "node_has_dynamic_shapes",
]

Converter = Callable[..., Any]
Validator = Callable[[torch.fx.Node, CompilationSettings], bool]


class SourceIR(enum.Enum):
    """Where a call comes from; converters pass it on."""

    NN = enum.auto()
    ACC = enum.auto()
    ATEN = enum.auto()
    PRIM = enum.auto()
    TORCHTRT_LOWERED = enum.auto()
    UNKNOWN = enum.auto()


class ConverterPriority(enum.Enum):
    """HIGH comes before Kiln's own way of taking an operator, STANDARD after it: for operators that Kiln lacks."""

    STANDARD = enum.auto()
    HIGH = enum.auto()


@dataclasses.dataclass(frozen=True)
class ConverterSupport:
    converter_implementation: Converter
    capability_validator: Validator = lambda node, settings: True
    supports_dynamic_shapes: bool = False
    requires_output_allocator: bool = False
    priority: ConverterPriority = ConverterPriority.STANDARD


@dataclasses.dataclass
class ConversionContext:
    """What a converter is given: ``net`` has the ``add_*`` methods."""

    net: Network = dataclasses.field(default_factory=Network)
    compilation_settings: CompilationSettings = dataclasses.field(default_factory=CompilationSettings)
    requires_output_allocator: bool = False
    current_node: Optional[torch.fx.Node] = None
    weight_refit_map: dict[str, Any] = dataclasses.field(default_factory=dict)

    def record_weight(self, name: str, weight: Any) -> None:
        """Kept for converters that call it; Kiln finds weights by itself."""
        self.weight_refit_map[name] = weight


DYNAMO_ATEN_CONVERTERS: dict[Any, list[ConverterSupport]] = {}


def dynamo_tensorrt_converter(
    key: Any,
    *,
    enabled: bool = True,
    capability_validator: Optional[Validator] = None,
    priority: ConverterPriority = ConverterPriority.STANDARD,
    supports_dynamic_shapes: bool = False,
    requires_output_allocator: bool = False,
    requires_native_multidevice: bool = False,
) -> Callable[[Converter], Converter]:
    """Decorator: registers a converter ``(ctx, target, args, kwargs, name)`` for an operator.

    Args:
        key: the OpOverload, or a packet with one overload.
        enabled: False registers nothing.
        capability_validator: called with a node and the settings; False leaves this node to others.
        priority: HIGH converters are asked before Kiln's own support of the operator, STANDARD ones only where it has none.
        supports_dynamic_shapes: False leaves nodes with sizes that vary to others.
        requires_output_allocator, requires_native_multidevice: accepted; Kiln needs no such hints.
    """
    if capability_validator is not None and not callable(capability_validator):
        raise TypeError("capability_validator must be a function of a node and the settings")
    if not isinstance(priority, ConverterPriority):
        raise TypeError(f"priority must be a ConverterPriority, got {priority!r}")
    targets = [key]
    if isinstance(key, torch._ops.OpOverloadPacket):
        names = [name for name in key.overloads() if name != "out"]
        if len(names) != 1:
            raise ValueError(f"{key} has several overloads ({', '.join(names)}): name the one that the converter is for")
        targets = [getattr(key, names[0])]

    def register(converter: Converter) -> Converter:
        if not callable(converter):
            raise TypeError("a converter must be a function (ctx, target, args, kwargs, name)")
        support = ConverterSupport(
            converter,
            capability_validator or (lambda node, settings: True),
            supports_dynamic_shapes,
            requires_output_allocator,
            priority,
        )
        for target in targets if enabled else []:
            known = DYNAMO_ATEN_CONVERTERS.setdefault(target, [])
            known.insert(0 if priority is ConverterPriority.HIGH else len(known), support)
        return converter

    return register


def _is_dynamic(value: Any) -> bool:
    leaves = pytree.tree_leaves(value)
    return any(
        isinstance(leaf, (torch.SymInt, torch.SymFloat, torch.SymBool))
        or (isinstance(leaf, torch.Tensor) and any(isinstance(size, torch.SymInt) for size in leaf.shape))
        for leaf in leaves
    )


def node_has_dynamic_shapes(node: torch.fx.Node) -> bool:
    """Has the node, or one of its arguments, a size that varies?"""
    return any(_is_dynamic(n.meta.get("val")) for n in [node, *node.all_input_nodes])


def has_static_shapes(node: torch.fx.Node) -> bool:
    return not node_has_dynamic_shapes(node)


def _name(target: Any) -> str:
    schema = target._schema
    return f"{schema.name}.{schema.overload_name}" if schema.overload_name else str(schema.name)


def _left_to_torch(target: Any, settings: CompilationSettings) -> bool:
    left = {written_name(op) for op in settings.torch_executed_ops}
    return bool(left & {written_name(target), target._schema.name})


def _choose(node: torch.fx.Node, settings: CompilationSettings) -> Optional[ConverterSupport]:
    target = node.target
    if target not in DYNAMO_ATEN_CONVERTERS:
        return None
    own = isinstance(target, torch._ops.OpOverload) and operator_supported(_name(target))
    if isinstance(target, torch._ops.OpOverload) and _left_to_torch(target, settings):
        return None
    for support in DYNAMO_ATEN_CONVERTERS[target]:
        if own and support.priority is not ConverterPriority.HIGH:
            continue
        if not support.supports_dynamic_shapes and node_has_dynamic_shapes(node):
            continue
        if support.capability_validator(node, settings):
            return support
    return None


def _unwrap(value: Any) -> Any:
    return value.value if isinstance(value, ITensor) else value


def _function(
    node: torch.fx.Node,
    support: ConverterSupport,
    settings: CompilationSettings,
    weights: dict[str, torch.Tensor],
    looked_at: set[str],
) -> Callable[..., Any]:
    """The converter as a function of tensors. Weights come as tensors, all else that is computed as ITensors.

    Names of weights whose numbers it looked at are added to ``looked_at``.
    """
    leaves = pytree.tree_leaves((node.args, node.kwargs))
    arrays: dict[int, Any] = {}
    stored = [weights.get(leaf.name) if isinstance(leaf, torch.fx.Node) else None for leaf in leaves]

    def run(form: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        flat, spec = pytree.tree_flatten((args, kwargs))
        for i, (value, weight) in enumerate(zip(flat, stored)):
            if weight is None and isinstance(value, torch.Tensor):
                flat[i] = ITensor(value)
            elif weight is not None and form != "traced":
                flat[i] = weight if form == "tensor" else arrays[i]
        given_args, given_kwargs = pytree.tree_unflatten(flat, spec)
        ctx = ConversionContext(compilation_settings=settings, current_node=node)
        result = support.converter_implementation(ctx, node.target, tuple(given_args), given_kwargs, node.name)
        if result is None:
            raise ValueError("it returned None")
        return pytree.tree_map(_unwrap, result, is_leaf=lambda x: isinstance(x, ITensor))

    # A converter may look at the numbers of its weights: then it gets them as tensors, or as arrays.
    def function(*args: Any, **kwargs: Any) -> Any:
        first: Optional[Exception] = None
        for form in ("traced", "tensor", "array") if any(weight is not None for weight in stored) else ("traced",):
            try:
                if form == "array":
                    with _disable_current_modes():
                        arrays.update({i: weight.cpu().numpy() for i, weight in enumerate(stored) if weight is not None})
                result = run(form, args, kwargs)
                if form != "traced":
                    looked_at.update(leaf.name for leaf, weight in zip(leaves, stored) if weight is not None)
                return result
            except Exception as error:
                first = first or error
        assert first is not None
        raise first

    return function


def _weights(program: torch.export.ExportedProgram) -> dict[str, torch.Tensor]:
    """Tensors of the model by the names of their placeholders."""
    signature = program.graph_signature
    tables = [signature.inputs_to_parameters, signature.inputs_to_buffers, signature.inputs_to_lifted_tensor_constants]
    tensors = {**program.constants, **program.state_dict}
    return {name: tensors[path].detach() for table in tables for name, path in table.items() if path in tensors}


def apply(program: torch.export.ExportedProgram, settings: CompilationSettings) -> torch.export.ExportedProgram:
    """The program with each node that a converter takes replaced by what it builds."""
    if not any(node.target in DYNAMO_ATEN_CONVERTERS for node in program.graph.nodes):
        return program
    weights = _weights(program)
    looked_at: set[str] = set()

    def choose(node: torch.fx.Node) -> Optional[Callable[..., Any]]:
        support = _choose(node, settings)
        return None if support is None else _named(node, _function(node, support, settings, weights, looked_at))

    return rewrite.bake(rewrite.expand(program, choose), looked_at)


def _named(node: torch.fx.Node, function: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            failure = KilnError(f"the converter for {node.target} failed at node {node.name}: {type(error).__name__}: {error}")
            failure.status = "KILN_INVALID_ARGUMENT"
            raise failure from error

    return run
