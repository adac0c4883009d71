"""Engines on a GPU: precisions, layouts, streams, graphs, several callers, and errors. Skips, visibly, without one."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

kiln = pytest.importorskip("kiln")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")


class Small(nn.Module):
    """Convolutions, a residual, pooling, attention and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.b = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.c = nn.Conv2d(16, 32, 1)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, activation="gelu", norm_first=True)
        self.head = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.norm(self.a(x)))
        x = nn.functional.silu(self.c(x + self.b(x)))
        x = nn.functional.max_pool2d(x, 2).flatten(2).transpose(1, 2)
        return torch.softmax(self.head(self.encoder(x).mean(1)), -1)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(1)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    return Small().eval().cuda()


def example(batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, 3, 16, 16, device="cuda")


def error(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


@pytest.mark.parametrize(
    ("precision", "bound"), [("fp32", 1e-4), ("tf32", 3e-3), ("fp16", 3e-3), ("bf16", 2e-2), ("fp16:conv,encoder*", 3e-3)]
)
def test_precisions(model: nn.Module, precision: str, bound: float) -> None:
    x = example()
    engine = kiln.compile(model, inputs=[x], precision=precision)
    with torch.no_grad():
        for _ in range(4):  # plain, staged graph, graph on the caller's tensors
            y = engine(x)
            assert y.is_cuda and y.dtype == torch.float32
            assert error(y, model(x)) < bound


def test_half_model(model: nn.Module) -> None:
    x = example().half()
    engine = kiln.compile(Small().eval().half(), inputs=[x.cpu()], target="cuda")
    assert engine(x).dtype == torch.float16


def test_layouts_and_host_tensors(model: nn.Module) -> None:
    x = example()
    engine = kiln.compile(model, inputs=[x])
    with torch.no_grad():
        want = model(x)
        assert error(engine(x.contiguous(memory_format=torch.channels_last)), want) < 1e-4
        padded = torch.zeros(2, 3, 16, 20, device="cuda")
        padded[..., :16] = x
        assert error(engine(padded[..., :16]), want) < 1e-4
        host = engine(x.cpu())
        assert not host.is_cuda and error(host, want.cpu()) < 1e-4


def test_dynamic_shapes(model: nn.Module) -> None:
    engine = kiln.compile(
        model, inputs=[kiln.Input(min_shape=(1, 3, 16, 16), opt_shape=(2, 3, 16, 16), max_shape=(8, 3, 16, 16))], target="cuda"
    )
    with torch.no_grad():
        for batch in (1, 3, 8, 3, 2):
            x = example(batch)
            assert error(engine(x), model(x)) < 1e-4


def test_streams_and_threads(model: nn.Module) -> None:
    engine = kiln.compile(model, inputs=[example()])
    failures: list[str] = []

    def work() -> None:
        stream = torch.cuda.Stream()
        with torch.no_grad(), torch.cuda.stream(stream):
            for _ in range(20):
                x = example()
                y, want = engine(x), model(x)
                stream.synchronize()
                if error(y, want) > 1e-4:
                    failures.append("wrong result on a stream")

    threads = [threading.Thread(target=work) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures


def test_inside_a_graph(model: nn.Module) -> None:
    x = example()
    engine = kiln.compile(model, inputs=[x])
    with torch.no_grad():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            engine(x)
        side.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=side):
            y = engine(x)
        x.copy_(example())
        graph.replay()
        torch.cuda.synchronize()
        assert error(y, model(x)) < 1e-4


def test_tuned_engine_and_file(model: nn.Module, tmp_path: object) -> None:
    x = example()
    engine = kiln.compile(model, inputs=[x], precision="fp16", tune=20.0, cache=f"{tmp_path}/tactics")
    path = f"{tmp_path}/m.kiln"
    kiln.save(engine, path)
    with torch.no_grad():
        assert error(kiln.load(path)(x), model(x)) < 3e-3


def test_errors(model: nn.Module) -> None:
    x = example()
    engine = kiln.compile(model, inputs=[x])
    with pytest.raises(kiln.KilnError, match="wrong element type"):
        engine(x.half())
    with pytest.raises(kiln.KilnError, match="precision"):
        kiln.compile(model, inputs=[x], precision="fp12")
    with pytest.raises(kiln.KilnError, match="sm_90"):
        kiln.compile(model, inputs=[x], target="cuda:sm_10")
    with torch.no_grad():
        assert error(engine(x), model(x)) < 1e-4  # later calls work
