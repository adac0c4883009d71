"""Engines for sizes that vary: the algorithm of a convolution is chosen at each size, small ranges, texts about sizes outside."""

from __future__ import annotations

import math

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


def profile(*shapes):
    return dict(zip(("min_shape", "opt_shape", "max_shape"), shapes))


def test_optimization_profiles_stay_in_files(tmp_path):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU()).eval()
    image = kiln.Input(
        profiles=[
            profile((1, 3, 8, 8), (1, 3, 16, 16), (1, 3, 32, 32)),
            profile((4, 3, 8, 8), (8, 3, 8, 8), (8, 3, 8, 8)),
        ]
    )
    compiled = kiln.compile(model, inputs=[image])
    kiln.save(compiled, tmp_path / "m.kiln")
    stripped = kiln.CompiledModule(compiled.engine.strip())
    stripped.refit(model.state_dict())
    for module in (compiled, kiln.load(tmp_path / "m.kiln"), stripped):
        assert [p[0].opt_shape for p in module.optimization_profiles] == [(1, 3, 16, 16), (8, 3, 8, 8)]
        assert module.inputs[0].max_shape == (8, 3, 32, 32)
        for shape, index in (((1, 3, 32, 9), 0), ((5, 3, 8, 8), 1)):
            torch.testing.assert_close(module(x := torch.randn(shape)), model(x), rtol=1e-4, atol=1e-4)
            assert module.last_profile_index == index
        with pytest.raises(
            kiln.KilnError, match=r"dimension 0 is 2, outside optimization profile 0 \(1 to 1\).* profile 1 \(4 to 8\)"
        ):
            module(torch.randn(2, 3, 8, 8))
        with pytest.raises(kiln.KilnError, match=r"dimension 2 is 9, outside optimization profile 1 \(8 to 8\)"):
            module(torch.randn(4, 3, 9, 8))
    assert "optimization profile 1: x[0] 4 to 8, opt 8" in compiled.engine.report().replace("input[", "x[")


def test_wrong_profiles():
    good = profile((1, 4), (2, 4), (4, 4))
    with pytest.raises(ValueError, match="not both"):
        kiln.Input((1, 4), profiles=[good])
    with pytest.raises(ValueError, match="empty"):
        kiln.Input(profiles=[])
    with pytest.raises(ValueError, match="dimension 0 of min_shape"):
        kiln.Input(profiles=[good, profile((3, 4), (2, 4), (4, 4))])
    with pytest.raises(ValueError, match="same number of dimensions"):
        kiln.Input(profiles=[good, profile((3,), (3,), (4,))])
    with pytest.raises(ValueError, match="shared_dims has an axis"):
        kiln.Input((1, 4), shared_dims={2: "batch"})

    class Sum(torch.nn.Module):
        def forward(self, x, y):
            return x + y

    other = profile((5, 4), (6, 4), (8, 4))
    with pytest.raises(ValueError, match="input 0 has 2 optimization profiles, but another input has 3"):
        kiln.compile(Sum().eval(), inputs=[kiln.Input(profiles=[good, other]), kiln.Input(profiles=[good, other, other])])
    third = profile((5, 4), (7, 4), (8, 4))
    text = r"profile 1: input .*dimension 0 are one size in the model, but their opt sizes are 6 and 7"
    with pytest.raises(kiln.KilnError, match=text):
        kiln.compile(Sum().eval(), inputs=[kiln.Input(profiles=[good, other]), kiln.Input(profiles=[good, third])])


MASKS = {
    "causal": (True, lambda i, j, n: j <= i),
    "more": (True, lambda i, j, n: j < i + 1),
    "not": (True, lambda i, j, n: ~(j > i)),
    "numbers": (True, lambda i, j, n: torch.where(j <= i, 0.0, torch.finfo(torch.float32).min)),
    "tril": (True, lambda i, j, n: torch.tril(torch.ones(n, n, dtype=torch.bool))),
    "triu": (True, lambda i, j, n: torch.triu(torch.full((n, n), float("-inf")), 1)),
    "from the end": (True, lambda i, j, n: (n - 1 - j) >= (n - 1 - i)),
    "packed": (True, lambda i, j, n: ((d := torch.cat([i[:1] - 1, i]))[1:] - d[:-1] == 1) & (j <= i)),
    "packed, not": (False, lambda i, j, n: ((d := torch.cat([i[:1] - 2, i]))[1:] - d[:-1] == 1) & (j <= i)),
    "strict": (False, lambda i, j, n: (j < i) | (j == 0)),
    "shifted": (False, lambda i, j, n: j <= i + 1),
    "window": (False, lambda i, j, n: (j <= i) & (i - j < 4)),
    "future": (False, lambda i, j, n: i <= j),
    "turned": (False, lambda i, j, n: (j <= i).transpose(0, 1)),
    "triangle": (False, lambda i, j, n: torch.tril(torch.ones(n, n, dtype=torch.bool), 1)),
}


@pytest.mark.parametrize("name", MASKS)
def test_causal_masks_of_any_size(name):
    """Masks that positions are compared for: attention must know the causal ones, and only those."""
    causal, mask = MASKS[name]

    class Masked(torch.nn.Module):
        def forward(self, q):
            n = q.shape[2]
            at = torch.arange(n)
            return torch.nn.functional.scaled_dot_product_attention(q, q, q, attn_mask=mask(at[:, None], at[None], n))

    compiled = kiln.compile(Masked().eval(), inputs=[kiln.Input(min_shape=(1, 2, 1, 8), max_shape=(2, 2, 16, 8))])
    assert ("causal=true" in compiled.engine.report("plan")) == causal
    for shape in ((1, 2, 1, 8), (2, 2, 2, 8), (1, 2, 16, 8)):
        torch.testing.assert_close(compiled(q := torch.randn(shape)), Masked()(q), rtol=1e-4, atol=1e-4)


class Sized(torch.nn.Module):
    """Computes with the sizes of its input."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x, *x.shape[1:])


AUTO = torch.export.Dim.AUTO
EVERY = {0: AUTO, 1: AUTO, 2: AUTO}
BRANCHES = {  # the code, sizes that it is captured with, others that are right, and some that take another branch
    "greater": (lambda x, h, w: x * 2 if h > w else x + 1, (9, 7), [(8, 6), (90, 1)], [(6, 8), (8, 8)]),
    "differ": (lambda x, h, w: x * 2 if h != w else x + 1, (9, 7), [(7, 9), (3, 4)], [(8, 8)]),
    "equal": (lambda x, h, w: x * 2 if h % 4 == 0 else x + 1, (8, 6), [(4, 6), (80, 3)], [(9, 6), (2, 2)]),
    "ratio": (lambda x, h, w: x * 2 if h / w > 1.5 else x + 1, (9, 4), [(8, 5), (80, 3)], [(6, 4), (2, 2)]),
    "int": (lambda x, h, w: x[:, : int(h * 0.7)], (10, 4), [(10, 8), (11, 5)], [(12, 5), (9, 5)]),
    "chunks": (lambda x, h, w: torch.stack([c.sum(1) for c in x.chunk(4, 1)]), (8, 4), [(7, 4), (13, 2)], [(9, 4), (5, 5)]),
    "number": (lambda x, h, w: x * 2 if h != 5 else x + 1, (9, 7), [(7, 9), (4, 4)], [(5, 8)]),
    "shift": (lambda x, h, w: x.roll(1, 1) if h + (4 - h % 4) % 4 > 4 else x, (8, 4), [(5, 4), (9, 2)], [(4, 4), (3, 5)]),
    "no matter": (lambda x, h, w: x if w % 4 == 0 else torch.nn.functional.pad(x, (0, 4 - w % 4)), (4, 6), [(4, 7), (9, 3)], []),
}


@pytest.mark.parametrize("name", BRANCHES)
def test_sizes_for_another_branch_are_refused(name):
    function, example, good, others = BRANCHES[name]
    model = Sized(function).eval()
    x = torch.randn(2, *example)
    program = torch.export.export(model, (x,), dynamic_shapes=(EVERY,))
    compiled = kiln.compile(model, [x], dynamic_shapes=(EVERY,))
    for module in (compiled, kiln.compile(program), kiln.load(compiled.engine.serialize())):
        for size in [example, *good]:
            torch.testing.assert_close(module(x := torch.randn(3, *size)), model(x))
        for size in others:
            with pytest.raises(kiln.KilnError, match=r"x\.shape\[1\] is .*; the model was captured for sizes with `.*` only"):
                module(torch.randn(3, *size))


def test_pytorchs_own_comparisons_refuse_nothing():
    def function(x, h, w):  # slices, contiguity, windows: torch.export notes conditions for each
        y = x[:, :5].transpose(1, 2).contiguous().flatten(1)
        return torch.nn.functional.max_pool2d(x[:, None], 3, 2, 1).sum() + y.sum()

    model = Sized(function).eval()
    compiled = kiln.compile(model, inputs=[kiln.Input(min_shape=(1, 5, 2), opt_shape=(2, 8, 6), max_shape=(4, 16, 16))])
    for shape in ((1, 5, 2), (2, 8, 6), (4, 16, 16), (1, 5, 5), (3, 5, 9)):
        torch.testing.assert_close(compiled(x := torch.randn(shape)), model(x), rtol=1e-4, atol=1e-4)


ARITHMETIC = {
    "sum of many": lambda x, h, w: torch.nn.functional.pad(x, (0, (4 - w % 4) % 4, 0, (4 - h % 4) % 4)),
    "ceil": lambda x, h, w: x[:, : math.ceil(h / 2), : math.ceil(w * 0.55)],
    "floor": lambda x, h, w: x[:, : math.floor(h * 0.58) + 1, : math.floor(w / 3) + 1],
    "round": lambda x, h, w: x[:, : round(h / 6) + 1, : round(w * 0.35) + 1],
    "resize": lambda x, h, w: torch.nn.functional.interpolate(x, scale_factor=0.7),
    "resize 2": lambda x, h, w: torch.nn.functional.interpolate(x[:, None], scale_factor=(2.3, 1.1), mode="bilinear"),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_sizes_that_floats_give(name):
    """They round as doubles do: 0.7 * 90 is less than 63."""
    model = Sized(ARITHMETIC[name]).eval()
    compiled = kiln.compile(model, inputs=[kiln.Input(min_shape=(1, 4, 4), opt_shape=(2, 8, 8), max_shape=(2, 101, 101))])
    reloaded = kiln.load(compiled.engine.serialize())
    for shape in ((1, 4, 4), (2, 8, 8), (1, 90, 50), (2, 100, 90), (1, 101, 101), (1, 7, 100)):
        for module in (compiled, reloaded):
            torch.testing.assert_close(module(x := torch.randn(shape)), model(x), rtol=1e-4, atol=1e-4)


def test_sizes_that_are_1_at_the_opt_size():
    """torch.export takes what is 1 in its example for a constant."""
    model = torch.nn.Sequential(*[torch.nn.Conv1d(2, 2, 3, 2, 1) for _ in range(3)], torch.nn.AdaptiveAvgPool1d(1)).eval()
    compiled = kiln.compile(model, inputs=[kiln.Input(min_shape=(1, 2, 2), opt_shape=(1, 2, 4), max_shape=(2, 2, 40))])
    with torch.no_grad():
        for shape in ((1, 2, 2), (1, 2, 4), (2, 2, 40), (1, 2, 9)):
            torch.testing.assert_close(compiled(x := torch.randn(shape)), model(x), rtol=1e-4, atol=1e-5)


def test_sizes_that_become_1():
    """Where torch.export would narrow the range to what has no size of 1 inside."""
    layers = [
        torch.nn.Conv2d(3, 4, 2, 2),
        torch.nn.GELU(),
        torch.nn.Conv2d(4, 4, 2, 2),
        torch.nn.GELU(),
        torch.nn.Conv2d(4, 2, 2, 2),
    ]
    model = torch.nn.Sequential(*layers, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()).eval()
    compiled = kiln.compile(model, inputs=[kiln.Input(min_shape=(1, 3, 8, 8), opt_shape=(2, 3, 16, 24), max_shape=(4, 3, 64, 64))])
    with torch.no_grad():
        for shape in ((1, 3, 8, 8), (2, 3, 16, 24), (4, 3, 64, 64), (3, 3, 9, 40)):
            torch.testing.assert_close(compiled(x := torch.randn(shape)), model(x), rtol=1e-4, atol=1e-5)


def test_without_ranges_sizes_may_be_0_and_1():
    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU()).eval()
    program = torch.export.export(model, (torch.randn(3, 2, 4),), dynamic_shapes=({0: AUTO, 1: torch.export.Dim.DYNAMIC},))
    compiled = kiln.compile(program)
    assert compiled.inputs[0].min_shape == (0, 0, 4)
    with torch.no_grad():
        for shape in ((0, 2, 4), (3, 0, 4), (0, 0, 4), (1, 1, 4), (50, 3, 4)):
            torch.testing.assert_close(compiled(x := torch.randn(shape)), model(x))


class Recurrent(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gru = torch.nn.GRU(4, 3)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return self.gru(x, h)[0]  # raises where the sizes of x and h do not agree, which it compares as lists


class Compares(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if x.shape[1:] == y.shape[1:]:
            return x + 1
        return x * 3 if [x.shape[0], 4] != [y.shape[0], y.shape[1]] else x * 2


def test_scripts_compare_lists_of_sizes():
    model = torch.jit.script(Recurrent().eval())
    tokens = kiln.Input(min_shape=(1, 1, 4), opt_shape=(4, 2, 4), max_shape=(9, 5, 4))
    compiled = kiln.compile(model, [tokens, kiln.Input(min_shape=(1, 1, 3), opt_shape=(1, 2, 3), max_shape=(1, 5, 3))])
    with torch.no_grad():
        for n, batch in ((1, 1), (4, 2), (9, 5)):
            x, h = torch.randn(n, batch, 4), torch.randn(1, batch, 3)
            torch.testing.assert_close(compiled(x, h), model(x, h), rtol=1e-4, atol=1e-5)
    model = torch.jit.script(Compares().eval())
    any_size = kiln.Input(min_shape=(1, 1, 1), opt_shape=(2, 2, 2), max_shape=(9, 9, 9))
    compiled = kiln.compile(model, [any_size, any_size])
    for a, b in (
        ((2, 2, 3), (5, 2, 3)),
        ((2, 4, 3), (2, 4, 2)),
        ((2, 3, 3), (2, 4, 3)),
        ((1, 2, 3), (2, 4, 3)),
        ((9, 9, 9), (9, 9, 9)),
    ):
        x, y = torch.randn(a), torch.randn(b)
        assert torch.equal(compiled(x, y), model(x, y))
