"""Kernels that overlap: short chains at the smallest sizes, where a kernel starts long before the one in front of it ends, give the same bits in
every one of many calls, whatever other inputs ran in between (docs/decisions/0014). Skips, visibly, without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

kiln = pytest.importorskip("kiln")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")
CALLS = 300


class Residual(nn.Module):
    def __init__(self, width: int, groups: int = 1) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, width, 3, padding=1, groups=groups)
        self.b, self.norm = nn.Conv2d(width, width, 1), nn.GroupNorm(4, width)

    def forward(self, x):
        return torch.relu(x + self.norm(self.b(torch.relu(self.a(x)))))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0) for _ in range(3))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x) + x.mean(1, keepdim=True)
        return x.softmax(-1)


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.LSTM(32, 64, batch_first=True), nn.GRU(64, 32, batch_first=True), nn.Linear(32, 7)

    def forward(self, x):
        return self.head(torch.tanh(self.second(self.first(x)[0])[0])).cumsum(1)


def convnet() -> nn.Module:
    layers = [
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(128, 64, 3),
        nn.AdaptiveAvgPool2d(1),
    ]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


MODELS = {
    "convnet": (convnet, (3, 32, 32)),
    "residual": (lambda: nn.Sequential(nn.Conv2d(3, 32, 3), Residual(32), Residual(32), Residual(32)), (3, 19, 21)),
    "depthwise": (lambda: nn.Sequential(nn.Conv2d(3, 32, 3), Residual(32, 32), Residual(32, 32)), (3, 24, 24)),
    "mlp": (lambda: nn.Sequential(*(m for _ in range(6) for m in (nn.Linear(96, 96), nn.LayerNorm(96), nn.GELU()))), (5, 96)),
    "attention": (Attention, (33, 64)),
    "recurrent": (Sequence, (9, 32)),
}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("name", MODELS)
def test_every_call_gives_the_same_bits(name, precision):
    make, shape = MODELS[name]
    torch.manual_seed(3)
    model = make().eval()
    ranged = kiln.Input(min_shape=(1, *shape), opt_shape=(1, *shape), max_shape=(2, *shape))
    for tune in (0, 5) if precision == "fp16" else (0,):
        engine = kiln.compile(model, inputs=[ranged], precision=precision, target="cuda", tune=tune)
        with torch.no_grad():
            for n in (1, 2):
                inputs = [torch.randn(n, *shape, device="cuda") for _ in range(3)]
                results = [engine(inputs[i % 3]) for i in range(CALLS)]
                for x, mine in zip(inputs, results):
                    truth = model(x.cpu())
                    assert (mine.cpu() - truth).norm() < (5e-3 if precision == "fp16" else 1e-4) * truth.norm()
                for i in range(3):
                    assert torch.stack(results[i::3]).eq(results[i]).all(), f"{name} of {n} differs between calls (tune={tune})"
