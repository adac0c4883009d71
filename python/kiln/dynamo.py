"""``torch.compile(model, backend="kiln")``.

Dynamo hands over graphs of PyTorch calls, one for each piece of the program without a graph break. Each is captured by torch.export
with its parameters baked in, and compiled as any model. Where Dynamo says that a size varies, the engine's varies too, so that other
sizes need no new engine. What Kiln cannot take runs in PyTorch: graphs that need gradients, and operators that Kiln lacks
(a warning lists them), unless ``options={"require_full_compilation": True}``.
"""

from __future__ import annotations

import warnings
from typing import Any, Callable, Optional

import torch

from kiln._kiln import KilnError
from kiln.partition import Choices, EngineCall, Unfit

__all__ = ["kiln_backend"]

OPTIONS = ("require_full_compilation", "threads", "target", "precision", "tune", "cache", "engine_cache")


def _is_fixed(example: Any) -> bool:
    return isinstance(example, torch.nn.Parameter) or getattr(example, "_dynamo_static_input_type", None) is not None


def kiln_backend(
    graph: torch.fx.GraphModule,
    examples: list[Any],
    *,
    choices: Optional[Choices] = None,
    raise_failures: bool = False,
    inference: bool = False,
    **kwargs: Any,
) -> Callable[..., Any]:
    """The backend itself, as torch.compile calls it.

    ``choices``, ``raise_failures`` (a build that fails is an error, rather than left to PyTorch) and ``inference`` (nobody wants
    gradients, whatever requires them) are for front ends.
    """
    options = dict(kwargs.get("options") or {})
    unknown = [name for name in options if name not in OPTIONS]
    if unknown:
        raise ValueError(f"torch.compile, backend kiln: unknown options {unknown}; known: {', '.join(OPTIONS)}")
    full = options.pop("require_full_compilation", False)
    tensors = [e for e in examples if isinstance(e, torch.Tensor)]
    if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
        if not inference:
            return graph.forward  # a training step
        with torch.no_grad():
            return torch.no_grad()(
                kiln_backend(graph, examples, choices=choices, raise_failures=raise_failures, inference=True, **kwargs)
            )
    devices = {t.device.type for t in tensors}
    options.setdefault("target", "cuda" if devices == {"cuda"} else "cpu")
    fixed = {i: e for i, e in enumerate(examples) if isinstance(e, torch.Tensor) and _is_fixed(e)}

    def build(numbers: dict[int, float]) -> Callable[..., Any]:
        try:
            call = EngineCall(graph, {**fixed, **numbers}, options, not full, choices)
            if call.report is not None and call.report.left and full:
                raise _unsupported(f"require_full_compilation: some operators would run in PyTorch: {call.report.reasons()}")
            if call.report is not None and call.report.left:
                warnings.warn(f"Kiln leaves some operators to PyTorch: {call.report.reasons()}", stacklevel=3)
            return call
        except (KilnError, Unfit) as error:
            failed = isinstance(error, KilnError) and error.status != "KILN_UNSUPPORTED"
            if full or (raise_failures and failed):
                raise
            warnings.warn(f"Kiln leaves a graph of {len(graph.graph.nodes)} nodes to PyTorch: {error}", stacklevel=3)
            return original

    original, numbers = graph.forward, _numbers(graph)
    if not numbers:
        return build({})
    graph = _with_plain_numbers(graph, numbers)
    return _PerNumber(build, numbers)


def _unsupported(text: str) -> KilnError:
    error = KilnError(text)
    error.status = "KILN_UNSUPPORTED"
    return error


def _numbers(graph: torch.fx.GraphModule) -> dict[int, float]:
    """Arguments that are Python numbers, by place: with ``dynamic=True`` Dynamo hands attributes such as a norm's ``eps`` over as tensors of
    no dimension, of which the graph takes ``.item()``."""
    found = {}
    for i, node in enumerate(n for n in graph.graph.nodes if n.op == "placeholder"):
        given = node.meta.get("grapharg")
        if given is not None and not given.is_tensor and given.pass_arg_as_tensor:
            found[i] = float(given.example)
    return found


def _with_plain_numbers(graph: torch.fx.GraphModule, numbers: dict[int, float]) -> torch.fx.GraphModule:
    """The same graph taking those arguments as Python numbers."""
    plain = torch.fx.GraphModule(graph, graph.graph.__class__())
    results: dict[torch.fx.Node, torch.fx.Node] = {}
    plain.graph.output(plain.graph.graph_copy(graph.graph, results))
    for i, node in enumerate([n for n in plain.graph.nodes if n.op == "placeholder"]):
        for user in [u for u in node.users if i in numbers and u.op == "call_method" and u.target == "item"]:
            user.replace_all_uses_with(node)
            plain.graph.erase_node(user)
    plain.recompile()
    return plain


class _PerNumber:
    """An engine for each set of values that the numbers among a graph's arguments take; numbers are baked in."""

    MOST = 16

    def __init__(self, build: Callable[[dict[int, float]], Callable[..., Any]], numbers: dict[int, float]) -> None:
        self.build, self.places = build, list(numbers)
        self.calls = {tuple(numbers.values()): build(numbers)}

    def __call__(self, *arguments: Any) -> Any:
        values = tuple(float(arguments[i]) for i in self.places)
        call = self.calls.get(values)
        if call is None:
            while len(self.calls) >= self.MOST:
                del self.calls[next(iter(self.calls))]
            call = self.calls[values] = self.build(dict(zip(self.places, values)))
        return call(*arguments)
