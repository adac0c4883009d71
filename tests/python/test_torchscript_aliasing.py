"""Random programs of views and in-place writes, compared with PyTorch: who sees which write is what is tested.

A program makes views of views of its input or of a copy of it, writes to some of them, in branches and loops on data too, and returns
all of them. KILN_TEST_SEEDS=N runs N programs.
"""

from __future__ import annotations

import os
import random

import pytest
import torch

from compare import relative_errors
from torchscript_build import build

SEEDS = int(os.environ.get("KILN_TEST_SEEDS", "60"))


class Program:
    """Text of a function, grown at random; `shapes` are of the variables so far."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.lines: list[str] = []
        self.shapes: dict[str, tuple[int, ...]] = {"x": (4, 6)}
        self.writable = {"x": True}  # not expanded
        if self.random.random() < 0.7:
            self.lines = ["x = x.clone()"]
        for _ in range(self.random.randint(4, 12)):
            self.step("")

    def new(self, expression: str, shape: tuple[int, ...], of: str, indent: str, writable: bool = True) -> None:
        name = f"v{len(self.shapes)}"
        self.lines.append(f"{indent}{name} = {expression}")
        self.shapes[name] = shape
        self.writable[name] = self.writable[of] and writable

    def step(self, indent: str) -> None:
        kind = self.random.random()
        if kind < 0.5:
            self.view(indent)
        elif kind < 0.9 or indent:
            self.write(indent)
        else:
            head = self.random.choice(["if bool(t > 0):", "for i in range(int(t)):"])
            self.lines.append(head)
            for _ in range(self.random.randint(1, 3)):
                self.write("    ")
            if head.startswith("if") and self.random.random() < 0.5:
                self.lines.append("else:")
                self.write("    ")

    def view(self, indent: str) -> None:
        r = self.random
        of = r.choice(list(self.shapes))
        shape = self.shapes[of]
        n = len(shape)
        if n == 0:
            self.new(f"{of}.unsqueeze(0)", (1,), of, indent)
            return
        axis = r.randrange(n)
        size = shape[axis]
        choice = r.randrange(9)
        if choice == 0 and n > 1:
            i = r.randrange(size)
            self.new(f"{of}.select({axis}, {i})", shape[:axis] + shape[axis + 1 :], of, indent)
        elif choice == 1 and n > 1:
            other = r.randrange(n)
            order = list(shape)
            order[axis], order[other] = order[other], order[axis]
            self.new(f"{of}.transpose({axis}, {other})", tuple(order), of, indent)
        elif choice == 2:
            self.new(f"{of}.unsqueeze({axis})", (*shape[:axis], 1, *shape[axis:]), of, indent)
        elif choice == 3 and size % 2 == 0:
            self.new(f"{of}.chunk(2, {axis})[{r.randrange(2)}]", (*shape[:axis], size // 2, *shape[axis + 1 :]), of, indent)
        elif choice == 4 and size % 2 == 0 and n < 4:
            self.new(f"{of}.unflatten({axis}, [2, {size // 2}])", (*shape[:axis], 2, size // 2, *shape[axis + 1 :]), of, indent)
        elif choice == 5 and n > 1 and shape[0] > 1 and shape[1] > 1:
            self.new(f"{of}.diagonal(0, 0, 1)", (*shape[2:], min(shape[:2])), of, indent)
        elif choice == 6:
            self.new(f"{of} * 2", shape, of, indent)
            self.writable[f"v{len(self.shapes) - 1}"] = True
        elif choice == 7 and n > 1:
            count = 1
            for s in shape:
                count *= s
            self.new(f"{of}.reshape(-1)", (count,), of, indent)
        else:
            start = r.randrange(size)
            stop = r.randint(start + 1, size)
            step = r.choice([1, 1, 2])
            index = ", ".join([":"] * axis + [f"{start}:{stop}:{step}"])
            self.new(f"{of}[{index}]", (*shape[:axis], (stop - start + step - 1) // step, *shape[axis + 1 :]), of, indent)

    def write(self, indent: str) -> None:
        r = self.random
        to = r.choice([name for name, ok in self.writable.items() if ok])
        number = f"{r.randint(-3, 3)}.5"
        forms = [f"{to}.add_({number})", f"{to}.mul_({number})", f"{to}.fill_({number})", f"{to}.clamp_(-2.0, 2.0)", f"{to} += t"]
        same = [name for name, shape in self.shapes.items() if shape == self.shapes[to]]
        forms.append(f"{to}.copy_({r.choice(same)} * 2)")
        forms.append(f"{to}.masked_fill_({r.choice(same)} > 0.5, {number})")
        if self.shapes[to]:
            forms.append(f"{to}[{r.randrange(self.shapes[to][0])}] = {number}")
            forms.append(f"{to}[{r.randrange(self.shapes[to][0])}:] *= {number}")
        self.lines.append(indent + r.choice(forms))

    def text(self) -> str:
        body = "".join(f"    {line}\n" for line in [*self.lines, f"return [{', '.join(self.shapes)}]"])
        return f"def f(x: Tensor, t: Tensor) -> List[Tensor]:\n{body}"


@pytest.mark.parametrize("seed", range(SEEDS))
def test_program(seed: int) -> None:
    text = Program(seed).text()
    function = torch.jit.CompilationUnit(text).f
    inputs = [(torch.randn(4, 6), torch.tensor(count)) for count in (2, 0)]
    compiled = build(function, inputs[0])
    for x, t in inputs:
        theirs, ours = x.clone(), x.clone()
        expected = [value.clone() for value in function(theirs, t)]
        errors = relative_errors([*compiled(ours, t), ours], [*expected, theirs])
        assert max(errors) <= 1e-5, f"{text}\nwith t = {int(t)}: {errors}"
