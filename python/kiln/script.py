"""TorchScript in, TorchScript out: compiled modules that survive ``torch.jit.save`` and ``torch.jit.load``.

A compiled ScriptModule has one child, ``engine``, which holds the engine's bytes in a uint8 tensor and calls the operator
``kiln::execute``; the code around it, generated for each interface, takes arguments apart and puts results together.
"""

from __future__ import annotations

import copy
import io
import json
import keyword
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Callable, Optional, Union

import torch
from torch.utils import _pytree as pytree

from kiln import interface as nesting
from kiln import operators
from kiln._kiln import KilnError
from kiln.engine import Engine
from kiln.engine_module import EngineModule, PlainEngineModule, StatefulEngineModule
from kiln.inputs import Input
from kiln.module import CompiledModule, _Interface
from kiln.weights import Weights

__all__ = ["embed_engine", "engine_bytes", "refit", "reset"]

operators.register()


def _error(text: str, status: str = "KILN_INVALID_ARGUMENT") -> KilnError:
    error = KilnError(text)
    error.status = status
    return error


# ---- Engine to ScriptModule --------------------------------------------------------------------------------------------------


def embed_engine(
    data: Union[bytes, bytearray, memoryview, Engine, CompiledModule], *, script: bool = True
) -> Union[torch.jit.ScriptModule, torch.nn.Module]:
    """A ScriptModule that runs an engine, for ``torch.jit.save``, for C++ programs and as a part of other modules.

    Arguments and results nest as the compiled model's did, where TorchScript has a type for that (tuples, lists and dictionaries of
    tensors, None, NamedTuples of scripted models); else they are the engine's tensors, flat.

    Args:
        data: bytes of an engine file, a :class:`kiln.Engine`, or a :class:`kiln.CompiledModule`.
        script: False gives an ``nn.Module`` instead, whose Python code calls the operator: ``torch.export.export`` and
            ``torch.compile(fullgraph=True)`` take it, also as a part of a model.

    Raises:
        KilnError: the bytes are no engine, or damaged.
    """
    if isinstance(data, CompiledModule):
        data = data.engine
    engine = data if isinstance(data, Engine) else Engine.load(bytes(data))
    blob = engine.serialize() if isinstance(data, Engine) else data
    try:
        kind = _wrapper_of(engine)
    except nesting.Unrepresentable:
        kind = _flat_wrapper(engine)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.frombuffer on bytes that cannot be written: nobody does; torch.jit is deprecated
        tensor = torch.frombuffer(blob, dtype=torch.uint8)
        try:
            tensor = torch.ops.kiln.load(tensor)
        except RuntimeError as error:
            raise _error(str(error).split("\n")[0], "KILN_INVALID_FILE") from None
        if not script:
            if engine.state_count:
                raise _error(
                    "torch.export and torch.compile take functions without state, but this engine has state", "KILN_UNSUPPORTED"
                )
            return kind(PlainEngineModule(tensor, engine.report("signature"))).eval()
        holder = StatefulEngineModule(tensor) if engine.state_count else EngineModule(tensor)
        return torch.jit.script(kind(holder).eval())


def _wrapper_of(engine: Engine) -> type:
    text = engine.metadata("torch.script")
    flat = _Interface(engine)
    inputs = [item.get("tensor") for item in flat.inputs]
    mutated = [(pair["input"], pair["output"]) for pair in flat.mutated]
    if text:
        return nesting.generate(json.loads(text), inputs, flat.outputs, mutated)
    if flat.in_spec is None or flat.out_spec is None:
        raise nesting.Unrepresentable("the engine does not say how its arguments nest")
    return nesting.generate(_interface_of_export(flat), inputs, flat.outputs, mutated)


def _flat_wrapper(engine: Engine) -> type:
    names = _identifiers([info.name for info in engine.inputs])
    n = len(engine.outputs)
    interface = {
        "args": [{"name": name, "type": "Tensor", "tree": {"leaf": i}} for i, name in enumerate(names)],
        "result": {"leaf": 0} if n == 1 else {"tuple": [{"leaf": i} for i in range(n)]},
        "type": "Tensor" if n == 1 else f"Tuple[{', '.join(['Tensor'] * n)}]",
    }
    return nesting.generate(interface, list(range(len(names))), [{"tensor": i} for i in range(n)])


def _identifiers(names: Sequence[Optional[str]]) -> list[str]:
    """Distinct Python names that look like these."""
    found: list[str] = []
    for i, name in enumerate(names):
        base = re.sub(r"\W", "_", name or f"input_{i}")
        if not base.isidentifier() or keyword.iskeyword(base) or base == "self":
            base = f"input_{base}"
        unique, k = base, 2
        while unique in found:
            unique, k = f"{base}_{k}", k + 1
        found.append(unique)
    return found


def _interface_of_export(flat: _Interface) -> dict[str, Any]:
    """The interface that torch.export's treespecs describe."""
    assert flat.in_spec is not None and flat.out_spec is not None
    leaves = iter(range(len(flat.inputs)))

    def argument_leaf() -> nesting.Tree:
        i = next(leaves)
        return {"leaf": i} if "tensor" in flat.inputs[i] else {"value": flat.inputs[i].get("value")}

    args_spec, kwargs_spec = flat.in_spec.children()
    names = _identifiers([*flat.names, *flat.keywords])
    args = []
    for name, spec in zip(names, [*args_spec.children(), *kwargs_spec.children()]):
        tree = _tree_of_spec(spec, argument_leaf)
        args.append({"name": name, "type": _type_of(tree), "tree": tree})
    for arg in reversed(args):  # constants may be left out as long as nothing that must be given comes after them
        if "value" not in arg["tree"]:
            break
        arg["default"] = arg["tree"]["value"]
    results = iter(range(len(flat.outputs)))

    def result_leaf() -> nesting.Tree:
        i = next(results)
        item = flat.outputs[i]
        for kind in ("int", "float", "bool"):
            if kind in item:
                return {"scalar": i, "type": kind}
        if "tensor" in item:
            return {"leaf": i}
        value = item.get("value")
        return {"value": value, "type": "Optional[Tensor]"} if value is None else {"value": value}

    tree = _tree_of_spec(flat.out_spec, result_leaf)
    return {"args": args, "result": tree, "type": _type_of(tree)}


def _type_of(tree: nesting.Tree) -> str:
    if "type" in tree:
        return tree["type"]
    if "leaf" in tree:
        return "Tensor"
    return {bool: "bool", int: "int", float: "float", str: "str"}.get(type(tree["value"]), "Optional[Tensor]")


def _tree_of_spec(spec: pytree.TreeSpec, leaf: Callable[[], nesting.Tree]) -> nesting.Tree:
    if spec.is_leaf():
        return leaf()
    items = [_tree_of_spec(child, leaf) for child in spec.children()]
    types = [_type_of(item) for item in items]
    keys = spec.context
    if spec.type is list and len(set(types)) == 1:
        return {"list": items, "type": f"List[{types[0]}]"}
    if spec.type in (tuple, list):
        return {"tuple": items, "type": f"Tuple[{', '.join(types)}]"} if items else {"value": None}
    if isinstance(keys, (list, tuple)) and len(keys) == len(items) and all(isinstance(key, str) for key in keys):
        if len(set(types)) == 1:  # dictionaries, and classes of `transformers` that behave like them
            return {"dict": list(keys), "items": items, "type": f"Dict[str, {types[0]}]"}
        return {"tuple": items, "type": f"Tuple[{', '.join(types)}]"}
    raise nesting.Unrepresentable(f"TorchScript has no type for {spec.type}")


# ---- ScriptModule to engine --------------------------------------------------------------------------------------------------


def _engine_tensors(module: torch.nn.Module, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The engine tensors in a module, with the paths where they are: attributes of children, and constants of frozen modules."""
    if isinstance(module, torch.jit.ScriptModule):
        yield from _script_engine_tensors(module._c, path)
        return
    for name, child in module.named_children():
        yield from _engine_tensors(child, f"{path}.{name}" if path else name)


def _script_engine_tensors(module: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    # PyTorch's C++ object: the Python one of a frozen module hides its children.
    if module.hasattr("kiln_engine"):
        yield path, module.getattr("kiln_engine")
        return
    for name in module._method_names():
        for constant in _engine_constants(module._get_method(name).graph):
            yield path, constant
    for name, child in torch._C.ModuleDict(module).items():
        yield from _script_engine_tensors(child, f"{path}.{name}" if path else name)


def _engine_constants(graph: Any) -> Iterator[torch.Tensor]:
    for kind in ("kiln::execute", "kiln::execute_stateful"):
        for node in graph.findAllNodes(kind):
            source = next(iter(node.inputs())).node()
            if source.kind() == "prim::Constant" and source.hasAttribute("value"):
                yield source.t("value")


def engine_bytes(module: Union[torch.jit.ScriptModule, CompiledModule, Engine]) -> bytes:
    """The engine file's bytes inside a compiled module, also one that was saved, loaded or frozen.

    Raises:
        KilnError: there is no engine in it, or several.
    """
    if isinstance(module, CompiledModule):
        module = module.engine
    if isinstance(module, Engine):
        return module.serialize()
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a compiled module, got {type(module).__name__}")
    found = list(_engine_tensors(module))
    if len(found) != 1:
        where = ": " + ", ".join(path or "the module itself" for path, _ in found) if found else ""
        raise _error(f"expected a module with one engine, found {len(found)}{where}; pass the compiled submodule")
    return found[0][1].cpu().numpy().tobytes()


def reset(module: torch.nn.Module) -> None:
    """Puts the state of every compiled part of ``module`` (an LSTM's, say) back to its values in the model."""
    for child in module.modules():
        if isinstance(child, CompiledModule):
            child.reset()
    for _, tensor in _engine_tensors(module):
        torch.ops.kiln.reset(tensor)


# ---- Other weights -----------------------------------------------------------------------------------------------------------


def refit(module: Any, weights: Weights, *, strict: bool = True) -> Any:
    """Gives a compiled module other weights, in place, and returns it: see :meth:`kiln.Engine.refit`.

    Of a ScriptModule, and of a module of ``embed_engine(..., script=False)``, each engine tensor is replaced by one with the new weights.
    Where a compiled module is a part of another one, names begin with its path there, as in the state dict of the whole before that
    part was compiled; parts that PyTorch runs get their weights too. State goes back to the model's values, and no other thread may call the module meanwhile.

    Args:
        module: what ``kiln.compile``, ``kiln.embed_engine``, ``kiln.load`` or ``torch.jit.load`` returned, alone or as a part of others.
        weights: a state dict, or a module that has one. Some of the names are enough.
        strict: False ignores names that no engine has.

    Raises:
        KilnError: as :meth:`kiln.Engine.refit`; or the module is frozen, or has no engine. It is as it was then.
    """
    if isinstance(module, (Engine, CompiledModule)):
        module.refit(weights, strict=strict)
        return module
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"module must be a compiled module, got {type(module).__name__}")
    if isinstance(weights, torch.nn.Module):
        weights = weights.state_dict()
    if not isinstance(weights, Mapping):
        raise TypeError(f"weights must be a state dict or an nn.Module, got {type(weights).__name__}")
    holders = list(_holders(module))
    if not holders:
        raise _error("the module has no engine: pass what kiln.compile or kiln.embed_engine returned, or a module with such parts")
    engines = [Engine.load(_bytes_of(holder)) for _, holder in holders]
    left = set(weights)
    parts = [_part(path, engine, weights, left) for (path, _), engine in zip(holders, engines)]
    beside = _beside(module, weights, left)
    for name in left if strict else ():
        parts[0][name] = weights[name]  # for the library to complain about, unless it is tied to one that the engine has
    for part, engine in zip(parts, engines):
        if part or len(engines) == 1:
            engine.refit(part)
    for part, engine, (_, holder) in zip(parts, engines, holders):
        if part:
            _replace(holder, torch.ops.kiln.load(torch.frombuffer(bytearray(engine.serialize()), dtype=torch.uint8)))
    with torch.no_grad():
        for tensor, value in beside:
            tensor.copy_(value)
    return module


def _beside(module: torch.nn.Module, weights: Mapping[str, Any], left: set[str]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Weights of parts that PyTorch runs, and their new values. These are taken out of ``left``."""
    found = []
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if name not in left or name.endswith("kiln_engine"):
            continue
        value = torch.as_tensor(weights[name])
        if value.shape != tensor.shape:
            raise _error(f"`{name}`: expected {list(tensor.shape)}, got {list(value.shape)}; the module keeps its weights")
        found.append((tensor, value))
        left.discard(name)
    return found


def _holders(module: torch.nn.Module, path: str = "") -> Iterator[tuple[str, Any]]:
    """What has an engine tensor as an attribute, and the path of the compiled module around it."""
    if isinstance(module, torch.jit.ScriptModule):
        yield from _script_holders(module._c, path)
    elif isinstance(module, PlainEngineModule):
        yield path.rpartition(".")[0], module
    else:
        for name, child in module.named_children():
            yield from _holders(child, f"{path}.{name}" if path else name)


def _script_holders(module: Any, path: str) -> Iterator[tuple[str, Any]]:
    if module.hasattr("kiln_engine"):
        yield path.rpartition(".")[0], module
        return
    for name in module._method_names():
        if any(True for _ in _engine_constants(module._get_method(name).graph)):
            raise _error(
                f"{path or 'the module'} is frozen: its engine is a constant of its code. Refit the module that torch.jit.freeze was "
                "given, and freeze it again",
                "KILN_UNSUPPORTED",
            )
    for name, child in torch._C.ModuleDict(module).items():
        yield from _script_holders(child, f"{path}.{name}" if path else name)


def _tensor_of(holder: Any) -> torch.Tensor:
    return holder.kiln_engine if isinstance(holder, PlainEngineModule) else holder.getattr("kiln_engine")


def _bytes_of(holder: Any) -> bytes:
    return _tensor_of(holder).cpu().numpy().tobytes()


def _replace(holder: Any, tensor: torch.Tensor) -> None:
    if isinstance(holder, PlainEngineModule):
        holder.kiln_engine = tensor
    else:
        holder.setattr("kiln_engine", tensor)


def _part(path: str, engine: Engine, weights: Mapping[str, Any], left: set[str]) -> dict[str, Any]:
    """What of ``weights`` is this engine's, by the engine's names. These are taken out of ``left``."""
    known = engine._weight_names()
    start = f"{path}." if path else ""
    part = {}
    for name, value in weights.items():
        if not isinstance(name, str) or not name.startswith(start):
            continue
        own = name[len(start) :]
        if own not in known and f"model.{own}" in known:  # arguments that nest: the importer was given a module around the model
            own = f"model.{own}"
        if own in known:
            part[own] = value
            left.discard(name)
    return part


# ---- Compiling ScriptModules -------------------------------------------------------------------------------------------------


class Flattened:
    """What the importer is given for one method: a TorchScript file, shapes, and what leads back to the method's interface."""

    def __init__(self, data: memoryview, method: str, specs: list[tuple[Any, ...]], interface: Optional[dict[str, Any]]) -> None:
        self.data, self.method, self.specs, self.interface = data, method, specs, interface


def check_script(model: Any) -> None:
    """Raises KilnError for what cannot be compiled as it is."""
    if isinstance(model, torch.jit.ScriptFunction):
        return
    if any(True for _ in _engine_tensors(model)):
        raise _error("the module is already compiled, or has a compiled part")
    # Tracing leaves the flags of the children as they were; what counts there is how the module was traced.
    if getattr(model, "training", False):
        raise _error("the module is in training mode, but an engine computes inference only; call module.eval() first")


def on_host(model: Any) -> Any:
    """The model with its tensors in the memory of the host, where the importer reads them: a copy if they are elsewhere."""
    if isinstance(model, torch.jit.ScriptFunction):
        return model
    if all(tensor.device.type == "cpu" for tensor in [*model.parameters(), *model.buffers()]):
        return model
    return torch.jit.load(io.BytesIO(_saved(model)), map_location="cpu")


def flatten(model: Any, inputs: Any, kwargs: dict[str, Any], method: str, example: Callable[[Any], Any]) -> Flattened:
    """Prepares one method for the importer. ``example`` makes a tensor of a kiln.Input."""
    schema = _schema(model, method)
    if isinstance(inputs, (torch.Tensor, Input)):
        inputs = (inputs,)
    if isinstance(inputs, (str, bytes, Mapping)) or not isinstance(inputs, Sequence):
        raise TypeError(f"inputs must be a list or tuple of the method's arguments, got {type(inputs).__name__}")
    positional = [item for item in inputs if not (isinstance(item, Input) and item.name)]
    for item in inputs:
        if isinstance(item, Input) and item.name:
            if item.name in kwargs:
                raise TypeError(f"argument {item.name!r} is given twice")
            kwargs[item.name] = item
    if not inputs and not kwargs:
        return _as_traced(model, schema, method)
    leaves: list[tuple[str, Any]] = []
    args: list[dict[str, Any]] = []
    values: list[Any] = []
    try:
        for formal, value in nesting.bind(schema, _formals(model, schema), positional, kwargs):
            tree = nesting.tree_of(value, formal.type, formal.name, leaves)
            arg = {"name": formal.name, "type": nesting.type_text(formal.type), "tree": tree}
            if formal.has_default_value() and isinstance(formal.default_value, (type(None), bool, int, float, str)):
                arg["default"] = formal.default_value
            args.append(arg)
            values.append(value)
        for i in range(len(args) - 1, 0, -1):  # a default that cannot be written down takes those before it away
            if "default" in args[i - 1] and "default" not in args[i]:
                del args[i - 1]["default"]
        plain = isinstance(model, torch.jit.ScriptModule) and all(arg["type"] == "Tensor" for arg in args)
        specs = [_spec(value) for _, value in leaves]
        kind = schema.returns[0].type
        if plain and kind.kind() == "AnyType":  # the importer finds out what it is, and leaves that in the engine
            return Flattened(_saved(model), method, specs, None)
        result, n = nesting.result_tree(kind, lambda: _run(model, method, values, example))
    except nesting.Unrepresentable as error:
        raise _error(str(error), "KILN_UNSUPPORTED") from None
    interface = {"args": args, "result": result, "type": nesting.type_text(kind)}
    if plain and _only_tuples(result):
        return Flattened(_saved(model), method, specs, interface)
    names = _identifiers([name for name, _ in leaves])
    return Flattened(_saved(_flat_module(model, interface, names, method, n)), "forward", specs, interface)


def _only_tuples(tree: nesting.Tree) -> bool:
    return "leaf" in tree or ("tuple" in tree and all(_only_tuples(item) for item in tree["tuple"]))


def _schema(model: Any, method: str) -> Any:
    if isinstance(model, torch.jit.ScriptFunction):
        return model.schema
    if not model._c._has_method(method):
        known = ", ".join(name for name in model._c._method_names() if not name.startswith("__"))
        raise _error(f"the module has no method '{method}'; it has: {known}")
    return model._c._get_method(method).schema


def _formals(model: Any, schema: Any) -> list[Any]:
    return list(schema.arguments) if isinstance(model, torch.jit.ScriptFunction) else list(schema.arguments)[1:]  # without self


def _as_traced(model: Any, schema: Any, method: str) -> Flattened:
    """Without inputs, the shapes are those that a traced module remembers; the importer says so if there are none."""
    args = _formals(model, schema)
    kind = schema.returns[0].type
    try:
        result, _ = nesting.result_tree(kind, _no_example)
    except nesting.Unrepresentable as error:
        raise _error(str(error)) from None
    if any(a.type.kind() != "TensorType" for a in args):
        raise _error(f"{schema}: pass example inputs, because not all arguments are tensors")
    interface = {
        "args": [{"name": a.name, "type": "Tensor", "tree": {"leaf": i}} for i, a in enumerate(args)],
        "result": result,
        "type": nesting.type_text(kind),
    }
    return Flattened(_saved(model), method, [], interface)


def _no_example() -> Any:
    raise nesting.Unrepresentable("pass example inputs, because the type of the result does not tell how many tensors there are")


def _run(model: Any, method: str, values: list[Any], example: Callable[[Any], Any]) -> Any:
    """The result on the examples, without a trace in the model's own state."""
    args = pytree.tree_map(example, tuple(values), is_leaf=lambda leaf: isinstance(leaf, Input))
    args = pytree.tree_map_only(torch.Tensor, lambda t: t.cpu(), args)
    scratch = model if isinstance(model, torch.jit.ScriptFunction) else copy.deepcopy(model)
    function = scratch if isinstance(model, torch.jit.ScriptFunction) else getattr(scratch, method)
    with torch.no_grad():
        return function(*args)


def _spec(value: Any) -> tuple[Any, ...]:
    """One row of Engine.build's inputs."""
    if isinstance(value, Input):
        return value.row(_dtype_name(value.dtype or torch.float32))
    shape = tuple(value.shape)
    return (None, _dtype_name(value.dtype), shape, shape, shape)


def _dtype_name(dtype: torch.dtype) -> str:
    for name, known in operators._DTYPES.items():
        if known == dtype:
            return name
    raise _error(f"inputs of {dtype} are not supported", "KILN_UNSUPPORTED")


def _flat_module(model: Any, interface: dict[str, Any], names: list[str], method: str, n: int) -> torch.jit.ScriptModule:
    kind = nesting.generate_flat(interface, names, "" if isinstance(model, torch.jit.ScriptFunction) else method, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return torch.jit.script(kind(model).eval())
        except RuntimeError:
            if isinstance(model, torch.jit.ScriptFunction):
                raise
            # A frozen module cannot be a part of another one, but can when it has been saved and loaded.
            return torch.jit.script(kind(torch.jit.load(io.BytesIO(_saved(model)))).eval())


def _saved(model: torch.jit.ScriptModule) -> memoryview:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(model, buffer)
    return buffer.getbuffer()
