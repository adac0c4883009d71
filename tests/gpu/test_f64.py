"""Models in double precision, and attention of heads that no attention kernel takes. Skips, visibly, without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

kiln = pytest.importorskip("kiln")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")


class Attend(nn.Module):
    def __init__(self, causal: bool = False, groups: bool = False) -> None:
        super().__init__()
        self.causal, self.groups = causal, groups

    def forward(self, q, k, v, mask=None):
        return functional.scaled_dot_product_attention(q, k, v, mask, is_causal=self.causal, enable_gqa=self.groups)


class Sample(nn.Module):
    def forward(self, x, grid):
        y = functional.interpolate(
            functional.grid_sample(x, grid, mode="bicubic", padding_mode="reflection"), scale_factor=1.7, mode="bilinear"
        )
        return functional.interpolate(y, size=(9, 8), mode="bicubic") + functional.interpolate(
            functional.grid_sample(x, grid), size=(9, 8)
        )


def spatial(count: int) -> nn.Module:
    conv, transposed = ((nn.Conv1d, nn.ConvTranspose1d), (nn.Conv2d, nn.ConvTranspose2d), (nn.Conv3d, nn.ConvTranspose3d))[
        count - 1
    ]
    norm = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)[count - 1](8)
    norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)
    return nn.Sequential(
        conv(4, 8, 3, padding=1, groups=2), norm, nn.ReLU(), transposed(8, 6, 3, stride=2), nn.GroupNorm(3, 6), nn.Tanh()
    )


MODELS = {
    "mlp": (
        lambda: nn.Sequential(nn.Linear(33, 65), nn.LayerNorm(65), nn.GELU(), nn.RMSNorm(65), nn.Linear(65, 7), nn.Softmax(-1)),
        [(5, 33)],
    ),
    "conv1d": (lambda: spatial(1), [(2, 4, 13)]),
    "conv2d": (lambda: spatial(2), [(2, 4, 9, 11)]),
    "conv3d": (lambda: spatial(3), [(1, 4, 5, 6, 7)]),
    "encoder": (lambda: nn.TransformerEncoderLayer(32, 4, 48, batch_first=True), [(2, 9, 32)]),
    "sample": (Sample, [(2, 3, 7, 6), (2, 5, 6, 2)]),
    "attention": (Attend, [(2, 3, 9, 16), (2, 3, 11, 16), (2, 3, 11, 24)]),
}


@pytest.mark.parametrize("name", MODELS)
def test_doubles(name):
    torch.manual_seed(1)
    make, shapes = MODELS[name]
    model = make().double().eval()
    inputs = [torch.randn(s, dtype=torch.float64) for s in shapes]
    compiled = kiln.compile(model, inputs=inputs, target="cuda")
    with torch.no_grad():
        truth = model(*inputs)
        torch.testing.assert_close(compiled(*(x.cuda() for x in inputs)).cpu(), truth, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("case", ["plain", "causal", "groups", "keep", "bias"])
def test_wide_heads(case, dtype):
    torch.manual_seed(2)
    q = torch.randn(2, 4, 9, 320, device="cuda", dtype=dtype)
    k, v = torch.randn(2, 2, 2 if case == "groups" else 4, 11, 320, device="cuda", dtype=dtype)
    masks = {"keep": torch.rand(2, 1, 9, 11, device="cuda") > 0.3, "bias": torch.randn(9, 11, device="cuda", dtype=dtype)}
    if case == "keep":
        masks["keep"][0, 0, 3] = False  # a query with nothing to attend to
    inputs = [q, k, v] + ([masks[case]] if case in masks else [])
    model = Attend(case == "causal", case == "groups").eval()
    ours = kiln.compile(model, inputs=inputs, target="cuda")(*inputs)
    assert ours.dtype == dtype
    truth = model(*(x if x.dtype == torch.bool else x.float() for x in inputs))
    truth = torch.nan_to_num(truth)
    limit = {torch.float32: 2e-3, torch.float16: 2e-3, torch.bfloat16: 1.5e-2}[dtype]
    assert (ours.float() - truth).norm() < limit * truth.norm()
