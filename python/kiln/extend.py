"""Custom operators and rewrite rules from Python; docs/extending.md shows all ways.

An operator that the model calls as ``torch.ops.mine.scale`` is known to PyTorch already (``torch.library.custom_op``). Kiln needs to
be told how to compute it: by a plugin in C (:func:`load_plugin`), a CUDA kernel as text (:func:`register_cuda_kernel`), or in terms of
other operators (:func:`register_decomposition`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Callable, Optional, TypeVar, Union

from kiln import _kiln, checks

if TYPE_CHECKING:
    import torch

__all__ = [
    "decompositions",
    "load_plugin",
    "register_cuda_kernel",
    "register_decomposition",
    "register_rule",
    "remove_rule",
]

Function = TypeVar("Function", bound=Callable[..., Any])
Size = Union[int, str]


def load_plugin(path: Union[str, os.PathLike[str]]) -> None:
    """Loads a shared object with operators and rules written in C against ``kiln/kiln_ext.h``. Its code runs in this process."""
    _kiln.load_plugin(os.path.abspath(path))


def overload_of(op: Any) -> torch._ops.OpOverload:
    """The OpOverload of what users call an operator: itself, a packet, a ``torch.library.custom_op`` or "mine::scale"."""
    import torch

    name = op
    if isinstance(op, torch._ops.OpOverload):
        return op
    if hasattr(op, "_opoverload"):
        return op._opoverload
    if isinstance(op, torch._ops.OpOverloadPacket):
        name = op._qualified_op_name
    if not isinstance(name, str) or not re.fullmatch(r"\w+::\w+(\.\w+)?", name):
        raise TypeError(f"expected an operator or its name, such as 'mine::scale', got {op!r}")
    space, _, rest = name.partition("::")
    base, _, overload = rest.partition(".")
    try:
        return getattr(getattr(getattr(torch.ops, space), base), overload or "default")
    except AttributeError:
        raise ValueError(f"PyTorch knows no operator {name}; define it first, with torch.library.custom_op say") from None


def lacking_kernel(op: torch._ops.OpOverload, options: Mapping[str, Any]) -> Optional[str]:
    """Why a registered custom operator cannot be in an engine with these options of kiln.compile; None: it can, or is no custom one."""
    kernels = _kiln.op_kernels(op._schema.name)
    if kernels < 0:
        return None
    on_gpu = str(options.get("target") or "cpu").startswith("cuda")
    if kernels & (2 if on_gpu else 1) or (on_gpu and kernels & 1 and options.get("allow_host_fallback")):
        return None
    return f"no kernel for {'GPUs' if on_gpu else 'the CPU'} is registered"


def schema_of(op: Any) -> str:
    """ "mine::scale(Tensor x, float k=1.0) -> Tensor"."""
    return str(overload_of(op)._schema)


def register_cuda_kernel(
    op: Any,
    source: Union[str, bytes],
    *,
    kernel: Optional[str] = None,
    arguments: Optional[str] = None,
    grid: Union[Size, Sequence[Size], None] = None,
    block: Union[int, Sequence[int]] = 256,
    shared: int = 0,
    dtypes: str = "f32",
) -> None:
    """Gives an operator a kernel for GPUs: CUDA C++ text, which NVRTC compiles for the GPU at hand, or code that is compiled already.

    Args:
        op: a ``torch.library.custom_op``, ``torch.ops.mine.scale``, or its name. Result shapes come from its fake implementation.
        source: the text, without includes; ``x_t`` is the element type of tensor x, ``out_t`` that of the result; 16-bit types convert to and from float.
            Or PTX (text or bytes), a cubin or a fatbin (bytes): the driver takes it as it is, so types are those that it was compiled with.
        kernel: name of the ``extern "C" __global__`` function; None: the only one in ``source``. A cubin or fatbin needs it.
        arguments: its parameters, such as "x float:k int:x_size out" (names of tensors are pointers; float, double, int, long and bool
            are numbers: arguments of the operator, or expressions of sizes). None: the operator's arguments in order (int as long long),
            the results, and the number of elements of the first result as long long.
        grid: blocks, as one to three expressions such as "x_dim0" or "(out_size + 255) // 256". None: a thread for each element of the
            first result.
        block: threads of a block, as one to three numbers.
        shared: bytes of dynamic shared memory.
        dtypes: floating-point types that it computes with, such as "f32 f16"; "any" for all.
    """
    checks.check(
        "register_cuda_kernel",
        "source",
        source,
        checks.instance((str, bytes, bytearray), "CUDA C++ text, PTX, a cubin or a fatbin"),
    )
    image = _image(source)
    if kernel is None:
        kernel = _only_kernel(source if image is None else image)
    grids = [grid] if grid is None or isinstance(grid, (int, str)) else list(grid)
    blocks = [block] if isinstance(block, int) else list(block)
    if len(grids) > 3 or len(blocks) > 3:
        raise ValueError("grid and block have at most 3 dimensions")
    grids = [None if g is None else str(g) for g in grids] + [None] * (3 - len(grids))
    blocks = [int(b) for b in blocks] + [0] * (3 - len(blocks))
    text = source if image is None else None
    _kiln.register_op(schema_of(op), 1, dtypes, text, kernel, arguments, tuple(grids), tuple(blocks), shared, image)


def _image(source: Union[str, bytes]) -> Optional[bytes]:
    """Code for the driver; None: it is CUDA C++ text."""
    if isinstance(source, str):
        is_ptx = re.search(r"^\s*\.version\s+\d", source, re.M) and re.search(r"^\s*\.target\s+sm_", source, re.M)
        return source.encode() if is_ptx else None
    return bytes(source)


def _only_kernel(source: Union[str, bytes]) -> str:
    if isinstance(source, str):
        text = re.sub(r"__launch_bounds__\s*\([^)]*\)", "", source)
        kind, names = "__global__ functions", re.findall(r"__global__[^;{()]*?\b(\w+)\s*\(", text)
    else:
        kind, names = "kernels", [n.decode() for n in re.findall(rb"^\s*(?:\.visible\s+)?\.entry\s+([\w$]+)", source, re.M)]
    if len(names) != 1:
        raise ValueError(f"kernel: source has {len(names)} {kind} {names}; name the one to launch")
    return names[0]


def register_rule(name: str, pattern: str, replacement: str) -> None:
    """A rewrite of the graph, for all models built from now on: where ``pattern`` is found, ``replacement`` is computed instead.

        kiln.register_rule("quick gelu", "%a = mul(%x, 1.702)\\n%s = sigmoid(%a)\\n%y = mul(%x, %s)", "%y = mine.quick_gelu(%x)")

    One node a line, the last one is the result; docs/extending.md has the syntax. A second rule of this name replaces the first.
    """
    if not isinstance(pattern, str) or not isinstance(replacement, str):
        raise TypeError("pattern and replacement must be texts")
    _kiln.register_rule(name, pattern, replacement)


def remove_rule(name: str) -> None:
    """Forgets a rule; engines that it changed stay as they are."""
    _kiln.register_rule(name, None, None)


# ---- Decompositions --------------------------------------------------------------------------------------------------

_decompositions: dict[Any, Callable[..., Any]] = {}


def decompositions() -> dict[Any, Callable[..., Any]]:
    """Those registered, by OpOverload."""
    return _decompositions


def register_decomposition(op: Any) -> Callable[[Function], Function]:
    """Decorator: computes an operator by others, when a model is captured by torch.export.

        @kiln.register_decomposition("mine::scale")
        def scale(x, k=1.0):
            return x * k

    The function takes the operator's arguments and is traced: sizes may be symbolic.
    """
    overload = overload_of(op)

    def register(function: Function) -> Function:
        _decompositions[overload] = function
        return function

    return register
