"""TorchScript files that are wrong: each must be a KilnError that says what and where (file:line), and never a crash or a hang.

The archives are real ones whose code is replaced, or whose entries are missing or cut.
"""

from __future__ import annotations

import contextlib
import io
import re
import time
import zipfile
from typing import Callable, Optional

import pytest
import torch
from torch import nn

import kiln
from torchscript_build import saved


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.numbers = [1, 2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + torch.tensor([1.0, 2.0, 3.0])


def edited(change: Callable[[str, bytes], Optional[bytes]]) -> bytes:
    """The archive of Tiny with each entry through change(name, bytes); None leaves it out. Places in the source are dropped."""
    source = zipfile.ZipFile(io.BytesIO(saved(torch.jit.script(Tiny().eval()))))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name in source.namelist():
            data = None if name.endswith(".debug_pkl") else change(name, source.read(name))
            if data is not None:
                target.writestr(name, data)
    return buffer.getvalue()


def is_root(name: str, data: bytes) -> bool:
    return name.endswith(".py") and b"class Tiny(" in data


def with_forward(body: str, before: str = "", arguments: str = "x: Tensor") -> bytes:
    """`before` goes to the end of the file, where functions may stand; {tiny} is the class's name."""

    def change(name: str, data: bytes) -> bytes:
        if not is_root(name, data):
            return data
        text = data.decode()
        at = text.index("  def forward(self: ")
        cls = re.match(r"  def forward\(self: ([\w.]+)", text[at:]).group(1)
        lines = "".join(f"    {line}\n" for line in body.splitlines())
        text = text[:at] + f"  def forward(self: {cls},\n    {arguments}) -> Tensor:\n{lines}" + before
        return text.replace("{tiny}", cls).replace("{package}", cls.rpartition(".")[0]).encode()

    return edited(change)


def build(data: bytes) -> kiln.Engine:
    return kiln.Engine.build(data, inputs=[(None, "f32", (2, 3), (2, 3), (2, 3))])


def test_unchanged() -> None:
    assert build(edited(lambda name, data: data)).outputs[0].min_shape == (2, 3)
    assert build(with_forward("return torch.add(x, 1)")).outputs[0].min_shape == (2, 3)


# (what is wrong, the body of forward, functions after the class, part of the message)
CODE = [
    ("unknown_syntax", "return x if True else x", "", "expected"),
    ("operator", "return x + x", "", ""),
    ("unclosed", "return torch.add(x, 1", "", ""),
    ("tabs_and_dedents", "if True:\n      return x\n   return x", "", ""),
    ("unknown_name", "return y", "", "y"),
    ("unknown_function", "return torch.no_such_function(x)", "", "no_such_function"),
    ("unknown_namespace", "return ops.mine.secret(x)", "", "secret"),
    ("recursion", "return (self).forward(x, )", "", "nested"),
    (
        "mutual_recursion",
        "return __torch__.f(x, )",
        "def f(x: Tensor) -> Tensor:\n  return __torch__.g(x, )\ndef g(x: Tensor) -> Tensor:\n  return __torch__.f(x, )\n",
        "",
    ),
    ("endless_while", "i = 0\nwhile True:\n  i = torch.add(i, 1)\nreturn x", "", "steps"),
    ("endless_for", "for i in range(9223372036854775807):\n  pass\nreturn x", "", "steps"),
    ("unrolled_without_end", "x0 = x\nwhile True:\n  x0 = torch.add(x0, 1)\nreturn x0", "", "operations"),
    ("million_elements", "l = [0]\nwhile True:\n  torch.extend(l, l)\nreturn x", "", "items"),
    ("long_list", "l = torch.mul([0], 100000000)\nreturn x", "", "items"),
    ("long_string", 's = "abcdefgh"\nwhile True:\n  s = torch.add(s, s)\nreturn x', "", ""),
    ("nested_deeply", "return " + "(" * 100000 + "x" + ")" * 100000, "", "nest"),
    ("wrong_constant", "return CONSTANTS.c7", "", "CONSTANTS.c7"),
    ("odd_constant", "return CONSTANTS.cx", "", "CONSTANTS.cx"),
    ("missing_attribute", "return self.nothing", "", "nothing"),
    ("missing_method", "return (self).nothing(x, )", "", "nothing"),
    ("attribute_of_tensor", "return x.nothing", "", "nothing"),
    ("missing_class", "v = __torch__.no.Such.__new__(__torch__.no.Such)\nreturn x", "", "no.Such"),
    ("missing_global", "f = __torch__.no.such\nreturn f(x, )", "", "no.such"),
    ("too_many_arguments", "linear = self.linear\nreturn (linear).forward(x, x, x, )", "", "argument"),
    ("too_few_arguments", "linear = self.linear\nreturn (linear).forward()", "", "missing"),
    ("unknown_keyword", "linear = self.linear\nreturn (linear).forward(y=x)", "", "argument"),
    ("operator_arguments", "return torch.relu(x, x, x, x)", "", "relu"),
    ("operator_types", 'return torch.relu("x")', "", "relu"),
    ("index_of_list", "l = [1, 2]\nreturn torch.add(x, l[5])", "", ""),
    ("index_of_number", "return (3)[0]", "", ""),
    ("call_of_number", "n = 3\nreturn n(x, )", "", ""),
    ("unpack", "a, b, = [1, 2, 3]\nreturn x", "", "2"),
    ("missing_key", 'd = {"a": 1}\nreturn torch.add(x, d["b"])', "", "b"),
    ("division_by_zero", "n = torch.floordiv(1, 0)\nreturn x", "", "zero"),
    ("int_of_text", 'n = int("twelve")\nreturn x', "", "twelve"),
    ("exception", 'ops.prim.RaiseException("this model is never right", "builtins.ValueError")\nreturn x', "", "never right"),
    ("shapes", "return torch.matmul(x, x)", "", "matmul"),
    ("axis", "return torch.softmax(x, 7)", "", "softmax"),
    ("empty_pop", "l = annotate(List[int], [])\nn = torch.pop(l)\nreturn x", "", ""),
    ("unset_value", "y = uninitialized(Tensor)\nreturn torch.add(y, x)", "", ""),
    ("unknown_type", "y = annotate(Wonder[int], [])\nreturn x", "", "Wonder"),
    ("write_to_number", "n = 3\nn.x = 4\nreturn x", "", ""),
    ("wrong_branch_types", 'if bool(torch.sum(x)):\n  y = x\nelse:\n  y = "text"\nreturn y', "", ""),
    ("wrong_branch_shapes", "if bool(torch.sum(x)):\n  y = x\nelse:\n  y = torch.unsqueeze(x, 0)\nreturn y", "", ""),
    ("returns_function", "return torch.add", "", ""),
]


@pytest.mark.parametrize(("body", "after", "text"), [c[1:] for c in CODE], ids=[c[0] for c in CODE])
def test_code(body: str, after: str, text: str) -> None:
    data = with_forward(body, after)
    start = time.perf_counter()
    with pytest.raises(kiln.KilnError) as caught:
        build(data)
    assert time.perf_counter() - start < 20
    message = str(caught.value)
    assert text in message
    assert re.search(r"\.py:\d+", message), message


def test_cyclic_types() -> None:
    """A class whose attribute is of its own class, and a class that is its own base."""

    def change(name: str, data: bytes) -> bytes:
        if not is_root(name, data):
            return data
        return data.replace(b"  numbers : List[int]", b"  numbers : List[List[List[int]]]").replace(
            b"  linear : ", b"  linear : __torch__.no."
        )

    with pytest.raises(kiln.KilnError):
        build(edited(change))


@pytest.mark.parametrize("missing", ["data.pkl", "constants.pkl", ".py", "data/0", "version"])
def test_missing_entries(missing: str) -> None:
    with pytest.raises(kiln.KilnError):
        build(
            edited(
                lambda name, data: (
                    None if name.endswith(missing) else data.replace(b"    return ", b"    return CONSTANTS.c0\n    return ")
                )
            )
        )


def test_huge_tensor() -> None:
    """More elements than can be counted: when it is built, or when it runs."""
    x = torch.zeros(2, 3)
    with pytest.raises((kiln.KilnError, MemoryError)):
        build(with_forward("return torch.zeros([1099511627776, 1099511627776])"))(x)
    with pytest.raises((kiln.KilnError, MemoryError)):
        build(with_forward("return torch.ones([1048576, 1048576, 1024])"))(x)


def test_cut_entries() -> None:
    """Each entry cut in half: an error, or, for what does not matter, a right engine."""
    with zipfile.ZipFile(io.BytesIO(edited(lambda name, data: data))) as archive:
        names = archive.namelist()
    for cut in names:
        with contextlib.suppress(kiln.KilnError):
            build(edited(lambda name, data, cut=cut: data[: len(data) // 2] if name == cut else data))


def test_bytes_changed() -> None:
    """Bits flipped all over the code and the pickles."""
    for position in range(0, 400, 7):

        def change(name: str, data: bytes, position: int = position) -> bytes:
            if not (name.endswith((".py", ".pkl"))) or position >= len(data):
                return data
            return data[:position] + bytes([data[position] ^ 0x15]) + data[position + 1 :]

        with contextlib.suppress(kiln.KilnError):
            build(edited(change))


def test_inputs_are_asked_for() -> None:
    data = saved(torch.jit.script(Tiny().eval()))
    with pytest.raises(kiln.KilnError, match="x") as caught:
        kiln.Engine.build(data)
    assert "--input" in str(caught.value) or "inputs" in str(caught.value)
