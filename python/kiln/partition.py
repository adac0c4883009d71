"""Graphs of which Kiln takes a part: the rest runs in PyTorch.

:class:`EngineCall` stands for a graph module whose parameters are baked into an engine. :func:`partition` cuts an exported program into
as few such pieces as possible. Both are used by ``torch.compile(backend="kiln")`` and by ``kiln.torch_tensorrt``.
"""

from __future__ import annotations

import dataclasses
import operator
import re
import warnings
from collections.abc import Collection, Sequence
from typing import Any, Callable, Optional

import torch
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase
from torch.utils import _pytree as pytree

from kiln import extend
from kiln._kiln import KilnError, operator_supported, operator_takes_complex

__all__ = ["Choices", "EngineCall", "HybridModule", "PartitionReport", "Unfit", "partition"]


class Unfit(Exception):
    """This graph cannot become an engine of its own; it runs in PyTorch."""


@dataclasses.dataclass
class Choices:
    """What users choose for a graph beside kiln.compile's options.

    Attributes:
        prepare: changes the exported program before it is compiled: lowering passes, converters.
        torch_executed_ops, torch_executed_modules, min_block_size: of :func:`partition`.
    """

    prepare: Optional[Callable[[torch.export.ExportedProgram], torch.export.ExportedProgram]] = None
    torch_executed_ops: Collection[Any] = ()
    torch_executed_modules: Collection[str] = ()
    min_block_size: int = 1


# ---- One graph as an engine --------------------------------------------------------------------------------------------


class _Graph(torch.nn.Module):
    """A graph as a module of its varying tensors: parameters are attributes, sizes are read off the tensors."""

    def __init__(self, graph: torch.fx.GraphModule, fixed: dict[int, Any], sizes: dict[int, tuple[int, int]], count: int) -> None:
        super().__init__()
        self.graph_module = graph
        self.count = count
        self.sizes = sizes
        self.places = [i for i in range(count) if i not in fixed and i not in sizes]
        self.constants: dict[int, Any] = {}
        self.fixed = []
        for i, value in fixed.items():
            if isinstance(value, torch.Tensor):
                self.register_buffer(f"fixed_{i}", value.detach())
                self.fixed.append(i)
            else:
                self.constants[i] = value
        self.eval()

    def forward(self, *tensors: torch.Tensor) -> Any:
        arguments: list[Any] = [self.constants.get(i) for i in range(self.count)]
        for i, tensor in zip(self.places, tensors):
            arguments[i] = tensor
        for i in self.fixed:
            arguments[i] = getattr(self, f"fixed_{i}")
        for i, (at, axis) in self.sizes.items():
            arguments[i] = arguments[at].shape[axis]
        # Node by node, so that what is exported keeps the user's source lines and modules.
        with torch.fx.traceback.preserve_node_meta():
            return torch.fx.Interpreter(self.graph_module).run(*arguments)


def _traced(node: torch.fx.Node) -> Any:
    """The value that a node had when it was traced: a fake tensor or a symbolic size."""
    return node.meta.get("example_value", node.meta.get("val"))


def _sources_of_sizes(nodes: Sequence[torch.fx.Node], fixed: Collection[int]) -> dict[int, tuple[int, int]]:
    """For each argument that is a size: the tensor argument and axis that have it."""
    known: dict[Any, tuple[int, int]] = {}
    for i, node in enumerate(nodes):
        value = _traced(node)
        if isinstance(value, torch.Tensor) and i not in fixed:
            for axis, size in enumerate(value.shape):
                if isinstance(size, torch.SymInt):
                    known.setdefault(size.node.expr, (i, axis))
    sizes: dict[int, tuple[int, int]] = {}
    for i, node in enumerate(nodes):
        value = _traced(node)
        if isinstance(value, torch.Tensor) or i in fixed:
            continue
        source = known.get(value.node.expr) if isinstance(value, torch.SymInt) else None
        if source is None:
            raise Unfit(f"argument {node.name} is a number that no tensor's shape tells")
        sizes[i] = source
    return sizes


def _example(value: torch.Tensor) -> torch.Tensor:
    # A size is asked for its hint, since looking at its value would fix it.
    shape = [size.node.hint if isinstance(size, torch.SymInt) else size for size in value.shape]
    return torch.zeros(shape, dtype=value.dtype, device=value.device)


def _varying(value: torch.Tensor) -> Optional[dict[int, Any]]:
    axes = {axis: torch.export.Dim.AUTO for axis, size in enumerate(value.shape) if isinstance(size, torch.SymInt)}
    return axes or None


class EngineCall:
    """Calls a graph's engine with all of the graph's arguments.

    Args:
        graph: placeholders carry their traced values in ``meta``.
        fixed: arguments that are baked in, by place. When such a tensor is written to, the next call refits the engine.
        options: of ``kiln.compile``.
        fallback: what an operator that Kiln lacks means: False raises, True cuts the graph into pieces.
        choices: of the user; None: none.

    Raises:
        Unfit, KilnError: no engine can be made.
    """

    def __init__(
        self,
        graph: torch.fx.GraphModule,
        fixed: dict[int, Any],
        options: dict[str, Any],
        fallback: bool = False,
        choices: Optional[Choices] = None,
    ) -> None:
        nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
        self.options = options
        self.fallback = fallback
        self.choices = choices or Choices()
        self.module = _Graph(graph, fixed, _sources_of_sizes(nodes, fixed), len(nodes))
        self.places = self.module.places
        if not self.places:
            raise Unfit("the graph has no tensor argument")
        traced = [_traced(nodes[i]) for i in self.places]
        self.examples = tuple(_example(value) for value in traced)
        dynamic = [_varying(value) for value in traced]
        self.dynamic_shapes = {"tensors": tuple(dynamic)} if any(dynamic) else None
        self.watched = [t for t in fixed.values() if isinstance(t, torch.Tensor) and not t.is_inference()]
        self.tensors = {i: tensor for i, tensor in fixed.items() if isinstance(tensor, torch.Tensor)}
        self.report: Optional[PartitionReport] = None
        self.build()

    def build(self) -> None:
        import kiln

        self.versions = [tensor._version for tensor in self.watched]
        for i, tensor in self.tensors.items():  # copies of this object do not share memory with the module's
            setattr(self.module, f"fixed_{i}", tensor.detach())
        if self._refit():
            return
        with torch._guards.tracing(None):  # an export of its own, not a part of what Dynamo traces
            if self.choices.torch_executed_ops or self.choices.torch_executed_modules:
                self.engine, self.report = self._pieces()
                return
            try:
                if self.choices.prepare is None:
                    self.engine = kiln.compile(
                        self.module, inputs=self.examples, dynamic_shapes=self.dynamic_shapes, **self.options
                    )
                else:
                    self.engine = kiln.compile(self._program(), **self.options)
            except KilnError as error:
                if not self.fallback or error.status != "KILN_UNSUPPORTED":
                    raise
                self.engine, self.report = self._pieces()

    def _program(self) -> torch.export.ExportedProgram:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(self.module, self.examples, dynamic_shapes=self.dynamic_shapes, strict=False)
        return self.choices.prepare(program) if self.choices.prepare else program

    def _refit(self) -> bool:
        """Whether the engine could take what is in the tensors now."""
        engine = getattr(self, "engine", None)
        if not hasattr(engine, "refit") or self.choices.prepare is not None:  # a converter may have looked at weights
            return False
        try:
            engine.refit(self.module.state_dict(), strict=False)
        except KilnError:
            return False
        return True

    def _pieces(self) -> tuple[Any, PartitionReport]:
        from kiln.compiler import decompose

        program = self._program()
        module, report = partition(
            decompose(program) if self.choices.prepare else program,
            torch_executed_ops=self.choices.torch_executed_ops,
            torch_executed_modules=self.choices.torch_executed_modules,
            min_block_size=self.choices.min_block_size,
            options=self.options,
        )
        if not report.engines:
            raise Unfit("no part of it has enough operators that Kiln takes; " + report.reasons())
        return module, report

    def __call__(self, *arguments: Any) -> Any:
        if not torch.compiler.is_compiling() and [tensor._version for tensor in self.watched] != self.versions:
            self.build()
        with torch.no_grad():
            return self.engine(*[arguments[i] for i in self.places])


# ---- Cutting a program ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class PartitionReport:
    """What became of a program's operators.

    Attributes:
        operators: how many there are.
        engines: how many operators each engine has.
        left: for each operator that runs in PyTorch: its name, why, and the source lines of its uses.
    """

    operators: int = 0
    engines: list[int] = dataclasses.field(default_factory=list)
    left: dict[str, tuple[str, list[str]]] = dataclasses.field(default_factory=dict)

    @property
    def covered(self) -> float:
        """Share of the operators that run in engines."""
        return sum(self.engines) / self.operators if self.operators else 1.0

    def reasons(self) -> str:
        return "; ".join(f"{name}: {why} (used {len(places)}x, first at {places[0]})" for name, (why, places) in self.left.items())

    def __str__(self) -> str:
        lines = [
            f"{self.operators} operators, {100 * self.covered:.1f} % in {len(self.engines)} engines of {self.engines} operators"
        ]
        lines += [f"  PyTorch runs {name}, {len(p)} times: {why}; at {', '.join(p[:5])}" for name, (why, p) in self.left.items()]
        return "\n".join(lines)


class _Origin:
    """What saving a cut program needs to know of the program: examples, names, nesting, and which sizes vary."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        args, kwargs = program.example_inputs or ((), {})
        self.example = (tuple(args), dict(kwargs))
        self.in_spec, self.out_spec = program.call_spec.in_spec, program.call_spec.out_spec
        signature = program.graph_signature
        users = [s.arg.name for s in signature.input_specs if s.kind is torch.export.graph_signature.InputKind.USER_INPUT]
        values = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
        # None for what is no tensor
        self.names = [name if isinstance(values.get(name), torch.Tensor) else None for name in users]
        self.ranges: list[dict[int, tuple[Any, Any]]] = []
        for name in users:
            shape = values[name].shape if isinstance(values.get(name), torch.Tensor) else ()
            symbols = {i: size.node.expr for i, size in enumerate(shape) if isinstance(size, torch.SymInt)}
            bounds = program.range_constraints
            self.ranges.append({i: (bounds[s].lower, bounds[s].upper) if s in bounds else (2, None) for i, s in symbols.items()})
        args_spec, kwargs_spec = self.in_spec.children() if self.in_spec is not None else (None, None)
        n = args_spec.num_children if args_spec is not None else len(users)
        self.keywords = list(kwargs_spec.context or []) if kwargs_spec is not None else []
        flat = args_spec is not None and all(child.is_leaf() for child in args_spec.children())
        self.positional: list[Any] = users[:n] if flat else [None] * n

    def dynamic_shapes(self) -> Any:
        """As ``torch.export.export`` takes it, for a forward of ``*args, **kwargs``."""
        leaves, nesting = pytree.tree_flatten(self.example)
        auto = torch.export.Dim.AUTO
        shapes = [dict.fromkeys(ranges, auto) or None for ranges in self.ranges]
        if not any(shapes) or len(shapes) != len(leaves):
            return None
        args, kwargs = pytree.tree_unflatten(shapes, nesting)
        return {"args": args, "kwargs": kwargs} if kwargs else {"args": args}


class HybridModule(torch.nn.Module):
    """A program with engines in it, called as the model was. ``report`` tells what runs where."""

    lenient = False  # see CompiledModule

    def __init__(self, graph: torch.fx.GraphModule, report: PartitionReport, origin: Optional[_Origin] = None) -> None:
        super().__init__()
        self.graph_module = graph
        self.report = report
        self.origin = origin
        self.training = False

    @property
    def graph(self) -> torch.fx.Graph:
        """What PyTorch runs, with engines as calls of submodules."""
        return self.graph_module.graph

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():  # a switch of gradients would become a part of what is traced
            return self.graph_module(*args, **kwargs)
        with torch.no_grad():
            return self.graph_module(*args, **kwargs)

    def train(self, mode: bool = True) -> HybridModule:
        if mode and not self.lenient:
            raise KilnError("a compiled module computes inference only and cannot be trained; train the original model")
        return self


class _EngineModule(torch.nn.Module):
    """An EngineCall as a submodule of the cut graph."""

    def __init__(self, call: EngineCall) -> None:
        super().__init__()
        self.call = call
        self.training = False

    def forward(self, *arguments: Any) -> Any:
        return self.call(*arguments)


def operator_name(target: Any) -> str:
    """ "aten::add.Tensor" of an OpOverload."""
    schema = target._schema
    return f"{schema.name}.{schema.overload_name}" if schema.overload_name else str(schema.name)


def written_name(op: Any) -> str:
    """ "aten::relu.default" of an OpOverload, "torch.ops.aten.relu.default" and the like; "aten::relu" where no overload is named."""
    text = str(op)
    text = text[len("torch.ops.") :] if text.startswith("torch.ops.") else text
    return text if "::" in text else text.replace(".", "::", 1)


def _is_size_arithmetic(node: torch.fx.Node) -> bool:
    value = _traced(node)
    return node.op == "call_function" and isinstance(value, (torch.SymInt, torch.SymBool, torch.SymFloat, int, float, bool))


def _is_complex(node: torch.fx.Node) -> bool:
    value = _traced(node)
    values = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(v, torch.Tensor) and v.is_complex() for v in values)


def _place(node: torch.fx.Node) -> str:
    """ "model.py:17", innermost line outside of PyTorch."""
    lines = [line.strip() for line in str(node.meta.get("stack_trace", "")).splitlines() if line.strip().startswith("File")]
    lines = [line for line in lines if __file__ not in line]
    lines = [line for line in lines if "/torch/" not in line and "<eval_with_key>" not in line] or lines
    if not lines:
        return "an unknown line"
    parts = lines[-1].split('"')
    number = lines[-1].partition("line ")[2].partition(",")[0]
    return f"{parts[1].rpartition('/')[2]}:{number}" if len(parts) > 1 else lines[-1]


def _modules(node: torch.fx.Node) -> list[str]:
    """Paths and class names of the modules that a node is in."""
    stack = node.meta.get("nn_module_stack") or {}
    names = []
    for path, kind in stack.values():
        path = re.sub(r"^L\['\w+'\]\.?", "", path)  # as Dynamo says it
        names += [path, getattr(kind, "__qualname__", str(kind)), str(kind), str(kind).rpartition(".")[2]]
    return names


class _Support(OperatorSupportBase):
    def __init__(self, executed_ops: Collection[Any], executed_modules: Collection[str], options: dict[str, Any]) -> None:
        self.executed_ops = {written_name(op) for op in executed_ops}
        self.executed_modules = set(executed_modules)
        self.options = options

    def why_not(self, node: torch.fx.Node) -> Optional[str]:
        """None: Kiln takes the node."""
        target = node.target
        if target is operator.getitem:
            return None
        if not isinstance(target, torch._ops.OpOverload):
            return "not an operator that Kiln knows"
        if {written_name(target), target._schema.name} & self.executed_ops:
            return "named in torch_executed_ops"
        if self.executed_modules.intersection(_modules(node)):
            return "in a module named in torch_executed_modules"
        if not operator_supported(operator_name(target)):
            return "Kiln has no such operator"
        is_complex = _is_complex(node) or any(_is_complex(given) for given in node.all_input_nodes)
        if is_complex and not operator_takes_complex(operator_name(target)):
            return "Kiln takes no complex numbers in this operator"
        return extend.lacking_kernel(target, self.options)

    def is_node_supported(self, submodules: Any, node: torch.fx.Node) -> bool:
        # Sizes are computed in PyTorch unless they are read off a tensor inside: they may cross borders as numbers.
        return node.op == "call_function" and not _is_size_arithmetic(node) and self.why_not(node) is None


def _operators(graph: torch.fx.Graph) -> list[torch.fx.Node]:
    return [n for n in graph.nodes if n.op == "call_function" and n.target is not operator.getitem and not _is_size_arithmetic(n)]


def _attribute(module: torch.nn.Module, path: str) -> Any:
    return operator.attrgetter(path)(module)


def partition(
    program: torch.export.ExportedProgram,
    *,
    torch_executed_ops: Collection[Any] = (),
    torch_executed_modules: Collection[str] = (),
    min_block_size: int = 1,
    dryrun: bool = False,
    options: Optional[dict[str, Any]] = None,
) -> tuple[HybridModule, PartitionReport]:
    """Cuts a program into engines and what PyTorch runs.

    Args:
        program: exported; operators that Kiln lacks and PyTorch can decompose should be decomposed before.
        torch_executed_ops: operators left to PyTorch: OpOverloads, or names ("aten::add.Tensor", "aten::add", "aten.add.Tensor",
            "torch.ops.aten.add.Tensor").
        torch_executed_modules: paths or class names of modules left to PyTorch.
        min_block_size: a piece with fewer operators is left to PyTorch, unless it is the whole program.
        dryrun: only the report; the module runs in PyTorch.
        options: of ``kiln.compile``.

    Returns:
        The module, and what became of its operators.
    """
    graph_module = program.module()
    support = _Support(torch_executed_ops, torch_executed_modules, options or {})
    operators = set(_operators(graph_module.graph))
    report = PartitionReport(operators=len(operators))
    for node in _operators(graph_module.graph):
        reason = support.why_not(node)
        if reason:
            _leave(report, node, reason)
    partitioner = CapabilityBasedPartitioner(graph_module, support, allows_single_node_partition=True)
    pieces = []
    for piece in partitioner.propose_partitions():
        inside = [node for node in piece.nodes if node in operators]
        if len(inside) >= min_block_size or len(inside) == len(operators):
            pieces.append(piece)
            continue
        for node in inside:
            _leave(report, node, f"a piece of {len(inside)} operators, fewer than min_block_size={min_block_size}")
    if dryrun:
        report.engines = [len([n for n in piece.nodes if n in operators]) for piece in pieces]
        return HybridModule(graph_module, report, _Origin(program)), report
    cut = partitioner.fuse_partitions(pieces)
    for node in list(cut.graph.nodes):
        if node.op == "call_module" and str(node.target).startswith("fused_"):
            _replace(cut, node, report, options or {})
    cut.recompile()
    return HybridModule(cut, report, _Origin(program)), report


def _leave(report: PartitionReport, node: torch.fx.Node, reason: str) -> None:
    name = operator_name(node.target) if isinstance(node.target, torch._ops.OpOverload) else str(node.target)
    report.left.setdefault(name, (reason, []))[1].append(_place(node))


def _replace(cut: torch.fx.GraphModule, node: torch.fx.Node, report: PartitionReport, options: dict[str, Any]) -> None:
    """Puts an engine in the place of a fused piece, or leaves the piece to PyTorch and says why."""
    piece = getattr(cut, str(node.target))
    fixed: dict[int, Any] = {}
    places = [n for n in piece.graph.nodes if n.op == "placeholder"]
    for i, argument in enumerate(node.args):
        if isinstance(argument, torch.fx.Node):
            places[i].meta.setdefault("val", _traced(argument))
            if argument.op == "get_attr":
                fixed[i] = _attribute(cut, str(argument.target))
        else:
            fixed[i] = argument
    inside = _operators(piece.graph)
    try:
        call = EngineCall(piece, fixed, options)
    except (KilnError, Unfit) as error:
        for inner in inside:
            _leave(report, inner, str(error).splitlines()[0])
        return
    setattr(cut, str(node.target), _EngineModule(call))
    report.engines.append(len(inside))
