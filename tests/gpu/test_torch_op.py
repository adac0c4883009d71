"""The operators on a GPU: compiled ScriptModules for target cuda, streams, moved engine tensors, and clear texts."""

from __future__ import annotations

import io
import threading
import warnings
from typing import Any

import pytest
import torch

import kiln

warnings.simplefilter("ignore")
if not torch.cuda.is_available():
    pytest.skip("no GPU that PyTorch can use", allow_module_level=True)
pytestmark = pytest.mark.filterwarnings("ignore")


def reloaded(module: Any, **options: Any) -> Any:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer, **options)


@pytest.fixture(autouse=True)
def _inference() -> Any:
    torch.backends.cuda.matmul.allow_tf32 = False
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 4)).eval()


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return torch.randn(8, 16)


def compiled(model: torch.nn.Module, x: torch.Tensor, target: str) -> Any:
    return kiln.compile(torch.jit.script(model), inputs=[x], target=target)


def test_cuda_engine(model: torch.nn.Module, x: torch.Tensor) -> None:
    module = reloaded(compiled(model, x, "cuda"))
    y = module(x.cuda())
    assert y.device.type == "cuda"
    torch.testing.assert_close(y.cpu(), model(x), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module(x), model(x), rtol=1e-4, atol=1e-4)  # tensors of the host stay there


def test_streams_and_threads(model: torch.nn.Module, x: torch.Tensor) -> None:
    module = reloaded(compiled(model, x, "cuda"))
    wrong: list[int] = []

    def work(i: int) -> None:
        stream = torch.cuda.Stream()
        with torch.no_grad(), torch.cuda.stream(stream):
            for k in range(50):
                mine = x + i + k
                y = module(mine.cuda())
                stream.synchronize()
                if not torch.allclose(y.cpu(), model(mine), rtol=1e-3, atol=1e-3):
                    wrong.append(i)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_engine_tensors_on_the_gpu(model: torch.nn.Module, x: torch.Tensor, target: str) -> None:
    module = compiled(model, x, target)
    mine = x.cuda() if target == "cuda" else x
    moved = reloaded(module, map_location="cuda")
    frozen = reloaded(torch.jit.freeze(reloaded(module)), map_location="cuda")  # its constant stays on the GPU
    for each in (moved, frozen, moved.to("cuda")):
        for _ in range(2):
            torch.testing.assert_close(each(mine).cpu(), model(x), rtol=1e-4, atol=1e-4)


def test_cpu_engine_says_where_its_inputs_must_be(model: torch.nn.Module, x: torch.Tensor) -> None:
    module = compiled(model, x, "cpu")
    with pytest.raises(RuntimeError, match=r"input 0 \(\"\w+\"\) is on cuda:0, but the engine was compiled for the target cpu"):
        module(x.cuda())


def test_inside_a_capture(model: torch.nn.Module, x: torch.Tensor) -> None:
    module = reloaded(compiled(model, x, "cuda"))
    mine, side = x.cuda(), torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            module(mine)
    side.synchronize()
    with torch.cuda.graph(graph, stream=side):
        y = module(mine)
    fresh = torch.randn(8, 16)
    mine.copy_(fresh)
    graph.replay()
    torch.testing.assert_close(y.cpu(), model(fresh), rtol=1e-4, atol=1e-4)


def test_sizes_from_data() -> None:
    class Picked(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[x > 0] * 2

    module = kiln.compile(torch.jit.script(Picked().eval()), inputs=[torch.randn(6, 5)], target="cuda")
    for _ in range(3):
        x = torch.randn(6, 5)
        torch.testing.assert_close(module(x.cuda()).cpu(), x[x > 0] * 2)
        torch.testing.assert_close(module(x), x[x > 0] * 2)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_the_second_gpu(model: torch.nn.Module, x: torch.Tensor) -> None:
    module = compiled(model, x, "cuda")
    for k in (1, 0, 1):
        y = module(x.to(f"cuda:{k}"))
        assert y.device == torch.device("cuda", k)
        torch.testing.assert_close(y.cpu(), model(x), rtol=1e-4, atol=1e-4)
    assert torch.cuda.current_device() == 0
