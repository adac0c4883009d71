"""``torch.compile(model, backend="kiln")``.

Dynamo hands over graphs of PyTorch calls, one for each piece of the program without a graph break. Each is captured by torch.export
with its parameters baked in, and compiled as any model. Where Dynamo says that a size varies, the engine's varies too, so that other
sizes need no new engine. What Kiln cannot take runs in PyTorch: graphs that need gradients, and graphs with operators that Kiln lacks
(a warning lists them), unless ``options={"require_full_compilation": True}``.
"""

from __future__ import annotations

import warnings
from typing import Any, Callable, Optional

import torch

from kiln._kiln import KilnError

__all__ = ["kiln_backend"]

OPTIONS = ("require_full_compilation", "threads", "target", "precision", "tune", "cache")


class _Graph(torch.nn.Module):
    """A graph as a module of its varying tensors: parameters are attributes, sizes are read off the tensors."""

    def __init__(
        self, graph: torch.fx.GraphModule, fixed: dict[int, torch.Tensor], sizes: dict[int, tuple[int, int]], count: int
    ) -> None:
        super().__init__()
        self.graph_module = graph
        self.count = count
        self.sizes = sizes
        self.places = [i for i in range(count) if i not in fixed and i not in sizes]
        for i, tensor in fixed.items():
            self.register_buffer(f"fixed_{i}", tensor.detach())
        self.fixed = list(fixed)
        self.eval()

    def forward(self, *tensors: torch.Tensor) -> Any:
        arguments: list[Any] = [None] * self.count
        for i, tensor in zip(self.places, tensors):
            arguments[i] = tensor
        for i in self.fixed:
            arguments[i] = getattr(self, f"fixed_{i}")
        for i, (at, axis) in self.sizes.items():
            arguments[i] = arguments[at].shape[axis]
        return self.graph_module(*arguments)


class _Unfit(Exception):
    """This graph runs in PyTorch."""


def _is_fixed(example: Any) -> bool:
    return isinstance(example, torch.nn.Parameter) or getattr(example, "_dynamo_static_input_type", None) is not None


def _fake(node: torch.fx.Node) -> Any:
    return node.meta.get("example_value", node.meta.get("val"))


def _sources_of_sizes(nodes: list[torch.fx.Node], examples: list[Any]) -> dict[int, tuple[int, int]]:
    """For each argument that is a size: the tensor argument and axis that have it."""
    known: dict[Any, tuple[int, int]] = {}
    for i, (node, example) in enumerate(zip(nodes, examples)):
        value = _fake(node)
        if isinstance(value, torch.Tensor) and not _is_fixed(example):
            for axis, size in enumerate(value.shape):
                if isinstance(size, torch.SymInt):
                    known.setdefault(size.node.expr, (i, axis))
    sizes: dict[int, tuple[int, int]] = {}
    for i, (node, example) in enumerate(zip(nodes, examples)):
        if isinstance(example, torch.Tensor):
            continue
        value = _fake(node)
        source = known.get(value.node.expr) if isinstance(value, torch.SymInt) else None
        if source is None:
            raise _Unfit(f"argument {node.name} is a number that no tensor's shape tells")
        sizes[i] = source
    return sizes


def _example(node: torch.fx.Node, example: torch.Tensor) -> torch.Tensor:
    """Real data of the traced shape."""
    # A size is asked for its hint, since looking at its value would fix it.
    shape = [size.node.hint if isinstance(size, torch.SymInt) else size for size in _fake(node).shape]
    return torch.zeros(shape, dtype=example.dtype, device=example.device)


class _Compiled:
    """Runs a graph's engine; makes a new one when parameters were written since."""

    def __init__(self, graph: torch.fx.GraphModule, examples: list[Any], options: dict[str, Any]) -> None:
        nodes = [node for node in graph.graph.nodes if node.op == "placeholder"]
        self.options = options
        self.fixed = {i: e for i, e in enumerate(examples) if isinstance(e, torch.Tensor) and _is_fixed(e)}
        sizes = _sources_of_sizes(nodes, examples)
        self.module = _Graph(graph, self.fixed, sizes, len(examples))
        self.places = self.module.places
        if not self.places:
            raise _Unfit("the graph has no tensor argument")
        self.examples = tuple(_example(nodes[i], examples[i]) for i in self.places)
        dynamic = [_varying(_fake(nodes[i])) for i in self.places]
        self.dynamic_shapes = {"tensors": tuple(dynamic)} if any(dynamic) else None
        self.watched = [tensor for tensor in self.fixed.values() if not tensor.is_inference()]
        self.build()

    def build(self) -> None:
        import kiln

        self.versions = [tensor._version for tensor in self.watched]
        with torch._guards.tracing(None):  # an export of its own, not a part of what Dynamo traces
            self.engine = kiln.compile(self.module, inputs=self.examples, dynamic_shapes=self.dynamic_shapes, **self.options)

    def __call__(self, *arguments: Any) -> Any:
        if [tensor._version for tensor in self.watched] != self.versions:
            self.build()
        with torch.no_grad():
            return self.engine(*[arguments[i] for i in self.places])


def _varying(value: Any) -> Optional[dict[int, Any]]:
    if not isinstance(value, torch.Tensor):
        return None
    axes = {axis: torch.export.Dim.AUTO for axis, size in enumerate(value.shape) if isinstance(size, torch.SymInt)}
    return axes or None


def kiln_backend(graph: torch.fx.GraphModule, examples: list[Any], **kwargs: Any) -> Callable[..., Any]:
    """The backend itself, as torch.compile calls it."""
    options = dict(kwargs.get("options") or {})
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise ValueError(f"torch.compile, backend kiln: unknown options {unknown}; known: {', '.join(OPTIONS)}")
    full = options.pop("require_full_compilation", False)
    tensors = [e for e in examples if isinstance(e, torch.Tensor)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        return graph.forward  # a training step
    devices = {t.device.type for t in tensors}
    options.setdefault("target", "cuda" if devices == {"cuda"} else "cpu")
    try:
        return _Compiled(graph, list(examples), options)
    except (KilnError, _Unfit) as error:
        if full:
            raise
        warnings.warn(f"Kiln leaves a graph of {len(graph.graph.nodes)} nodes to PyTorch: {error}", stacklevel=2)
        return graph.forward
