"""What sizes that vary cost: one engine with ranges against engines built for one shape each.

    python bench/dynamic_shapes.py [--models resnet18 bert_base] [--threads 2] [--seconds 4] [--target cuda]

At the opt shape the dynamic engine should take at most 3 % longer than the static one, at other shapes at most 15 % longer, and its arena
should be at most 1.05 times as large. A control, the static engine built once more, tells how much two engines differ anyway (by where
their memory lies, say); --no-control leaves it out. All take turns in short blocks; the figure is the median over the blocks of the
quotient of neighbouring blocks' fastest calls, so that other work on the machine, which disturbs all, does not count. With --threads 1 the
clock is the thread's own time, which other work disturbs still less. --csv FILE keeps the table.
"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "python")]
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
warnings.filterwarnings("ignore")

BLOCK_SECONDS = 0.12
# Model: low, opt and high of each tensor's shape (the same for all), and the other shapes to look at.
IMAGES = ((1, 3, 96, 96), (1, 3, 224, 224), (4, 3, 320, 320))
TOKENS = ((1, 8), (1, 128), (4, 256))
FEATURES = ((1, 8, 256), (1, 64, 256), (16, 128, 256))
CASES: dict[str, tuple[tuple[tuple[int, ...], ...], list[tuple[int, ...]]]] = {
    "resnet18": (IMAGES, [(1, 3, 96, 96), (1, 3, 288, 192), (4, 3, 224, 224)]),
    "resnet50": (IMAGES, [(1, 3, 96, 96), (4, 3, 224, 224)]),
    "mobilenet_v2": (IMAGES, [(1, 3, 96, 96), (1, 3, 288, 192), (4, 3, 224, 224)]),
    "squeezenet": (IMAGES, [(1, 3, 96, 96), (1, 3, 288, 192), (4, 3, 224, 224)]),
    "unet": (((1, 3, 64, 64), (1, 3, 128, 128), (2, 3, 256, 256)), [(1, 3, 64, 64), (1, 3, 160, 96), (2, 3, 128, 128)]),
    "vit_b16": (((1, 3, 224, 224), (1, 3, 224, 224), (4, 3, 224, 224)), [(2, 3, 224, 224)]),
    "bert_base": (TOKENS, [(1, 16), (1, 200), (4, 64)]),
    "gpt2": (TOKENS, [(1, 16), (1, 200), (4, 64)]),
    "lstm": (FEATURES, [(1, 16, 256), (16, 64, 256)]),
}


def example(shape: tuple[int, ...], count: int, device: str) -> list[Any]:
    import torch

    torch.manual_seed(0)
    if len(shape) != 2:
        return [torch.randn(shape, device=device)]
    ids = torch.randint(1, 1000, shape, device=device)
    return [ids, torch.ones(shape, dtype=torch.int64, device=device)][:count]


def block(call: Callable[[], Any], wait: Callable[[], None], clock: Callable[[], float]) -> float:
    """The fastest call of a short block; the first is not counted."""
    call()
    wait()
    best, end = float("inf"), time.perf_counter() + BLOCK_SECONDS
    while True:
        start = clock()
        call()
        wait()
        best = min(best, clock() - start)
        if time.perf_counter() > end:
            return best


def compare(calls: list[Callable[[], Any]], seconds: float, wait: Callable[[], None], clock: Callable[[], float]) -> list[float]:
    """Seconds of the first call, then for each other one the quotient with the first."""
    times: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times[0]) < 6:
        order = range(len(calls)) if len(times[0]) % 2 == 0 else reversed(range(len(calls)))
        for i in order:
            times[i].append(block(calls[i], wait, clock))
    return [min(times[0]), *(statistics.median(t / first for t, first in zip(other, times[0])) for other in times[1:])]


def run_model(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    import torch

    import kiln
    from models import MODELS

    (low, opt, high), others = CASES[name]
    module = MODELS[name].module("full")
    count = 2 if name == "bert_base" else 1
    dtype = torch.int64 if len(opt) == 2 else torch.float32
    device = "cuda" if args.target.startswith("cuda") else "cpu"
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    clock = time.thread_time if device == "cpu" and args.threads == 1 else time.perf_counter
    options = {"target": args.target, "precision": args.precision, "threads": args.threads}
    ranged = [kiln.Input(min_shape=low, opt_shape=opt, max_shape=high, dtype=dtype)] * count
    rows = []
    with torch.no_grad():
        dynamic = kiln.compile(module, inputs=ranged, **options)
        for shape in [opt, *others][: args.shapes]:
            x = example(shape, count, device)
            static = kiln.compile(module, inputs=[t.cpu() for t in x], **options)
            tolerance = 1e-2 if args.precision == "fp32" else 0.2
            torch.testing.assert_close(dynamic(*x), static(*x), rtol=tolerance, atol=tolerance)
            arena = dynamic.memory()["arena"] / static.memory()["arena"]
            calls = [lambda: static(*x), lambda: dynamic(*x)]  # noqa: B023 - called at once
            if args.control:
                other = kiln.compile(module, inputs=[t.cpu() for t in x], **options)
                calls.append(lambda: other(*x))  # noqa: B023
            seconds, ratio, *control = compare(calls, args.seconds, wait, clock)
            limit = 1.03 if shape == opt else 1.15
            text = "x".join(map(str, shape))
            row = {"model": name, "shape": text, "opt": shape == opt, "static_ms": 1e3 * seconds, "ratio": ratio}
            rows.append({**row, "control": control[0] if control else None, "arena": arena})
            mark = "" if ratio <= limit else f"  above {limit}"
            mark += "" if arena <= 1.05 else "  arena above 1.05"
            again = f"{control[0]:8.3f}" if control else f"{'':8s}"
            print(
                f"{name:14s} {text:14s} {'opt' if shape == opt else '':4s}{1e3 * seconds:10.3f} ms {ratio:8.3f} {again} {arena:8.3f}{mark}",
                flush=True,
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--control", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--shapes", type=int, default=9, help="at most so many of each model, the opt shape first")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    print(
        f"{'model':14s} {'shape':14s} {'':4s}{'static':>13s} {'dynamic':>8s} {'control':>8s} {'arena':>8s}   (quotients with static)"
    )
    rows = [row for name in args.models for row in run_model(name, args)]
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
