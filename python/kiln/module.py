"""kiln.CompiledModule: an engine that is called like the model it was made from."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any, Callable, Optional, Union

import torch
from torch.utils import _pytree as pytree

from kiln._kiln import KilnError, call_directly
from kiln.engine import Engine, TensorInfo

__all__ = ["CompiledModule", "load", "save"]


def _error(text: str, status: str = "KILN_INVALID_ARGUMENT") -> KilnError:
    error = KilnError(text)
    error.status = status
    return error


def _load_treespec(text: str) -> Optional[pytree.TreeSpec]:
    """The nesting that the export recorded; None if it has classes that cannot be imported here."""
    for attempt in range(2):
        try:
            return pytree.treespec_loads(text)
        except Exception:
            if attempt:
                return None
            # Classes such as the outputs of `transformers` register themselves when their module is imported.
            for name in _class_names(json.loads(text)):
                try:
                    importlib.import_module(name.rpartition(".")[0])
                except Exception:
                    continue
    return None


def _class_names(node: Any) -> set[str]:
    names: set[str] = set()
    if isinstance(node, list):
        for item in node:
            names |= _class_names(item)
    elif isinstance(node, dict):
        if isinstance(node.get("type"), str) and "." in node["type"]:
            names.add(node["type"])
        names |= _class_names(node.get("children_spec", []))
    return names


class _Interface:
    """How forward's arguments become the engine's inputs, and its outputs become forward's result."""

    def __init__(self, engine: Engine) -> None:
        n_in, n_out = len(engine.inputs), len(engine.outputs)
        self.n_in = n_in
        text = engine.metadata("torch.inputs")
        self.inputs: list[dict[str, Any]] = (
            json.loads(text) if text else [{"name": info.name, "tensor": i} for i, info in enumerate(engine.inputs)]
        )
        text = engine.metadata("torch.outputs")
        self.outputs: list[dict[str, Any]] = json.loads(text) if text else [{"tensor": i} for i in range(n_out)]
        text = engine.metadata("torch.mutated_inputs")
        self.mutated: list[dict[str, int]] = json.loads(text) if text else []
        text = engine.metadata("torch.in_spec")
        self.in_spec = _load_treespec(text) if text else None
        text = engine.metadata("torch.out_spec")
        self.out_spec = _load_treespec(text) if text else None
        text = engine.metadata("torch.arg_names")
        names = json.loads(text) if text else None
        self.n_positional = len(self.inputs)
        self.keywords: list[str] = []
        if self.in_spec is not None:
            args_spec, kwargs_spec = self.in_spec.children()
            self.n_positional = args_spec.num_children
            self.keywords = list(kwargs_spec.context or [])
        self.names: list[Optional[str]] = [None] * self.n_positional
        if names and len(names) >= self.n_positional:
            self.names = list(names[: self.n_positional])
        elif self.in_spec is None:
            self.names = [item["name"] for item in self.inputs]

    # -- the form that the C call path takes --

    def form(self) -> Optional[tuple[tuple[Optional[str], ...], tuple[Any, ...], Any, Optional[Callable[..., Any]]]]:
        """What :meth:`kiln.Engine.runner` takes as a form; None where only Python can make the engine's inputs, or must do more than
        to run it."""
        if self.mutated:
            return None
        arguments = _form_of(self._argument_specs(), self.inputs, _argument_form)
        if arguments is None or len(_numbers(arguments)) != self.n_in:
            return None
        names: list[Optional[str]] = [None] * len(arguments)
        if self.in_spec is not None:
            names = [*self.names, *self.keywords]
        specs = [None] * len(self.outputs) if self.out_spec is None else [self.out_spec]
        results = _form_of(specs, self.outputs, _result_form)
        if results is None:
            return tuple(names), arguments, None, self.unflatten
        return tuple(names), arguments, results[0] if len(results) == 1 else results, None

    def _argument_specs(self) -> list[Any]:
        if self.in_spec is None:
            return [None] * len(self.inputs)
        args_spec, kwargs_spec = self.in_spec.children()
        return [*args_spec.children(), *kwargs_spec.children()]

    # -- arguments --

    def flatten(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        """One leaf for each entry of self.inputs."""
        if self.in_spec is None:
            if kwargs or len(args) != len(self.inputs):
                raise _error(f"expected {len(self.inputs)} tensors, got {len(args)} and {len(kwargs)} keyword arguments")
            return list(args)
        formals = [*self.names, *self.keywords]
        if len(args) > len(formals):
            raise _error(f"expected at most {len(formals)} arguments ({self._describe()}), got {len(args)}")
        given: list[Any] = [*args] + [_MISSING] * (len(formals) - len(args))
        for name, value in kwargs.items():
            if name not in formals:
                raise _error(f"argument '{name}' was not given when the model was compiled; compiled arguments: {self._describe()}")
            at = formals.index(name)
            if given[at] is not _MISSING:
                raise _error(f"argument '{name}' is given twice")
            given[at] = value
        args_spec, kwargs_spec = self.in_spec.children()
        leaves: list[Any] = []
        for name, spec, value in zip(formals, [*args_spec.children(), *kwargs_spec.children()], given):
            expected = self.inputs[len(leaves) : len(leaves) + spec.num_leaves]
            if value is _MISSING:
                if any("tensor" in item for item in expected):
                    raise _error(f"argument '{name}' is missing; compiled arguments: {self._describe()}")
                leaves += [item.get("value") for item in expected]
                continue
            found, structure = pytree.tree_flatten(value)
            if structure != spec:
                raise _error(
                    f"argument '{name}' is nested differently than when the model was compiled: expected {spec}, got {structure}"
                )
            leaves += found
        return leaves

    def _describe(self) -> str:
        return ", ".join(str(name) for name in [*self.names, *self.keywords])

    def tensors(self, leaves: list[Any]) -> list[Any]:
        """The engine's inputs; checks the leaves that the export baked in."""
        tensors: list[Any] = []
        for item, leaf in zip(self.inputs, leaves):
            if "tensor" in item:
                if leaf.__class__ in (int, float, bool):  # a symbolic number of the export
                    leaf = torch.tensor(leaf, dtype=torch.int64 if leaf.__class__ is int else None)
                tensors.append(leaf)
            elif not _same_constant(leaf, item.get("value")):
                raise _error(
                    f"argument '{item['name']}' is {leaf!r}, but it was {item.get('value')!r} when the model was compiled and is "
                    "baked in; compile again for another value"
                )
        return tensors

    # -- results --

    def unflatten(self, outputs: tuple[Any, ...]) -> Any:
        leaves = [_output_leaf(item, outputs) for item in self.outputs]
        if self.out_spec is not None:
            return pytree.tree_unflatten(leaves, self.out_spec)
        return leaves[0] if len(leaves) == 1 else tuple(leaves)


@contextlib.contextmanager
def _among(leaves: list[Any]) -> Iterator[None]:
    """The engine's own tensor may go with fake tensors."""
    modes = {mode for leaf in leaves if (mode := getattr(leaf, "fake_mode", None)) is not None}
    before = [(mode, mode.allow_non_fake_inputs) for mode in modes]
    for mode in modes:
        mode.allow_non_fake_inputs = True
    try:
        yield
    finally:
        for mode, value in before:
            mode.allow_non_fake_inputs = value


class _NoForm(Exception):
    """Not what tuples, lists and dicts of tensors and None can tell."""


def _argument_form(item: dict[str, Any]) -> Any:
    if "tensor" in item:
        return item["tensor"]
    value = item.get("value")
    if type(value) is int and abs(value) < 2**53:
        return float(value)  # equal, and no tensor's number
    if value is None or type(value) in (float, bool, str):
        return value
    raise _NoForm


def _result_form(item: dict[str, Any]) -> Any:
    if "tensor" in item:
        return item["tensor"]
    if any(kind in item for kind in ("int", "float", "bool")) or item.get("value") is not None:
        raise _NoForm
    return None


def _spec_form(spec: Any, leaves: Iterator[dict[str, Any]], leaf: Callable[[dict[str, Any]], Any]) -> Any:
    if spec is None or spec.is_leaf():
        item = next(leaves, None)
        if item is None:
            raise _NoForm
        return leaf(item)
    children = [_spec_form(child, leaves, leaf) for child in spec.children()]
    if spec.type is tuple:
        return tuple(children)
    if spec.type is list:
        return children
    if spec.type is dict and all(type(key) is str for key in spec.context):
        return dict(zip(spec.context, children))
    raise _NoForm


def _form_of(specs: list[Any], items: list[dict[str, Any]], leaf: Callable[[dict[str, Any]], Any]) -> Optional[tuple[Any, ...]]:
    """One form for each spec, whose leaves are ``items``; None: there is none."""
    leaves = iter(items)
    try:
        forms = tuple(_spec_form(spec, leaves, leaf) for spec in specs)
    except _NoForm:
        return None
    return forms if next(leaves, None) is None else None


def _numbers(form: Any) -> list[int]:
    if isinstance(form, (tuple, list)):
        return [number for child in form for number in _numbers(child)]
    if isinstance(form, dict):
        return _numbers(list(form.values()))
    return [form] if type(form) is int else []


_MISSING = object()
_PARAMETER = inspect.Parameter


def _stands_in(leaf: Any) -> bool:
    """A tensor without memory, with which something finds out about shapes."""
    kind = type(leaf)
    return (
        kind not in (torch.Tensor, torch.nn.Parameter)
        and isinstance(leaf, torch.Tensor)
        and kind.__torch_dispatch__ is not torch.Tensor.__torch_dispatch__
    )


def _same_constant(given: Any, baked: Any) -> bool:
    if given is None or baked is None or isinstance(given, torch.Tensor):
        return given is None and baked is None
    if isinstance(given, (torch.dtype, torch.device, torch.layout)):
        return True  # not kept in the file; the export has used it
    return given == baked


def _output_leaf(item: dict[str, Any], outputs: tuple[Any, ...]) -> Any:
    if "tensor" in item:
        return outputs[item["tensor"]]
    for kind in ("int", "float", "bool"):
        if kind in item:
            return outputs[item[kind]].item()
    return item.get("value")


def _make_runner(engine: Engine, threads: int, fallback: Callable[..., Any], form: Any) -> tuple[Any, bool]:
    """A runner, and whether it takes a module's arguments: damaged metadata can tell of forms that the engine does not have."""
    if form is not None:
        try:
            return engine.runner(threads=threads, fallback=fallback, form=form), True
        except ValueError:
            pass
    return engine.runner(threads=threads), False


class CompiledModule(torch.nn.Module):
    """A compiled model, called like the original.

    Arguments may nest as they did when the model was compiled; tensors must be on the CPU, with the dtypes and within the shape
    ranges that :attr:`inputs` tells, and may have any strides. Results nest as the original's, are new tensors, and never require
    grad: passing a tensor that requires grad outside ``torch.no_grad()`` raises :class:`kiln.KilnError`.

    Several threads may call one module at once. A model with mutated buffers keeps their values per concurrent caller; call it
    from one thread, and :meth:`reset` puts them back.

    It can be pickled and deep-copied; :func:`kiln.save` writes the engine file.
    """

    def __init__(self, engine: Engine, threads: Optional[int] = None) -> None:
        super().__init__()
        self.engine = engine
        self.threads = threads
        self._profile: Optional[int] = None
        self._lenient = False
        self._interface = _Interface(engine)
        # Where arguments and results are tensors, maybe nested, calls go straight to C, which comes back to _call for all other cases.
        self._runner, direct = _make_runner(engine, threads or 0, self._call, self._interface.form())
        self.forward = self._runner if direct else self._call
        self.training = False
        self.__dict__["_operators"] = None  # not a child: it is made when something traces
        call_directly(type(self))  # again each time: tools that replace nn.Module.__call__ for a while undo it

    def _call(self, *args: Any, **kwargs: Any) -> Any:
        if torch.jit.is_tracing() or torch.compiler.is_compiling():
            return self._traceable()(*args, **kwargs)
        interface = self._interface
        leaves = interface.flatten(args, kwargs)
        if any(map(_stands_in, leaves)):
            with _among(leaves):
                return self._traceable()(*args, **kwargs)
        tensors = interface.tensors(leaves)
        outputs = self._runner.run(tensors)
        for pair in interface.mutated:
            tensors[pair["input"]].copy_(outputs[pair["output"]])
        return interface.unflatten(outputs)

    def _slow_forward(self, *args: Any, **kwargs: Any) -> Any:
        # nn.Module calls this instead of forward under torch.jit.trace, which cannot see calls into C.
        return self._call(*args, **kwargs)

    def _traceable(self) -> torch.nn.Module:
        """The same as calls of PyTorch operators, which traces and exports record."""
        # An export puts attributes back that it finds changed, and takes those that it finds for fake ones of its own: it gets a new one.
        exporting = torch.compiler.is_exporting()
        if self._operators is None or exporting:
            from torch.utils._python_dispatch import _disable_current_modes

            from kiln.script import embed_engine

            tracing = torch._C._get_tracing_state()
            torch._C._set_tracing_state(None)
            try:
                with _disable_current_modes():
                    made = embed_engine(self.engine, script=False)
            finally:
                torch._C._set_tracing_state(tracing)
            if exporting:
                return made
            self.__dict__["_operators"] = made
        return self._operators

    @property
    def lenient(self) -> bool:
        """True: tensors that require grad are taken, and ``train()`` does nothing, as with Torch-TensorRT's modules. Default: False."""
        return self._lenient

    @lenient.setter
    def lenient(self, value: bool) -> None:
        self._lenient = bool(value)
        self._runner.set_lenient(self._lenient)

    @property
    def graph(self) -> str:
        """The engine's graph as a text."""
        return self.engine.report("graph")

    @property
    def call_signature(self) -> inspect.Signature:
        """The parameters of a call."""
        names = [*self._interface.names, *self._interface.keywords]
        kinds = [_PARAMETER.POSITIONAL_OR_KEYWORD] * len(self._interface.names) + [_PARAMETER.KEYWORD_ONLY] * len(names)
        if all(isinstance(name, str) and name.isidentifier() for name in names) and len(set(names)) == len(names):
            return inspect.Signature([inspect.Parameter(str(name), kind) for name, kind in zip(names, kinds)])
        return inspect.Signature(
            [inspect.Parameter("args", _PARAMETER.VAR_POSITIONAL), inspect.Parameter("kwargs", _PARAMETER.VAR_KEYWORD)]
        )

    def refit(self, weights: Any, *, strict: bool = True) -> CompiledModule:
        """Gives the module other weights, in place: see :meth:`kiln.Engine.refit`. Copies of the module share its engine, and so its
        weights.

        Returns:
            The module itself.
        """
        self.engine.refit(weights, strict=strict)
        self.__dict__["_operators"] = None
        return self

    @property
    def inputs(self) -> list[TensorInfo]:
        """The engine's tensor inputs, flattened."""
        return self.engine.inputs

    @property
    def outputs(self) -> list[TensorInfo]:
        """The engine's tensor outputs, flattened."""
        return self.engine.outputs

    def run_into(self, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """One call with the engine's flat inputs (see :attr:`inputs`) that writes into ``outputs``, tensors of the caller of the right
        shapes and types, instead of new ones. Nothing is allocated, which also keeps calls with many outputs short."""
        self._runner.run_into(inputs, outputs)

    @property
    def optimization_profiles(self) -> list[list[TensorInfo]]:
        """The inputs of each optimization profile that the module was compiled with."""
        return self.engine.optimization_profiles

    @property
    def active_profile_index(self) -> Optional[int]:
        """The profile that :meth:`set_active_profile_index` chose; None: each call takes the one that fits best."""
        return self._profile

    @property
    def last_profile_index(self) -> Optional[int]:
        """The profile that the last call took; None before the first."""
        last = self._runner.last_profile()
        return None if last < 0 else last

    def set_active_profile_index(self, index: Optional[int]) -> None:
        """Calls take this optimization profile from now on, and refuse sizes outside of it. None: of the profiles that contain a call's
        sizes the one whose opt sizes are nearest."""
        number = -1 if index is None else int(index)
        self._runner.set_profile(number)
        self._profile = index

    def memory(self) -> dict[str, int]:
        """Bytes of weights (shared by all callers), arena and state of one caller."""
        return self._runner.memory()

    def reset(self) -> None:
        """Puts mutated buffers back to their values in the model."""
        self._runner.reset()

    def profile(self, *args: Any, runs: int = 5, **kwargs: Any) -> list[dict[str, Any]]:
        """Calls the module ``runs`` times with a clock around each step; returns the steps with their mean seconds."""
        self(*args, **kwargs)
        self._runner.profile(True)
        for _ in range(runs):
            self(*args, **kwargs)
        steps = self._runner.profile(False) or []
        return [{**step, "seconds": step["seconds"] / runs} for step in steps]

    def train(self, mode: bool = True) -> CompiledModule:
        """A compiled module has no training mode: ``train(True)`` raises KilnError."""
        if mode and not self.lenient:
            raise _error("a compiled module computes inference only and cannot be trained; train the original model")
        return self

    def extra_repr(self) -> str:
        ins = ", ".join(f"{i.name}: {i.dtype}{list(i.max_shape)}" for i in self.engine.inputs)
        return f"target={self.engine.target}, inputs=({ins})"

    def __deepcopy__(self, memo: dict[int, Any]) -> CompiledModule:
        return _like(CompiledModule(self.engine, self.threads), self.lenient)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (self.engine.serialize(), self.threads, self.lenient))


def _like(module: CompiledModule, lenient: bool) -> CompiledModule:
    if lenient:
        module.lenient = True
    return module


def _rebuild(data: bytes, threads: Optional[int], lenient: bool = False) -> CompiledModule:
    return _like(CompiledModule(Engine.load(data), threads), lenient)


def save(module: Union[CompiledModule, Engine], path: Union[str, os.PathLike[str]]) -> None:
    """Writes an engine file. ``path`` is either the old file or the complete new one.

    Raises:
        KilnError: the operating system refused; nothing half-written is left.
    """
    engine = module.engine if isinstance(module, CompiledModule) else module
    if not isinstance(engine, Engine):
        raise TypeError(f"module must be a kiln.CompiledModule or kiln.Engine, got {type(module).__name__}")
    engine.save(path)


def load(source: Union[str, os.PathLike[str], bytes, bytearray], *, threads: Optional[int] = None) -> CompiledModule:
    """Opens an engine file (mapped: weights are paged in on demand), or the bytes of one.

    Args:
        source: path, or bytes of :meth:`kiln.Engine.serialize`.
        threads: how many threads one call may use; None is one per core.

    Raises:
        KilnError: the file is missing, damaged, or of a newer version of the format.
    """
    engine = Engine.load(source) if isinstance(source, (bytes, bytearray)) else Engine.open(source)
    return CompiledModule(engine, threads)
