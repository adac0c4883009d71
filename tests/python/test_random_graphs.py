"""Random models against PyTorch: chains of pointwise operators, views, reductions and products, and small convolutional networks.

They reach combinations that no list of cases has: fusions across views, epilogues after odd shapes, layouts that change back and
forth. A failing seed makes its model again.
"""

from __future__ import annotations

import random
import warnings

import pytest

torch = pytest.importorskip("torch")
kiln = pytest.importorskip("kiln")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

warnings.filterwarnings("ignore")

UNARY = [
    torch.relu,
    torch.sigmoid,
    torch.tanh,
    torch.sin,
    F.gelu,
    F.silu,
    lambda x: x * 0.5 + 1,
    lambda x: -x.abs(),
    lambda x: x.clamp(-1, 1),
    lambda x: F.leaky_relu(x, 0.1),
    lambda x: x / (1 + x.abs()),
    lambda x: torch.where(x > 0, x, x * 0.1),
    lambda x: x.masked_fill(x > 1, 0.5),
]
BINARY = [
    torch.add,
    torch.sub,
    torch.mul,
    torch.maximum,
    lambda a, b: torch.where(a > b, a, b * 0.5),
    lambda a, b: a / (1 + b.abs()),
]


class Chain(nn.Module):
    """Applies random steps to a pool of tensors; which ones, only the seed and the example's shapes decide."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.seed = seed
        self.shape = [rng.choice([1, 2, 3, 4, 5, 8, 16, 17]) for _ in range(rng.choice([2, 3, 4]))]
        self.inputs = rng.choice([1, 2])

    def example(self):
        return tuple(torch.randn(self.shape) for _ in range(self.inputs))

    def step(self, rng, pool):
        x = rng.choice(pool[-3:])
        axis, kind = rng.randrange(max(x.dim(), 1)), rng.randrange(17)
        if kind < 4 or x.dim() == 0:
            return rng.choice(UNARY)(x)
        if kind < 7:
            return rng.choice(BINARY)(x, rng.choice([t for t in pool if t.shape == x.shape]))
        if kind == 7:
            return x.transpose(axis, rng.randrange(x.dim()))
        if kind == 8:
            return x.reshape(-1, x.shape[-1]) if rng.random() < 0.5 else x.flatten(max(0, x.dim() - 2))
        if kind == 9 and x.numel() < 5000:
            return torch.cat([x, rng.choice(UNARY)(x)], axis)
        if kind == 10:
            return x.narrow(axis, 0, (x.shape[axis] + 1) // 2)
        if kind == 11:
            return getattr(x, rng.choice(["sum", "mean", "amax"]))(axis, keepdim=rng.random() < 0.6)
        if kind == 12:
            return x.softmax(axis)
        if kind == 13:
            return F.layer_norm(x, x.shape[-1:])
        if kind == 14 and x.dim() < 5:
            return x.unsqueeze(axis) + x.mean(-1, keepdim=True).unsqueeze(axis)
        if kind == 15 and x.numel() < 3000:
            return x.unsqueeze(-1) @ x.unsqueeze(-2)
        y = x.clone()
        y.select(axis, 0).mul_(2)
        return y

    def forward(self, *args):
        rng = random.Random(self.seed + 1)
        pool = list(args)
        for _ in range(rng.randint(5, 14)):
            pool.append(self.step(rng, pool))
        return pool[-1], rng.choice(pool[len(args) :])


class Convolutions(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.shape = [rng.choice([1, 2]), rng.choice([1, 3, 4, 8]), *[rng.choice([7, 9, 12, 16, 17])] * 2]
        self.steps = nn.ModuleList()
        channels = self.shape[1]
        for _ in range(rng.randint(3, 10)):
            step, channels = self.pick(rng, channels)
            self.steps.append(step)

    def example(self):
        return (torch.randn(self.shape),)

    @staticmethod
    def pick(rng, c):
        kind = rng.randrange(12)
        if kind < 4:
            groups, kernel = rng.choice([1, 1, 1, c]), rng.choice([1, 3, 3, 5])
            out = c * rng.choice([1, 1, 2]) if groups == c else rng.choice([1, 4, 8, 13, 16, 24])
            dilation, stride, bias = rng.choice([1, 1, 2]), rng.choice([1, 1, 1, 2]), rng.random() < 0.6
            padding = dilation * (kernel // 2)
            return nn.Conv2d(c, out, kernel, stride, padding, dilation, groups, bias), out
        if kind == 4:
            norm = nn.BatchNorm2d(c)
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
            return norm, c
        if kind == 5:
            out = rng.choice([2, 5, 8])
            return nn.ConvTranspose2d(c, out, rng.choice([2, 3]), 2), out
        if kind == 6:
            return rng.choice([nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(2, 2, ceil_mode=True), nn.AvgPool2d(3, 1, 1)]), c
        if kind == 7:
            return Fn(lambda x: torch.cat([x, torch.sigmoid(x)], 1)), 2 * c
        if kind == 8:
            mode = rng.choice(["nearest", "bilinear"])
            return Fn(lambda x: F.avg_pool2d(F.interpolate(x, scale_factor=2, mode=mode), 2)), c
        if kind == 9:
            return Fn(lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True))), c
        if kind == 10:
            return Fn(lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (c,)).permute(0, 3, 1, 2)), c
        f = rng.choice(UNARY)
        return Fn(lambda x: f(x) + x * 0.5), c

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x, x.mean((2, 3))


class Concats(nn.Module):
    """Dense connections: steps read concatenations of what came before, most of them the first so many, as they grow."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        rng = random.Random(seed)
        self.seed, self.size = seed, rng.choice([1, 4, 8])
        self.shape = [rng.choice([1, 2, 3]), self.size, *([5, 6] if rng.random() < 0.5 else [])]
        self.axis = 1
        kind = nn.Conv2d if len(self.shape) == 4 else nn.Linear
        options = ({"kernel_size": k} for k in iter(lambda: rng.choice([1, 3]), 0)) if kind is nn.Conv2d else iter(dict, 1)
        self.mixers = nn.ModuleList()
        for n in range(1, 7):
            given = next(options)
            given = {**given, "padding": given["kernel_size"] // 2} if given else {}
            self.mixers.append(kind(n * self.size, self.size, **given))

    def example(self):
        return (torch.randn(self.shape),)

    def forward(self, x):
        rng = random.Random(self.seed + 1)
        made, kept = [rng.choice(UNARY)(x)], []
        for _ in range(rng.randint(3, 7)):
            count = len(made) if rng.random() < 0.7 else rng.randint(1, len(made))
            parts = made[: min(count, 6)]
            if rng.random() < 0.15:
                parts = parts[::-1]
            joined = torch.cat(parts, self.axis)
            if rng.random() < 0.2:
                kept.append(joined)
            step = rng.choice(UNARY)(joined) if rng.random() < 0.7 else joined
            made.append(rng.choice(UNARY)(self.mixers[len(parts) - 1](step)))
        kept.append(torch.cat(made, self.axis))
        return (*kept, made[-1])


class Fn(nn.Module):
    def __init__(self, f) -> None:
        super().__init__()
        self.f = f

    def forward(self, x):
        return self.f(x)


def check_seed(make, seed, targets):
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    with torch.no_grad():
        model = make(seed).eval()
        args = model.example()
        try:
            expected = model(*args)
        except RuntimeError:
            return False  # a window larger than its input, say
        program = torch.export.export(model, args, strict=False)
        for target in targets:
            got = kiln.compile(program, target=target, threads=2)(*args)
            for g, e in zip(got, expected):
                assert g.shape == e.shape, f"seed {seed}, {target}: shape {tuple(g.shape)}, expected {tuple(e.shape)}"
                error = ((g - e).abs() / (1 + e.abs())).max().item() if e.numel() else 0
                assert error <= 2e-4, f"seed {seed}, {target}: largest error {error:.3g}"
    return True


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_chains(first):
    assert sum(check_seed(Chain, seed, ("reference", "cpu")) for seed in range(first, first + 10)) >= 5


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_convolutions(first):
    assert sum(check_seed(Convolutions, seed, ("cpu",)) for seed in range(first, first + 10)) >= 5


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_concats(first):
    assert sum(check_seed(Concats, seed, ("cpu",)) for seed in range(first, first + 10)) == 10
