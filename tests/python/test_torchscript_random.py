"""Random scripted programs of branches and loops on tensor data, views, in-place writes, lists and dicts, against Python itself.

    pytest tests/python/test_torchscript_random.py --tb=short
    KILN_TEST_PROGRAMS=1000 pytest tests/python/test_torchscript_random.py

Programs are compared with plain Python, not with TorchScript, whose optimizer may lose a write (`c * 1` becomes `c`). A program
may be refused where it writes to what may or may not be another tensor; it may never give other numbers.
"""

from __future__ import annotations

import importlib.util
import os
import random
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch.utils import _pytree as pytree

import kiln
from torchscript_build import build

PROGRAMS = int(os.environ.get("KILN_TEST_PROGRAMS", "60"))

REFUSALS = ("clone() it", "tensors of different types", "changes a tensor from")

HEAD = """import torch
from typing import Dict, List, Tuple
T = torch.Tensor
def f(x: T, y: T) -> Tuple[T, T, T, int, int, List[T], Dict[str, T]]:
    a = x.clone()
    b = y + 0.1
    c = x - y
    n = int((x * 3).sum()) % 4
    m = 2
    l = [a * 2, b * 2]
    d = {"k": c.clone()}"""


class Writer:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines = [HEAD]

    def pick(self, *choices: str) -> str:
        return self.random.choice(choices)

    def tensor(self) -> str:
        return self.pick("a", "b", "c")

    def condition(self) -> str:
        t, k = self.tensor(), self.random.randrange(4)
        return self.pick(
            f"bool({t}.sum() > {k - 1})",
            f"bool({t}[1, {k}] > 0.2)",
            "n > m",
            "n % 2 == 1",
            f"bool({t}.max() > 0.5) and m < {k + 1}",
        )

    def value(self) -> str:
        s, t = self.tensor(), self.tensor()
        return (
            self.pick(
                f"{s} + {t}",
                f"{s} * 0.5 - {t}",
                f"torch.tanh({s})",
                f"{s} * n * 0.1",
                f"torch.where({s} > {t}, {s}, -{t})",
                f"{s}.flip(0)",
            )
            if self.random.random() < 0.7
            else self.pick("l[0] * 0.7", f'd["k"] - {s}', f"{s}.clone()", f"torch.relu({s}) + n", s)
        )

    def number(self) -> str:
        return self.pick("n + 1", "m + n", "n * 2 % 7", "m - 1", "n // 2", "3")

    def view(self) -> str:
        t = self.tensor()
        return self.pick(
            f"{t}[1]", f"{t}[:, 1:3]", f"{t}.t()[1:3]", f"{t}.view(-1)[2:5]", t, "l[1]", f"{t}[n % 2]", f"{t}.select(1, m % 4)"
        )

    def write(self) -> str:
        if self.random.random() < 0.3:
            return f"{self.tensor()}[{self.random.randrange(2)}] = 2.0"
        return f"{self.view()}.{self.pick('mul_(0.5)', 'add_(0.25)', 'zero_()', 'clamp_(-1.0, 1.0)')}"

    def loop(self, depth: int, pad: str) -> None:
        k = f"k{len(self.lines)}"
        if self.random.random() < 0.5:
            self.lines.append(f"{pad}for {k} in range({self.pick('2', 'n % 3', '3')}):")
            self.block(depth + 1)
            if self.random.random() < 0.3:
                self.lines.append(f"{pad}    if {self.condition()}:\n{pad}        break")
        else:
            self.lines.append(f"{pad}{k} = 0\n{pad}while {k} < {self.pick('1', '2', '3')} and {self.condition()}:")
            self.block(depth + 1)
            self.lines.append(f"{pad}    {k} += 1")

    def branch(self, depth: int, pad: str) -> None:
        self.lines.append(f"{pad}if {self.condition()}:")
        self.block(depth + 1)
        if self.random.random() < 0.7:
            self.lines.append(f"{pad}else:")
            self.block(depth + 1)

    def block(self, depth: int, size: int = 4) -> None:
        pad = "    " * (depth + 1)
        for _ in range(self.random.randrange(1, size)):
            kind = self.random.random()
            if kind < 0.3:
                self.lines.append(f"{pad}{self.tensor()} = {self.value()}")
            elif kind < 0.4:
                self.lines.append(f"{pad}{self.pick('n', 'm')} = {self.number()}")
            elif kind < 0.48:
                self.lines.append(pad + self.write())
            elif kind < 0.55:
                self.lines.append(pad + self.pick("l[0]", "l[1]", 'd["k"]') + " = " + self.value())
            elif kind < 0.82 and depth < 3:
                self.branch(depth, pad)
            elif depth < 2:
                self.loop(depth, pad)
            else:
                self.lines.append(f"{pad}pass")

    def program(self) -> str:
        self.block(0, 9)
        if self.random.random() < 0.3:
            self.lines.append(f"    if {self.condition()}:\n        return a, b, c, n, m, l, d")
        self.block(0)
        return "\n".join([*self.lines, "    return a, b, c, n, m, l, d", ""])


def load(source: str, path: Path) -> ModuleType:
    path.write_text(source)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("first", range(0, PROGRAMS, 20))
def test_programs(first: int, tmp_path: Path) -> None:
    refused = 0
    for seed in range(first, first + 20):
        source = Writer(seed).program()
        module = load(source, tmp_path / f"program_{seed}.py")
        script = torch.jit.script(module.f)
        torch.manual_seed(seed)
        calls = [(torch.randn(2, 4), torch.randn(2, 4)) for _ in range(4)]
        try:
            compiled = build(script, calls[0])
        except kiln.KilnError as error:
            if not any(part in str(error) for part in REFUSALS):
                pytest.fail(f"{source}\n{error}")
            refused += 1
            continue
        for args in calls:
            expected, shape = pytree.tree_flatten(module.f(*[t.clone() for t in args]))
            actual, ours = pytree.tree_flatten(compiled(*args))
            assert shape == ours, source
            for e, g in zip(expected, actual):
                if isinstance(e, torch.Tensor):
                    assert torch.allclose(e, g, rtol=1e-4, atol=1e-4), source
                else:
                    assert e == g, source
    assert refused <= 10
