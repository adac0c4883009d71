"""Quantized TorchScript: operators and models made with torch.ao.quantization, with FBGEMM's kernels as the truth.

Integers must be those of PyTorch, or one step beside where a value lies on the border between two.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from typing import Any, Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.ao import quantization as tq
from torch.ao.quantization import quantize_fx

from compare import relative_errors
from torchscript_build import build, plain

CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}


@pytest.fixture(autouse=True)
def _engine() -> Iterator[None]:
    saved = torch.backends.quantized.engine
    torch.backends.quantized.engine = "fbgemm"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.backends.quantized.engine = saved


def case(*args: torch.Tensor) -> Callable[[Any], Any]:
    def add(f: Callable[..., Any]) -> Callable[..., Any]:
        CASES[f.__name__] = (f, args)
        return f

    return add


def same(actual: Any, expected: Any, off: float = 0.01) -> None:
    """Integers are equal but for a few that are one step beside; floats within 1e-5."""
    actual, expected = plain(actual), plain(expected)
    got, want = (torch.utils._pytree.tree_leaves(v) for v in (actual, expected))
    assert len(got) == len(want)
    for a, b in zip(got, want):
        if isinstance(b, torch.Tensor) and b.dtype in (torch.int8, torch.uint8, torch.int32):
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            steps = (a.int() - b.int()).abs()
            assert steps.numel() == 0 or steps.max() <= 1
            assert (steps > 0).double().mean() <= off
        else:
            assert max(relative_errors(a, b), default=0) <= 1e-5


G = torch.Generator().manual_seed(5)
X, Y = torch.randn(3, 8, generator=G), torch.randn(3, 8, generator=G)
IMAGE = torch.randn(2, 4, 9, 9, generator=G)

# ---- Operators -----------------------------------------------------------------------------------------------------------


@case(X)
def quantize(x: torch.Tensor) -> list[torch.Tensor]:
    a = torch.quantize_per_tensor(x, 0.05, 3, torch.qint8)
    b = torch.quantize_per_tensor(x, 0.021, 128, torch.quint8)
    c = torch.quantize_per_tensor(x, 1e-4, 0, torch.qint32)
    return [a.int_repr(), a.dequantize(), b.int_repr(), b.dequantize(), c.int_repr(), c.dequantize()]


@case(X * 100)
def saturate(x: torch.Tensor) -> list[torch.Tensor]:
    a = torch.quantize_per_tensor(x, 0.05, 3, torch.qint8)
    b = torch.quantize_per_tensor(x, 0.05, 3, torch.quint8)
    return [a.int_repr(), b.int_repr()]


@case(torch.arange(-8, 8) * 0.25)
def halves(x: torch.Tensor) -> list[torch.Tensor]:
    a = torch.quantize_per_tensor(x, 0.5, 1, torch.qint8)
    b = torch.quantize_per_tensor(x, 0.5, 8, torch.quint8)
    return [a.int_repr(), b.int_repr()]


@case(X)
def quantize_per_channel(x: torch.Tensor) -> list[torch.Tensor]:
    a = torch.quantize_per_channel(x, torch.tensor([0.1, 0.05, 0.02]), torch.tensor([0, 3, -2]), 0, torch.qint8)
    b = torch.quantize_per_channel(x, torch.arange(1, 9) * 0.02, torch.zeros(8, dtype=torch.int64), 1, torch.qint8)
    scales = a.q_per_channel_scales() + a.q_per_channel_axis()
    return [a.int_repr(), a.dequantize(), b.int_repr(), b.dequantize(), scales, a.q_per_channel_zero_points()]


@case(X, Y)
def add_and_multiply(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    a, b = torch.quantize_per_tensor(x, 0.05, 3, torch.quint8), torch.quantize_per_tensor(y, 0.04, 100, torch.quint8)
    out = [torch.ops.quantized.add(a, b, 0.07, 90), torch.ops.quantized.add_relu(a, b, 0.07, 90)]
    out += [torch.ops.quantized.mul(a, b, 0.1, 70), torch.ops.quantized.mul_relu(a, b, 0.1, 70)]
    return [v.int_repr() for v in out]


@case(X)
def add_and_multiply_numbers(x: torch.Tensor) -> list[torch.Tensor]:
    a = torch.quantize_per_tensor(x, 0.05, 70, torch.quint8)
    out = [torch.ops.quantized.add(a, 0.5), torch.ops.quantized.add_relu(a, -0.5), torch.ops.quantized.add(a, 100.0)]
    out += [torch.ops.quantized.mul(a, 3.0), torch.ops.quantized.mul(a, -2.0), torch.ops.quantized.mul_relu(a, 0.5)]
    return [v.int_repr() for v in out] + [v.dequantize() for v in out]


@case(X, Y)
def concatenate(x: torch.Tensor, y: torch.Tensor) -> list[torch.Tensor]:
    a, b = torch.quantize_per_tensor(x, 0.05, 3, torch.quint8), torch.quantize_per_tensor(y, 0.04, 100, torch.quint8)
    c = torch.ops.quantized.cat([a, b], 1, 0.03, 40)
    d = torch.cat([a, b], dim=0)
    return [c.int_repr(), torch.ops.quantized.cat_relu([a, b], 0, 0.03, 40).int_repr(), d.int_repr(), d.dequantize()]


@case(X)
def activations(x: torch.Tensor) -> list[torch.Tensor]:
    a = torch.quantize_per_tensor(x, 0.053, 60, torch.quint8)
    out = [torch.relu(a), torch.ops.quantized.relu6(a), torch.ops.quantized.hardswish(a, 0.031, 5), torch.sigmoid(a), torch.tanh(a)]
    out += [torch.ops.quantized.leaky_relu(a, 0.1, False, 0.0417, 20), torch.ops.quantized.elu(a, 0.0487, 30, 1.0)]
    out += [F.hardsigmoid(a), torch.clamp(a, -0.5, 1.0), F.hardtanh(a), torch.ops.quantized.sigmoid(a, 0.01, 3)]
    return [v.int_repr() for v in out] + [v.dequantize() for v in out]


@case(IMAGE)
def pools(x: torch.Tensor) -> list[torch.Tensor]:
    a = torch.quantize_per_tensor(x, 0.05, 60, torch.quint8)
    out = [F.max_pool2d(a, 2), F.adaptive_avg_pool2d(a, 1), F.avg_pool2d(a, 3, 2, 1), a.mean([2, 3])]
    out += [F.interpolate(a, scale_factor=2.0), F.pad(a, [1, 1, 0, 2])]
    return [v.int_repr() for v in out]


@case(IMAGE)
def views(x: torch.Tensor) -> list[torch.Tensor]:
    a = torch.quantize_per_tensor(x, 0.05, 60, torch.quint8)
    b = a.flatten(1).view(2, -1)[:, ::2]
    c = a.permute(0, 2, 3, 1).contiguous().reshape(2, 81, 4).transpose(1, 2)
    d, e = a.chunk(2, 1)
    return [b.int_repr(), c.int_repr(), d.unsqueeze(0).squeeze(0).int_repr(), e.select(1, 0).dequantize(), a[:, 1:2].int_repr()]


@case(X)
def in_place(x: torch.Tensor) -> list[torch.Tensor]:
    a = torch.quantize_per_tensor(x, 0.05, 60, torch.quint8)
    b = a.clone()
    b.relu_()
    c = a.clone()
    c[0].copy_(b[1])
    return [a.int_repr(), b.int_repr(), c.int_repr(), (a == b).logical_not()]


@pytest.mark.parametrize("name", CASES)
def test_operators(name: str) -> None:
    function, args = CASES[name]
    script = torch.jit.trace(function, args, check_trace=False)
    same(build(script, args)(*args), script(*args))


def facts(x: torch.Tensor):  # TorchScript infers the types of so many results
    a = torch.quantize_per_tensor(x, 0.05, 3, torch.qint8)
    return a.q_scale(), a.q_zero_point(), a.dim(), a.size(), a.is_quantized, x.is_quantized, a.dtype == torch.qint8


def test_facts() -> None:
    script = torch.jit.script(facts)
    same(build(script, (X,))(X), script(X))


# ---- Models --------------------------------------------------------------------------------------------------------------


class Cnn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(8, 8, 3, padding=1, groups=2), nn.ReLU()
        self.conv3 = nn.Conv2d(8, 8, 1)
        self.pool, self.down = nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, stride=2)
        self.swish, self.add, self.cat = nn.Hardswish(), nn.quantized.FloatFunctional(), nn.quantized.FloatFunctional()
        self.mean, self.head = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu1(self.bn1(self.conv1(self.quant(x))))
        y = self.relu2(self.conv2(x))
        x = self.add.add(self.conv3(y), x)
        x = self.cat.cat([self.pool(x), self.pool(y)], 1)[:, :8]
        x = torch.flatten(self.mean(self.swish(self.down(x))), 1)
        return self.dequant(self.head(x))


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4, bias=False))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dequant(self.net(self.quant(x)))


PER_TENSOR = tq.QConfig(tq.default_observer.with_args(quant_min=0, quant_max=127), tq.default_weight_observer)
PER_CHANNEL = tq.get_default_qconfig("fbgemm")


def statically(model: nn.Module, config: Any, x: torch.Tensor, fuse: list[list[str]]) -> nn.Module:
    model = model.eval()
    model.qconfig = config
    prepared = tq.prepare(tq.fuse_modules(model, fuse) if fuse else model)
    for _ in range(3):
        prepared(torch.randn_like(x))
    return tq.convert(prepared)


FUSED = {"cnn": [["conv1", "bn1", "relu1"], ["conv2", "relu2"]], "mlp": [["net.0", "net.1"], ["net.2", "net.3"]]}
MODELS = {"cnn": (Cnn, torch.randn(2, 3, 17, 17, generator=G)), "mlp": (Mlp, torch.randn(5, 16, generator=G))}


def close(model: nn.Module, script: Any, x: torch.Tensor) -> None:
    """The output is quantized too: it may be a step or two beside where a value within is on a border."""
    expected, actual = model(x), build(script, (x,))(x)
    step = (expected.max() - expected.min()).item() / 64
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max().item() <= step
    assert (actual != expected).double().mean() <= 0.1 or relative_errors(actual, expected)[0] <= 1e-5


@pytest.mark.parametrize("form", ["traced", "scripted", "frozen"])
@pytest.mark.parametrize("config", [PER_TENSOR, PER_CHANNEL], ids=["per_tensor", "per_channel"])
@pytest.mark.parametrize("name", MODELS)
def test_static(name: str, config: Any, form: str) -> None:
    make, x = MODELS[name]
    model = statically(make(), config, x, FUSED[name])
    script = torch.jit.script(model) if form == "scripted" else torch.jit.trace(model, x, check_trace=False)
    close(model, torch.jit.freeze(script) if form == "frozen" else script, x)


def test_fx() -> None:
    x = MODELS["cnn"][1]
    mapping = tq.get_default_qconfig_mapping("fbgemm")
    prepared = quantize_fx.prepare_fx(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten(), nn.Linear(676, 3)).eval(), mapping, (x,)
    )
    prepared(x)
    model = quantize_fx.convert_fx(prepared)
    close(model, torch.jit.trace(model, x, check_trace=False), x)
    close(model, torch.jit.script(model), x)


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.one, self.relu1 = nn.Conv1d(4, 6, 3, padding=1, stride=2), nn.ReLU()
        self.three, self.relu3 = nn.Conv3d(1, 2, 3, padding=1), nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu1(self.one(self.quant(x)))
        return self.dequant(self.relu3(self.three(x.view(2, 1, 2, 3, 5))))


def test_conv1d_conv3d() -> None:
    x = torch.randn(2, 4, 10)
    model = statically(Convolutions(), PER_TENSOR, x, [["one", "relu1"], ["three", "relu3"]])
    close(model, torch.jit.trace(model, x, check_trace=False), x)
    close(model, torch.jit.script(model), x)


class Single(nn.Module):
    """One layer between a convolution, which makes a quantized input for it, and the output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.quant, self.dequant, self.conv, self.layer = tq.QuantStub(), tq.DeQuantStub(), nn.Conv2d(8, 8, 1), layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dequant(self.layer(self.conv(self.quant(x))))


LAYERS = {
    "batch_norm": nn.BatchNorm2d(8),
    "layer_norm": nn.LayerNorm([8, 6, 6]),
    "group_norm": nn.GroupNorm(2, 8),
    "instance_norm": nn.InstanceNorm2d(8, affine=True),
    "elu": nn.ELU(),
    "leaky_relu": nn.LeakyReLU(0.1),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "relu6": nn.ReLU6(),
    "dropout": nn.Dropout(),
    "upsample": nn.Upsample(scale_factor=2.0),
    "transposed": nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    x = torch.randn(2, 8, 6, 6)
    model = statically(Single(copy.deepcopy(LAYERS[name])), PER_TENSOR, x, [])
    close(model, torch.jit.trace(model, x, check_trace=False), x)
    close(model, torch.jit.script(model), x)


@pytest.mark.parametrize("d", [1, 3])
def test_transposed(d: int) -> None:
    kind = {1: nn.ConvTranspose1d, 3: nn.ConvTranspose3d}[d]
    x = torch.randn(2, 4, *[5] * d)
    layers = nn.Sequential(tq.QuantStub(), kind(4, 6, 3, stride=2, padding=1, output_padding=1), tq.DeQuantStub())
    model = statically(layers, PER_TENSOR, x, [])
    close(model, torch.jit.script(model), x)


def test_dynamic_convolution() -> None:
    """PyTorch's own engine for x86, which is its default, takes 7 bits for the input."""
    torch.backends.quantized.engine = "x86"
    x = torch.randn(2, 8, 6, 6)
    conv = torch.ao.nn.quantized.dynamic.Conv2d(8, 8, 3)
    weight = torch.quantize_per_tensor(torch.randn(8, 8, 3, 3) * 0.1, 0.003, 0, torch.qint8)
    conv.set_weight_bias(weight, torch.randn(8))
    script = torch.jit.trace(conv, x, check_trace=False)
    assert relative_errors(build(script, (x,))(x), conv(x))[0] <= 1e-2


class QuantizableLstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant, self.rnn = tq.QuantStub(), tq.DeQuantStub(), torch.ao.nn.quantizable.LSTM(16, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.dequant(self.rnn(self.quant(x))[0])


def test_static_lstm() -> None:
    x = torch.randn(5, 3, 16)
    model = statically(QuantizableLstm(), PER_CHANNEL, x, [])
    close(model, torch.jit.trace(model, x, check_trace=False), x)
    close(model, torch.jit.script(model), x)


class Feed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(16, 32), nn.Linear(32, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


class Cells(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.gru = nn.LSTMCell(16, 8), nn.GRUCell(8, 8)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h, c = self.lstm(x)
        return self.gru(h), c


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(16, 8, num_layers=2, bidirectional=True)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.rnn(x)


class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(16, 8, num_layers=2, batch_first=True, bidirectional=True), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y, (h, _) = self.rnn(x)
        return self.head(y), h


@pytest.mark.parametrize("dtype", [torch.qint8, torch.float16], ids=["int8", "fp16"])
@pytest.mark.parametrize("scripted", [False, True], ids=["traced", "scripted"])
def test_dynamic_linear(scripted: bool, dtype: torch.dtype) -> None:
    x = torch.randn(5, 16)
    model = tq.quantize_dynamic(Feed().eval(), {nn.Linear}, dtype=dtype)
    script = torch.jit.script(model) if scripted else torch.jit.trace(model, x, check_trace=False)
    for scale in (1.0, 0.0, 1e-6, -100.0):
        y = x * scale
        assert relative_errors(build(script, (x,))(y), model(y))[0] <= 1e-3
    assert relative_errors(build(script, (x,))(x), model(x))[0] <= 1e-5


RECURRENT = {"lstm": (Lstm, torch.randn(3, 6, 16)), "gru": (Gru, torch.randn(6, 3, 16)), "cells": (Cells, torch.randn(3, 16))}


@pytest.mark.parametrize("scripted", [False, True], ids=["traced", "scripted"])
@pytest.mark.parametrize("name", RECURRENT)
def test_dynamic_recurrent(name: str, scripted: bool) -> None:
    make, x = RECURRENT[name]
    layers = {nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.Linear}
    model = tq.quantize_dynamic(make().eval(), layers, dtype=torch.qint8)
    script = torch.jit.script(copy.deepcopy(model)) if scripted else torch.jit.trace(model, x, check_trace=False)
    # A hidden value on the border between two steps moves all that comes after it by part of a step.
    assert max(relative_errors(build(script, (x,))(x), model(x))) <= 5e-3
