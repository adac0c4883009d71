"""Models for test_script_module.py, in a file without ``from __future__ import annotations`` because TorchScript reads it."""

from typing import Dict, List, NamedTuple, Optional, Tuple  # noqa: UP035

import torch


class Pair(NamedTuple):
    a: torch.Tensor
    b: torch.Tensor


Result = Tuple[Dict[str, torch.Tensor], Tuple[torch.Tensor, List[torch.Tensor]], Optional[torch.Tensor], int, Pair]  # noqa: UP006


class Structured(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 16)

    def forward(
        self,
        x: torch.Tensor,
        d: Dict[str, torch.Tensor],  # noqa: UP006
        xs: List[torch.Tensor],  # noqa: UP006
        p: Pair,
        m: Optional[torch.Tensor] = None,
        n: int = 2,
        mode: str = "sum",
    ) -> Result:
        y = self.linear(x) + d["b"] * n
        for t in xs:
            y = y + t
        if m is not None:
            y = y * m
        if mode == "sum":
            y = y + p.a
        return {"y": y, "z": d["a"] * 2}, (y, [x + 1, y + p.b]), m, y.size(0), Pair(y, x)

    @torch.jit.export
    def encode(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:  # noqa: UP006
        return self.linear(x).relu(), x + 1


class Live(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(16, 16)

    def forward(self, x, d, n=2):
        y = self.linear(x) + d["b"] * n
        return {"y": y, "z": d["a"] * 2}, (y, [x + 1, y + 1]), None


class Counter(torch.nn.Module):
    """Twice the sum of all inputs so far."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("sum", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sum = self.sum + x
        return self.sum * 2


class Twice(torch.nn.Module):
    def __init__(self, module: torch.nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.module(x) + self.module(x)


class Unsupported(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nextafter(x, x) + torch.nextafter(x * 2, x)


def scale(a: torch.Tensor, n: int) -> Tuple[torch.Tensor, torch.Tensor]:  # noqa: UP006
    return a * n, a.sum()
