"""kiln.accuracy: the errors of each output against fp32."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

import kiln


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 8)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.fc(x)
        return {"y": y, "mean": y.mean()}


def test_engine_against_its_model() -> None:
    torch.manual_seed(0)
    model, x = Two().eval(), torch.randn(4, 16)
    report = kiln.accuracy(model, kiln.compile(model, inputs=[x]), [x], samples=[[torch.randn(4, 16)]], half=torch.bfloat16)
    assert len(report) == 2 and report.worst < 1e-5
    assert report[0].shape == (4, 8) and 1e-4 < report[0].half_relative_l2 < 0.05
    assert "relative L2" in str(report) and report[0].name in str(report)


def test_numbers() -> None:
    model = nn.Identity()
    x = torch.tensor([3.0, 4.0, math.inf, math.nan, 0.0])
    wrong = torch.tensor([3.0, 4.5, math.inf, 1.0, 0.0])
    row = kiln.accuracy(model, lambda t: wrong, [x])[0]
    assert row.max_abs == 0.5 and row.max_relative == 0.125 and row.not_finite == 1
    assert row.relative_l2 == pytest.approx(0.5 / 5)
    assert math.isnan(row.half_relative_l2)


def test_models_in_16_bits_are_compared_with_fp32() -> None:
    torch.manual_seed(1)
    half = nn.Linear(64, 64).half()
    row = kiln.accuracy(half, half, [torch.randn(8, 64).half()])[0]
    assert row.dtype == torch.float16 and 1e-5 < row.relative_l2 < 5e-3


def test_other_shapes() -> None:
    with pytest.raises(ValueError, match="differ in number or shape"):
        kiln.accuracy(nn.Identity(), lambda t: t[:1], [torch.ones(2)])


def test_batch_norm_of_a_half_model_adds_no_error() -> None:
    """Weights that are half already are not rounded again by what is folded: errors stay those of eager half PyTorch."""
    ours, eager = 0.0, 0.0
    for seed in range(4):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for groups in (1, 32) * 5:
            norm = nn.BatchNorm2d(32)
            norm.running_mean.normal_(0, 0.1)
            norm.running_var.uniform_(0.5, 1.5)
            norm.weight.data.uniform_(0.5, 1.5)
            layers += [
                nn.Conv2d(32, 32, 1 if groups == 1 else 3, padding=int(groups > 1), groups=groups, bias=False),
                norm,
                nn.ReLU(),
            ]
        model, x = nn.Sequential(*layers).eval(), torch.randn(1, 32, 14, 14)
        with torch.no_grad():
            exact = model(x)
            half, y = copy.deepcopy(model).half(), x.half()
            eager += float((half(y).float() - exact).norm() / exact.norm())
            ours += float((kiln.compile(half, inputs=[y], target="cpu")(y).float() - exact).norm() / exact.norm())
    assert ours < 1.08 * eager, (ours, eager)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_models_run_vector_kernels_on_a_cpu(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(1), nn.LayerNorm(144), nn.Linear(144, 10))
    model, x = model.eval().to(dtype), torch.randn(2, 3, 8, 8).to(dtype)
    compiled = kiln.compile(model, inputs=[x], target="cpu")
    assert 'tactic "reference"' not in compiled.engine.report("plan")
    with torch.no_grad():
        assert compiled(x).dtype == dtype
        torch.testing.assert_close(compiled(x), model(x), rtol=2e-2, atol=2e-2)
