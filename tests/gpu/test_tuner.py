"""The tuner on a GPU: results, cache, what plans tell, cuBLASLt as tactics and where it is missing. Skips, visibly, without a GPU."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

kiln = pytest.importorskip("kiln")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")


class Mixed(nn.Module):
    """Convolutions of one and nine pixels with a residual, products with and without activations, and a product of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.wide = nn.Conv2d(64, 64, 3, padding=1)
        self.point = nn.Conv2d(64, 64, 1)
        self.up = nn.Linear(64, 256)
        self.down = nn.Linear(256, 64)
        self.gelu = nn.GELU(approximate="tanh")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        x = torch.relu(self.point(self.wide(x)) + x)
        x = x.flatten(2).transpose(1, 2)
        x = x + self.down(self.gelu(self.up(x)))
        return x @ x.transpose(1, 2)


def example() -> torch.Tensor:
    return torch.randn(4, 3, 16, 16, device="cuda")


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(3)
    return Mixed().eval().cuda()


@pytest.fixture(scope="module")
def cache(model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What tuning found, as a file."""
    path = tmp_path_factory.mktemp("tuner") / "tactics"
    kiln.compile(model, inputs=[example()], precision="fp16", tune=40, cache=str(path))
    return path


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


def seconds(engine: object, x: torch.Tensor) -> float:
    """Median of several times 50 calls."""
    times = []
    for _ in range(9):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(50):
            engine(x)  # type: ignore[operator]
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times)[4]


def forced(cache: Path, operator: str, tactic: str, folder: Path) -> Path:
    """The cache with another winner for one operator."""
    lines = [line.split("\t") for line in cache.read_text().splitlines()]
    for line in lines:
        if f" {operator} " in line[0]:
            line[1] = tactic
    path = folder / "forced"
    path.write_text("".join("\t".join(line) + "\n" for line in lines))
    return path


def test_tuned_is_right_and_told(model: nn.Module, cache: Path) -> None:
    x = example()
    engine = kiln.compile(model, inputs=[x], precision="fp16", cache=str(cache))
    with torch.no_grad():
        for _ in range(3):
            assert error(engine(x), model(x)) < 3e-3
    told = re.findall(r'tactic "(\w+)[^"]*" timed "([\d.e+]+) us, heuristic ([\d.e+]+) us', engine.engine.report("plan"))
    assert {"conv", "linear", "matmul"} <= {operator for operator, _, _ in told}
    assert all(float(chosen) <= float(heuristic) for _, chosen, heuristic in told)


def test_not_slower(model: nn.Module, cache: Path) -> None:
    x = example()
    plain = kiln.compile(model, inputs=[x], precision="fp16")
    tuned = kiln.compile(model, inputs=[x], precision="fp16", cache=str(cache))
    for engine in (plain, tuned):
        for _ in range(5):
            engine(x)
    ratio = min(seconds(tuned, x) / seconds(plain, x) for _ in range(3))
    assert ratio < 1.05, f"tuned takes {ratio:.3f} of the heuristic's time"


def test_cache_is_used(model: nn.Module, cache: Path) -> None:
    before = cache.read_text()
    engine = kiln.compile(model, inputs=[example()], precision="fp16", tune=40, cache=str(cache))
    assert cache.read_text() == before, "layers that are in the cache were timed again"
    assert "timed" in engine.engine.report("plan")


def test_damaged_cache(model: nn.Module, cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(b"\0\xff\t\n" + cache.read_bytes()[:-7].replace(b"linear", b"linear\t") + b"\tx\tnan\tinf\n")
    x = example()
    engine = kiln.compile(model, inputs=[x], precision="fp16", cache=str(path))
    with torch.no_grad():
        assert error(engine(x), model(x)) < 3e-3


@pytest.fixture(scope="module", params=["fp16", "bf16", "tf32"])
def precise(request: pytest.FixtureRequest, model: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A precision and a cache of it."""
    path = tmp_path_factory.mktemp(request.param) / "tactics"
    kiln.compile(model, inputs=[example()], precision=request.param, tune=8, cache=str(path))
    return request.param, path


@pytest.mark.parametrize("suffix", ["", ".2nd", ".3rd"])
@pytest.mark.parametrize("library", ["linear.cublaslt", "conv.cublaslt", "matmul.cublaslt", "conv.cudnn"])
def test_library_tactics(model: nn.Module, precise: tuple[str, Path], tmp_path: Path, library: str, suffix: str) -> None:
    precision, path = precise
    operator, tactic = library.split(".", maxsplit=1)[0], library + suffix
    if library == "conv.cudnn" and precision not in ("fp16", "bf16"):
        pytest.skip("cuDNN is asked for 16 bits only")
    x = example()
    engine = kiln.compile(model, inputs=[x], precision=precision, cache=str(forced(path, operator, tactic, tmp_path)))
    assert f'tactic "{tactic}"' in engine.engine.report("plan")
    with torch.no_grad():
        want = model(x)
        bound = {"fp16": 3e-3, "bf16": 2e-2, "tf32": 3e-3}[precision]
        for _ in range(4):  # plain, staged graph, graph on the caller's tensors
            assert error(engine(x), want) < bound


def test_plans_of_cudnn_are_kept(model: nn.Module, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They take long to compile: engine files and the cache folder bring them, and what they bring computes the same."""
    tactics = str(forced(cache, "conv", "conv.cudnn", tmp_path))
    make = (  # in a process of its own: this one has the plans in memory
        "import sys, torch, kiln\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "from test_tuner import Mixed, example\n"
        "torch.manual_seed(3)\n"
        "model, x = Mixed().eval().cuda(), example()\n"
        "engine = kiln.compile(model, inputs=[x], precision='fp16', cache=sys.argv[2])\n"
        "engine.engine.save(sys.argv[3])\n"
        "torch.save((x.cpu(), engine(x).cpu()), sys.argv[4])\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", make, os.path.dirname(__file__), tactics, str(tmp_path / "e.kiln"), str(tmp_path / "io.pt")],
        env={**os.environ, "KILN_CACHE_DIR": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    kept = list((tmp_path / "cache").glob("*.cudnn"))
    assert kept, "no plan was kept"
    assert any(path.read_bytes() in (tmp_path / "e.kiln").read_bytes() for path in kept), "the engine's file has none"
    script = (
        "import sys, torch, kiln\n"
        "x, want = torch.load(sys.argv[2])\n"
        "got = kiln.load(sys.argv[1])(x.cuda()).cpu()\n"
        "print(((got - want).norm() / want.norm()).item())\n"
    )
    for folder in ("", str(tmp_path / "cache")):
        run = subprocess.run(
            [sys.executable, "-c", script, str(tmp_path / "e.kiln"), str(tmp_path / "io.pt")],
            env={**os.environ, "KILN_CACHE_DIR": folder},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stderr
        assert float(run.stdout) < 2e-3 and "note" not in run.stderr, run.stderr
    for path in kept:  # what cannot be read is made anew
        path.write_bytes(b'{"version": 1, "damaged')
    monkeypatch.setenv("KILN_CACHE_DIR", str(tmp_path / "cache"))
    x = example()
    again = kiln.compile(model, inputs=[x], precision="fp16", cache=tactics)
    with torch.no_grad():
        assert error(again(x), model(x)) < 3e-3


def test_library_in_a_captured_graph(model: nn.Module, cache: Path, tmp_path: Path) -> None:
    x = example()
    path = forced(cache, "linear", "linear.cublaslt", tmp_path)
    engine = kiln.compile(model, inputs=[x], precision="fp16", cache=str(path))
    with torch.no_grad():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            engine(x)
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            y = engine(x)
        x.copy_(example())
        graph.replay()
        torch.cuda.synchronize()
        assert error(y, model(x)) < 3e-3


def test_library_is_missing(model: nn.Module, cache: Path, tmp_path: Path) -> None:
    x = example()
    path = forced(cache, "linear", "linear.cublaslt", tmp_path)
    engine = kiln.compile(model, inputs=[x], precision="fp16", cache=str(path))
    engine.engine.save(tmp_path / "e.kiln")
    torch.save((x.cpu(), engine(x).cpu()), tmp_path / "io.pt")
    script = (
        "import sys, torch, kiln\n"
        "x, want = torch.load(sys.argv[2])\n"
        "got = kiln.load(sys.argv[1])(x.cuda()).cpu()\n"
        "print(((got - want).norm() / want.norm()).item())\n"
    )
    env = {**os.environ, "KILN_CUDA_WITHOUT": "cublaslt"}
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "e.kiln"), str(tmp_path / "io.pt")],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 2e-3
    assert "linear.cublaslt" in run.stderr and "KILN_CUDA_WITHOUT" in run.stderr and "linear.gemm" in run.stderr


def test_in_place(model: nn.Module, tmp_path: Path) -> None:
    """An engine that was built for the architecture, with heuristics, is tuned where it is opened; its modules go on."""
    x = example()
    major, minor = torch.cuda.get_device_capability()
    built = kiln.compile(model, inputs=[x], precision="fp16", target=f"cuda:sm_{10 * major + minor}")
    built.engine.save(tmp_path / "e.kiln")
    opened = kiln.load(tmp_path / "e.kiln")
    assert "timed" not in opened.engine.report("plan")
    with torch.no_grad():
        want = model(x)
        assert error(opened(x), want) < 3e-3
        opened.engine.tune(6, cache=tmp_path / "tactics")
        assert "timed" in opened.engine.report("plan")
        for _ in range(3):
            assert error(opened(x), want) < 3e-3
    opened.engine.save(tmp_path / "tuned.kiln")
    assert "timed" in kiln.Engine.open(tmp_path / "tuned.kiln").report("plan")
