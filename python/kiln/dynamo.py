"""``torch.compile(model, backend="kiln")``.

Dynamo hands over graphs of PyTorch calls, one for each piece of the program without a graph break. Each is captured by torch.export
with its parameters baked in, and compiled as any model. Where Dynamo says that a size varies, the engine's varies too, so that other
sizes need no new engine. What Kiln cannot take runs in PyTorch: graphs that need gradients, and operators that Kiln lacks
(a warning lists them), unless ``options={"require_full_compilation": True}``.
"""

from __future__ import annotations

import warnings
from typing import Any, Callable

import torch

from kiln._kiln import KilnError
from kiln.partition import EngineCall, Unfit

__all__ = ["kiln_backend"]

OPTIONS = ("require_full_compilation", "threads", "target", "precision", "tune", "cache")


def _is_fixed(example: Any) -> bool:
    return isinstance(example, torch.nn.Parameter) or getattr(example, "_dynamo_static_input_type", None) is not None


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
        fixed = {i: e for i, e in enumerate(examples) if isinstance(e, torch.Tensor) and _is_fixed(e)}
        call = EngineCall(graph, fixed, options, fallback=not full)
        if call.report is not None and call.report.left:
            warnings.warn(f"Kiln leaves some operators to PyTorch: {call.report.reasons()}", stacklevel=2)
        return call
    except (KilnError, Unfit) as error:
        if full:
            raise
        warnings.warn(f"Kiln leaves a graph of {len(graph.graph.nodes)} nodes to PyTorch: {error}", stacklevel=2)
        return graph.forward
