"""Parallel convolutions and linear layers of one input become one layer with the sum of their weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import kiln


class Branches(nn.Module):
    """The sum of layers of one input, and of the input itself where it has the shape."""

    def __init__(self, layers: list[nn.Module], identity: bool = False) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.identity = identity

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.layers[0](x)
        if self.identity:
            y = x + y
        for layer in self.layers[1:]:
            y = y + layer(x)
        return torch.relu(y)


def normed(*arguments: int, **options: int) -> nn.Module:
    conv = nn.Conv2d(*arguments, **options)
    norm = nn.BatchNorm2d(conv.out_channels)
    with torch.no_grad():
        norm.running_mean.normal_(0, 0.2)
        norm.running_var.uniform_(0.5, 2)
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_(0, 0.2)
    return nn.Sequential(conv, norm)


def image(channels: int) -> torch.Tensor:
    return torch.randn(2, channels, 11, 9)


CASES = {
    "same window": (lambda: Branches([normed(6, 10, 3, padding=1) for _ in range(3)]), lambda: image(6), 1),
    "repvgg": (lambda: Branches([normed(8, 8, 3, padding=1), normed(8, 8, 1)], identity=True), lambda: image(8), 1),
    "small one first": (lambda: Branches([normed(8, 8, 1), normed(8, 8, 5, padding=2)], identity=True), lambda: image(8), 1),
    "stride 2": (lambda: Branches([normed(6, 10, 3, stride=2, padding=1), normed(6, 10, 1, stride=2)]), lambda: image(6), 1),
    "depthwise": (
        lambda: Branches([normed(8, 8, 7, padding=3, groups=8), normed(8, 8, 3, padding=1, groups=8), normed(8, 8, 1, groups=8)]),
        lambda: image(8),
        1,
    ),
    "not in the middle": (
        lambda: Branches([normed(4, 4, (3, 5), padding=(2, 2)), nn.Sequential(nn.ZeroPad2d((1, 1, 2, 2)), normed(4, 4, (3, 3)))]),
        lambda: image(4),
        1,
    ),
    "dilated": (lambda: Branches([normed(4, 6, 3, padding=2, dilation=2), normed(4, 6, 1)]), lambda: image(4), 1),
    "other dilation": (lambda: Branches([normed(4, 6, 3, padding=2, dilation=2), normed(4, 6, 3, padding=1)]), lambda: image(4), 2),
    "neither window has the other": (
        lambda: Branches([normed(4, 6, (1, 3), padding=(0, 1)), normed(4, 6, (3, 1), padding=(1, 0))]),
        lambda: image(4),
        2,
    ),
    "other groups": (lambda: Branches([normed(4, 4, 3, padding=1), normed(4, 4, 3, padding=1, groups=4)]), lambda: image(4), 2),
    "linear": (lambda: Branches([nn.Linear(7, 5), nn.Linear(7, 5, bias=False), nn.Linear(7, 5)]), lambda: torch.randn(3, 7), 1),
    "linear, low rank": (
        lambda: Branches([nn.Linear(7, 5), nn.Sequential(nn.Linear(7, 2), nn.Linear(2, 5))]),
        lambda: torch.randn(3, 7),
        3,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_sum_of_layers(name: str) -> None:
    torch.manual_seed(0)
    make, sample, layers = CASES[name]
    module, x = make().eval(), sample()
    compiled = kiln.compile(module, inputs=[x])
    expected = module(x)
    assert (compiled(x) - expected).abs().max() <= 2e-6 * expected.abs().max()
    plan = compiled.engine.report("graph")
    assert plan.count("conv(") + plan.count("linear(") == layers, plan


def test_a_layer_with_other_readers_stays() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(7, 5), nn.Linear(7, 5)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            a = self.a(x)
            return a + self.b(x), a

    torch.manual_seed(0)
    module, x = Both().eval(), torch.randn(3, 7)
    got = kiln.compile(module, inputs=[x])(x)
    for one, other in zip(got, module(x)):
        assert torch.allclose(one, other, atol=1e-6)


def test_refit_of_merged_layers() -> None:
    torch.manual_seed(0)
    make, sample, _ = CASES["repvgg"]
    x, first, second = sample(), make().eval(), make().eval()
    compiled = kiln.compile(first, inputs=[x])
    compiled.refit(second.state_dict())
    expected = second(x)
    assert (compiled(x) - expected).abs().max() <= 2e-6 * expected.abs().max()
