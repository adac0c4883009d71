"""``torch_tensorrt.kernels``: CUDA kernels as text or PTX, for PyTorch and for engines.

``cuda_kernel_op`` defines a PyTorch operator from a :class:`KernelSpec` and registers its kernel with Kiln (kiln.register_cuda_kernel),
so that models that call it compile into one engine. The kernel's parameters are, in this order: pointers of the tensor inputs, scalar
inputs, extras, pointers of the outputs. Kiln compiles it by NVRTC when an engine is first used; called eagerly, the operator runs as an
engine of its own.
"""

from __future__ import annotations

import dataclasses
import inspect
import threading
import typing
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Callable, Optional, Union

import torch

from kiln import checks, extend
from kiln.torch_tensorrt._converters import ConverterPriority

__all__ = [
    "Custom",
    "DimSize",
    "Elementwise",
    "InputDecl",
    "KernelSpec",
    "Numel",
    "OutputDecl",
    "ReduceDims",
    "Reduction",
    "SameAs",
    "ScalarInput",
    "cuda_kernel_op",
    "ptx_op",
    "trtp",
]


@dataclasses.dataclass(frozen=True)
class SameAs:
    """The output has the shape and type of a tensor input, by name or number among the tensors."""

    input_idx: Union[int, str] = 0


@dataclasses.dataclass(frozen=True)
class ReduceDims:
    """The output has the shape of a tensor input without these dimensions (of size 1, with ``keepdim``)."""

    input_idx: Union[int, str]
    dims: tuple[int, ...]
    keepdim: bool = False


@dataclasses.dataclass(frozen=True)
class Numel:
    """An int: how many elements an input has."""

    input_name: str


@dataclasses.dataclass(frozen=True)
class DimSize:
    """An int: a size of an input."""

    input_name: str
    axis: int


@dataclasses.dataclass(frozen=True)
class Elementwise:
    """A thread for each element of the first output: over all of them ("flat"), or over its last dimensions ("nd", innermost first)."""

    block: tuple[int, ...] = (256,)
    layout: str = "flat"


@dataclasses.dataclass(frozen=True)
class Reduction:
    """A block for each row of the first input: what is left of it without ``reduce_dims``."""

    reduce_dims: tuple[int, ...]
    block_size: int = 256


@dataclasses.dataclass(frozen=True)
class Custom:
    """``fn(inputs, outputs, tactic)`` gives launch parameters (and extras) as ``aot_fn`` does; see :data:`trtp`."""

    fn: Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class InputDecl:
    name: str
    dtype: Optional[torch.dtype] = None


@dataclasses.dataclass(frozen=True)
class ScalarInput:
    """A number that the kernel takes by value; ``py_type`` is float, int or bool."""

    name: str
    py_type: type


@dataclasses.dataclass(frozen=True)
class OutputDecl:
    name: str
    shape: Union[SameAs, ReduceDims]
    dtype_from: Optional[str] = None


@dataclasses.dataclass
class KernelSpec:
    kernel_source: str
    kernel_name: str
    inputs: Optional[Sequence[Union[InputDecl, ScalarInput]]] = None
    outputs: Optional[Sequence[OutputDecl]] = None
    extras: Sequence[Union[Numel, DimSize]] = ()
    geometry: Union[Elementwise, Reduction, Custom, None] = None
    include_paths: Optional[list[str]] = None
    compile_std: str = "c++17"
    arch_override: Optional[str] = None

    @property
    def tensors(self) -> list[InputDecl]:
        return [d for d in self.inputs or () if isinstance(d, InputDecl)]

    @property
    def scalars(self) -> list[ScalarInput]:
        return [d for d in self.inputs or () if isinstance(d, ScalarInput)]


# ---- Symbolic sizes, for aot_fn -----------------------------------------------------------------------------------------


class _Expression:
    """An expression of sizes, as Kiln evaluates them when shapes are known."""

    def __init__(self, text: Any) -> None:
        self.text = text.text if isinstance(text, _Expression) else str(text)

    def _with(self, other: Any, operator: str) -> _Expression:
        return _Expression(f"({self.text} {operator} {_text(other)})")

    def __add__(self, other: Any) -> _Expression:
        return self._with(other, "+")

    def __sub__(self, other: Any) -> _Expression:
        return self._with(other, "-")

    def __mul__(self, other: Any) -> _Expression:
        return self._with(other, "*")

    def __floordiv__(self, other: Any) -> _Expression:
        return self._with(other, "//")

    def __mod__(self, other: Any) -> _Expression:
        return self._with(other, "%")

    def __radd__(self, other: Any) -> _Expression:
        return _Expression(other)._with(self, "+")

    def __rsub__(self, other: Any) -> _Expression:
        return _Expression(other)._with(self, "-")

    def __rmul__(self, other: Any) -> _Expression:
        return _Expression(other)._with(self, "*")

    def __rfloordiv__(self, other: Any) -> _Expression:
        return _Expression(other)._with(self, "//")


def _text(value: Any) -> str:
    return value.text if isinstance(value, _Expression) else str(int(value))


class _Shape:
    def __init__(self, name: str) -> None:
        self._name = name

    def numel(self) -> _Expression:
        return _Expression(f"{self._name}_size")

    def __getitem__(self, axis: int) -> _Expression:
        return _Expression(_dim(self._name, axis))

    def __len__(self) -> int:
        raise NotImplementedError(
            "the number of dimensions is not known when a kernel is registered; count from the end: shape[-1]"
        )

    __iter__ = None


def _cdiv(a: Any, b: Any) -> _Expression:
    return _Expression(f"(({_text(a)} + {_text(b)} - 1) // {_text(b)})")


class _LaunchParams:
    """KernelLaunchParams: grid_x to block_z, numbers or expressions; shared_mem in bytes."""

    def __init__(self) -> None:
        self.grid_x: Any = 1
        self.grid_y: Any = 1
        self.grid_z: Any = 1
        self.block_x = self.block_y = self.block_z = 1
        self.shared_mem = 0


class _Extras(list):
    """SymIntExprs: a list of so many integers that the kernel takes."""

    def __init__(self, count: int) -> None:
        super().__init__([0] * count)


#: What ``aot_fn`` needs of ``tensorrt.plugin``: KernelLaunchParams, SymIntExprs, SymInt32 and cdiv.
trtp = SimpleNamespace(KernelLaunchParams=_LaunchParams, SymIntExprs=_Extras, SymInt32=_Expression, cdiv=_cdiv)


# ---- What Kiln is told ---------------------------------------------------------------------------------------------------


def _dim(name: str, axis: int) -> str:
    return f"{name}_dim{axis}" if axis >= 0 else f"{name}_end{-axis}"


def _ceil(size: str, by: int) -> str:
    return f"({size} + {by - 1}) // {by}"


def _elementwise(geometry: Elementwise) -> tuple[list[str], list[int]]:
    block = [int(b) for b in geometry.block]
    if geometry.layout == "flat":
        return [_ceil("out0_size", block[0])], block
    inner = [f"out0_end{i + 1}" for i in range(len(block))]
    grid = [_ceil(size, by) for size, by in zip(inner, block)] + ["1"] * (3 - len(block))
    grid[2] = f"({grid[2]}) * (out0_size // ({' * '.join(inner)}))"
    return grid, block


def _geometry(spec: KernelSpec) -> tuple[list[str], list[int], int, list[str]]:
    """Grid, block, shared memory and the kernel's extras."""
    first = spec.tensors[0].name if spec.tensors else ""
    extras = [f"int:{e.input_name}_size" if isinstance(e, Numel) else f"int:{_dim(e.input_name, e.axis)}" for e in spec.extras]
    if isinstance(spec.geometry, Elementwise):
        return (*_elementwise(spec.geometry), 0, extras)
    assert isinstance(spec.geometry, Reduction)
    reduced = " * ".join(_dim(first, axis) for axis in spec.geometry.reduce_dims)
    return [f"{first}_size // ({reduced})"], [int(spec.geometry.block_size)], 0, extras


def _launch_of(function: Callable[..., Any], tensors: Sequence[str], outputs: int) -> tuple[list[str], list[int], int, list[str]]:
    """The same from an ``aot_fn``, which is called once, with symbolic shapes."""

    def describe(name: str) -> Any:
        return SimpleNamespace(shape_expr=_Shape(name))

    result = function([describe(n) for n in tensors], [describe(f"out{i}") for i in range(outputs)], 0)
    params, extras = result if isinstance(result, tuple) else (result, None)
    grid = [_text(g) for g in (params.grid_x, params.grid_y, params.grid_z)]
    block = [int(b) for b in (params.block_x, params.block_y, params.block_z)]
    return grid, block, int(params.shared_mem), [f"int:{_text(e)}".replace(" ", "") for e in extras or ()]


_SCALARS = {float: "float", int: "int", bool: "bool"}
_HINTS = {torch.Tensor: "Tensor", float: "float", int: "int", bool: "bool", str: "str"}


def _schema(spec: KernelSpec, meta: Optional[Callable[..., Any]]) -> str:
    """ "(Tensor x, float alpha) -> Tensor" from the declarations, or from the type hints of ``meta_fn``."""
    if spec.inputs and spec.outputs:
        arguments = [f"Tensor {d.name}" if isinstance(d, InputDecl) else f"{_SCALARS[d.py_type]} {d.name}" for d in spec.inputs]
        count = len(spec.outputs)
    else:
        assert meta is not None
        hints = typing.get_type_hints(meta)
        names = list(inspect.signature(meta).parameters)
        arguments = [f"{_HINTS.get(hints.get(name, torch.Tensor), 'Tensor')} {name}" for name in names]
        result = hints.get("return", torch.Tensor)
        count = len(typing.get_args(result)) if typing.get_origin(result) is tuple else 1
    results = "Tensor" if count == 1 else f"({', '.join(['Tensor'] * count)})"
    return f"({', '.join(arguments)}) -> {results}"


def _meta(spec: KernelSpec) -> Callable[..., Any]:
    places = [i for i, d in enumerate(spec.inputs or ()) if isinstance(d, InputDecl)]
    names = [d.name for d in spec.tensors]

    def one(decl: OutputDecl, tensors: list[torch.Tensor]) -> torch.Tensor:
        source = tensors[_index(decl.shape.input_idx, names)]
        dtype = tensors[names.index(decl.dtype_from)].dtype if decl.dtype_from else source.dtype
        shape = list(source.shape)
        if isinstance(decl.shape, ReduceDims):
            gone = {d % source.ndim for d in decl.shape.dims}
            shape = [1 if d in gone else s for d, s in enumerate(shape) if d not in gone or decl.shape.keepdim]
        return torch.empty(shape, dtype=dtype, device=source.device)

    def meta(*args: Any) -> Any:
        results = tuple(one(decl, [args[i] for i in places]) for decl in spec.outputs or ())
        return results[0] if len(results) == 1 else results

    return meta


def _index(reference: Union[int, str], names: Sequence[str]) -> int:
    return names.index(reference) if isinstance(reference, str) else reference


# ---- Checks --------------------------------------------------------------------------------------------------------------


def _check(spec: KernelSpec, has_meta: bool, has_launch: bool) -> None:
    inputs, names = list(spec.inputs or ()), [d.name for d in spec.tensors]
    if not (has_meta and has_launch) and not names:
        raise ValueError("KernelSpec.inputs needs a tensor (InputDecl), unless meta_fn and aot_fn are given")
    if len({d.name for d in inputs}) != len(inputs):
        raise ValueError("KernelSpec.inputs has a name twice")
    for scalar in spec.scalars:
        if scalar.py_type not in _SCALARS:
            raise ValueError(f"ScalarInput {scalar.name!r}: py_type must be float, int or bool, got {scalar.py_type!r}")
    if not spec.outputs and not has_meta:
        raise ValueError("KernelSpec.outputs is needed, unless meta_fn is given")
    if len({d.name for d in spec.outputs or ()}) != len(spec.outputs or ()):
        raise ValueError("KernelSpec.outputs has a name twice")
    for decl in spec.outputs or ():
        reference = decl.shape.input_idx
        if reference not in names if isinstance(reference, str) else not 0 <= reference < len(names):
            raise ValueError(f"OutputDecl {decl.name!r}: {reference!r} is no tensor input; there are {names}")
        if decl.dtype_from is not None and decl.dtype_from not in names:
            raise ValueError(f"OutputDecl {decl.name!r}: dtype_from={decl.dtype_from!r} is no tensor input; there are {names}")
    for extra in spec.extras:
        if extra.input_name not in names:
            raise ValueError(f"{type(extra).__name__}({extra.input_name!r}) names no tensor input; there are {names}")
    if not has_launch:
        _check_geometry(spec.geometry)


def _check_geometry(geometry: Any) -> None:
    if geometry is None:
        raise ValueError("KernelSpec.geometry is needed, unless aot_fn is given")
    if isinstance(geometry, Elementwise):
        if geometry.layout not in ("flat", "nd"):
            raise ValueError(f"Elementwise.layout must be 'flat' or 'nd', got {geometry.layout!r}")
        if not 1 <= len(geometry.block) <= (1 if geometry.layout == "flat" else 3) or min(geometry.block) < 1:
            raise ValueError(f"Elementwise.block must be 1 (flat) or 1 to 3 (nd) positive numbers, got {geometry.block!r}")
    elif isinstance(geometry, Reduction):
        if geometry.block_size < 1 or not geometry.reduce_dims:
            raise ValueError("Reduction needs reduce_dims and a positive block_size")
    elif not isinstance(geometry, Custom) or not callable(geometry.fn):
        raise TypeError(f"KernelSpec.geometry must be Elementwise, Reduction or Custom(function), got {geometry!r}")


# ---- Entry points --------------------------------------------------------------------------------------------------------

_libraries: list[torch.library.Library] = []  # PyTorch forgets operators with their library


def cuda_kernel_op(
    op_name: str,
    spec: KernelSpec,
    *,
    meta_fn: Optional[Callable[..., Any]] = None,
    eager_fn: Optional[Callable[..., Any]] = None,
    aot_fn: Optional[Callable[..., Any]] = None,
    schema: Optional[str] = None,
    supports_dynamic_shapes: bool = True,
    requires_output_allocator: bool = False,
    priority: ConverterPriority = ConverterPriority.STANDARD,
    capability_validator: Optional[Callable[..., Any]] = None,
) -> None:
    """Registers a CUDA kernel as PyTorch operator ``op_name`` ("mine::relu") and as a custom operator of Kiln.

    Args:
        op_name: namespace and name; an operator that PyTorch has already only gets the kernel.
        spec: source, inputs, outputs, extras and launch geometry.
        meta_fn: shapes and types of the results, instead of ``spec.outputs``.
        eager_fn: what PyTorch runs on CUDA tensors; None: an engine of this operator alone.
        aot_fn: ``(inputs, outputs, tactic) -> (launch parameters, extras)``, instead of ``spec.geometry``; uses :data:`trtp`.
        schema: "(Tensor x, float alpha) -> Tensor"; None: from the spec, or the type hints of ``meta_fn``.
        supports_dynamic_shapes, requires_output_allocator, priority, capability_validator: accepted; not needed.
    """
    launch = aot_fn or (spec.geometry.fn if isinstance(spec.geometry, Custom) else None)
    _check(spec, meta_fn is not None, launch is not None)
    full = schema or _schema(spec, meta_fn)
    space, _, name = op_name.partition("::")
    if not space.isidentifier() or not name.isidentifier():
        raise ValueError(f"op_name must be like 'mine::relu', got {op_name!r}")
    if not hasattr(getattr(torch.ops, space), name):
        _define(space, name, full, meta_fn or _meta(spec), eager_fn)
    overload = extend.overload_of(op_name)
    tensors = [a.name for a in overload._schema.arguments if str(a.type) == "Tensor"]
    others = [a for a in overload._schema.arguments if str(a.type) != "Tensor"]
    outputs = len(overload._schema.returns)
    grid, block, shared, extras = _launch_of(launch, tensors, outputs) if launch else _geometry(spec)
    arguments = [*tensors, *[f"{a.type}:{a.name}" for a in others], *extras, *[f"out{i}" for i in range(outputs)]]
    extend.register_cuda_kernel(
        overload,
        spec.kernel_source,
        kernel=spec.kernel_name,
        arguments=" ".join(arguments),
        grid=grid,
        block=block,
        shared=shared,
        dtypes="any",
    )


def _define(space: str, name: str, schema: str, meta: Callable[..., Any], eager: Optional[Callable[..., Any]]) -> None:
    library = torch.library.Library(space, "FRAGMENT")
    library.define(f"{name}{schema}")
    library.impl(name, eager or _Eager(f"{space}::{name}"), "CUDA")
    torch.library.register_fake(f"{space}::{name}", meta, lib=library)
    _libraries.append(library)


class _Eager:
    """The operator on CUDA tensors: an engine that computes it alone, kept for these shapes and numbers."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.engines: dict[Any, Any] = {}
        self.lock = threading.Lock()

    def __call__(self, *args: Any) -> Any:
        import kiln

        key = tuple((tuple(a.shape), a.dtype, a.device) if isinstance(a, torch.Tensor) else a for a in args)
        with self.lock:
            if key not in self.engines:
                if len(self.engines) == 64:
                    self.engines.clear()
                device = next(a.device for a in args if isinstance(a, torch.Tensor))
                call = _Call(self.name, args)
                examples = [torch.empty(a.shape, dtype=a.dtype) for a in args if isinstance(a, torch.Tensor)]
                self.engines[key] = kiln.compile(call, examples, target=str(device))
            engine = self.engines[key]
        return engine(*[a for a in args if isinstance(a, torch.Tensor)])


class _Call(torch.nn.Module):
    def __init__(self, name: str, args: Sequence[Any]) -> None:
        super().__init__()
        self.op = extend.overload_of(name)
        self.args = [None if isinstance(a, torch.Tensor) else a for a in args]
        self.places = [i for i, a in enumerate(args) if isinstance(a, torch.Tensor)]
        self.training = False

    def forward(self, *tensors: torch.Tensor) -> Any:
        args = list(self.args)
        for i, tensor in zip(self.places, tensors):
            args[i] = tensor
        return self.op(*args)


def ptx_op(
    op_name: str,
    ptx: Union[str, bytes],
    kernel_name: str,
    meta_fn: Callable[..., Any],
    eager_fn: Optional[Callable[..., Any]],
    aot_fn: Callable[..., Any],
    *,
    supports_dynamic_shapes: bool = False,
    requires_output_allocator: bool = False,
    priority: ConverterPriority = ConverterPriority.STANDARD,
    capability_validator: Optional[Callable[..., Any]] = None,
    schema: Optional[str] = None,
) -> None:
    """Registers a kernel that is compiled already, as :func:`cuda_kernel_op` does one that is text.

    Args:
        op_name: namespace and name; an operator that PyTorch has already only gets the kernel.
        ptx: PTX (text or bytes), a cubin or a fatbin; the driver takes it as it is.
        kernel_name: of the kernel in it. Its parameters: pointers of the tensor inputs, scalars, extras, pointers of the outputs.
        meta_fn: shapes and types of the results.
        eager_fn: what PyTorch runs on CUDA tensors; None: an engine of this operator alone.
        aot_fn: ``(inputs, outputs, tactic) -> (launch parameters, extras)``; uses :data:`trtp`.
        schema: "(Tensor x, float alpha) -> Tensor"; None: from the type hints of ``meta_fn``.
        supports_dynamic_shapes, requires_output_allocator, priority, capability_validator: accepted; not needed.
    """
    values = {"ptx": ptx, "kernel_name": kernel_name, "meta_fn": meta_fn, "eager_fn": eager_fn, "aot_fn": aot_fn}
    checks.check_all("ptx_op", values, _PTX_RULES)
    code = ptx.encode() if isinstance(ptx, str) else bytes(ptx)
    spec = KernelSpec(kernel_source=code, kernel_name=kernel_name)  # type: ignore[arg-type]
    cuda_kernel_op(op_name, spec, meta_fn=meta_fn, eager_fn=eager_fn, aot_fn=aot_fn, schema=schema)


_PTX_RULES = {
    "ptx": checks.instance((str, bytes, bytearray), "PTX text, or the bytes of PTX, a cubin or a fatbin"),
    "kernel_name": checks.TEXT,
    "meta_fn": checks.CALLABLE,
    "eager_fn": checks.optional(checks.CALLABLE),
    "aot_fn": checks.CALLABLE,
}
