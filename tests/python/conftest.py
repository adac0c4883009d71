"""Shared by all Python tests: two threads, as the figures of the project are measured, and no gradients."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import kiln

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = Path(kiln.__file__).absolute().parents[1]  # where processes that tests start find the same kiln
sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.filterwarnings("ignore", category=DeprecationWarning)


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def build_folder() -> Path:
    """Where CMake built; set KILN_BUILD if it is not `build`."""
    folder = Path(os.environ.get("KILN_BUILD", ROOT / "build"))
    if not (folder / "kiln").exists():
        pytest.fail(f"{folder}/kiln does not exist: run make build, or set KILN_BUILD")
    return folder
