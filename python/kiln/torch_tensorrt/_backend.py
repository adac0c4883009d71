"""``torch.compile(model, backend="tensorrt", options={settings})``, by the names that Torch-TensorRT registers."""

from __future__ import annotations

from typing import Any, Callable

import torch

from kiln.dynamo import kiln_backend
from kiln.torch_tensorrt._settings import CompilationSettings

__all__ = ["BACKENDS", "register", "tensorrt_backend"]

BACKENDS = ("tensorrt", "torch_tensorrt")


def tensorrt_backend(graph: torch.fx.GraphModule, examples: list[Any], **kwargs: Any) -> Callable[..., Any]:
    """Kiln's backend with Torch-TensorRT's settings as ``options``."""
    chosen = CompilationSettings.of(**dict(kwargs.get("options") or {}))
    on_gpu = any(isinstance(e, torch.Tensor) and e.device.type == "cuda" for e in examples)
    target = str(chosen.device.to(torch.device)) if chosen.device else ("cuda" if on_gpu else "cpu")
    options = {**chosen.options(target), "require_full_compilation": chosen.require_full_compilation}
    return kiln_backend(graph, examples, options=options)


def register() -> None:
    """A name that another package has taken stays its own."""
    from torch._dynamo.backends import registry

    taken = set(registry.list_backends(exclude_tags=()))
    for name in BACKENDS:
        if name not in taken:
            registry.register_backend(tensorrt_backend, name=name)
