"""Both front ends and torch.compile on a GPU, as their users call them. Skips, visibly, without one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import nn

kiln = pytest.importorskip("kiln")
from kiln import torch_tensorrt  # noqa: E402
from kiln.torch2trt import TRTModule, torch2trt  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU(), nn.AdaptiveAvgPool2d(1)
        )
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x).flatten(1))


@pytest.fixture(autouse=True)
def exact() -> None:
    torch.manual_seed(0)
    torch._dynamo.reset()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(1)
    return Small().eval().cuda()


def image(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 32, 32, device="cuda")


def same(a: torch.Tensor, b: torch.Tensor, bound: float = 1e-4) -> None:
    assert a.is_cuda and a.shape == b.shape
    assert ((a.float() - b.float()).norm() / b.float().norm()).item() < bound


@torch.no_grad()
@pytest.mark.parametrize("half", [False, True])
def test_torch2trt(model: nn.Module, half: bool, tmp_path: Path) -> None:
    x = image()
    made = torch2trt(model, [x], fp16_mode=half, max_batch_size=8)
    for n in (1, 2, 8):
        y = image(n)
        same(made(y), model(y), 5e-3 if half else 1e-4)
    torch.save(made.state_dict(), tmp_path / "made.pth")
    loaded = TRTModule()
    loaded.load_state_dict(torch.load(tmp_path / "made.pth", weights_only=True))
    assert torch.equal(loaded(x), made(x))


@torch.no_grad()
def test_torch2trt_of_a_half_model(model: nn.Module) -> None:
    halved, x = Small().eval().cuda().half(), image().half()
    y = torch2trt(halved, [x], fp16_mode=True)(x)
    assert y.dtype == torch.float16
    same(y, halved(x), 1e-2)


@torch.no_grad()
@pytest.mark.parametrize("ir", ["dynamo", "torch_compile", "ts"])
def test_torch_tensorrt(model: nn.Module, ir: str, tmp_path: Path) -> None:
    x = image()
    exactly = {"enabled_precisions": {torch.float32}, "disable_tf32": True}
    made = torch_tensorrt.compile(model, ir=ir, inputs=[x], min_block_size=1, **exactly)
    same(made(x), model(x))
    if ir == "torch_compile":
        return
    path = str(tmp_path / ("m.ts" if ir == "ts" else "m.ep"))
    if ir == "ts":
        torch.jit.save(made, path)
        same(torch.jit.load(path)(x), model(x))
    else:
        torch_tensorrt.save(made, path, inputs=[x])
        same(torch_tensorrt.load(path).module()(x), model(x))


@torch.no_grad()
def test_torch_tensorrt_in_half_with_ranges(model: nn.Module) -> None:
    spec = torch_tensorrt.Input(min_shape=(1, 3, 32, 32), opt_shape=(4, 3, 32, 32), max_shape=(8, 3, 32, 32), dtype=torch.float32)
    made = torch_tensorrt.compile(model, ir="dynamo", inputs=[spec], enabled_precisions={torch.float16}, min_block_size=1)
    for n in (1, 5, 8):
        x = image(n)
        same(made(x), model(x), 5e-3)


@torch.no_grad()
def test_torch_compile(model: nn.Module) -> None:
    torch._dynamo.utils.counters.clear()
    fast = torch.compile(model, backend="kiln", dynamic=True)
    for n in (2, 3, 7):
        x = image(n)
        same(fast(x), model(x))
    count = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert count <= 2, f"{count} graphs for three batch sizes"


@torch.no_grad()
def test_four_threads(model: nn.Module) -> None:
    made, wrong = torch2trt(model, [image()]), []

    def serve() -> None:
        with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
            for _ in range(20):
                x = image()
                try:
                    same(made(x), model(x))
                except Exception as e:
                    wrong.append(repr(e))

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong[0]
