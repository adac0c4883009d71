"""Files of older versions of PyTorch's operators: what a call meant then, as torch.jit.load has it."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch

import kiln


def rewritten(path: Path, version: int, changes: dict[str, str]) -> Path:
    """The same file as an older PyTorch would have written it."""
    out = path.with_name(f"old{version}.pt")
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("/version"):
                data = f"{version}\n".encode()
            for a, b in changes.items() if name.endswith(".py") else ():
                assert a.encode() in data
                data = data.replace(a.encode(), b.encode())
            new.writestr(name, data)
    return out


class Arithmetic(torch.nn.Module):
    def forward(self, x: torch.Tensor, i: torch.Tensor):
        a, b, c = i / 2, i.div(i + 1), x / i
        d, e, f = i / 2.5, torch.full([2], 3), torch.full([2], True)
        g, h = torch.full([2], 3, dtype=torch.int64), torch.linspace(0, 1, 100)
        return a, b, c, d, e, f, g, h, torch.div(i, 3, rounding_mode="floor")


class InPlace(torch.nn.Module):
    def forward(self, i: torch.Tensor):
        i = i.clone()
        i /= 2
        return i.div_(3)


@pytest.mark.parametrize("version", [3, 4, 5, 7, 8, 10])
def test_meaning(tmp_path, version):
    torch.jit.save(torch.jit.script(Arithmetic()), tmp_path / "new.pt")
    path = rewritten(tmp_path / "new.pt", version, {"linspace(0, 1, 100)": "linspace(0, 1, None)"} if version <= 7 else {})
    x, i = torch.randn(4), torch.tensor([-7, 3, 8, -4])
    expected = torch.jit.load(str(path))(x, i)
    assert expected[0].dtype == (torch.int64 if version == 3 else torch.float32)
    specs = [(name, dtype, (4,), (4,), (4,)) for name, dtype in (("x", "f32"), ("i", "i64"))]
    results = kiln.CompiledModule(kiln.Engine.build(str(path), inputs=specs))(x, i)
    for mine, theirs in zip(results, expected):
        torch.testing.assert_close(mine, theirs)


def test_in_place(tmp_path):
    torch.jit.save(torch.jit.script(InPlace()), tmp_path / "new.pt")
    path = rewritten(tmp_path / "new.pt", 3, {})
    i = torch.tensor([-17, 3, 80])
    engine = kiln.Engine.build(str(path), inputs=[("i", "i64", (3,), (3,), (3,))])
    assert torch.equal(kiln.CompiledModule(engine)(i), torch.jit.load(str(path))(i))
