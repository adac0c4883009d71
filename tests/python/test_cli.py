"""The kiln program: results, files, exit status and texts."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    with torch.no_grad():
        program = torch.export.export(module, (torch.zeros(2, 8),), dynamic_shapes=({0: batch},), strict=False)
        torch.export.save(program, folder / "mlp.pt2")
        x = torch.randn(5, 8)
        np.save(folder / "x.npy", x.numpy())
        np.save(folder / "x_fortran.npy", np.asfortranarray(x.numpy()))
        np.save(folder / "y.npy", module(x).numpy())
    return folder


@pytest.fixture(scope="module")
def kiln_program() -> Path:
    import os

    from conftest import ROOT

    return Path(os.environ.get("KILN_BUILD", ROOT / "build")) / "kiln"


def run(program: Path, work: Path, *arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    result = subprocess.run([program, *arguments], cwd=work, capture_output=True, text=True, check=False)
    assert result.returncode == status, f"{arguments}: {result.returncode}\n{result.stdout}{result.stderr}"
    assert status == 0 or result.stderr.startswith("kiln: "), result.stderr
    return result


@pytest.fixture(scope="module")
def engine(kiln_program: Path, work: Path) -> str:
    out = run(kiln_program, work, "build", "mlp.pt2").stdout
    assert "built for cpu" in out
    assert (work / "mlp.kiln").exists()
    return "mlp.kiln"


@pytest.mark.parametrize("file", ["x.npy", "x_fortran.npy"])
@pytest.mark.parametrize("name", ["input=", ""])
def test_run(kiln_program: Path, work: Path, engine: str, name: str, file: str) -> None:
    out = run(kiln_program, work, "run", engine, "--input", f"{name}{file}", "--output", "out").stdout
    assert "f32[5,4]" in out
    (written,) = (work / "out").iterdir()
    np.testing.assert_allclose(np.load(written), np.load(work / "y.npy"), rtol=1e-4, atol=1e-5)


def test_run_refuses(kiln_program: Path, work: Path, engine: str) -> None:
    assert "missing" in run(kiln_program, work, "run", engine, status=1).stderr
    assert "no input 'q'" in run(kiln_program, work, "run", engine, "--input", "q=x.npy", status=1).stderr
    assert "nothing.npy" in run(kiln_program, work, "run", engine, "--input", "nothing.npy", status=1).stderr
    assert "nothing.kiln" in run(kiln_program, work, "run", "nothing.kiln", "--input", "x.npy", status=1).stderr
    np.save(work / "wide.npy", np.zeros((5, 9), np.float32))
    assert "input" in run(kiln_program, work, "run", engine, "--input", "wide.npy", status=1).stderr


@pytest.mark.parametrize(
    "content",
    [b"", b"\x93NUMPY\x01\x00", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'}", b"\x93NUMPY\x02\x00\xff\xff\xff\xff", b"noise" * 9],
)
def test_damaged_npy(kiln_program: Path, work: Path, engine: str, content: bytes) -> None:
    (work / "bad.npy").write_bytes(content)
    assert "bad.npy" in run(kiln_program, work, "run", engine, "--input", "bad.npy", status=1).stderr


def test_npy_that_claims_too_much(kiln_program: Path, work: Path, engine: str) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (4000000000, 4000000000), }\n"
    (work / "bad.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    assert "shorter" in run(kiln_program, work, "run", engine, "--input", "bad.npy", status=1).stderr


def test_bench(kiln_program: Path, work: Path, engine: str) -> None:
    out = run(kiln_program, work, "bench", engine, "--seconds", "0.2", "--threads", "1", "--json", "b.json", "--profile").stdout
    for word in ("median", "p99", "throughput", "weights", "tactic"):
        assert word in out
    figures = json.loads((work / "b.json").read_text())
    assert 0 < figures["min_s"] <= figures["median_s"] <= figures["p99_s"]
    assert figures["weights_bytes"] > 0
    assert json.loads(run(kiln_program, work, "bench", engine, "--seconds", "0.1", "--json", "-").stdout)["runs"] > 0


@pytest.mark.parametrize("source", ["mlp.pt2", "mlp.kiln"])
@pytest.mark.parametrize("what", ["summary", "graph", "plan", "memory", "why"])
def test_inspect(kiln_program: Path, work: Path, engine: str, source: str, what: str) -> None:
    run(kiln_program, work, "inspect", source, f"--{what}")


def test_inspect_page(kiln_program: Path, work: Path, engine: str) -> None:
    run(kiln_program, work, "inspect", engine, "--html", "page.html")
    page = (work / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert page.rstrip().endswith("</html>")
    assert "Steps" in page
    run(kiln_program, work, "inspect", engine, "--html", "nowhere/page.html", status=1)


def test_diff(kiln_program: Path, work: Path, engine: str) -> None:
    assert "ok" in run(kiln_program, work, "diff", "mlp.pt2").stdout
    assert "ok" in run(kiln_program, work, "diff", "mlp.pt2", engine, "--data", "input=x.npy").stdout
    assert "ok" in run(kiln_program, work, "diff", "mlp.pt2", "--layers").stdout
    run(kiln_program, work, "diff", "mlp.pt2", "--target", "cpu:scalar")
    torch.manual_seed(7)
    other = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 4)).eval()
    program = torch.export.export(other, (torch.zeros(2, 8),), strict=False)
    torch.export.save(program, work / "other.pt2")
    result = subprocess.run([kiln_program, "diff", "other.pt2", engine], cwd=work, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "TOO LARGE" in result.stdout


def test_build_with_ranges(kiln_program: Path, work: Path) -> None:
    run(kiln_program, work, "build", "mlp.pt2", "-o", "r.kiln", "--min", "input=2x8", "--opt", "input=4x8", "--max", "input=8x8")
    run(kiln_program, work, "run", "r.kiln", "--input", "input=8x8")
    assert "input" in run(kiln_program, work, "run", "r.kiln", "--input", "input=9x8", status=1).stderr
    run(kiln_program, work, "build", "mlp.pt2", "-o", "f.kiln", "--input", "input=3x8:f32", "--target", "reference")
    run(kiln_program, work, "run", "f.kiln", "--input", "3x8")


def test_build_refuses(kiln_program: Path, work: Path) -> None:
    run(kiln_program, work, "build", "nothing.pt2", status=1)
    run(kiln_program, work, "build", ".", status=1)
    (work / "noise.pt2").write_bytes(b"PK\x03\x04" + b"noise" * 100)
    run(kiln_program, work, "build", "noise.pt2", status=1)
    assert not (work / "noise.kiln").exists()
    run(kiln_program, work, "build", "mlp.pt2", "-o", "nowhere/m.kiln", status=1)
    run(kiln_program, work, "build", "mlp.pt2", "--target", "tpu", "-o", "t.kiln", status=1)


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["build"],
        ["build", "a", "b"],
        ["build", "mlp.pt2", "--input", "input=3y8"],
        ["build", "mlp.pt2", "--input", "input=3x8:f33"],
        ["build", "mlp.pt2", "--min", "input=3x8"],
        ["build", "mlp.pt2", "--tune", "often"],
        ["bench", "mlp.kiln", "--threads", "many"],
        ["inspect"],
        ["diff"],
        ["ops", "what"],
    ],
)
def test_wrong_usage(kiln_program: Path, work: Path, arguments: list[str]) -> None:
    run(kiln_program, work, *arguments, status=2)


def test_unknown_option(kiln_program: Path, work: Path) -> None:
    result = subprocess.run([kiln_program, "run", "--wings"], cwd=work, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "--wings" in result.stderr
    assert "kiln run --help" in result.stderr


@pytest.mark.parametrize("command", ["build", "run", "bench", "inspect", "diff", "ops"])
def test_help(kiln_program: Path, work: Path, command: str) -> None:
    assert run(kiln_program, work, command, "--help").stdout.startswith(f"Usage: kiln {command}")
    assert command in run(kiln_program, work, "--help").stdout


def test_ops(kiln_program: Path, work: Path) -> None:
    assert "softmax" in run(kiln_program, work, "ops").stdout
    assert json.loads(run(kiln_program, work, "ops", "--json").stdout)


def test_full_disk(kiln_program: Path, work: Path, engine: str) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with open("/dev/full", "w") as full:
        result = subprocess.run([kiln_program, "ops"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 1
    assert "writing to standard output failed" in result.stderr


def test_tune(kiln_program: Path, work: Path, engine: str) -> None:
    out = run(kiln_program, work, "tune", engine, "-o", "tuned.kiln", "--tune", "10", "--cache", "tactics").stdout
    assert "tuned for cpu" in out and (work / "tactics").exists()
    assert 'timed "' in run(kiln_program, work, "inspect", "--plan", "tuned.kiln").stdout
    run(kiln_program, work, "run", "tuned.kiln", "--input", "x.npy", "--output", "tuned")
    (written,) = (work / "tuned").iterdir()
    np.testing.assert_allclose(np.load(written), np.load(work / "y.npy"), rtol=1e-4, atol=1e-5)
    run(kiln_program, work, "tune", engine, "--tune", "often", status=2)
    run(kiln_program, work, "tune", status=2)
    run(kiln_program, work, "tune", "x.npy", status=1)


def test_profiles(kiln_program: Path, work: Path) -> None:
    def options(*profiles: str) -> list[str]:
        return [word for profile in profiles for word in ("--profile", profile)]

    run(kiln_program, work, "build", "mlp.pt2", "-o", "two.kiln", *options("input=1x8:2x8:4x8", "input=16x8:16x8:32x8"))
    assert "optimization profile 1: input[0] 16 to 32, opt 16" in run(kiln_program, work, "inspect", "two.kiln").stdout
    run(kiln_program, work, "run", "two.kiln", "--input", "20x8")
    assert "dimension 0 is 9, outside optimization profile 0 (1 to 4)" in (
        run(kiln_program, work, "run", "two.kiln", "--input", "9x8", status=1).stderr
    )
    for profiles, text in (
        (("1x8:2x8",), "should be MIN:OPT:MAX"),
        (("1x8:2x8:4x8:5x8",), "should be MIN:OPT:MAX"),
        (("1x8:2x8:4x8x1",), "dimensions"),
        (("1x8:2x8:4x8", "x=1x8:2x8:4x8"), "the inputs of the first one"),
        (("1x8:2x8:4x8",) * 65, "more than 64 profiles"),
        (("1x8:2x8:",), ""),
    ):
        assert text in run(kiln_program, work, "build", "mlp.pt2", "-o", "no.kiln", *options(*profiles), status=2).stderr
    wrong = options("1x8:2x8:4x8", "4x8:2x8:8x8")
    assert (
        "optimization profile 1, input 0" in run(kiln_program, work, "build", "mlp.pt2", "-o", "no.kiln", *wrong, status=1).stderr
    )
