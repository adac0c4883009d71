"""Layers of torch.nn, scripted one by one: their code in torch.nn.functional, with its defaults and branches, is what is tested."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from compare import relative_errors
from torchscript_build import build, plain

G = torch.Generator().manual_seed(0)


def r(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=G)


ROWS, SIGNAL, IMAGE, VOLUME = r(3, 8), r(2, 4, 9), r(2, 4, 8, 8), r(2, 4, 4, 6, 6)
CLASSES = torch.tensor([1, 2, 3])
LAYERS: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {}


def layer(made: nn.Module, *args: torch.Tensor) -> None:
    name = type(made).__name__
    LAYERS[name if name not in LAYERS else f"{name}-{sum(k.startswith(name) for k in LAYERS)}"] = (made.eval(), args)


torch.manual_seed(0)
# Convolutions
layer(nn.Conv1d(4, 6, 3, padding=1, padding_mode="circular"), SIGNAL)
layer(nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="replicate", dilation=2), IMAGE)
layer(nn.Conv2d(4, 6, 4, padding="same", padding_mode="reflect"), IMAGE)
layer(nn.Conv3d(4, 6, 3, padding="valid", stride=2), VOLUME)
layer(nn.ConvTranspose1d(4, 6, 3, 2), SIGNAL)
layer(nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), IMAGE)
layer(nn.ConvTranspose3d(4, 6, 3, 2), VOLUME)
layer(nn.Unfold(3, padding=1), IMAGE)
layer(nn.Fold((8, 8), 3, padding=1), r(2, 36, 64))
# Pooling
layer(nn.MaxPool1d(3, 2, 1), SIGNAL)
layer(nn.MaxPool2d(3, 2, 1, ceil_mode=True), IMAGE)
layer(nn.MaxPool2d(2, return_indices=True), IMAGE)
layer(nn.MaxPool3d(2), VOLUME)
layer(nn.AvgPool1d(3), SIGNAL)
layer(nn.AvgPool2d(3, 2, 1, count_include_pad=False), IMAGE)
layer(nn.AvgPool3d(2), VOLUME)
layer(nn.LPPool1d(2, 3), SIGNAL)
layer(nn.LPPool2d(2, 3), IMAGE)
layer(nn.AdaptiveMaxPool1d(3), SIGNAL)
layer(nn.AdaptiveMaxPool2d((3, 2)), IMAGE)
layer(nn.AdaptiveAvgPool1d(3), SIGNAL)
layer(nn.AdaptiveAvgPool2d((3, 2)), IMAGE)
layer(nn.AdaptiveAvgPool3d(2), VOLUME)
# Padding
layer(nn.ReflectionPad1d(2), SIGNAL)
layer(nn.ReflectionPad2d((1, 2, 0, 1)), IMAGE)
layer(nn.ReplicationPad2d(1), IMAGE)
layer(nn.ReplicationPad3d(1), VOLUME)
layer(nn.ZeroPad2d(1), IMAGE)
layer(nn.ConstantPad1d(2, 3.5), SIGNAL)
layer(nn.ConstantPad3d(1, 2.0), VOLUME)
layer(nn.CircularPad2d(1), IMAGE)
# Activations
for activation in (
    "ELU Hardshrink Hardsigmoid Hardtanh Hardswish LeakyReLU LogSigmoid PReLU ReLU ReLU6 RReLU SELU CELU GELU Sigmoid SiLU Mish Softplus "
    "Softshrink Softsign Tanh Tanhshrink GLU Dropout AlphaDropout Identity"
).split():
    layer(getattr(nn, activation)(), ROWS)
layer(nn.GELU("tanh"), ROWS)
layer(nn.Softmin(1), ROWS)
layer(nn.Softmax(dim=1), ROWS)
layer(nn.Softmax(dim=None), ROWS)
layer(nn.LogSoftmax(1), ROWS)
layer(nn.Dropout2d(), IMAGE)
# Norms
layer(nn.BatchNorm1d(4), SIGNAL)
layer(nn.BatchNorm2d(4, affine=False), IMAGE)
layer(nn.BatchNorm3d(4, track_running_stats=False), VOLUME)
layer(nn.GroupNorm(2, 4), IMAGE)
layer(nn.InstanceNorm1d(4), SIGNAL)
layer(nn.InstanceNorm2d(4, affine=True, track_running_stats=True), IMAGE)
layer(nn.LayerNorm(8), ROWS)
layer(nn.LayerNorm([8, 8], elementwise_affine=False), IMAGE)
layer(nn.RMSNorm(8), ROWS)
layer(nn.LocalResponseNorm(2), IMAGE)
# Recurrent cells and attention
layer(nn.RNNCell(8, 6), ROWS)
layer(nn.RNNCell(8, 6, nonlinearity="relu"), ROWS, r(3, 6))
layer(nn.LSTMCell(8, 6), ROWS)
layer(nn.GRUCell(8, 6), ROWS)
layer(nn.MultiheadAttention(8, 2), r(5, 2, 8), r(6, 2, 8), r(6, 2, 8))
layer(nn.Transformer(8, 2, 1, 1, 16), r(5, 2, 8), r(4, 2, 8))
layer(nn.TransformerEncoderLayer(8, 2, 16, norm_first=True, activation="gelu"), r(5, 2, 8))
# Linear layers, embeddings, shapes
layer(nn.Linear(8, 4), r(2, 3, 8))
layer(nn.Bilinear(8, 8, 3), ROWS, r(3, 8))
layer(nn.Embedding(9, 4), torch.tensor([[1, 2]]))
layer(nn.EmbeddingBag(9, 4), torch.tensor([1, 2, 4, 5]), torch.tensor([0, 2]))
layer(nn.EmbeddingBag(9, 4, mode="max"), torch.tensor([[1, 2], [4, 5]]))
layer(nn.PixelShuffle(2), IMAGE)
layer(nn.PixelUnshuffle(2), IMAGE)
layer(nn.ChannelShuffle(2), IMAGE)
layer(nn.Flatten(), IMAGE)
layer(nn.Unflatten(1, (2, 2)), IMAGE)
layer(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), IMAGE)
layer(nn.Upsample(size=(5, 7), mode="bicubic"), IMAGE)
layer(nn.Upsample(scale_factor=1.5, mode="nearest"), IMAGE)
layer(nn.UpsamplingBilinear2d(scale_factor=2), IMAGE)
layer(nn.UpsamplingNearest2d(scale_factor=2), IMAGE)
layer(nn.Upsample(scale_factor=2, mode="trilinear"), VOLUME)
layer(nn.Upsample(scale_factor=2, mode="nearest-exact"), SIGNAL)
# Distances, and losses that models use as scores
layer(nn.CosineSimilarity(), ROWS, r(3, 8))
layer(nn.PairwiseDistance(), ROWS, r(3, 8))
layer(nn.L1Loss(), ROWS, r(3, 8))
layer(nn.MSELoss(reduction="sum"), ROWS, r(3, 8))
layer(nn.SmoothL1Loss(), ROWS, r(3, 8))
layer(nn.HuberLoss(), ROWS, r(3, 8))
layer(nn.KLDivLoss(reduction="batchmean"), ROWS, r(3, 8).abs())
layer(nn.BCEWithLogitsLoss(), ROWS, r(3, 8).sigmoid())
layer(nn.BCELoss(), ROWS.sigmoid(), r(3, 8).sigmoid())
layer(nn.NLLLoss(), ROWS, CLASSES)
layer(nn.CrossEntropyLoss(), ROWS, CLASSES)


@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    module, args = LAYERS[name]
    script = torch.jit.script(copy.deepcopy(module))
    errors = relative_errors(plain(build(script, args)(*args)), plain(script(*args)))
    assert max(errors) <= 1e-5, f"{name}: error {max(errors):.2e}"
