"""Compiles a small model, checks it against PyTorch, saves it and loads it again.

python examples/compile_and_run.py [ENGINE]
"""

from __future__ import annotations

import sys

import torch
from torch import nn

import kiln


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)
    ).eval()
    path = sys.argv[1] if len(sys.argv) > 1 else "small.kiln"

    # Batches of 1 to 8 images; the plan is made for 4.
    images = kiln.Input(min_shape=(1, 3, 32, 32), opt_shape=(4, 3, 32, 32), max_shape=(8, 3, 32, 32))
    fast = kiln.compile(model, inputs=[images])

    x = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        difference = (fast(x) - model(x)).abs().max().item()
    print(f"largest difference from PyTorch: {difference:.1e}")

    kiln.save(fast, path)
    again = kiln.load(path)
    with torch.no_grad():
        print("same after loading:", torch.equal(again(x), fast(x)))
    print(again)


if __name__ == "__main__":
    main()
