"""Kiln's operators in PyTorch: kiln::load, kiln::execute, kiln::execute_stateful and kiln::reset.

The kernels are C (``src/torch_op``). This file registers them with the PyTorch that is loaded, and adds what only Python can say: the
shapes of results for tensors without data (``torch.export``, ``torch.compile``), with symbolic sizes.
"""

from __future__ import annotations

import ast
import functools
import re
import threading
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch

from kiln import _kiln
from kiln._kiln import KilnError

__all__ = ["Signature", "register"]

_lock = threading.Lock()
_registered = False


def register() -> None:
    """Registers the operators, once. Raises KilnError if this PyTorch is too old."""
    global _registered  # noqa: PLW0603
    if _registered:
        return
    with _lock:
        if _registered:
            return
        try:
            _kiln.torch_register()
        except KilnError:
            if not hasattr(torch.ops.kiln, "execute"):  # else libkiln_torch.so was here first, and its operators do
                raise
        torch.library.register_fake("kiln::load", _fake_load)
        torch.library.register_fake("kiln::execute", _fake_execute)
        torch.library.register_fake("kiln::execute_stateful", _fake_execute)
        torch.library.register_fake("kiln::reset", _fake_reset)
        _registered = True


def _fake_load(blob: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(blob)


def _fake_reset(engine: torch.Tensor) -> None:
    return None


def _fake_execute(engine: torch.Tensor, inputs: Sequence[torch.Tensor], signature: str = "") -> list[torch.Tensor]:
    # A fake engine has no bytes to look into. Without a signature, the engines that are loaded now are asked.
    text = signature or _kiln.torch_signature(int(engine.numel()))
    if not text:
        raise RuntimeError(
            "kiln::execute: the shapes of this engine's results are not known; call the operator on real tensors first, or pass the "
            "text of Engine.report('signature') as its third argument"
        )
    return Signature.parse(text).empty_outputs(inputs)


# ---- Signatures ------------------------------------------------------------------------------------------------------

_DTYPES = {
    "f32": torch.float32,
    "f64": torch.float64,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "bool": torch.bool,
    "c32": torch.complex32,
    "c64": torch.complex64,
    "c128": torch.complex128,
}
Size = Union[int, torch.SymInt]


class Signature:
    """Types of an engine's inputs and outputs, with sizes as expressions of symbols: what ``Engine.report("signature")`` says."""

    def __init__(self, inputs: list[Any], outputs: list[Any], ranges: dict[str, tuple[int, Optional[int]]]) -> None:
        self.inputs, self.outputs, self.ranges = inputs, outputs, ranges

    @staticmethod
    @functools.lru_cache(maxsize=64)
    def parse(text: str) -> Signature:
        head, *limits = text.split("; ")
        match = re.fullmatch(r"\((.*)\) -> \((.*)\)", head)
        if not match:
            raise RuntimeError(f"kiln::execute: '{text[:80]}' is not an engine's signature")
        ranges: dict[str, tuple[int, Optional[int]]] = {}
        for limit in limits:
            low, name, *high = limit.split("<=")
            ranges[name] = (int(low), int(high[0]) if high else None)
        return Signature(_types(match[1]), _types(match[2]), ranges)

    def empty_outputs(self, inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Tensors of the right shapes, for inputs that may be fake. Raises RuntimeError as the engine would."""
        if len(inputs) != len(self.inputs):
            raise RuntimeError(f"kiln::execute: the engine takes {len(self.inputs)} inputs, got {len(inputs)}")
        symbols: dict[str, Size] = {}
        for i, (tensor, (dtype, sizes)) in enumerate(zip(inputs, self.inputs)):
            if tensor.dtype != dtype or tensor.dim() != len(sizes):
                raise RuntimeError(
                    f"kiln::execute: input {i} is {tensor.dtype} with {tensor.dim()} dimensions, expected {dtype} with {len(sizes)}"
                )
            for size, expression in zip(tensor.shape, sizes):
                _solve(expression, size, symbols)
        for i, (tensor, (_, sizes)) in enumerate(zip(inputs, self.inputs)):
            for d, (size, expression) in enumerate(zip(tensor.shape, sizes)):
                if not isinstance(expression, ast.Name):
                    expected = _evaluate(expression, symbols)
                    torch._check(size == expected, lambda i=i, d=d: f"kiln::execute: input {i} has the wrong size in dimension {d}")
        for name, (low, high) in self.ranges.items():
            if name in symbols:
                torch._check(symbols[name] >= low, lambda: "kiln::execute: a size is below the engine's range")
                if high is not None:
                    torch._check(symbols[name] <= high, lambda: "kiln::execute: a size is above the engine's range")
        device = inputs[0].device if len(inputs) else torch.device("cpu")
        return [
            torch.empty([_evaluate(size, symbols) for size in sizes], dtype=dtype, device=device) for dtype, sizes in self.outputs
        ]


def _types(text: str) -> list[tuple[torch.dtype, list[ast.expr]]]:
    found = []
    for dtype, sizes in re.findall(r"(\w+)\[([^\]]*)\]", text):
        expressions = ast.parse(f"[{sizes}]", mode="eval").body
        assert isinstance(expressions, ast.List)
        found.append((_DTYPES[dtype], expressions.elts))
    return found


def _names(node: ast.expr) -> set[str]:
    called = {id(n.func) for n in ast.walk(node) if isinstance(n, ast.Call)}
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and id(n) not in called}


def _solve(node: ast.expr, size: Size, symbols: dict[str, Size]) -> None:
    """Finds the symbol of an expression a*symbol + b; leaves others to the check of all sizes."""
    if isinstance(node, ast.Name):
        symbols.setdefault(node.id, size)
        return
    unknown = _names(node) - symbols.keys()
    plain = not any(isinstance(n, (ast.Call, ast.FloorDiv, ast.Mod)) for n in ast.walk(node))
    if len(unknown) != 1 or not plain:
        return
    name = unknown.pop()
    at = [_evaluate(node, {**symbols, name: value}) for value in (0, 1, 2)]
    factor = at[1] - at[0]
    if all(isinstance(value, int) for value in at) and factor != 0 and at[2] - at[1] == factor:
        symbols[name] = (size - at[0]) // factor


def _evaluate(node: ast.expr, symbols: dict[str, Size]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name):
        if node.id not in symbols:  # known only when the engine has run
            symbols[node.id] = torch.library.get_ctx().new_dynamic_size()
        return symbols[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, symbols)
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, symbols), _evaluate(node.right, symbols)
        if isinstance(node.op, ast.Add):
            return left + right
        if isinstance(node.op, ast.Sub):
            return left - right
        if isinstance(node.op, ast.Mult):
            return left * right
        if isinstance(node.op, ast.FloorDiv):
            return left // right
        if isinstance(node.op, ast.Mod):
            return left % right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("max", "min"):
        function = torch.sym_max if node.func.id == "max" else torch.sym_min
        return functools.reduce(function, [_evaluate(argument, symbols) for argument in node.args])
    raise KilnError(f"kiln::execute: the signature has a size that is no expression: {ast.dump(node)[:80]}")
