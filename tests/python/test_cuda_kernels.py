"""CUDA kernel texts compile for every architecture, without a GPU. Needs the NVRTC library (pip install nvidia-cuda-nvrtc)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

GPU = Path(__file__).resolve().parents[1] / "gpu"
sys.path.insert(0, str(GPU))
import nvrtc  # noqa: E402


def test_texts_compile() -> None:
    """A sample of the variants, others for each architecture."""
    try:
        nvrtc.Nvrtc()
    except OSError:
        pytest.skip("NVRTC is not installed: pip install nvidia-cuda-nvrtc")
    run = subprocess.run(
        [sys.executable, str(GPU / "kernels.py"), "compile", "--step", "25"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.count(" 0 failed") == 5, run.stdout
