"""Custom converters in torch2trt's style: ``@tensorrt_converter("torch.nn.functional.relu")``.

While torch.export traces the model, each named function is wrapped: it runs as always, then the converter is called with a context
whose ``network`` builds the replacement, and whatever the converter puts on ``output._trt`` takes the place of the result.
Operators that nobody registered a converter for need none: Kiln knows them.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional, Union

import torch
from torch.utils import _pytree as pytree

from kiln.torch2trt import trt
from kiln.torch2trt.network import ITensor, Network
from kiln.torch2trt.traced_arrays import arrays_of_traced_tensors

__all__ = [
    "CONVERTERS",
    "ConversionContext",
    "add_missing_trt_tensors",
    "add_trt_constant",
    "broadcast_trt_tensors",
    "check_torch_dtype",
    "get_arg",
    "get_conversion_context",
    "tensorrt_converter",
    "torch_dim_resolve_negative",
    "torch_dim_to_trt_axes",
    "torch_dtype_from_trt",
    "torch_dtype_to_trt",
    "trt_",
]

CONVERTERS: dict[Any, dict[str, Any]] = {}
_contexts: list[ConversionContext] = []  # those in effect, innermost last


def tensorrt_converter(
    method: Union[str, Callable[..., Any]], is_real: bool = True, enabled: bool = True, imports: Sequence[str] = ()
) -> Callable[[Callable[[ConversionContext], Any]], Callable[[ConversionContext], Any]]:
    """Registers a converter for a function or method, given as a dotted name ("torch.nn.ReLU.forward").

    Args:
        method: what is replaced.
        is_real: False calls the converter without replacing the result.
        enabled: False registers nothing.
        imports: modules to import before the name is looked up.
    """

    def register(converter: Callable[[ConversionContext], Any]) -> Callable[[ConversionContext], Any]:
        if enabled:
            CONVERTERS[method] = {"converter": converter, "is_real": is_real, "imports": list(imports)}
        return converter

    return register


class ConversionContext:
    """What a converter sees of the call that it converts.

    Attributes:
        network: where layers are added.
        method_args, method_kwargs, method_return: of the call; tensors have ``_trt``.
        method_str: name of the method.
        torch2trt_kwargs: all arguments of ``torch2trt``, by name.
        builder_config: accepts any attribute; there is nothing to configure.
    """

    def __init__(self, network: Optional[Network] = None, torch2trt_kwargs: Optional[dict[str, Any]] = None) -> None:
        self.network = network or Network()
        self.torch2trt_kwargs = torch2trt_kwargs or {}
        self.builder_config = _Anything()
        self.method_args: tuple[Any, ...] = ()
        self.method_kwargs: dict[str, Any] = {}
        self.method_return: Any = None
        self.method_str = ""
        self.lock = False
        self.targets: dict[Any, tuple[Any, str]] = {}
        self._modules: list[tuple[str, torch.nn.Module]] = []

    def current_module_name(self) -> str:
        """The dotted name of the module whose forward runs, "" in the outermost one."""
        return self._modules[-1][0] if self._modules else ""

    def current_module(self) -> Optional[torch.nn.Module]:
        return self._modules[-1][1] if self._modules else self.torch2trt_kwargs.get("module")

    def get_module_name(self, module: torch.nn.Module) -> Optional[str]:
        whole = self.torch2trt_kwargs.get("module")
        names = {id(child): name for name, child in whole.named_modules()} if whole is not None else {}
        return names.get(id(module), next((name for name, child in self._modules if child is module), None))

    def watch(self, module: torch.nn.Module) -> Iterator[Any]:
        """Hooks by which the context knows which module runs."""
        for name, child in module.named_modules():
            yield child.register_forward_pre_hook(lambda own, _, name=name: self._modules.append((name, own)))  # type: ignore[misc]
            yield child.register_forward_hook(lambda *_: self._leave(), always_call=True)

    def _leave(self) -> None:
        if self._modules:
            self._modules.pop()

    def current_device_type(self) -> Any:
        return trt.DeviceType.GPU


class _Anything:
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


_noted: set[str] = set()


def _note(text: str) -> None:
    if text not in _noted:
        _noted.add(text)
        warnings.warn(text, stacklevel=4)


def get_conversion_context() -> Optional[ConversionContext]:
    return _contexts[-1] if _contexts else None


def _locate(name: Any, imports: Sequence[str]) -> tuple[Any, str]:
    """The object that holds a dotted name, and its last part. A part that is not there raises AttributeError."""
    if not isinstance(name, str):
        name = f"{name.__module__}.{name.__qualname__}"
    for module in imports:
        importlib.import_module(module)
    parts = name.split(".")
    for count in range(len(parts) - 1, 0, -1):
        try:
            owner = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:-1]:
            owner = getattr(owner, part)
        getattr(owner, parts[-1])
        return owner, parts[-1]
    raise ImportError(f"converter for {name}: no such function")


def _with_trt(value: Any) -> None:
    for leaf in pytree.tree_leaves(value):
        if isinstance(leaf, torch.Tensor) and not hasattr(leaf, "_trt"):
            leaf._trt = ITensor(leaf)  # type: ignore[attr-defined]


def _wrap(context: ConversionContext, name: str, original: Any, entry: dict[str, Any]) -> Callable[..., Any]:
    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if context.lock:
            return original(*args, **kwargs)
        context.lock = True  # what a converted function calls is replaced with it
        try:
            # On copies, so that converters see what went in where the function writes to it, and what comes out is another tensor.
            copies: list[tuple[torch.Tensor, torch.Tensor, int]] = []

            def copy_of(leaf: Any) -> Any:
                if not isinstance(leaf, torch.Tensor) or isinstance(leaf, torch.nn.Parameter):
                    return leaf
                copied = leaf.clone()
                copies.append((leaf, copied, copied._version))
                return copied

            result = original(*pytree.tree_map(copy_of, args), **pytree.tree_map(copy_of, kwargs))
            written = {id(copied): leaf for leaf, copied, version in copies if copied._version != version}
            _with_trt((args, kwargs))
            context.method_args, context.method_kwargs = args, kwargs
            context.method_return, context.method_str = result, name
            entry["converter"](context)
            for leaf in pytree.tree_leaves(result):  # layers compute now, when the functions that they use are the original ones
                if getattr(leaf, "_trt", None) is not None:
                    _ = leaf._trt.value
        finally:
            context.lock = False
        if not entry["is_real"]:
            return original(*args, **kwargs)

        def replace(leaf: Any) -> Any:
            made = getattr(leaf, "_trt", None)
            if not isinstance(leaf, torch.Tensor) or made is None:
                return leaf
            value = made.value
            if [size for size in value.shape if size != 1] != [size for size in leaf.shape if size != 1]:
                raise ValueError(f"converter for {name}: made {tuple(value.shape)}, the function gives {tuple(leaf.shape)}")
            if value.ndim != leaf.ndim:  # TensorRT has no tensors without dimensions
                value = value.reshape(leaf.shape)
            return written[id(leaf)].copy_(value) if id(leaf) in written else value

        return pytree.tree_map(replace, result)

    return wrapper


@contextlib.contextmanager
def converting(torch2trt_kwargs: dict[str, Any]) -> Iterator[ConversionContext]:
    """A context for :func:`replacing`."""
    context = ConversionContext(torch2trt_kwargs=torch2trt_kwargs)
    for name, entry in CONVERTERS.items():
        try:
            context.targets[name] = _locate(name, entry["imports"])
        except AttributeError as error:  # of another version of PyTorch: nobody calls it
            _note(f"torch2trt: the converter for {name} is not used: {error}")
    _contexts.append(context)
    try:
        yield context
    finally:
        _contexts.pop()


@contextlib.contextmanager
def replacing(module: torch.nn.Module) -> Iterator[None]:
    """Registered converters are in effect, for calls of ``module``."""
    context = get_conversion_context()
    if context is None or not context.targets:
        yield
        return
    saved: list[tuple[Any, str, Any, bool]] = []
    stack = contextlib.ExitStack()
    stack.enter_context(arrays_of_traced_tensors())  # converters hand weights over as `weight.detach().cpu().numpy()`
    torch.SymInt._trt = property(lambda size: ITensor(sizes=[size]))  # type: ignore[attr-defined]
    hooks = list(context.watch(module))
    try:
        for name, (owner, attribute) in context.targets.items():
            original = getattr(owner, attribute)
            saved.append((owner, attribute, original, attribute in vars(owner)))
            setattr(owner, attribute, _wrap(context, str(name), original, CONVERTERS[name]))
        yield
    finally:
        for owner, attribute, original, own in reversed(saved):
            if own:
                setattr(owner, attribute, original)
            else:
                delattr(owner, attribute)
        for hook in hooks:
            hook.remove()
        stack.close()
        del torch.SymInt._trt  # type: ignore[attr-defined]


# ---- Helpers that converters are written with ---------------------------------------------------------------------------


def get_arg(ctx: ConversionContext, name: str, pos: int, default: Any) -> Any:
    """An argument of the converted call, by name or position."""
    if name in ctx.method_kwargs:
        return ctx.method_kwargs[name]
    return ctx.method_args[pos] if len(ctx.method_args) > pos else default


def add_trt_constant(network: Network, tensor: torch.Tensor) -> ITensor:
    return network.add_constant(tuple(tensor.shape), tensor.detach()).get_output(0)


def add_missing_trt_tensors(network: Network, tensors: Sequence[Any]) -> list[ITensor]:
    """ITensors of tensors and numbers; numbers get the dtype of the first tensor."""
    first = next((t for t in tensors if isinstance(t, torch.Tensor)), None)
    dtype = first.dtype if first is not None else torch.float32
    result: list[ITensor] = []
    for item in tensors:
        if isinstance(item, ITensor):
            result.append(item)
        elif isinstance(item, torch.Tensor):
            _with_trt(item)
            result.append(item._trt)  # type: ignore[attr-defined]
        elif hasattr(item, "_trt"):  # a size
            result.append(item._trt)
        else:
            result.append(ITensor(torch.tensor(item, dtype=dtype if not isinstance(item, bool) else torch.bool)))
    return result


def broadcast_trt_tensors(network: Network, trt_tensors: Sequence[ITensor], broadcast_ndim: int) -> list[ITensor]:
    """Puts axes of size 1 in front up to a number of dimensions."""
    result = []
    for tensor in trt_tensors:
        shape = tuple(tensor.shape)
        if len(shape) < broadcast_ndim:
            layer = network.add_shuffle(tensor)
            layer.reshape_dims = (1,) * (broadcast_ndim - len(shape)) + shape  # type: ignore[attr-defined]
            tensor = layer.get_output(0)
        result.append(tensor)
    return result


def trt_(network: Network, *tensors: Any) -> Any:
    """ITensors of the arguments, broadcast to one number of dimensions."""
    made = add_missing_trt_tensors(network, tensors)
    made = broadcast_trt_tensors(network, made, max(len(t.shape) for t in made))
    return made[0] if len(made) == 1 else tuple(made)


def torch_dim_resolve_negative(dim: Any, ndim: int) -> tuple[int, ...]:
    dims = tuple(dim) if isinstance(dim, (tuple, list)) else (dim,)
    return tuple(d + ndim if d < 0 else d for d in dims)


def torch_dim_to_trt_axes(dim: Any, ndim: Optional[int] = None) -> int:
    """A bit for each axis."""
    dims = dim if isinstance(dim, (tuple, list)) else (dim,)
    if any(d < 0 for d in dims):
        if ndim is None:
            raise ValueError("negative axes need ndim")
        dims = torch_dim_resolve_negative(dims, ndim)
    return functools.reduce(lambda mask, d: mask | 1 << d, dims, 0)


def torch_dtype_to_trt(dtype: torch.dtype) -> trt.DataType:
    return trt.DataType(dtype)


def torch_dtype_from_trt(dtype: trt.DataType) -> torch.dtype:
    return dtype.value


def check_torch_dtype(*tensors: Any) -> torch.dtype:
    """The common dtype of the tensors among the arguments."""
    found = {tensor.dtype for tensor in tensors if isinstance(tensor, torch.Tensor)}
    if len(found) != 1:
        raise ValueError(f"expected tensors of one dtype, got {sorted(map(str, found))}")
    return found.pop()
