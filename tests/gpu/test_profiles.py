"""Optimization profiles on a GPU: tuned tactics of each, right results, compiled kernels in the file, sizes outside; causal masks of any size.
Skips, visibly, without a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import nn

kiln = pytest.importorskip("kiln")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")


def profile(low: int, opt: int, high: int) -> dict[str, tuple[int, ...]]:
    return {mode: (n, 3, 32, 32) for mode, n in (("min_shape", low), ("opt_shape", opt), ("max_shape", high))}


def model() -> nn.Module:
    torch.manual_seed(5)
    layers = [nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 128, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(128, 256), nn.ReLU(), nn.Linear(256, 10)).eval().cuda()


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


@pytest.mark.parametrize("tune", [0, 12])
def test_profiles(tune, tmp_path):
    ranges = [profile(1, 1, 2), profile(16, 64, 64)]
    truth = model()
    compiled = kiln.compile(truth, inputs=[kiln.Input(profiles=ranges)], precision="fp16", tune=tune)
    kiln.save(compiled, tmp_path / "m.kiln")
    for module in (compiled, kiln.load(tmp_path / "m.kiln")):
        with torch.no_grad():
            for n, index in ((1, 0), (64, 1), (2, 0), (16, 1), (33, 1)):
                x = torch.randn(n, 3, 32, 32, device="cuda")
                for layout in (torch.contiguous_format, torch.channels_last):
                    assert error(module(x.contiguous(memory_format=layout)), truth(x)) < 5e-3
                assert module.last_profile_index == index
        with pytest.raises(kiln.KilnError, match=r"dimension 0 is 3, outside optimization profile 0 \(1 to 2\)"):
            module(torch.randn(3, 3, 32, 32, device="cuda"))
        module.set_active_profile_index(1)
        with pytest.raises(kiln.KilnError, match="which was set for this context; profile 0 contains these sizes"):
            module(torch.randn(1, 3, 32, 32, device="cuda"))


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_causal_masks_of_any_size(precision):
    class Masked(nn.Module):
        def forward(self, q):
            at = torch.arange(q.shape[2], device=q.device)
            return nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=at[None] <= at[:, None])

    ranged = kiln.Input(min_shape=(1, 4, 1, 64), opt_shape=(1, 4, 64, 64), max_shape=(2, 4, 300, 64))
    compiled = kiln.compile(Masked().eval(), inputs=[ranged], precision=precision, target="cuda")
    assert "causal=true" in compiled.engine.report("plan")
    for n in (1, 63, 64, 300):
        q = torch.randn(2, 4, n, 64, device="cuda")
        assert error(compiled(q), Masked()(q)) < (5e-3 if precision == "fp16" else 1e-5)
