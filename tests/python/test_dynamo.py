"""torch.compile(..., backend="kiln")."""

from __future__ import annotations

import subprocess
import sys
import warnings

import pytest
import torch

from conftest import PACKAGES


@pytest.fixture(autouse=True)
def fresh():
    torch.manual_seed(0)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


def network() -> torch.nn.Module:
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1)]
    return torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(8, 5)).eval()


def graphs() -> int:
    return torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_is_listed_and_right():
    assert "kiln" in torch._dynamo.list_backends()
    model, x = network(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, backend="kiln", fullgraph=True)(x), model(x), rtol=1e-4, atol=1e-5)


def test_a_new_batch_size_needs_no_new_engine():
    model = network()
    fast = torch.compile(model, backend="kiln")
    with torch.no_grad():
        for n in (2, 3, 5, 7, 9, 4):
            x = torch.randn(n, 3, 16, 16)
            torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    assert graphs() == 2  # the first size, and all others


def test_written_parameters_count():
    model, x = network(), torch.randn(2, 3, 16, 16)
    fast = torch.compile(model, backend="kiln")
    with torch.no_grad():
        before = fast(x)
        model[0].weight.mul_(2)
        after = fast(x)
        torch.testing.assert_close(after, model(x), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before, after)


def test_training_steps_are_left_to_pytorch():
    model, x = network(), torch.randn(2, 3, 16, 16)
    with torch.enable_grad():
        torch.compile(model, backend="kiln")(x).sum().backward()
    assert model[0].weight.grad is not None


def test_graph_breaks(capsys):
    @torch.compile(backend="kiln")
    def f(x, factor):
        y = torch.relu(x) + x.shape[0]
        print("a break")
        return torch.softmax(y * factor, -1), [x.shape[0] + 1]

    with torch.no_grad():
        for n in (4, 6, 8):
            x = torch.randn(n, 6)
            y, (count,) = f(x, 2.5)
            torch.testing.assert_close(y, torch.softmax((torch.relu(x) + n) * 2.5, -1))
            assert count == n + 1
    assert capsys.readouterr().out.count("a break") == 3


def test_what_kiln_lacks_runs_in_pytorch():
    def f(x):
        return torch.nextafter(x, x) + 1

    x = torch.randn(4, 4)
    with torch.no_grad():
        with pytest.warns(UserWarning, match="nextafter"):
            torch.testing.assert_close(torch.compile(f, backend="kiln")(x), f(x))
        with pytest.raises(Exception, match="nextafter"):
            torch.compile(f, backend="kiln", options={"require_full_compilation": True})(x)
        with pytest.raises(Exception, match="unknown options"):
            torch.compile(torch.relu, backend="kiln", options={"speed": 3})(x)


@pytest.mark.parametrize("order", ["import torch, kiln", "import kiln, torch"])
def test_is_registered_by_either_order_of_imports(order):
    text = f"{order}; assert 'kiln' in torch._dynamo.list_backends()"
    result = subprocess.run(
        [sys.executable, "-c", text], env={"PYTHONPATH": str(PACKAGES)}, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


def test_no_warning_for_what_fits():
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        torch.compile(lambda x: torch.relu(x) * 2, backend="kiln")(torch.randn(3, 3))


class Scaled(torch.nn.Module):
    """Numbers that are attributes: with dynamic=True they are arguments of the graph."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm2d(3, eps=0.02)
        self.scale = 1.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.norm(x) * self.scale)


def test_numbers_of_modules_may_vary():
    model = Scaled().eval()
    fast = torch.compile(model, backend="kiln", dynamic=True, options={"require_full_compilation": True})
    for n, scale in ((2, 1.5), (3, 1.5), (4, -0.25), (2, 1.5)):
        model.scale = scale
        x = torch.randn(n, 3, 4, 5)
        with torch.no_grad():
            torch.testing.assert_close(fast(x), model(x))
