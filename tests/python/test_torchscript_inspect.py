"""kiln inspect of TorchScript files that PyTorch has just written: methods, tensors, operators, and lines of the user's source."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from conftest import ROOT

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

SOURCE = """
import torch


def outer(x: torch.Tensor) -> torch.Tensor:
    return x + torch.nextafter(x, x)


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.tied = torch.nn.Linear(4, 4)
        self.tied.weight = self.linear.weight

    def forward(self, x: torch.Tensor, scale: float = 0.5):
        if self.training:
            x = torch.bartlett_window(4) + x
        for _ in range(3):
            x = self.tied(self.linear(x)) * scale
        return outer(x)

    @torch.jit.export
    def reset(self) -> int:
        return 3
"""


def line_of(text: str) -> int:
    return next(i for i, line in enumerate(SOURCE.splitlines(), 1) if text in line)


def inspect(build_folder: Path, path: Path, status: int = 0) -> str:
    result = subprocess.run([build_folder / "kiln", "inspect", path], capture_output=True, text=True, check=False)
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout if status == 0 else result.stderr


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    path = tmp_path_factory.mktemp("source") / "my_net.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location("my_net", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["my_net"] = module  # where PyTorch looks for the source
    spec.loader.exec_module(module)
    return module.Net()


def test_scripted(build_folder: Path, net: torch.nn.Module, tmp_path: Path) -> None:
    torch.jit.script(net).save(tmp_path / "net.pt")
    text = inspect(build_folder, tmp_path / "net.pt")
    assert f"forward(x: Tensor, scale: float = 0.5) -> Tensor   (my_net.py:{line_of('if self.training')})" in text
    assert "reset() -> int" in text
    assert "parameters and buffers: 3 tensors, 96 bytes" in text
    assert re.search(r"tied\.weight +f32\[4,4\]   same as linear\.weight\n", text)
    assert re.search(r"aten::linear +2\n", text)
    assert f"aten::nextafter, used 1 time, first at my_net.py:{line_of('nextafter')}" in text
    assert f"aten::bartlett_window, used 1 time, first at my_net.py:{line_of('bartlett')}" in text


def test_traced(build_folder: Path, net: torch.nn.Module, tmp_path: Path) -> None:
    traced = torch.jit.trace(net.eval(), torch.randn(2, 4))
    traced.save(tmp_path / "net.pt")
    text = inspect(build_folder, tmp_path / "net.pt")
    assert "forward(x = f32[2,4])" in text
    assert re.search(r"aten::linear +6\n", text)
    assert f"aten::nextafter, used 1 time, first at my_net.py:{line_of('nextafter')}" in text
    torch.jit.freeze(traced).save(tmp_path / "frozen.pt")
    text = inspect(build_folder, tmp_path / "frozen.pt")
    assert "parameters and buffers: 0 tensors" in text
    assert re.search(r"constants of the code: [3-9] tensors", text)
    assert f"aten::nextafter, used 1 time, first at my_net.py:{line_of('nextafter')}" in text


def test_all_kinds_of_modules(build_folder: Path, tmp_path: Path) -> None:
    """What the seeds of the fuzz target hold, as the installed PyTorch writes it."""
    sys.path.insert(0, str(ROOT / "tests/fuzz"))
    try:
        import torchscript_seeds
    finally:
        sys.path.pop(0)
    names = []
    for name, module in torchscript_seeds.modules():
        module.save(tmp_path / f"{name}.pt")
        text = inspect(build_folder, tmp_path / f"{name}.pt")
        assert "TorchScript module __torch__." in text
        names.append(name)
    assert len(names) >= 6


def test_tensors_that_are_refused(build_folder: Path, tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    module.extra = torch.eye(3).to_sparse()
    torch.jit.script(module).save(tmp_path / "m.pt")
    assert "`extra` is a sparse tensor" in inspect(build_folder, tmp_path / "m.pt", status=1)


def test_missing_entries(build_folder: Path, net: torch.nn.Module, tmp_path: Path) -> None:
    """Each entry left out in turn: a text, or a description that does without."""
    torch.jit.script(net).save(tmp_path / "net.pt")
    with zipfile.ZipFile(tmp_path / "net.pt") as whole:
        names = whole.namelist()
        for left_out in names:
            with zipfile.ZipFile(tmp_path / "part.pt", "w") as part:
                for name in names:
                    if name != left_out:
                        part.writestr(name, whole.read(name))
            optional = re.search(r"debug_pkl$|constants.pkl$|byteorder$|serialization_id$", left_out)
            text = inspect(build_folder, tmp_path / "part.pt", status=0 if optional else 1)
            if left_out.endswith(".debug_pkl"):
                assert "first at code/__torch__/my_net.py:" in text or "my_net" not in left_out
