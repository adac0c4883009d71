"""Flattener: nested tuples, lists, dicts and dataclasses of tensors as flat lists, as torch2trt's users know it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Callable, Optional

import torch

__all__ = ["Flatten", "Flattener", "Unflatten"]


def _is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


# Schemas go into state dicts, so a dataclass is a dictionary of its fields there, with the name of its class under this key.
_CLASS = "dataclass"


def is_dataclass(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def fields_of(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}


def _schema_of_dataclass(value: Any, walk: Callable[[Any], Any]) -> dict[str, Any]:
    kind = type(value)
    children = {name: walk(child) for name, child in fields_of(value).items() if child is not None}
    return {(_CLASS, f"{kind.__module__}:{kind.__qualname__}"): None, **children}


def _class_name(schema: Any) -> Optional[str]:
    first = next(iter(schema), None) if isinstance(schema, Mapping) else None
    return str(first[1]) if isinstance(first, tuple) and len(first) == 2 and first[0] == _CLASS else None


def _make(name: str, fields: dict[str, Any]) -> Any:
    """An object of the class if its module is imported (it is not imported here: the name may come from a file), else a namespace."""
    module, _, path = name.partition(":")
    kind: Any = sys.modules.get(module)
    for part in path.split("."):
        kind = getattr(kind, part, None)
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        return SimpleNamespace(**fields)
    missing = {f.name: None for f in dataclasses.fields(kind) if f.init and f.default is f.default_factory is dataclasses.MISSING}
    return kind(**{**missing, **fields})


class Flattener:
    """How a structure nests: ``schema`` has the same nesting, with the place of each leaf in the flat list, or None for leaves that
    are left out. Integer tensors are kept (torch2trt drops them).
    """

    def __init__(self, schema: Any, size: int) -> None:
        self._schema = schema
        self._size = size

    @property
    def schema(self) -> Any:
        return self._schema

    @property
    def size(self) -> int:
        return self._size

    def __len__(self) -> int:
        return self._size

    @staticmethod
    def from_value(value: Any, condition: Callable[[Any], bool] = _is_tensor) -> Flattener:
        """The flattener of this structure; leaves for which ``condition`` does not hold are left out."""
        count = 0

        def walk(item: Any) -> Any:
            nonlocal count
            if is_dataclass(item):
                return _schema_of_dataclass(item, walk)
            if isinstance(item, (tuple, list)):
                return type(item)(walk(child) for child in item) if not hasattr(item, "_fields") else tuple(map(walk, item))
            if isinstance(item, Mapping):
                return {key: walk(child) for key, child in item.items()}
            if condition(item):
                count += 1
                return count - 1
            return None

        return Flattener(walk(value), count)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Flattener:
        return Flattener(values["schema"], values["size"])

    def dict(self) -> dict[str, Any]:
        return {"schema": self._schema, "size": self._size}

    def flatten(self, value: Any, result: Optional[list[Any]] = None) -> list[Any]:
        """The leaves of ``value``, which must nest as the schema does."""
        flat: list[Any] = [None] * self._size

        def walk(item: Any, schema: Any, where: str) -> None:
            if isinstance(schema, (tuple, list)):
                if not isinstance(item, (tuple, list)) or len(item) != len(schema):
                    raise ValueError(f"value{where}: expected {len(schema)} items, got {_describe(item)}")
                for i, (child, child_schema) in enumerate(zip(item, schema)):
                    walk(child, child_schema, f"{where}[{i}]")
            elif _class_name(schema) is not None:
                for name, child_schema in list(schema.items())[1:]:
                    if not hasattr(item, name):
                        raise ValueError(f"value{where}: expected an object with .{name}, got {_describe(item)}")
                    walk(getattr(item, name), child_schema, f"{where}.{name}")
            elif isinstance(schema, Mapping):
                if not isinstance(item, Mapping) or set(item) != set(schema):
                    raise ValueError(f"value{where}: expected the keys {sorted(map(str, schema))}, got {_describe(item)}")
                for key, child_schema in schema.items():
                    walk(item[key], child_schema, f"{where}[{key!r}]")
            elif schema is not None:
                flat[schema] = item

        walk(value, self._schema, "")
        return flat

    def unflatten(self, flat: Any) -> Any:
        """The structure with the leaves of ``flat``; left-out leaves are None."""

        def build(schema: Any) -> Any:
            if isinstance(schema, (tuple, list)):
                return type(schema)(build(child) for child in schema)
            name = _class_name(schema)
            if name is not None:
                return _make(name, {key: build(child) for key, child in list(schema.items())[1:]})
            if isinstance(schema, Mapping):
                return {key: build(child) for key, child in schema.items()}
            return None if schema is None else flat[schema]

        return build(self._schema)


def _describe(item: Any) -> str:
    if isinstance(item, Mapping):
        return f"the keys {sorted(map(str, item))}"
    return f"{len(item)} items" if isinstance(item, (tuple, list)) else type(item).__name__


class Flatten(torch.nn.Module):
    """Calls a module with flat arguments: they are nested before, and results are flattened after."""

    def __init__(self, module: torch.nn.Module, input_flattener: Any = None, output_flattener: Any = None) -> None:
        super().__init__()
        self.module = module
        self.input_flattener = input_flattener
        self.output_flattener = output_flattener

    def forward(self, *args: Any) -> Any:
        nested = self.input_flattener.unflatten(args) if self.input_flattener else args
        result = self.module(*nested)
        return self.output_flattener.flatten(result) if self.output_flattener else result


class Unflatten(torch.nn.Module):
    """Calls a module that takes flat arguments with nested ones."""

    def __init__(self, module: torch.nn.Module, input_flattener: Any = None, output_flattener: Any = None) -> None:
        super().__init__()
        self.module = module
        self.input_flattener = input_flattener
        self.output_flattener = output_flattener

    def forward(self, *args: Any) -> Any:
        flat = self.input_flattener.flatten(args) if self.input_flattener else args
        result = self.module(*flat)
        return self.output_flattener.unflatten(result) if self.output_flattener else result
