"""How a method's arguments nest and which leaves are tensors, and the TorchScript code that takes them apart and puts results together.

An interface is plain data, so that it can travel in an engine's metadata:

    {"args": [{"name": "x", "type": "Dict[str, Tensor]", "tree": TREE, "default": VALUE}, ...], "result": TREE, "type": "Tensor"}

``default`` may be absent. A tree is one of

    {"leaf": i}                                 tensor number i of the flattened inputs or outputs
    {"scalar": i, "type": "int"}                output i, read as a Python number
    {"value": 3}                                not a tensor: fixed when the module was compiled
    {"tuple": [TREE...]}, {"list": [TREE...]}
    {"dict": [KEY...], "items": [TREE...]}
    {"named": "Pair", "fields": ["a", "b"], "items": [TREE...]}      a NamedTuple

and every container also has a ``type``, as TorchScript spells it.
"""

from __future__ import annotations

import linecache
import math
import re
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional

import torch

from kiln.inputs import Input

__all__ = ["Unrepresentable", "bind", "generate", "generate_flat", "result_tree", "tree_of", "type_text"]

Tree = dict[str, Any]


class Unrepresentable(ValueError):
    """TorchScript has no type for a structure."""


# ---- From TorchScript's types and example values -------------------------------------------------------------------------


def type_text(kind: Any) -> str:
    """A type of a schema, with the names of NamedTuples alone."""
    return re.sub(r"__torch__(?:\.\w+)*\.(\w+)", r"\1", kind.annotation_str).replace("NoneType", "None")


def tree_of(value: Any, kind: Any, name: str, leaves: list[tuple[str, Any]]) -> Tree:
    """The tree of one argument, from its example and its TorchScript type. Tensors and kiln.Inputs are appended to ``leaves``."""
    if isinstance(value, (torch.Tensor, Input)):
        leaves.append((name, value))
        return {"leaf": len(leaves) - 1}
    if kind.kind() == "OptionalType" and value is not None:
        return tree_of(value, kind.getElementType(), name, leaves)
    text = type_text(kind)
    if isinstance(value, dict):
        if not all(isinstance(key, (str, int, float, bool)) for key in value):
            raise Unrepresentable(f"argument '{name}': keys of dictionaries must be strings or numbers")
        items = [tree_of(item, kind.getValueType(), f"{name}_{key}", leaves) for key, item in value.items()]
        return {"dict": list(value), "items": items, "type": text}
    if isinstance(value, tuple) and kind.kind() == "TupleType":
        items = [tree_of(item, sub, f"{name}_{i}", leaves) for i, (item, sub) in enumerate(zip(value, kind.elements()))]
        if len(items) != len(value) or len(items) != len(kind.elements()):
            raise Unrepresentable(f"argument '{name}' has {len(value)} items, but its type is {text}")
        if hasattr(value, "_fields"):
            return {"named": text, "fields": list(value._fields), "items": items, "type": text}
        return {"tuple": items, "type": text}
    if isinstance(value, (list, tuple)) and kind.kind() == "ListType":
        return {"list": [tree_of(item, kind.getElementType(), f"{name}_{i}", leaves) for i, item in enumerate(value)], "type": text}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise Unrepresentable(f"argument '{name}' is a {type(value).__name__}, but the method takes {text}")


_SCALARS = {"IntType": "int", "FloatType": "float", "BoolType": "bool"}


def result_tree(kind: Any, value: Callable[[], Any]) -> tuple[Tree, int]:
    """The tree of a result and its number of leaves. Lists, dictionaries, optionals and names of fields are not told by the type:
    then ``value()`` is called, which runs the model on the examples."""
    leaves: list[str] = []
    known: list[Any] = []

    def example(path: Sequence[Any]) -> Any:
        if not known:
            known.append(value())
        item = known[0]
        for step in path:
            item = item[step]
        return item

    def walk(kind: Any, path: tuple[Any, ...]) -> Tree:
        text, what = type_text(kind), kind.kind()
        if what == "TensorType":
            leaves.append("tensor")
            return {"leaf": len(leaves) - 1}
        if what in _SCALARS:
            leaves.append(what)
            return {"scalar": len(leaves) - 1, "type": _SCALARS[what]}
        if what == "NoneType":
            return {"value": None, "type": "None"}
        if what == "OptionalType":
            return {"value": None, "type": text} if example(path) is None else walk(kind.getElementType(), path)
        if what == "TupleType":
            items = [walk(sub, (*path, i)) for i, sub in enumerate(kind.elements())]
            if kind.annotation_str.startswith("__torch__"):
                return {"named": text, "fields": list(example(path)._fields), "items": items, "type": text}
            return {"tuple": items, "type": text}
        if what == "ListType":
            return {"list": [walk(kind.getElementType(), (*path, i)) for i in range(len(example(path)))], "type": text}
        if what == "DictType":
            keys = list(example(path))
            return {"dict": keys, "items": [walk(kind.getValueType(), (*path, key)) for key in keys], "type": text}
        if what == "StringType":
            return {"value": example(path), "type": text}
        raise Unrepresentable(f"the method returns {text}, which an engine cannot give")

    return walk(kind, ()), len(leaves)


def bind(schema: Any, formals: Sequence[Any], args: Sequence[Any], kwargs: dict[str, Any]) -> list[tuple[Any, Any]]:
    """(argument of the schema, value) for each of ``formals``. Raises TypeError as a call would."""
    if len(args) > len(formals):
        raise TypeError(f"{schema.name} takes {len(formals)} arguments, {len(args)} inputs were given: {schema}")
    unknown = set(kwargs) - {a.name for a in formals}
    if unknown:
        raise TypeError(f"{schema.name} has no argument {sorted(unknown)[0]!r}: {schema}")
    bound = []
    for i, formal in enumerate(formals):
        if i < len(args):
            if formal.name in kwargs:
                raise TypeError(f"argument {formal.name!r} is given twice")
            bound.append((formal, args[i]))
        elif formal.name in kwargs:
            bound.append((formal, kwargs[formal.name]))
        elif formal.has_default_value():
            bound.append((formal, formal.default_value))
        else:
            raise TypeError(f"inputs lack argument {formal.name!r}: {schema}")
    return bound


# ---- Code ------------------------------------------------------------------------------------------------------------------


class _Code:
    """Lines of one method, and the NamedTuple classes that they name."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.named: dict[str, Tree] = {}
        self.count = 0

    def variable(self) -> str:
        self.count += 1
        return f"kiln_{self.count}"

    def note(self, tree: Tree) -> None:
        for key in ("tuple", "list", "items"):
            for item in tree.get(key, []):
                self.note(item)
        if "named" in tree:
            known = self.named.setdefault(tree["named"], tree)
            if known["fields"] != tree["fields"]:
                raise Unrepresentable(f"two different NamedTuples are called {tree['named']}")

    # -- arguments to tensors --

    def take(self, tree: Tree, expression: str, kind: str, name: str, flat: dict[int, str]) -> None:
        if "value" in tree and tree["value"] is None:
            if kind.startswith("Optional["):
                x = self.variable()
                self.lines += [
                    f"{x} = {expression}",
                    f"assert {x} is None, {_text(f'{name} was None when the module was compiled, so it must be None')}",
                ]
            return
        if kind.startswith("Optional["):
            x = self.variable()
            self.lines += [
                f"{x} = {expression}",
                f"assert {x} is not None, {_text(f'{name} is needed: the module was compiled with it')}",
            ]
            expression, kind = x, kind[len("Optional[") : -1]
        if "leaf" in tree:
            flat[tree["leaf"]] = expression
        elif "value" in tree:
            what = f"{name} is fixed to {tree['value']!r} in the compiled module; compile again for another value"
            self.lines.append(f"assert {expression} == {_literal(tree['value'])}, {_text(what)}")
        elif "dict" in tree:
            keys = ", ".join(map(repr, tree["dict"]))
            what = _text(f"{name} must have the keys {keys}, as when the module was compiled")
            self.lines.append(f"assert len({expression}) == {len(tree['dict'])}, {what}")
            for key, item in zip(tree["dict"], tree["items"]):
                self.lines.append(f"assert {_literal(key)} in {expression}, {what}")
                self.take(item, f"{expression}[{_literal(key)}]", _arguments(kind)[1], f"{name}[{key!r}]", flat)
        elif "list" in tree:
            what = f"{name} must have {len(tree['list'])} items, as when the module was compiled"
            self.lines.append(f"assert len({expression}) == {len(tree['list'])}, {_text(what)}")
            for i, item in enumerate(tree["list"]):
                self.take(item, f"{expression}[{i}]", _arguments(kind)[0], f"{name}[{i}]", flat)
        elif "named" in tree:
            for field, item in zip(tree["fields"], tree["items"]):
                self.take(item, f"{expression}.{field}", _type_of(item), f"{name}.{field}", flat)
        else:
            for i, (item, sub) in enumerate(zip(tree["tuple"], _arguments(kind))):
                self.take(item, f"{expression}[{i}]", sub, f"{name}[{i}]", flat)


def _type_of(tree: Tree) -> str:
    if "type" in tree:
        return tree["type"]
    if "leaf" in tree:
        return "Tensor"
    return {bool: "bool", int: "int", float: "float", str: "str"}.get(type(tree["value"]), "Optional[Tensor]")


def _literal(value: Any) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def _text(message: str) -> str:
    return repr(message.replace("{", "(").replace("}", ")"))


def _arguments(kind: str) -> list[str]:
    """['str', 'List[Tensor]'] of 'Dict[str, List[Tensor]]'."""
    inside, depth, found, start = kind[kind.index("[") + 1 : -1], 0, [], 0
    for i, c in enumerate(inside):
        depth += (c == "[") - (c == "]")
        if c == "," and depth == 0:
            found.append(inside[start:i].strip())
            start = i + 1
    found.append(inside[start:].strip())
    return found


def build(tree: Tree, leaf: Callable[[int], str]) -> str:
    """The expression that puts a result (or an argument) together from its tensors."""
    if "leaf" in tree:
        return leaf(tree["leaf"])
    if "scalar" in tree:
        text = leaf(tree["scalar"])
        return text if text.startswith(("int(", "float(", "bool(")) else f"{tree['type']}({text}.item())"
    if "value" in tree:
        if tree["value"] is None and tree.get("type", "None") != "None":
            return f"torch.jit.annotate({tree['type']}, None)"
        return _literal(tree["value"])
    if "dict" in tree:
        pairs = ", ".join(f"{_literal(key)}: {build(item, leaf)}" for key, item in zip(tree["dict"], tree["items"]))
        return f"torch.jit.annotate({tree['type']}, {{{pairs}}})"
    if "list" in tree:
        return f"torch.jit.annotate({tree['type']}, [{', '.join(build(item, leaf) for item in tree['list'])}])"
    items = "".join(build(item, leaf) + ", " for item in tree.get("tuple", tree.get("items")))
    return f"{tree['named']}({items})" if "named" in tree else f"({items})"


def _named_classes(trees: dict[str, Tree], namespace: dict[str, Any]) -> None:
    """NamedTuple classes; those inside others first."""
    waiting = dict(trees)
    while waiting:
        for name, tree in list(waiting.items()):
            types = [_type_of(item) for item in tree["items"]]
            if any(re.search(rf"\b{other}\b", text) for other in waiting if other != name for text in types):
                continue
            fields = [(field, eval(text, namespace)) for field, text in zip(tree["fields"], types)]
            made = NamedTuple(name, fields)  # type: ignore[misc]
            made.__module__ = "kiln.generated"
            namespace[name] = made
            del waiting[name]
            break
        else:
            raise Unrepresentable("NamedTuples contain each other")


_classes: dict[str, type] = {}


def _make_class(source: str, named: dict[str, Tree]) -> type:
    """The class of this source. TorchScript reads it through linecache, where it stays: types of PyTorch live as long."""
    key = repr(named) + source
    if key not in _classes:
        namespace: dict[str, Any] = {"__name__": "kiln.generated"}
        exec("import torch\nfrom torch import Tensor\nfrom typing import Any, Dict, List, NamedTuple, Optional, Tuple", namespace)
        _named_classes(named, namespace)
        filename = f"<kiln.generated {len(_classes)}>"
        linecache.cache[filename] = (len(source), None, source.splitlines(True), filename)
        exec(compile(source, filename, "exec"), namespace)
        _classes[key] = namespace["Compiled"]
    return _classes[key]


def _parameters(args: list[dict[str, Any]]) -> str:
    return "".join(
        f", {arg['name']}: {arg['type']}" + (f" = {_literal(arg['default'])}" if "default" in arg else "") for arg in args
    )


_CLASS = """\
class Compiled(torch.nn.Module):
    def __init__(self, {field}):
        super().__init__()
        self.{field} = {field}

    def forward(self{parameters}) -> {result}:
{body}
"""


def generate(
    interface: dict[str, Any],
    inputs: list[Optional[int]],
    outputs: list[dict[str, Any]],
    mutated: Sequence[tuple[int, int]] = (),
) -> type:
    """The class of modules with this interface whose attribute ``engine`` has ``run(List[Tensor]) -> List[Tensor]``.

    ``inputs[i]`` is the engine's input for leaf i of the arguments (None: none), ``outputs[i]`` what leaf i of the result is, as the
    importers' metadata says ({"tensor": k}, {"int": k}, {"value": v}); ``mutated`` has pairs (engine input, engine output).
    """
    code, flat = _Code(), {}
    for arg in interface["args"]:
        code.note(arg["tree"])
        code.take(arg["tree"], arg["name"], arg["type"], f"argument '{arg['name']}'", flat)
    code.note(interface["result"])
    engine_inputs = {k: flat[i] for i, k in enumerate(inputs) if k is not None}
    code.lines.append(f"kiln_outputs = self.engine.run([{', '.join(engine_inputs[k] for k in range(len(engine_inputs)))}])")
    code.lines += [f"{engine_inputs[i]}.copy_(kiln_outputs[{o}])" for i, o in mutated]

    def leaf(i: int) -> str:
        for kind in ("int", "float", "bool"):
            if kind in outputs[i]:
                return f"{kind}(kiln_outputs[{outputs[i][kind]}].item())"
        return f"kiln_outputs[{outputs[i]['tensor']}]" if "tensor" in outputs[i] else _literal(outputs[i].get("value"))

    code.lines.append(f"return {build(interface['result'], leaf)}")
    body = "\n".join(" " * 8 + line for line in code.lines)
    source = _CLASS.format(field="engine", parameters=_parameters(interface["args"]), result=interface["type"], body=body)
    return _make_class(source, code.named)


def generate_flat(interface: dict[str, Any], names: list[str], method: str, n_results: int) -> type:
    """The class of modules that call ``self.model.<method>`` of this interface (``method`` empty: ``self.model``, a function) with plain
    tensors and return plain tensors: what the importer is given, so that it need not know how arguments nest."""
    code = _Code()
    for arg in interface["args"]:
        code.note(arg["tree"])
    code.note(interface["result"])
    arguments = ", ".join(
        f"torch.jit.annotate({arg['type']}, {build(arg['tree'], names.__getitem__)})"
        for arg in interface["args"]
        if "leaf" not in arg
    )
    code.lines.append(f"kiln_result = self.model{'.' + method if method else ''}({arguments})")
    flat: dict[int, str] = {}
    _split(code, interface["result"], "kiln_result", interface["type"], flat)
    results = [flat[i] for i in range(n_results)] or ["torch.zeros([0])"]  # constants alone, or writes to the arguments
    code.lines.append(f"return ({''.join(result + ', ' for result in results)})")
    result = f"Tuple[{', '.join(['Tensor'] * len(results))}]"
    body = "\n".join(" " * 8 + line for line in code.lines)
    parameters = "".join(f", {name}: Tensor" for name in names)
    return _make_class(_CLASS.format(field="model", parameters=parameters, result=result, body=body), code.named)


def _split(code: _Code, tree: Tree, expression: str, kind: str, flat: dict[int, str]) -> None:
    """Like take, for a result: numbers become tensors."""
    if "value" in tree:
        return
    if kind.startswith("Optional["):
        x = code.variable()
        code.lines += [f"{x} = {expression}", f"assert {x} is not None"]
        expression, kind = x, kind[len("Optional[") : -1]
    if "scalar" in tree:
        flat[tree["scalar"]] = f"torch.tensor({expression})"
    elif "leaf" in tree:
        flat[tree["leaf"]] = expression
    elif "dict" in tree:
        for key, item in zip(tree["dict"], tree["items"]):
            _split(code, item, f"{expression}[{_literal(key)}]", _arguments(kind)[1], flat)
    elif "list" in tree:
        for i, item in enumerate(tree["list"]):
            _split(code, item, f"{expression}[{i}]", _arguments(kind)[0], flat)
    elif "named" in tree:
        for field, item in zip(tree["fields"], tree["items"]):
            _split(code, item, f"{expression}.{field}", _type_of(item), flat)
    else:
        for i, (item, sub) in enumerate(zip(tree["tuple"], _arguments(kind))):
            _split(code, item, f"{expression}[{i}]", sub, flat)
