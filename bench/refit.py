"""What a refit costs: BERT-base and ResNet-50 with random weights, batch 1.

    python bench/refit.py [--target cpu|cuda] [--precision fp32]

Prints a table of processor seconds (of all threads, so that other work on the machine does not count) and, behind a slash, of seconds by
the clock: of a build with its export, of a refit with a whole state dict, of one with a single matrix, and of the first call after it,
which binds the shapes again (medians of five); and the sizes of the engine file with and without weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import kiln


def bert() -> tuple[torch.nn.Module, tuple[Any, ...], str]:
    from transformers import BertConfig, BertModel

    return BertModel(BertConfig()), (torch.randint(0, 30000, (1, 128)),), "encoder.layer.5.output.dense.weight"


def resnet() -> tuple[torch.nn.Module, tuple[Any, ...], str]:
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "python"))
    from models import MODELS

    model = MODELS["resnet50"]
    return model.module(), model.example(), next(reversed(list(model.module().state_dict())))


def seconds(run: Callable[[], Any], times: int = 5) -> tuple[float, float]:
    """Medians: of the processor, and by the clock."""
    samples = []
    for _ in range(times):
        start = time.process_time(), time.perf_counter()
        run()
        samples.append((time.process_time() - start[0], time.perf_counter() - start[1]))
    return medians(samples)


def medians(samples: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(cpu for cpu, _ in samples), statistics.median(clock for _, clock in samples)


def text(pair: tuple[float, float]) -> str:
    return f"{pair[0]:.2f} / {pair[1]:.2f}"


def measure(name: str, make: Callable[[], Any], target: str, precision: str) -> str:
    torch.manual_seed(0)
    model, inputs, single = make()
    model.eval()
    made: list[Any] = []
    built = seconds(lambda: made.append(kiln.compile(model, inputs=inputs, target=target, precision=precision)), 1)
    compiled = made[0]
    inputs = tuple(value.to("cuda" if target.startswith("cuda") else "cpu") for value in inputs)

    def call() -> None:
        compiled(*inputs)
        if target.startswith("cuda"):
            torch.cuda.synchronize()

    call()
    state = {key: value + 0.01 if value.is_floating_point() else value for key, value in model.state_dict().items()}
    whole, first = [], []
    for weights in (state, model.state_dict()) * 2 + (state,):
        whole.append(seconds(lambda weights=weights: compiled.refit(weights), 1))
        first.append(seconds(call, 1))
    try:
        one = text(seconds(lambda: compiled.refit({single: state[single]})))
    except kiln.KilnError:
        one = "needs others"
    sizes = [len(engine.serialize()) / 1e6 for engine in (compiled.engine, compiled.engine.strip())]
    return f"| {name} | {text(built)} | {text(medians(whole))} | {one} | {text(medians(first))} | {sizes[0]:.0f} | {sizes[1]:.2f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--precision", default="fp32")
    arguments = parser.parse_args()
    print("| model | build, s | refit, s | one matrix, s | first call, s | file, MB | stripped, MB |")
    print("|---|---|---|---|---|---|---|")
    with torch.no_grad():
        for name, make in (("BERT-base", bert), ("ResNet-50", resnet)):
            print(measure(name, make, arguments.target, arguments.precision), flush=True)


if __name__ == "__main__":
    main()
