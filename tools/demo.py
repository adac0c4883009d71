"""`make demo`: two trained models, compiled, run, and checked against PyTorch; then one of the engines run by a C program.

1. all-MiniLM-L6-v2 embeds a handful of sentences; the table shows how similar they are.
2. EfficientNet-Lite0 classifies an image that this program draws.
3. Both engines are saved, and examples/run_engine.c runs one without Python.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Callable

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
warnings.filterwarnings("ignore")
ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "python"), str(ROOT / "tests" / "python")]

import torch  # noqa: E402

import kiln  # noqa: E402
import trained  # noqa: E402

SENTENCES = [
    "A cat sleeps on the warm windowsill.",
    "The kitten is napping in the sun.",
    "The central bank raised interest rates again.",
    "Borrowing money has become more expensive.",
    "How do I bake bread without yeast?",
]


def seconds(calls: list[Callable[[], Any]], rounds: int = 15) -> list[float]:
    """Median time of each call; they take turns, so that a busy moment of the machine hits all of them."""
    times: list[list[float]] = [[] for _ in calls]
    for i in range(rounds + 3):
        for call, record in zip(calls, times):
            start = time.perf_counter()
            call()
            if i >= 3:
                record.append(time.perf_counter() - start)
    return [statistics.median(record) for record in times]


def compiled(model: torch.nn.Module, inputs: list[Any], name: str) -> kiln.CompiledModule:
    start = time.perf_counter()
    fast = kiln.compile(model, inputs=inputs, threads=torch.get_num_threads())
    print(f"compiled {name} for {fast.engine.target} in {time.perf_counter() - start:.2f} s")
    return fast


def embed_sentences() -> tuple[kiln.CompiledModule, tuple[str, float, float, float]]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(trained.minilm_folder() / "tokenizer.json"))
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(SENTENCES)
    ids = torch.tensor([e.ids for e in encoded])
    mask = torch.tensor([e.attention_mask for e in encoded])
    model = trained.minilm()
    tokens = kiln.Input(min_shape=(1, 4), opt_shape=(5, 16), max_shape=(32, 256), dtype=torch.int64)
    fast = compiled(model, [tokens, tokens], "all-MiniLM-L6-v2")

    mine, theirs = fast(ids, mask), model(ids, mask)
    similarity = mine @ mine.T
    print("\nsimilarity of sentences (cosine)")
    for i, sentence in enumerate(SENTENCES):
        print(f"  {sentence:48s}" + "".join(f"{similarity[i, j]:7.2f}" for j in range(len(SENTENCES))))
    error = (mine - theirs).abs().max().item()
    torch_s, kiln_s = seconds([lambda: model(ids, mask), lambda: fast(ids, mask)])
    return fast, ("all-MiniLM-L6-v2, 5 sentences", error, torch_s, kiln_s)


def draw_image() -> torch.Tensor:
    """An orange on a table, 224 x 224, RGB in 0..1."""
    y, x = torch.meshgrid(torch.linspace(-1, 1, 224), torch.linspace(-1, 1, 224), indexing="ij")
    wall = torch.stack([0.75 - 0.1 * y, 0.78 - 0.1 * y, 0.8 - 0.05 * y])
    grain = 0.05 * torch.sin(40 * y + 6 * torch.sin(5 * x))
    table = torch.stack([0.5 + grain, 0.33 + grain, 0.2 + grain / 2])
    image = torch.where(y > 0.35, table, wall)
    shadow = torch.exp(-(((x - 0.1) / 0.6) ** 2 + ((y - 0.6) / 0.12) ** 2))
    image = image * (1 - 0.6 * shadow)
    r2 = (x / 0.6) ** 2 + (y / 0.6) ** 2
    z = torch.sqrt((1 - r2).clamp(min=0))
    light = (0.35 + 0.75 * (-0.4 * x / 0.6 - 0.5 * y / 0.6 + 0.75 * z)).clamp(0.1, 1.2)
    pores = 1 + 0.06 * torch.sin(70 * x + 9 * torch.sin(31 * y)) * torch.sin(67 * y + 8 * torch.sin(29 * x))
    skin = torch.stack([torch.full_like(x, 0.98), torch.full_like(x, 0.55), torch.full_like(x, 0.08)]) * (light * pores)
    skin = skin + 0.6 * torch.exp(-(((x + 0.2) / 0.1) ** 2 + ((y + 0.25) / 0.08) ** 2))
    return torch.where(r2 < 1, skin, image).clamp(0, 1)


CLASSES = {
    522: "croquet ball",
    722: "ping-pong ball",
    950: "orange",
    951: "lemon",
    949: "strawberry",
    948: "Granny Smith",
    957: "pomegranate",
    953: "pineapple",
}


def classify_image() -> tuple[kiln.CompiledModule, tuple[str, float, float, float]]:
    model = trained.efficientnet_lite0()
    x = ((draw_image() * 255 - 127) / 128).unsqueeze(0)
    print()
    fast = compiled(model, [x], "EfficientNet-Lite0")
    mine, theirs = fast(x), model(x)
    print("\nwhat the drawn image shows, by Kiln and by PyTorch")
    for ours, other in zip(mine.softmax(1)[0].topk(3), theirs.softmax(1)[0].topk(3)):
        if ours.dtype == torch.int64:
            names = ([f"{i} {CLASSES.get(i, '')}".strip() for i in t.tolist()] for t in (ours, other))
            print("  class       ", " | ".join(", ".join(row) for row in names))
        else:
            print("  probability ", " | ".join(", ".join(f"{p:.4f}" for p in t.tolist()) for t in (ours, other)))
    error = (mine - theirs).abs().max().item()
    torch_s, kiln_s = seconds([lambda: model(x), lambda: fast(x)])
    return fast, ("EfficientNet-Lite0, 1 image", error, torch_s, kiln_s)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default="build", help="where CMake built the examples")
    parser.add_argument("--output", default=None, help="where the engines go (default: BUILD/demo)")
    options = parser.parse_args()
    output = Path(options.output or Path(options.build) / "demo")
    output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    with torch.no_grad():
        sentences, row1 = embed_sentences()
        images, row2 = classify_image()

    print(f"\n{'model':32s}{'max difference':>15s}{'PyTorch':>12s}{'Kiln':>12s}{'speed-up':>10s}")
    for name, error, torch_s, kiln_s in (row1, row2):
        print(f"{name:32s}{error:15.1e}{1e3 * torch_s:9.2f} ms{1e3 * kiln_s:9.2f} ms{torch_s / kiln_s:9.2f}x")

    kiln.save(sentences, output / "minilm.kiln")
    kiln.save(images, output / "efficientnet-lite0.kiln")
    program = Path(options.build) / "examples" / "run_engine"
    print(f"\n$ {program} {output / 'efficientnet-lite0.kiln'}", flush=True)
    result = subprocess.run([program, output / "efficientnet-lite0.kiln"], check=False)
    worst = max(row1[1], row2[1])
    if worst > 1e-3:
        print(f"the difference from PyTorch is too large: {worst:.1e}", file=sys.stderr)
        return 1
    return result.returncode


if __name__ == "__main__":
    sys.exit(main())
