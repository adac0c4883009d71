"""A few of the model families of tests/families, and the operators that only some families use."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kiln
from conftest import PACKAGES, ROOT

FAMILIES = ["albert", "convnextv2", "mixtral", "opt", "wav2vec2"]


def test_families(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    table = tmp_path / "table.csv"
    command = [sys.executable, str(ROOT / "tests/families/run.py"), "--only", *FAMILIES, "--output", str(table)]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES)}
    result = subprocess.run(command, check=False, env=environment, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    with open(table, newline="") as file:
        rows = {row["family"]: row for row in csv.DictReader(file)}
    assert {f: (rows[f]["outcome"], rows[f]["varying_outcome"]) for f in FAMILIES} == dict.fromkeys(FAMILIES, ("right", "right"))
    # Text models take any batch and length in one engine.
    assert rows["mixtral"]["varying"] == "attention_mask.0 attention_mask.1 input_ids.0 input_ids.1"


def test_table_is_up_to_date() -> None:
    sys.path.insert(0, str(ROOT / "tests/families"))
    try:
        import run
    finally:
        del sys.path[0]
    page = (ROOT / "docs/models.md").read_text()
    for suite in ("transformers", "timm", "torchvision"):
        rows = run.read_rows(ROOT / f"tests/families/results/{suite}.csv")
        for line in run.markdown(suite, rows):
            assert line in page or not line.startswith("|"), f"run tests/families/run.py --suite {suite} --markdown"
        captured = [row for row in rows if row["captured"] == "yes"]
        bad = [row for row in captured if {row["outcome"], row["varying_outcome"]} & {"wrong", "crash"}]
        assert not bad
        assert sum(row["outcome"] == "right" for row in captured) >= 0.9 * len(captured)


class Histogram(torch.nn.Module):
    def __init__(self, *arguments: int) -> None:
        super().__init__()
        self.arguments = arguments

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.histc(x, *self.arguments)


@pytest.mark.parametrize("arguments", [(4, 0, 3), (10,), (7, -1, 1), (100, -2, 2), (3, 1, 1)])
def test_histc(arguments: tuple[int, ...]) -> None:
    model = Histogram(*arguments).eval()
    compiled = kiln.compile(model, [torch.zeros(60)])
    for x in (torch.randn(60), torch.randint(0, 4, (60,)).float(), torch.full((60,), 2.0)):
        assert torch.equal(compiled(x), model(x))


class Experts(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(4, 24, 16, dtype=torch.bfloat16))

    def forward(self, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.grouped_mm(x, self.weight.transpose(1, 2), offs=ends)


@pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="needs torch.nn.functional.grouped_mm")
def test_grouped_mm() -> None:
    model = Experts().eval()
    x = torch.randn(50, 16, dtype=torch.bfloat16)  # the only dtype that torch.export takes here
    compiled = kiln.compile(model, [x, torch.tensor([10, 20, 30, 50], dtype=torch.int32)])
    for ends in ([10, 20, 30, 50], [0, 50, 50, 50], [1, 2, 48, 50]):
        offsets = torch.tensor(ends, dtype=torch.int32)
        parts = torch.tensor_split(x, offsets[:-1].long())
        expected = torch.cat([p @ w.T for p, w in zip(parts, model.weight)])
        assert torch.allclose(compiled(x, offsets), expected, atol=0.02, rtol=0.01)
    for ends in ([10, 5, 30, 50], [10, 20, 30, 51], [-1, 20, 30, 50]):
        with pytest.raises(kiln.KilnError, match=r"grouped_matmul: offsets\[\d\] is"):
            compiled(x, torch.tensor(ends, dtype=torch.int32))
    after = compiled(x, torch.tensor([10, 20, 30, 40], dtype=torch.int32))
    assert not after[40:].any()


class Pairs(torch.nn.Module):
    """As masks of attention are made in transformers."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        def one(i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
            return torch.where(i <= j, i * 2 + y[0], j)

        return torch.vmap(torch.vmap(one, (None, 0)), (0, None))(x, y)


def test_vmap() -> None:
    model = Pairs().eval()
    x, y = torch.randn(5), torch.randn(7)
    assert torch.equal(kiln.compile(model, [x, y])(x, y), model(x, y))


class Put(torch.nn.Module):
    """As embeddings of images take their places among those of words."""

    def __init__(self, accumulate: bool) -> None:
        super().__init__()
        self.accumulate = accumulate

    def forward(self, x: torch.Tensor, mask: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        return torch.index_put(x, (mask,), values, accumulate=self.accumulate)


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(("shape", "covered"), [((6, 5), 1), ((3, 4, 5), 2), ((7,), 1)])
def test_rows_through_a_mask(shape: tuple[int, ...], covered: int, accumulate: bool) -> None:
    model = Put(accumulate).eval()
    mask = torch.rand(shape[:covered]) > 0.4
    x, values = torch.randn(shape), torch.randn(int(mask.sum()), *shape[covered:])
    compiled = kiln.compile(model, [x, mask, values])
    for _ in range(3):
        mask = mask.flatten()[torch.randperm(mask.numel())].reshape(mask.shape)
        assert torch.equal(compiled(x, mask, values), model(x, mask, values))


class Drawn(torch.nn.Module):
    def __init__(self, used: bool) -> None:
        super().__init__()
        self.used = used

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        drawn = torch.rand([])
        return x * drawn if self.used else x * 2


def test_numbers_drawn_for_nothing() -> None:
    x = torch.randn(3)
    assert torch.equal(kiln.compile(Drawn(False).eval(), [x])(x), x * 2)
    with pytest.raises(kiln.KilnError, match=r"aten\.rand\.default, used 1 time"):
        kiln.compile(Drawn(True).eval(), [x])


class Halves(torch.nn.Module):
    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return x.masked_scatter(mask[:, None], x[mask] * 2).masked_scatter(~mask[:, None], x[~mask] - 1)


def test_masked_scatter_of_none() -> None:
    model, x = Halves().eval(), torch.randn(3, 4)
    compiled = kiln.compile(model, [x, torch.tensor([True, False, True])])
    for bits in ([True, False, True], [False] * 3, [True] * 3):
        assert torch.equal(compiled(x, torch.tensor(bits)), model(x, torch.tensor(bits)))


class Flags(torch.nn.Module):
    """Checks of the values of tensors, as deformable attention has; and a number that depends on one."""

    def forward(self, x: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        torch._check_tensor_all((sizes[:, 0] * sizes[:, 1]).sum() == x.shape[1], lambda: "sizes that do not fit")
        large = sizes > 4
        number = torch.sym_ite(torch.ops.aten._is_any_true(large).item(), 7, 3)
        return x * number, torch.ops.aten._is_any_true(large), torch.ops.aten._is_all_true(large)


def test_truth_values_of_tensors() -> None:
    model, x = Flags().eval(), torch.randn(2, 24)
    compiled = kiln.compile(model, [x, torch.tensor([[4, 3], [4, 3]])])
    for sizes in ([[4, 3], [4, 3]], [[3, 4], [6, 2]], [[4, 4], [2, 4]], [[0, 5], [4, 6]]):
        given = torch.tensor(sizes)
        for y, z in zip(compiled(x, given), model(x, given)):
            assert torch.equal(y, z)


class Transforms(torch.nn.Module):
    """Fourier transforms of lengths that vary, as FNet has."""

    def __init__(self, norm: str, real: bool) -> None:
        super().__init__()
        self.norm, self.real = norm, real

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self.real:
            one, two = torch.fft.rfft(x, dim=1, norm=self.norm), torch.fft.rfft2(x, dim=(2, 1), norm=self.norm)
        else:
            one, two = torch.fft.fft(x[0, :, 0], norm=self.norm), torch.fft.fftn(x, dim=(0, 1, 2), norm=self.norm)
        back = torch.fft.ifft(two * 2, dim=1, norm=self.norm)
        return torch.view_as_real(one), torch.view_as_real(two), torch.view_as_real(back)


@pytest.mark.parametrize("real", [False, True])  # torch.export fixes the length of a real input
@pytest.mark.parametrize("norm", ["forward", "backward", "ortho"])
def test_transforms_of_lengths_that_vary(norm: str, real: bool) -> None:
    model = Transforms(norm, real).eval()
    varying = kiln.Input(min_shape=(2, 2, 5), opt_shape=(2, 9, 5), max_shape=(2, 200, 5))
    compiled = kiln.compile(torch.jit.script(model) if real else model, [varying])
    for n in (9, 2, 16, 113, 200):
        x = torch.randn(2, n, 5)
        for y, z in zip(compiled(x), model(x)):
            assert y.shape == z.shape and (y - z).abs().max() <= 2e-6 * z.abs().max()


class Stages(torch.nn.Module):
    """As depth estimators take apart what several stages gave, and DAB-DETR counts its sines."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        places = torch.arange(x.shape[1], dtype=torch.float32)
        places //= 2
        return (*torch.cat([x, x + 1, x * 2]).split(x.shape[0]), places)


def test_pieces_of_a_size_that_varies() -> None:
    model = Stages().eval()
    compiled = kiln.compile(model, [kiln.Input(min_shape=(1, 5), opt_shape=(2, 5), max_shape=(8, 5))])
    for n in (2, 1, 8, 3):
        x = torch.randn(n, 5)
        for y, z in zip(compiled(x), model(x)):
            assert torch.equal(y, z)
