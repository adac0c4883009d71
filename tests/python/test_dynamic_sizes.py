"""Engines for sizes that vary: the algorithm of a convolution is chosen at each size, small ranges, texts about sizes outside."""

from __future__ import annotations

import pytest
import torch

import kiln


def layers() -> torch.nn.Module:
    torch.manual_seed(0)
    convolutions = [torch.nn.Conv2d(64, 64, 3, padding=1), torch.nn.Conv2d(64, 48, 3, bias=False)]
    return torch.nn.Sequential(convolutions[0], torch.nn.ReLU(), convolutions[1], torch.nn.Hardswish()).eval()


@pytest.mark.parametrize("target", ["cpu", "cpu:avx2", "cpu:scalar"])
def test_convolutions_choose_by_size(target):
    if target == "cpu:avx2" and not kiln.compile(torch.nn.ReLU().eval(), inputs=[torch.ones(1)]).engine.target.startswith(
        "cpu:avx"
    ):
        pytest.skip("no AVX2")
    model = layers()
    ranged = kiln.Input(min_shape=(1, 64, 4, 4), opt_shape=(1, 64, 56, 56), max_shape=(2, 64, 80, 80))
    compiled = kiln.compile(model, inputs=[ranged], target=target)
    assert "conv.by_size" in compiled.engine.report("plan")
    reloaded = kiln.load(compiled.engine.serialize())
    for shape in ((1, 64, 4, 4), (1, 64, 56, 56), (2, 64, 80, 71), (1, 64, 7, 80)):
        x = torch.randn(shape).to(memory_format=torch.channels_last if shape[0] == 2 else torch.contiguous_format)
        with torch.no_grad():
            for module in (compiled, reloaded):
                torch.testing.assert_close(module(x), model(x), rtol=1e-4, atol=1e-4)


def test_static_convolutions_have_one_algorithm():
    compiled = kiln.compile(layers(), inputs=[torch.randn(1, 64, 56, 56)])
    assert "conv.by_size" not in compiled.engine.report("plan")


@pytest.mark.parametrize(("low", "high"), [(1, 2), (0, 1), (0, 2), (2, 3), (1, 3)])
def test_small_ranges(low, high):
    model = torch.nn.Linear(4, 3).eval()
    compiled = kiln.compile(model, inputs=[kiln.Input(min_shape=(low, 4), max_shape=(high, 4))])
    assert compiled.inputs[0].min_shape[0] == low and compiled.inputs[0].max_shape[0] == high
    with torch.no_grad():
        for n in (low, high):
            torch.testing.assert_close(compiled(x := torch.randn(n, 4)), model(x))
    with pytest.raises(kiln.KilnError, match=rf"dimension 0 is {high + 1}, a size outside the engine's range \({low} to {high}\)"):
        compiled(torch.randn(high + 1, 4))


def test_texts_name_input_and_dimension():
    class Both(torch.nn.Module):
        def forward(self, image, mask):
            return image.mean((2, 3)) + mask

    image = kiln.Input(min_shape=(1, 3, 4, 4), max_shape=(1, 3, 9, 9))
    compiled = kiln.compile(Both().eval(), inputs=[image, torch.zeros(1, 3)])
    with pytest.raises(kiln.KilnError, match=r'input 0 \("image"\): dimension 3 is 10, .* \(4 to 9\)'):
        compiled(torch.zeros(1, 3, 5, 10), torch.zeros(1, 3))
    with pytest.raises(kiln.KilnError, match=r'input 1 \("mask"\): wrong shape'):
        compiled(torch.zeros(1, 3, 5, 5), torch.zeros(1, 4))
