"""How long it takes to read TorchScript files: from bytes to a graph, without passes or planning.

    PYTHONPATH=python python bench/torchscript_import.py [--tiny] [--models bert_base,resnet50] [--csv FILE]

For each model of tests/python/models.py, the traced, the frozen and (where PyTorch can) the scripted file is written, read to bytes,
and built until planning starts; the build is cancelled there. `read` is the time to read the file's bytes, which `import` leaves out;
the goal is 50 ms for a file of BERT-base's size. Medians of several runs in one process.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "python"))
warnings.filterwarnings("ignore")

import kiln  # noqa: E402
from models import MODELS, Model  # noqa: E402
from torchscript_build import specs  # noqa: E402

FORMS = ("traced", "frozen", "scripted")


class Imported(Exception):
    """Raised when a build has imported its file."""


def read_ms(path: Path) -> float:
    start = time.perf_counter()
    path.read_bytes()
    return 1e3 * (time.perf_counter() - start)


def import_ms(data: bytes, inputs: Sequence[Any]) -> float:
    start = end = time.perf_counter()

    def progress(stage: str, _: float) -> None:
        nonlocal end
        if stage != "importing":
            end = time.perf_counter()
            raise Imported

    with contextlib.suppress(Imported):
        kiln.Engine.build(data, inputs=specs(inputs), progress=progress)
    return 1e3 * (end - start)


def script(model: Model, size: str, form: str) -> torch.jit.ScriptModule | None:
    module, example = model.module(size), model.example(size)
    if form == "scripted":
        try:
            return torch.jit.script(module)
        except Exception:  # the model uses Python that TorchScript does not know
            return None
    traced = torch.jit.trace(module, example, check_trace=False)
    return torch.jit.freeze(traced) if form == "frozen" else traced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="small variants of the models")
    parser.add_argument("--models", default="", help="names, separated by commas")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    names = options.models.split(",") if options.models else list(MODELS)
    rows = []
    print(f"{'model':24}{'form':10}{'MB':>8}{'read ms':>10}{'import ms':>11}")
    for name in names:
        model = MODELS[name]
        size = model.sizes[-1 if options.tiny else 0]
        for form in FORMS:
            with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
                module = script(model, size, form)
                if module is None:
                    continue
                path = Path(folder) / "model.pt"
                torch.jit.save(module, str(path))
                del module
                read = statistics.median(read_ms(path) for _ in range(options.runs))
                data, example = path.read_bytes(), model.example(size)
                taken = statistics.median(import_ms(data, example) for _ in range(options.runs))
                megabytes = len(data) / 1e6
            rows.append([name, form, f"{megabytes:.2f}", f"{read:.2f}", f"{taken:.2f}"])
            print(f"{name:24}{form:10}{megabytes:8.1f}{read:10.2f}{taken:11.2f}", flush=True)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            csv.writer(file).writerows([["model", "form", "megabytes", "read_ms", "import_ms"], *rows])


if __name__ == "__main__":
    main()
