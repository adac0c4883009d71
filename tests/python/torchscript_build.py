"""From a scripted or traced module to a callable engine through the file that torch.jit.save writes, as the tests do it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

import kiln

DTYPES = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "bool",
}


def saved(module: Any) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    return buffer.getvalue()


def specs(args: Any) -> list[tuple[Any, ...]]:
    """What kiln.Engine.build takes, for example tensors in order."""
    leaves = [leaf for leaf in pytree.tree_leaves(args) if isinstance(leaf, torch.Tensor)]
    return [(None, DTYPES[leaf.dtype], *[tuple(leaf.shape)] * 3) for leaf in leaves]


def named_specs(module: Any, args: Sequence[Any], method: str = "forward") -> list[tuple[Any, ...]]:
    """The same by name, with parts of containers as `x.0` and `d.key`, and the defaults that saved functions forget as constants."""
    if isinstance(module, torch.jit.ScriptFunction):
        formals = module.schema.arguments
    else:
        formals = module._c._get_method(method).schema.arguments[1:]  # without self
    rows: list[tuple[Any, ...]] = []

    def add(name: str, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            rows.append((name, DTYPES[value.dtype], *[tuple(value.shape)] * 3))
        elif isinstance(value, dict):
            for key, item in value.items():
                add(f"{name}.{key}", item)
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                add(f"{name}.{i}", item)
        else:
            rows.append((name, str(value)))

    for formal, value in zip(formals, args):
        add(formal.name, value)
    for formal in formals[len(args) :]:
        if isinstance(formal.default_value, (bool, int, float, str)):
            rows.append((formal.name, str(formal.default_value)))
    return rows


def build(module: Any, args: Sequence[Any], **options: Any) -> kiln.CompiledModule:
    """The module saved, read by the C importer for inputs like `args`, and called as the module is."""
    inputs = named_specs(module, args, options.get("method") or "forward")
    engine = kiln.Engine.build(saved(module), inputs=inputs, **{"threads": 2, **options})
    return kiln.CompiledModule(engine, threads=options.get("threads", 2))


def plain(value: Any) -> Any:
    """Named tuples as tuples, so that nestings compare; floats as tensors, so that they compare within a tolerance."""
    if isinstance(value, tuple):
        return tuple(plain(item) for item in value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return torch.tensor(value, dtype=torch.float64) if isinstance(value, float) else value
