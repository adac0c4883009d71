"""Registers Kiln's operators and its torch.compile backend when PyTorch is imported too, in either order, without importing it."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Callable, Optional

__all__ = ["install"]


def _register() -> None:
    try:
        from kiln import operators

        operators.register()
    except Exception:
        pass  # an old PyTorch: what needs the operators says so when it is used


def _register_backend() -> None:
    from torch._dynamo.backends import registry

    def kiln(graph: Any, examples: Any, **kwargs: Any) -> Any:
        from kiln.dynamo import kiln_backend

        return kiln_backend(graph, examples, **kwargs)

    registry.register_backend(kiln)  # type: ignore[arg-type]


class _Loader(importlib.abc.Loader):
    """A module's own loader, and registration after it."""

    def __init__(self, loader: Any, action: Callable[[], None]) -> None:
        self.loader = loader
        self.action = action

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Optional[ModuleType]:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        self.action()


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, module: str, action: Callable[[], None]) -> None:
        self.module = module
        self.action = action

    def find_spec(
        self, name: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[importlib.machinery.ModuleSpec]:
        if name != self.module:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self.action)
        return spec


def _after(module: str, action: Callable[[], None]) -> None:
    if sys.modules.get(module) is not None:
        action()
    elif module not in sys.modules:  # None: a program that forbids the import
        sys.meta_path.insert(0, _Finder(module, action))


def install() -> None:
    """Registers now if PyTorch is imported, else when it is."""
    _after("torch", _register)
    _after("torch._dynamo.backends.registry", _register_backend)
