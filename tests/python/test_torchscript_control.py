"""Random programs with nested branches and loops, on what is known and on data, compared with PyTorch.

Variables are numbers, tensors, lists and a dict; every branch and loop changes some of them, tensors in place too, and several names
may be one tensor. KILN_TEST_SEEDS=N runs N programs.
"""

from __future__ import annotations

import copy
import os
import random

import pytest
import torch

import kiln
from compare import relative_errors
from torchscript_build import build, plain

SEEDS = int(os.environ.get("KILN_TEST_SEEDS", "60"))


class Program:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        self.loops = 0
        self.counters = 0
        for _ in range(self.random.randint(3, 7)):
            self.statement(1, 0)

    def put(self, depth: int, text: str) -> None:
        self.lines.append("    " * depth + text)

    def number(self) -> str:
        return self.random.choice(["n", "m", "2", "3", "k", "len(l)", "x.size(0)", "l[0]", "l[-1]"])

    def tensor(self) -> str:
        return self.random.choice(["x", "y", "z", "p[0]", "p[1]", 'd["a"]'])

    def condition(self) -> str:
        r = self.random
        known = [f"{self.number()} > {self.number()}", f"{self.number()} % 2 == 0", "x.dim() == 2", f"k == {r.randint(0, 3)}"]
        data = [f"bool(t > {r.randint(-1, 3)})", f"bool({self.tensor()}.sum() > {r.randint(-3, 3)})", f"n > {r.randint(0, 4)}"]
        text = r.choice(data if r.random() < 0.5 else known)
        return f"{text} and {r.choice(known + data)}" if r.random() < 0.15 else text

    def assignment(self) -> str:
        r = self.random
        return r.choice(
            [
                f"n = {self.number()} + {r.randint(0, 3)}",
                f"m = ({self.number()} * 2) % 7",
                "k += 1",
                f"f = f * 0.5 + float({self.number()})",
                f"x = {self.tensor()} * 0.5 + {self.number()}",
                f"y = {self.tensor()} - {self.tensor()}",
                f"z = torch.tanh({self.tensor()}) * f",
                f"y = y + {self.number()}",
                "z = z.clone()",
                "z = x",
                "y = z",
                "x.mul_(0.5)",
                "y += 1",
                "z[0] = 2.0",
                "x[:, 1] += f",
                "p[0].add_(1)",
                f"l[{r.randint(0, 1)}] = {self.number()}",
                f"p[{r.randint(0, 1)}] = {self.tensor()} + 1",
                f'd["a"] = {self.tensor()} * 2',
                "n, m = m, n",
                "x, y = y, x",
            ]
        )

    def block(self, depth: int, in_loop: int) -> None:
        for _ in range(self.random.randint(1, 3)):
            self.statement(depth, in_loop)

    def statement(self, depth: int, in_loop: int) -> None:
        r = self.random
        kind = r.random()
        if depth > 3 or kind < 0.55:
            self.put(depth, self.assignment())
        elif kind < 0.8:
            self.put(depth, f"if {self.condition()}:")
            self.block(depth + 1, in_loop)
            if r.random() < 0.6:
                self.put(depth, "else:")
                self.block(depth + 1, in_loop)
        elif kind < 0.9 and self.loops < 3:
            self.loops += 1
            self.counters += 1
            self.put(depth, f"for i{self.counters} in range({r.choice(['2', '3', 'int(t)', 'x.size(0)'])}):")
            self.block(depth + 1, in_loop + 1)
        elif in_loop and kind < 0.93:
            self.put(depth, f"if {self.condition()}:")
            self.put(depth + 1, r.choice(["break", "continue"]))
        else:
            self.put(depth, self.assignment())

    def text(self) -> str:
        start = [
            "n = int(t)" if self.random.random() < 0.5 else "n = 4",
            "m = 1",
            "k = 0",
            "f = 0.5",
            "y = x * 2",
            "z = x - 1",
            "l = [1, 2]",
            "p = [x, y]",
            'd = {"a": x}',
        ]
        body = [f"    {line}" for line in start] + self.lines + ['    return x, y, z, n, m, k, f, l, p, d["a"]']
        result = "Tuple[Tensor, Tensor, Tensor, int, int, int, float, List[int], List[Tensor], Tensor]"
        return f"def f(x: Tensor, t: Tensor) -> {result}:\n" + "\n".join(body) + "\n"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_program(seed: int) -> None:
    text = Program(seed).text()
    function = torch.jit.CompilationUnit(text).f
    inputs = [(torch.randn(2, 3), torch.tensor(count)) for count in (2, 0, 3)]
    try:
        compiled = build(function, inputs[0])
    except kiln.KilnError as error:  # which tensor a write reaches may depend on data: such programs are refused
        if "in-place write" not in str(error):
            raise
        pytest.skip(str(error).splitlines()[0])
    for x, t in inputs:
        with torch.jit.fuser("fuser0"):  # without PyTorch's optimizer, which fails on a few of these programs
            expected = copy.deepcopy(plain(function(x.clone(), t)))
        actual = plain(compiled(x.clone(), t))
        errors = relative_errors(actual, expected)
        assert max(errors) <= 1e-4, f"{text}\nwith t = {int(t)}: {errors}\n{actual}\n{expected}"
