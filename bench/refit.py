"""What a refit costs: BERT-base and ResNet-50 with random weights, batch 1.

    python bench/refit.py [--target cpu|cuda] [--precision fp32]

Prints a table of processor seconds (of all threads, so that other work on the machine does not count): of a build with its export, of a
refit with a whole state dict, of one with a single matrix, and of the first call after it, which binds the shapes again (medians of
five); and the sizes of the engine file with and without weights.
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


def seconds(run: Callable[[], Any], times: int = 5) -> float:
    samples = []
    for _ in range(times):
        start = time.process_time()
        run()
        samples.append(time.process_time() - start)
    return statistics.median(samples)


def measure(name: str, make: Callable[[], Any], target: str, precision: str) -> str:
    torch.manual_seed(0)
    model, inputs, single = make()
    model.eval()
    start = time.process_time()
    compiled = kiln.compile(model, inputs=inputs, target=target, precision=precision)
    built = time.process_time() - start
    inputs = tuple(value.to(target) for value in inputs)
    compiled(*inputs)
    state = {key: value + 0.01 if value.is_floating_point() else value for key, value in model.state_dict().items()}
    whole, first = [], []
    for weights in (state, model.state_dict()) * 2 + (state,):
        whole.append(seconds(lambda weights=weights: compiled.refit(weights), 1))
        first.append(seconds(lambda: compiled(*inputs)[0], 1))
    try:
        one = f"{seconds(lambda: compiled.refit({single: state[single]})):.2f}"
    except kiln.KilnError:
        one = "needs others"
    sizes = [len(engine.serialize()) / 1e6 for engine in (compiled.engine, compiled.engine.strip())]
    return (
        f"| {name} | {built:.2f} | {statistics.median(whole):.2f} | {one} | {1000 * statistics.median(first):.0f} | {sizes[0]:.0f} | "
        f"{sizes[1]:.2f} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--precision", default="fp32")
    arguments = parser.parse_args()
    print("| model | build, CPU s | refit, CPU s | one matrix, CPU s | first call, CPU ms | file, MB | stripped, MB |")
    print("|---|---|---|---|---|---|---|")
    with torch.no_grad():
        for name, make in (("BERT-base", bert), ("ResNet-50", resnet)):
            print(measure(name, make, arguments.target, arguments.precision), flush=True)


if __name__ == "__main__":
    main()
