"""Tuning on the CPU: what plans tell, the cache, and tuning in place. GPUs are in tests/gpu/test_tuner.py."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import kiln


class Small(nn.Module):
    """Enough for operators with several tactics."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(torch.relu(self.conv(x)), 1).flatten(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(1)
    return Small().eval()


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(2, 3, 12, 12)


def engine_of(model: nn.Module, x: torch.Tensor, **options: object) -> kiln.Engine:
    return kiln.compile(model, inputs=[x], **options).engine


def test_in_place(model: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    compiled = kiln.compile(model, inputs=[x])
    engine = compiled.engine
    assert "timed" not in engine.report("plan")
    with torch.no_grad():
        want = model(x)
        torch.testing.assert_close(compiled(x), want)
        engine.tune(20, cache=tmp_path / "tactics")
        torch.testing.assert_close(compiled(x), want)  # a context that exists takes the new plan
    assert " us, heuristic " in engine.report("plan")
    engine.save(tmp_path / "tuned.kiln")
    assert "timed" in kiln.Engine.open(tmp_path / "tuned.kiln").report("plan")


def test_cache(model: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    cache = tmp_path / "tactics"
    engine_of(model, x, tune=20, cache=str(cache))
    lines = cache.read_text()
    assert all(len(line.split("\t")) == 4 for line in lines.splitlines())
    engine = engine_of(model, x, tune=20, cache=str(cache))
    assert cache.read_text() == lines
    assert "timed" in engine.report("plan")


def test_damaged_cache(model: nn.Module, x: torch.Tensor, tmp_path: Path) -> None:
    cache = tmp_path / "tactics"
    engine_of(model, x, tune=20, cache=str(cache))
    text = cache.read_text()
    for damaged in (text[: len(text) // 2], text.replace("\t", " "), text.replace("\t", "\tnan\t"), "\0" + text, "\t\t\t\n" * 99):
        cache.write_text(damaged)
        compiled = kiln.compile(model, inputs=[x], tune=20, cache=str(cache))
        with torch.no_grad():
            torch.testing.assert_close(compiled(x), model(x))


def test_refit_after_tuning(model: nn.Module, x: torch.Tensor) -> None:
    compiled = kiln.compile(model, inputs=[x])
    before = compiled.engine.weights
    compiled.engine.tune(10)
    assert [w.name for w in compiled.engine.weights] == [w.name for w in before]
    other = Small().eval()
    compiled.engine.refit(other)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), other(x))
    assert "timed" in compiled.engine.report("plan")


def test_bad_arguments(model: nn.Module, x: torch.Tensor) -> None:
    engine = engine_of(model, x)
    with pytest.raises(kiln.KilnError, match="tune_seconds"):
        engine.tune(-1)
    with pytest.raises(kiln.KilnError):
        engine.tune(float("nan"))
    with pytest.raises(TypeError):
        engine.tune("long")  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_gpu_is_not_here(model: nn.Module, x: torch.Tensor) -> None:
    engine = kiln.compile(model, inputs=[x], target="cuda:sm_90", precision="fp16", tune=5).engine
    assert "timed" not in engine.report("plan")
    with pytest.raises(kiln.KilnError, match="on the GPU that the engine is for"):
        engine.tune(5)
