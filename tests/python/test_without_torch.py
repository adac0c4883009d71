"""import kiln must work where PyTorch is not installed; engines then run on NumPy arrays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kiln
from conftest import PACKAGES

SCRIPT = """
import sys
sys.modules["torch"] = None  # importing it fails
import numpy, kiln
engine = kiln.Engine.open(sys.argv[1])
(y,) = engine(numpy.ones((2, 4), numpy.float32))
numpy.save(sys.argv[2], y)
try:
    kiln.compile
except kiln.KilnError as error:
    assert "needs PyTorch" in str(error), error
else:
    raise SystemExit("kiln.compile exists without torch")
print("done", engine.inputs[0].name)
"""


def test_engine_runs_without_torch(tmp_path: Path) -> None:
    import numpy

    module = torch.nn.Linear(4, 3).eval()
    kiln.save(kiln.compile(module, inputs=[torch.zeros(2, 4)]), tmp_path / "m.kiln")
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "m.kiln"), str(tmp_path / "y.npy")],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(PACKAGES)},
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("done")
    assert numpy.load(tmp_path / "y.npy") == pytest.approx(module(torch.ones(2, 4)).numpy(), rel=1e-4, abs=1e-5)
