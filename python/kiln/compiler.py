"""kiln.compile: from a live model to a CompiledModule.

The model is captured by ``torch.export`` and handed to the C library as the bytes of a .pt2 file: the same importer reads files
and live models. This file only decides what to export with: example tensors, and which dimensions may vary.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import io
import json
import os
import re
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NoReturn, Optional, Union

import torch
from torch._export.serde import serialize as serde
from torch.utils import _pytree as pytree

from kiln import checks, extend, rewrite
from kiln._kiln import KilnError, operator_supported
from kiln._progress import Line, Progress
from kiln.engine import Engine
from kiln.engine_cache import EngineCache, cached_engine, open_cache
from kiln.inputs import Input
from kiln.module import CompiledModule
from kiln.sizes import size_guards, writable

__all__ = ["compile", "unsupported_ops"]

Model = Union[torch.nn.Module, torch.jit.ScriptModule, torch.jit.ScriptFunction, torch.export.ExportedProgram]

_form_lock = threading.Lock()

_RULES = {
    "kwargs": checks.optional(checks.MAPPING),
    "method": checks.TEXT,
    "target": checks.optional(checks.TEXT),
    "precision": checks.TEXT,
    "dynamic_shapes": checks.optional(
        checks.instance((dict, tuple, list), "as torch.export.export takes it: a dictionary, tuple or list")
    ),
    "tune": checks.SECONDS,
    "cache": checks.optional(checks.PATH),
    "threads": checks.optional(checks.count(0, 1024)),
    "progress": checks.optional(
        checks.Rule(lambda value: callable(value) or isinstance(value, bool), "True, or a function of stage and fraction")
    ),
    "allow_host_fallback": checks.BOOL,
    "metadata": checks.optional(
        checks.Rule(
            lambda value: isinstance(value, Mapping) and all(isinstance(t, str) for pair in value.items() for t in pair),
            "a dictionary of texts",
            (dict,),
        )
    ),
}


def compile(
    model: Model,
    inputs: Union[Sequence[Any], torch.Tensor, Input] = (),
    *,
    kwargs: Optional[Mapping[str, Any]] = None,
    method: str = "forward",
    target: Optional[str] = None,
    precision: str = "fp32",
    dynamic_shapes: Any = None,
    tune: float = 0.0,
    cache: Union[str, os.PathLike[str], None] = None,
    threads: Optional[int] = None,
    progress: Progress = None,
    allow_host_fallback: bool = False,
    metadata: Optional[Mapping[str, str]] = None,
    engine_cache: Union[str, os.PathLike[str], EngineCache, None] = None,
) -> Union[CompiledModule, torch.jit.ScriptModule]:
    """Compiles a model into a module that computes the same, faster, for inference.

    Args:
        model: an ``nn.Module`` in eval mode with its parameters on the CPU, a TorchScript module (scripted, traced, frozen or loaded) or
            function, or a ``torch.export.ExportedProgram``.
        inputs: the positional arguments of ``forward``, as example tensors or :class:`kiln.Input`; tuples, lists and dicts
            of these, and plain numbers, strings, bools and None, are fine. Tensors give static shapes; ``kiln.Input`` may
            give ranges. A ``kiln.Input`` with a name is passed as that keyword argument. Not needed for an ExportedProgram, nor for
            a traced module that was saved with its inputs.
        kwargs: keyword arguments of ``forward``, likewise. Numbers, strings, bools and None are baked in.
        method: of a TorchScript module: what to compile; the result's ``forward`` computes it.
        target: None ("cuda" for a model whose parameters, or if it has none, whose inputs are on a GPU, else "cpu"), "cuda", "cuda:1" (the
            second GPU), "cuda:sm_90" (and the like, to build for a GPU that is not here), "cpu" (the best instruction set of this machine), "cpu:avx512", "cpu:avx2", "cpu:scalar", "reference".
        precision: "fp32"; on GPUs "tf32", "fp16" and "bf16" too, for models in fp32, with operators or modules that stay in fp32 behind a
            colon: "fp16:softmax,head*".
        dynamic_shapes: passed to ``torch.export.export`` as it is, instead of ranges from ``kiln.Input``.
        tune: seconds to spend on timing candidate kernels; 0 takes the heuristic choice.
        cache: file where the tuner's results are kept.
        threads: how many threads one call may use; None is one per core.
        progress: called as ``progress(stage, fraction)`` now and then; an exception in it cancels the build. True: a line on standard
            error that tells what is being done.
        allow_host_fallback: on GPUs: operators without a kernel there run on the CPU, with copies of their tensors. Without it the build
            fails with a list of them.
        metadata: texts to keep in the engine, for :meth:`kiln.Engine.metadata`.
        engine_cache: a folder, or a :class:`kiln.EngineCache`, where engines are kept without their weights. A model with the graph and
            options of an earlier one takes its engine, refitted with its own weights: nothing is planned or tuned again. Not for
            TorchScript modules.

    Returns:
        For a TorchScript module a ``torch.jit.ScriptModule``, for ``torch.jit.save``. Else a :class:`kiln.CompiledModule`, called like ``model``: same arguments, same nesting of outputs. It is safe to call
        from several threads. Outputs never require grad.

    Raises:
        KilnError: the model is in training mode, cannot be captured, uses unsupported operators (all are listed with their
            source lines), or an option is wrong.
    """
    given = dict(locals())
    checks.check_all("kiln.compile", given, _RULES)
    if progress is True:
        with Line() as line:
            line("exporting", 0.0)
            return compile(**{**given, "progress": line})
    if target is None:
        target = _gpu_of(model, inputs, kwargs) or "cpu"
    if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        if engine_cache is not None:
            raise ValueError("engine_cache is not for TorchScript modules")
        options = {
            "target": target,
            "precision": precision,
            "tune": tune,
            "cache": cache,
            "threads": threads or 0,
            "progress": progress,
            "allow_host_fallback": allow_host_fallback,
            "metadata": dict(metadata or {}),
        }
        return _compile_script(model, inputs, dict(kwargs or {}), method, options)
    if method != "forward":
        raise ValueError(
            "method is for TorchScript modules; to compile another method of an nn.Module, make it the forward of a module"
        )
    if isinstance(model, torch.export.ExportedProgram):
        program, specs = model, _specs_of_list(inputs)
    else:
        model, inputs, kwargs = _to_host(model, inputs, kwargs, target)
        _check_model(model)
        program, specs = capture(model, inputs, dict(kwargs or {}), dynamic_shapes)
    guards = size_guards(program)
    program = decompose(program)
    options = {
        "target": target,
        "precision": precision,
        "inputs": specs,
        "tune": tune,
        "threads": threads or 0,
        "allow_host_fallback": allow_host_fallback,
        "metadata": dict(metadata) if metadata else None,
    }

    def build() -> Engine:
        return Engine.build(_program_bytes(program, guards), cache=cache, progress=progress, **options)

    found = open_cache(engine_cache)
    return CompiledModule(
        cached_engine(found, program, {**options, "size_guards": guards}, build) if found else build(), threads=threads
    )


def _compile_script(
    model: Any, inputs: Any, kwargs: dict[str, Any], method: str, options: dict[str, Any]
) -> torch.jit.ScriptModule:
    from kiln import script

    engine = _build_script(model, inputs, kwargs, method, options)
    return script.embed_engine(engine)


def _build_script(model: Any, inputs: Any, kwargs: dict[str, Any], method: str, options: dict[str, Any]) -> Engine:
    from kiln import script

    script.check_script(model)
    model = script.on_host(model)
    flat = script.flatten(model, inputs, kwargs, method, _example)
    metadata = dict(options.pop("metadata", None) or {})
    if flat.interface:
        metadata["torch.script"] = json.dumps(flat.interface)
    return Engine.build(flat.data, inputs=flat.specs, method=flat.method, metadata=metadata or None, **options)


class _Imported(Exception):
    """Stops a build once the model has been imported."""


def unsupported_ops(
    model: Model,
    inputs: Union[Sequence[Any], torch.Tensor, Input] = (),
    *,
    kwargs: Optional[Mapping[str, Any]] = None,
    method: str = "forward",
    dynamic_shapes: Any = None,
) -> list[str]:
    """What keeps a model from being compiled: one line for each operator (or use of one) that Kiln does not support, with the number of
    calls and the first source line. Empty: :func:`compile` takes the model. Nothing is planned or built.

    Args: as for :func:`compile`.
    """

    def stop(stage: str, fraction: float) -> None:
        if stage != "importing":
            raise _Imported

    try:
        if isinstance(model, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
            _build_script(model, inputs, dict(kwargs or {}), method, {"progress": stop})
        else:
            compile(model, inputs, kwargs=kwargs, dynamic_shapes=dynamic_shapes, progress=stop)
    except _Imported:
        return []
    except KilnError as error:
        if getattr(error, "status", "") != "KILN_UNSUPPORTED":
            raise
        text = str(error).split("\n")
        lines = [line.strip() for line in text if re.search(r", (used )?\d+ times?\b|^  and \d+ more$", line)]
        return lines or text[:1]
    return []


def _error(text: str, status: str) -> KilnError:
    error = KilnError(text)
    error.status = status
    return error


def _gpu_of(model: Any, *inputs: Any) -> Optional[str]:
    """ "cuda:1" for a model with a parameter there, or one without parameters whose inputs are there; None: it is on the CPU."""
    if not isinstance(model, torch.nn.Module):
        return None
    own = [*model.parameters(), *model.buffers()]
    for tensor in own or [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, torch.Tensor)]:
        if tensor.device.type == "cuda":
            return f"cuda:{tensor.device.index or 0}"
    return None


def _to_host(model: Any, inputs: Any, kwargs: Any, target: str) -> tuple[Any, Any, Any]:
    """Models are captured on the host: a copy of what is on the GPU."""
    if not target.startswith("cuda") or not isinstance(model, torch.nn.Module):
        return model, inputs, kwargs
    inputs, kwargs = pytree.tree_map_only(torch.Tensor, lambda leaf: leaf.cpu(), (inputs, kwargs))
    return (copy.deepcopy(model).cpu() if _gpu_of(model) else model), inputs, kwargs


def _check_model(model: Any) -> None:
    if isinstance(model, CompiledModule):
        raise _error("the model is already compiled", "KILN_INVALID_ARGUMENT")
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module or a torch.export.ExportedProgram, got {type(model).__name__}")
    training = [name or type(model).__name__ for name, child in model.named_modules() if child.training]
    if training:
        shown = ", ".join(training[:3]) + (f" and {len(training) - 3} more" if len(training) > 3 else "")
        raise _error(
            f"the model is in training mode ({shown}), but an engine computes inference only; call model.eval() first",
            "KILN_INVALID_ARGUMENT",
        )
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.device.type != "cpu":
            raise _error(
                f"parameter {name} is on {tensor.device}; call model.cpu() before compiling for the CPU",
                "KILN_INVALID_ARGUMENT",
            )


# ---- Examples and ranges ---------------------------------------------------------------------------------------------


def _is_input(leaf: Any) -> bool:
    return isinstance(leaf, Input)


def _example(leaf: Any, largest: bool = False) -> Any:
    """A tensor to export with. Dimensions that may vary must not be 0 or 1 there: torch.export takes those for constants."""
    if isinstance(leaf, torch.Tensor):
        return leaf.detach()
    if not isinstance(leaf, Input):
        return leaf
    shape = []
    for low, opt, high in zip(leaf.min_shape, leaf.opt_shape, leaf.max_shape):
        best = high if largest else opt
        shape.append(best if low == high or best >= 2 else max(low, 2))
    dtype = leaf.dtype or torch.float32
    return torch.zeros(shape, dtype=dtype)


def _example_on(device: torch.device, largest: bool = False) -> Any:
    return lambda leaf: _example(leaf, largest).to(device) if isinstance(leaf, Input) else _example(leaf)


def _ranges(leaf: Any) -> Any:
    """dynamic_shapes of one leaf: {dimension: range}, or None. torch.export takes sizes from 2 on, and needs two of them: see _widen."""
    if not isinstance(leaf, Input) or not leaf.is_dynamic:
        return None
    return {
        i: torch.export.Dim.DYNAMIC(min=low, max=max(high, 3))
        for i, (low, high) in enumerate(zip(leaf.min_shape, leaf.max_shape))
        if low != high
    }


def _arguments(model: torch.nn.Module, inputs: Any, kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(inputs, (torch.Tensor, Input)):
        inputs = (inputs,)
    if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Sequence):
        raise TypeError(
            f"inputs must be a list or tuple of forward's positional arguments, got {type(inputs).__name__}; "
            "pass keyword arguments as kwargs={...}"
        )
    positional = []
    for item in inputs:
        if not (isinstance(item, Input) and item.name):
            positional.append(item)
        elif item.name in kwargs:
            raise ValueError(f"argument {item.name!r} is given twice")
        else:
            kwargs[item.name] = item
    if len(positional) not in (0, len(inputs)) and any(isinstance(i, Input) and i.name for i in inputs[: len(positional)]):
        raise ValueError("inputs without a name must come before those with one")
    # As Python would bind them; named inputs that come next in order become positional, as users call them.
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*positional, **kwargs)
    except TypeError as error:
        raise TypeError(f"forward{signature} does not take these inputs: {error}") from None
    named = {item.name for item in inputs if isinstance(item, Input) and item.name}
    for name, parameter in list(signature.parameters.items())[len(positional) :]:
        if name not in named or parameter.kind is not inspect.Parameter.POSITIONAL_OR_KEYWORD:
            break
        positional.append(bound.arguments[name])
        del kwargs[name]
    return tuple(positional), kwargs


def _specs(leaves: list[Any]) -> list[tuple[Any, ...]]:
    """What Engine.build takes: one row for each tensor, in order."""
    rows: list[tuple[Any, ...]] = []
    for leaf in leaves:
        if isinstance(leaf, Input):
            rows.append(leaf.row())
        elif isinstance(leaf, torch.Tensor):
            shape = tuple(leaf.shape)
            rows.append((None, None, shape, shape, shape))
    return rows


def _specs_of_list(inputs: Any) -> list[tuple[Any, ...]]:
    leaves = pytree.tree_leaves(inputs, is_leaf=_is_input)
    return _specs([leaf for leaf in leaves if isinstance(leaf, Input)])


# ---- Export ----------------------------------------------------------------------------------------------------------


def capture(
    model: torch.nn.Module, inputs: Any, kwargs: dict[str, Any], dynamic_shapes: Any
) -> tuple[torch.export.ExportedProgram, list[tuple[Any, ...]]]:
    args, kwargs = _arguments(model, inputs, kwargs)
    leaves = pytree.tree_leaves((args, kwargs), is_leaf=_is_input)
    dynamic = any(isinstance(leaf, Input) and leaf.is_dynamic for leaf in leaves)
    if dynamic and dynamic_shapes is not None:
        raise ValueError("give ranges either by kiln.Input or by dynamic_shapes, not both")
    if dynamic:
        arguments = inspect.signature(model.forward).bind(*args, **kwargs).arguments
        dynamic_shapes = pytree.tree_map(_ranges, dict(arguments), is_leaf=_is_input)
    specs = _specs(leaves) if dynamic or any(isinstance(leaf, Input) and leaf.shared_dims for leaf in leaves) else []
    device = next((t.device for t in [*model.parameters(), *model.buffers()]), torch.device("cpu"))

    def export(largest: bool, any_size: bool) -> torch.export.ExportedProgram:
        example = pytree.tree_map(_example_on(device, largest), (args, kwargs), is_leaf=_is_input)
        with torch.no_grad(), _recurrent_shapes(), _any_size() if any_size else contextlib.nullcontext(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.export.export(model, *example, dynamic_shapes=dynamic_shapes, strict=False)

    # A size that the model computes may be 0 or 1 for the opt sizes, which torch.export takes for constants, or becomes so for others.
    program, first = None, None
    for largest, any_size in [(False, False), (True, False), (False, True), (True, True)] if dynamic else [(False, False)]:
        try:
            found = export(largest, any_size)
        except Exception as error:
            first = first or error
            continue
        if not dynamic or not _is_narrow(found, leaves):
            program = found
            break
        program = program or found
    if program is None:
        _refuse(model, first)
    if dynamic:
        _widen(program, leaves)
    return program, specs


@contextlib.contextmanager
def _any_size() -> Iterator[None]:
    """Lets torch.export reason as if sizes might be 0 or 1, where this PyTorch can."""
    from torch.fx.experimental import _config

    if not hasattr(_config, "backed_size_oblivious"):
        raise KilnError("this PyTorch cannot")
    with _config.patch(backed_size_oblivious=True):
        yield


def _refuse(model: torch.nn.Module, error: Optional[Exception]) -> NoReturn:
    raise _error(
        f"torch.export could not capture {type(model).__name__}: {error}\nThe model's Python code must be free of control flow "
        "that depends on tensor values, and of conversions of tensors to Python numbers.",
        "KILN_UNSUPPORTED",
    ) from error


def _is_narrow(program: torch.export.ExportedProgram, leaves: list[Any]) -> bool:
    """Whether the program takes less than the ranges that were asked for."""
    for leaf, value in _input_values(program, leaves):
        for low, high, size in zip(leaf.min_shape, leaf.max_shape, value.shape):
            bounds = program.range_constraints.get(size.node.expr) if isinstance(size, torch.SymInt) else None
            if low != high and bounds is not None and (bounds.lower > max(low, 2) or bounds.upper < high):
                return True
    return False


def _input_values(program: torch.export.ExportedProgram, leaves: list[Any]) -> Iterator[tuple[Input, torch.Tensor]]:
    """Each :class:`kiln.Input` and its value in the program."""
    names = [s.arg.name for s in program.graph_signature.input_specs if s.kind is torch.export.graph_signature.InputKind.USER_INPUT]
    values = {n.name: n.meta.get("val") for n in program.graph.nodes if n.op == "placeholder"}
    for leaf, name in zip(leaves, names):
        value = values.get(name)
        if isinstance(leaf, Input) and isinstance(value, torch.Tensor):
            yield leaf, value


def _lstm_shapes(x: torch.Tensor, hx: list[torch.Tensor], *rest: Any) -> tuple[torch.Tensor, ...]:
    """(output, h_n, c_n) of aten::lstm.input, of the right shapes."""
    bidirectional = rest[5]
    width = hx[0].shape[-1] * (2 if bidirectional else 1)
    return x.new_empty((*x.shape[:-1], width)), torch.empty_like(hx[0]), torch.empty_like(hx[1])


def _rnn_shapes(x: torch.Tensor, hx: torch.Tensor, *rest: Any) -> tuple[torch.Tensor, ...]:
    """(output, h_n) of aten::gru.input and its simpler relatives, of the right shapes."""
    bidirectional = rest[5]
    return x.new_empty((*x.shape[:-1], hx.shape[-1] * (2 if bidirectional else 1))), torch.empty_like(hx)


@contextlib.contextmanager
def _recurrent_shapes() -> Iterator[None]:
    """Lets torch.export keep recurrent layers whole when the sequence length may vary.

    It takes the shapes of their results from their decompositions, which are loops over the sequence and so would fix its length.
    The decompositions here give the shapes alone.
    """
    from torch._decomp import decomposition_table

    aten, key = torch.ops.aten, torch._C.DispatchKey.CompositeImplicitAutograd
    shapes = {aten.lstm.input: _lstm_shapes, aten.gru.input: _rnn_shapes}
    shapes.update({aten.rnn_tanh.input: _rnn_shapes, aten.rnn_relu.input: _rnn_shapes})
    saved = [
        (op, table, entry, table.get(entry)) for op in shapes for table, entry in ((decomposition_table, op), (op.py_kernels, key))
    ]
    try:
        for op, table, entry, _ in saved:
            table[entry] = shapes[op]
            op._dispatch_cache.clear()
        yield
    finally:
        for op, table, entry, value in saved:
            if value is None:
                table.pop(entry, None)
            else:
                table[entry] = value
            op._dispatch_cache.clear()


def _widen(program: torch.export.ExportedProgram, leaves: list[Any]) -> None:
    """Lets sizes of 1 (or 0) back in where they were asked for, and takes 3 out again where it was not.

    torch.export starts ranges of Dim.DYNAMIC at 2, because it reasons as if no size were 0 or 1; named Dims, which need to be told
    which sizes are equal, do not have this limit. The graph is the same.
    """
    ranges = program.range_constraints
    for leaf, value in _input_values(program, leaves):
        for low, high, size in zip(leaf.min_shape, leaf.max_shape, value.shape):
            symbol = size.node.expr if isinstance(size, torch.SymInt) else None
            if symbol in ranges and (low < 2 or high < 3):
                lower = low if low < 2 and ranges[symbol].lower == 2 else ranges[symbol].lower
                ranges[symbol] = type(ranges[symbol])(lower, min(ranges[symbol].upper, high) if high < 3 else ranges[symbol].upper)


def decompose(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Has PyTorch write operators that Kiln has no row for in terms of others, where it knows how to.

    This also decomposes composite operators such as linear, which Kiln's passes put together again; so only where needed.
    """
    program = _apply_decompositions(program)
    targets = {node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)}
    missing = [target for target in targets if not operator_supported(_operator_name(target))]
    table = torch.export.default_decompositions() if missing else {}
    composite = torch._C.DispatchKey.CompositeImplicitAutograd
    known = [t for t in missing if t in table or t.has_kernel_for_dispatch_key(composite)]
    # What is left of torch.vmap in a graph that torch.export has just captured goes away with any decomposition.
    batched = any(getattr(n.target, "__module__", "") == "torch._functorch.predispatch" for n in program.graph.nodes)
    if not known and not batched:
        return program
    try:
        with torch.no_grad(), _recurrent_shapes(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return program.run_decompositions({t: table[t] for t in known if t in table})
    except Exception:
        return program  # the importer says what is missing


def _apply_decompositions(program: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Those that users registered (kiln.register_decomposition); one may use operators that others are for."""
    table = extend.decompositions()
    for _ in range(8):
        if not table or not any(node.target in table for node in program.graph.nodes):
            return program
        try:
            program = rewrite.expand(program, rewrite.by_target(table))
        except Exception as error:
            raise _error(
                f"a decomposition registered with kiln.register_decomposition failed: {error}", "KILN_INVALID_ARGUMENT"
            ) from error
    raise _error("decompositions registered with kiln.register_decomposition use each other without end", "KILN_INVALID_ARGUMENT")


def _operator_name(target: Any) -> str:
    return str(target._schema.name) + (f".{target._schema.overload_name}" if target._schema.overload_name else "")


def _name_return_types() -> None:
    """Gives the named tuples that torch.max, topk, sort... return a name in files, which torch.export.save asks for."""
    for kind, entry in list(pytree.SUPPORTED_SERIALIZED_TYPES.items()):
        name = f"torch.return_types.{kind.__name__}"
        if kind.__module__ == "torch.return_types" and name not in pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE:
            pytree.SUPPORTED_SERIALIZED_TYPES[kind] = entry._replace(serialized_type_name=name)
            pytree.SERIALIZED_TYPE_TO_PYTHON_TYPE[name] = kind


@functools.cache
def _form_is_dropped() -> bool:
    """Whether PyTorch's writer of programs computes the canonical form only to see that it can: more than half of its time."""
    try:
        text = inspect.getsource(serde.ExportedProgramSerializer.serialize)
    except (AttributeError, OSError, TypeError):
        return False
    calls = re.findall(r"^(.*)\bcanonicalize\(", text, re.MULTILINE)
    return len(calls) == 1 and not calls[0].strip() and callable(getattr(serde, "canonicalize", None))


@contextlib.contextmanager
def _without_canonical_form() -> Iterator[None]:
    if not _form_is_dropped():
        yield
        return
    with _form_lock:
        kept = serde.canonicalize
        serde.canonicalize = lambda program, *unused: program  # type: ignore[assignment]
        try:
            yield
        finally:
            serde.canonicalize = kept


def _program_bytes(program: torch.export.ExportedProgram, guards: Optional[list[str]] = None) -> memoryview:
    buffer = io.BytesIO()
    _name_return_types()
    guards = size_guards(program) if guards is None else guards
    program = writable(program)
    before = getattr(program, "_guards_code", None)
    program._guards_code = guards
    with warnings.catch_warnings(), _without_canonical_form():
        warnings.simplefilter("ignore")
        try:
            torch.export.save(program, buffer)
        except Exception as error:
            raise _error(f"torch.export.save could not write the exported program: {error}", "KILN_UNSUPPORTED") from error
        finally:
            program._guards_code = before
    return buffer.getbuffer()
