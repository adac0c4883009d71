"""The examples run, and those in C and C++ without Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import PACKAGES, ROOT


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples") / "small.kiln"
    result = subprocess.run(
        [sys.executable, ROOT / "examples" / "compile_and_run.py", path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
    )
    assert result.returncode == 0, result.stderr
    assert "same after loading: True" in result.stdout
    difference = float(result.stdout.split("PyTorch: ")[1].split()[0])
    assert difference < 1e-4
    return path


@pytest.mark.parametrize("program", ["run_engine", "run_engine_cpp"])
def test_native_example(engine: Path, build_folder: Path, program: str) -> None:
    path = build_folder / "examples" / program
    # An empty environment: no Python, no search paths.
    result = subprocess.run([path, engine], capture_output=True, text=True, check=False, env={})
    assert result.returncode == 0, result.stderr
    assert "output" in result.stdout
    libraries = subprocess.run(["ldd", path], capture_output=True, text=True, check=True).stdout
    assert "libkiln.so" in libraries
    assert "libpython" not in libraries
    assert "libtorch" not in libraries


def test_native_example_reports_errors(tmp_path: Path, build_folder: Path) -> None:
    for program in ("run_engine", "run_engine_cpp"):
        path = build_folder / "examples" / program
        result = subprocess.run([path, tmp_path / "nothing.kiln"], capture_output=True, text=True, check=False)
        assert result.returncode == 1
        assert "nothing.kiln" in result.stderr
        assert subprocess.run([path], capture_output=True, check=False).returncode == 2
