"""The runtime on a GPU: sizes that depend on data, branches and loops, operators left to the CPU, captures by the caller, several GPUs,
limits of memory, and errors after which later calls work. Skips, visibly, without a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

kiln = pytest.importorskip("kiln")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU here")


@pytest.fixture(autouse=True)
def _exact() -> Any:
    torch.manual_seed(3)
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    with torch.no_grad():
        yield


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 8)).eval()


def close(a: Any, b: Any, tolerance: float = 1e-4) -> None:
    torch.testing.assert_close(a.cpu(), b.cpu(), rtol=tolerance, atol=tolerance)


def grows_by(use: Any, most: int) -> bool:
    """Does `use` leave at most so many bytes of the GPU taken? Other processes take and give memory meanwhile: some tries."""
    for _ in range(5):
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        free = torch.cuda.mem_get_info()[0]
        kept = use()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        if 0 <= free - torch.cuda.mem_get_info()[0] <= most:
            return True
        del kept
    return False


def python(code: str, **env: str) -> str:
    """Another process, whose GPU may be lost."""
    run = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env={**os.environ, **env}, timeout=120
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_outputs_of_the_caller() -> None:
    model, x = mlp(), torch.randn(4, 64, device="cuda")
    engine = kiln.compile(model, inputs=[x], target="cuda")
    y, turned = torch.empty(4, 8, device="cuda"), torch.empty(8, 4, device="cuda").t()
    for out in (y, y, turned, y):
        out.zero_()
        engine.run_into([x], [out])
        close(out, model(x.cpu()))


def test_plain_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KILN_CUDA_GRAPHS", "0")
    model, x = mlp(), torch.randn(4, 64, device="cuda")
    engine = kiln.compile(model, inputs=[x], target="cuda")
    for _ in range(3):
        close(engine(x), model(x.cpu()))


# ---- what only the data decides --------------------------------------------------------------------------------------


class Picked(nn.Module):
    """Rows that a mask picks, where they are, and how often each value comes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows = x[x[:, 0] > 0]
        return self.fc(rows), torch.nonzero(x > 1.0), torch.masked_select(x, x > 0.5), torch.relu(x).sum()


def test_sizes_from_data() -> None:
    model = Picked().eval()
    engine = kiln.compile(model, inputs=[torch.randn(32, 16)], target="cuda")
    for k in range(8):
        x = torch.randn(32, 16) if k else -torch.ones(32, 16)  # nothing is picked
        for given in (x.cuda(), x):
            got = engine(given)
            for a, b in zip(got, model(x)):
                assert a.device.type == given.device.type and a.shape == b.shape
                close(a, b)


def test_sizes_from_data_of_a_large_mask() -> None:
    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.nonzero(), torch.unique(x)

    x = (torch.rand(50, 70, 9) < 0.3).to(torch.int64) * torch.randint(0, 5, (50, 70, 9))
    engine = kiln.compile(Large().eval(), inputs=[x], target="cuda")
    for a, b in zip(engine(x.cuda()), Large()(x)):
        assert torch.equal(a.cpu(), b)


def test_branches_and_loops() -> None:
    class Steps(nn.Module):
        def forward(self, x: torch.Tensor, n: int) -> torch.Tensor:
            i = 0
            while i < n:
                x = x - 0.25 if bool(x.sum() > 0) else x * 0.5 + 0.1
                i += 1
            return x

    module = torch.jit.script(Steps().eval())
    engine = kiln.compile(module, inputs=[torch.randn(8), 9], target="cuda")
    for k in range(4):
        x = torch.randn(8) + k - 2
        close(engine(x.cuda(), 9), module(x, 9))


# ---- the CPU beside the GPU ------------------------------------------------------------------------------------------


def test_host_fallback() -> None:
    class Odd(nn.Module):
        """Recurrences in fp64 are for the CPU."""

        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.GRU(6, 7).double()

        def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
            return torch.relu((self.rnn(x.double()[:, None])[0][:, 0] @ w.double()).float() + x.sum())

    torch.manual_seed(0)
    odd = Odd().eval()
    x, w = torch.randn(5, 6), torch.randn(7, 7)
    with pytest.raises(kiln.KilnError, match="allow_host_fallback") as error:
        kiln.compile(odd, inputs=[x, w], target="cuda")
    assert error.value.status == "KILN_UNSUPPORTED"
    engine = kiln.compile(odd, inputs=[x, w], target="cuda", allow_host_fallback=True)
    for _ in range(3):
        x, w = torch.randn(5, 6), torch.randn(7, 7)
        close(engine(x.cuda(), w.cuda()), odd(x, w).detach())
        close(engine(x, w), odd(x, w).detach())


# ---- captures --------------------------------------------------------------------------------------------------------


def test_first_call_inside_a_capture() -> None:
    model = mlp()
    x = torch.randn(4, 64, device="cuda")
    engine = kiln.compile(model, inputs=[x], target="cuda")
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(kiln.KilnError, match="before the capture"), torch.cuda.graph(graph):
        engine(x)
    torch.cuda.synchronize()
    close(engine(x), model(x.cpu()))  # later calls work
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        engine(x)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        y = engine(x)
    fresh = torch.randn(4, 64, device="cuda")
    x.copy_(fresh)
    graph.replay()
    close(y, model(fresh.cpu()))
    here = x.cpu()
    with pytest.raises(kiln.KilnError, match="host memory"), torch.cuda.graph(torch.cuda.CUDAGraph(), stream=side):
        engine(here)


def test_graph_of_a_caller_outlives_other_shapes() -> None:
    """Larger shapes move the arena, and many push the captured one out of the list: the caller's graph still runs."""
    model = mlp()
    spec = kiln.Input(min_shape=(1, 64), opt_shape=(4, 64), max_shape=(4096, 64))
    engine = kiln.compile(model, inputs=[spec], target="cuda")
    x = torch.randn(4, 64, device="cuda")
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        engine(x)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        y = engine(x)
    for batch in (8, 64, 512, 4096, 5, 6, 7, 9, 10, 11, 12):
        with torch.cuda.stream(side):
            engine(torch.randn(batch, 64, device="cuda"))
    side.synchronize()
    x.copy_(torch.randn(4, 64))
    torch.cuda.synchronize()
    graph.replay()
    close(y, model(x.cpu()))


def test_capture_in_another_thread() -> None:
    """A first call compiles and allocates while another thread captures something of its own."""
    model = mlp()
    x = torch.randn(4, 64)
    engine = kiln.compile(model, inputs=[x], target="cuda").engine
    started, done = threading.Event(), threading.Event()
    results: list[Any] = []

    def capture() -> None:
        graph, z = torch.cuda.CUDAGraph(), torch.ones(8, device="cuda")
        with torch.cuda.graph(graph):
            z.mul_(2)
            started.set()
            done.wait(60)
        graph.replay()
        torch.cuda.synchronize()
        results.append(z.sum().item())

    thread = threading.Thread(target=capture)
    thread.start()
    started.wait(60)
    try:
        got = engine(x.numpy())[0]  # PyTorch itself may not allocate meanwhile
    finally:
        done.set()
        thread.join()
    assert results == [16.0]
    close(torch.from_numpy(got), model(x))


# ---- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus() -> None:
    model = mlp()
    x = torch.randn(4, 64)
    engine = kiln.compile(model, inputs=[x], target="cuda:1")
    close(engine(x), model(x))
    assert torch.cuda.current_device() == 0
    for k in (1, 0, 1, 0):
        y = engine(x.to(f"cuda:{k}"))
        assert y.device == torch.device("cuda", k)
        close(y, model(x))
    there = kiln.compile(mlp().to("cuda:1"), inputs=[x.to("cuda:1")])
    assert there(x.to("cuda:1")).device.index == 1
    two = kiln.compile(Two().eval(), inputs=[x, x], target="cuda")
    with pytest.raises(kiln.KilnError, match="device 1"):
        two(x.to("cuda:0"), x.to("cuda:1"))
    close(two(x.to("cuda:1"), x.to("cuda:1")), x + x)


class Two(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return a + b


def test_no_such_gpu() -> None:
    with pytest.raises(kiln.KilnError, match="there is no GPU 77"):
        kiln.compile(mlp(), inputs=[torch.randn(4, 64)], target="cuda:77")


def test_no_gpu_at_all() -> None:
    text = python(
        "import torch, kiln\n"
        "m, x = torch.nn.Linear(4, 4).eval(), torch.randn(2, 4)\n"
        "for _ in range(2):\n"
        "    try:\n        kiln.compile(m, inputs=[x], target='cuda')\n"
        "    except kiln.KilnError as e:\n        print(e.status, e)\n"
        "print('cpu', kiln.compile(m, inputs=[x])(x).shape)\n"
        "print('built', kiln.compile(m, inputs=[x], target='cuda:sm_90').engine.target)\n",
        CUDA_VISIBLE_DEVICES="",
    )
    assert text.count("KILN_INCOMPATIBLE") == 2 and "no NVIDIA GPU" in text
    assert "cpu torch.Size([2, 4])" in text and "built cuda:sm_90" in text


def test_lost_gpu() -> None:
    text = python(
        "import torch, kiln\n"
        "m, x = torch.nn.Linear(64, 64).eval(), torch.randn(8, 64)\n"
        "e, c = kiln.compile(m, inputs=[x], target='cuda'), kiln.compile(m, inputs=[x], target='cpu')\n"
        "e(x.cuda()); v = x.cuda()\n"
        "try:\n"
        "    torch._assert_async(torch.zeros(1, device='cuda')); torch.cuda.synchronize()\n"
        "except Exception as err: print('lost', type(err).__name__)\n"
        "for k in range(3):\n"
        "    try:\n        e(x); print('no error')\n"
        "    except kiln.KilnError as err: print(err.status, err)\n"
        "print('cpu', torch.allclose(c(x), m(x), atol=1e-5))\n"
        "del e; print('end')\n"
    )
    assert text.count("KILN_DEVICE_ERROR") == 3 and "only a new process" in text, text
    assert "cpu True" in text and "end" in text


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_out_of_memory_says_how_much() -> None:
    text = python(
        "import torch, kiln\n"
        "m = torch.nn.Sequential(torch.nn.Linear(1024, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 1024)).eval()\n"
        "spec = kiln.Input(min_shape=(1, 1024), opt_shape=(4, 1024), max_shape=(1 << 20, 1024))\n"
        "e = kiln.compile(m, inputs=[spec], target='cuda')\n"
        "x = torch.randn(4, 1024)\n"
        "for n in (4, 1 << 16, 4):\n"
        "    try: print('ok', e(torch.randn(n, 1024).cuda()).shape)\n"
        "    except kiln.KilnError as err: print(err.status, err)\n",
        KILN_CUDA_MEMORY_LIMIT="200",
    )
    assert text.count("ok torch.Size([4, 1024])") == 2, text
    assert "KILN_OUT_OF_MEMORY" in text and "of the limit of 209715200 bytes" in text and "needs" in text, text


def test_memory_is_weights_and_arena() -> None:
    model = nn.Sequential(*[nn.Linear(1024, 1024) for _ in range(8)]).eval()
    x = torch.randn(64, 1024, device="cuda")

    def use() -> Any:
        engine = kiln.compile(model, inputs=[x], target="cuda")
        for _ in range(4):
            engine(x)
        return engine

    known = use().memory()
    assert grows_by(use, known["weights"] + known["arena"] + (64 << 20)), known


def test_small_weights_share_pieces() -> None:
    """Weights of 1.1 MiB, which would take 2 MiB each if the driver was asked for every one."""
    model = nn.Sequential(*[nn.Linear(768, 768) for _ in range(80)]).eval()
    x = torch.randn(8, 768, device="cuda").half()

    def use() -> Any:
        engine = kiln.compile(model.half(), inputs=[x], target="cuda")
        for _ in range(4):
            engine(x)
        return engine

    known = use().memory()
    assert 80 * 768 * 768 * 2 < known["weights"] < 100 << 20
    assert grows_by(use, known["weights"] + known["arena"] + (48 << 20)), known


def test_memory_is_used_again_and_trimmed() -> None:
    """Under a limit, engines of all sizes come and go; what lies idle is given up for what is needed."""
    text = python(
        "import gc, torch, kiln\n"
        "for round in range(2):\n"
        "    for width in (256, 3584, 1024):\n"
        "        e = None\n"
        "        gc.collect()\n"
        "        m = torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 8)).eval()\n"
        "        spec = kiln.Input(min_shape=(1, width), opt_shape=(4, width), max_shape=(1 << 14, width))\n"
        "        e = kiln.compile(m, inputs=[spec], target='cuda')\n"
        "        for n in (4, 600):\n"
        "            x = torch.randn(n, width)\n"
        "            with torch.no_grad(): torch.testing.assert_close(e(x.cuda()).cpu(), m(x), rtol=1e-3, atol=1e-3)\n"
        "print('all right')\n",
        KILN_CUDA_MEMORY_LIMIT="100",
        KILN_CUDA_MEMORY_KEEP="90",
    )
    assert "all right" in text, text


def test_contexts_that_come_and_go_in_threads() -> None:
    """What a context gives back is another's at once: nothing that still runs may use it."""
    model = nn.Sequential(nn.Linear(64, 2048), nn.ReLU(), nn.Linear(2048, 2048), nn.ReLU(), nn.Linear(2048, 8)).eval()
    spec = kiln.Input(min_shape=(1, 64), opt_shape=(8, 64), max_shape=(4096, 64))
    engine = kiln.compile(model, inputs=[spec], target="cuda").engine
    inputs = [torch.randn(n, 64) for n in (3, 2000, 40, 900)]
    wants = [model(x) for x in inputs]
    failures: list[str] = []

    def work(which: int) -> None:
        try:
            with torch.no_grad(), torch.cuda.stream(torch.cuda.Stream()):
                for turn in range(12):
                    runner = engine.runner()
                    for i in range(4):
                        k = (which + turn + i) % 4
                        x = inputs[k] if turn % 3 == 2 else inputs[k].cuda()
                        got = runner.run([x])[0]
                        del x
                    del runner  # its last run may be under way
                    close(got, wants[k], 1e-3)
        except Exception as e:
            failures.append(repr(e))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not failures, failures[:2]


def test_weights_are_shared_by_contexts() -> None:
    model = nn.Sequential(*[nn.Linear(2048, 2048) for _ in range(8)]).eval()  # 128 MiB
    x = torch.randn(4, 2048, device="cuda")
    engine = kiln.compile(model, inputs=[x], target="cuda")
    engine(x)

    def use() -> Any:
        other = engine.engine.runner()
        close(other.run([x])[0], model(x.cpu()))
        return other

    assert grows_by(use, 64 << 20)


def test_nothing_leaks() -> None:
    """Engines, contexts, graphs and their memory go with them."""
    x = torch.randn(4, 256, device="cuda")

    def use() -> None:
        for _ in range(4):
            engine = kiln.compile(nn.Linear(256, 4096).eval(), inputs=[x], target="cuda")
            kept = [engine(x) for _ in range(8)]
            other = engine.engine.runner()
            kept.append(other.run([x.cpu()])[0])

    use()
    assert grows_by(use, 8 << 20)


# ---- kernels that do not compile -------------------------------------------------------------------------------------


def test_saved_engines_bring_their_kernels(tmp_path: Path) -> None:
    """No compiler is loaded, and the first result is there soon."""
    text = python(
        "import os, time, numpy, kiln\n"
        "x = numpy.ones((4, 64), numpy.float32)\n"
        "first = kiln.Engine.open(os.environ['OTHER'])(x)  # makes the context\n"
        "start = time.time()\n"
        "y = kiln.Engine.open(os.environ['ENGINE'])(x)[0]\n"
        "print('shape', y.shape, 'compiler', 'nvrtc' in open('/proc/self/maps').read(), 'seconds', time.time() - start)\n",
        ENGINE=_saved(tmp_path, "a", 64),
        OTHER=_saved(tmp_path, "b", 96),
        KILN_CACHE_DIR="",
    )
    assert "shape (4, 8) compiler False" in text, text
    assert float(text.split()[-1]) < 0.5, text


def _saved(folder: Path, name: str, width: int) -> str:
    path = f"{folder}/{name}.kiln"
    model = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 8)).eval()
    kiln.save(kiln.compile(model, inputs=[torch.randn(4, 64)], target="cuda"), path)
    return path


# ---- the command line ------------------------------------------------------------------------------------------------


def test_command_line(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    program = Path(os.environ.get("KILN_BUILD", root / "build-dev")) / "kiln"
    if not program.exists():
        pytest.skip(f"{program} is not built")
    torch.export.save(torch.export.export(mlp(), (torch.randn(4, 64),)), f"{tmp_path}/m.pt2")

    def run(*arguments: str) -> str:
        result = subprocess.run([program, *arguments], check=False, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    assert "built for cuda:sm_" in run("build", "m.pt2", "-o", "m.kiln", "--target", "cuda", "--precision", "fp16")
    out = run("bench", "m.kiln", "--seconds", "0.3", "--layers")
    assert "until a run is enqueued; times are the GPU's" in out and "GB/s" in out, out
    out = run("diff", "m.pt2", "--target", "cuda:0", "--precision", "fp16", "--against", "cpu", "--tolerance", "0.01")
    assert "relative L2" in out and "ok" in out, out


# ---- accuracy --------------------------------------------------------------------------------------------------------


def test_accuracy_of_halves() -> None:
    model = mlp()
    x = torch.randn(16, 64, device="cuda")
    report = kiln.accuracy(model, kiln.compile(model, inputs=[x], target="cuda", precision="fp16"), [x], half=torch.float16)
    assert 1e-6 < report.worst < 2e-3 and report[0].relative_l2 < 1.5 * report[0].half_relative_l2, str(report)
    exact = kiln.accuracy(model, kiln.compile(model, inputs=[x], target="cuda"), [x])
    assert exact.worst < 1e-5, str(exact)


def test_an_engine_for_another_architecture(tmp_path: Path) -> None:
    """The file is planned again for the GPU that is here, and once more where a plan of it is saved."""
    model, x = mlp(), torch.randn(5, 64)
    other = "sm_80" if torch.cuda.get_device_capability() != (8, 0) else "sm_90"
    kiln.compile(model, inputs=[x], target=f"cuda:{other}").engine.save(tmp_path / "e.kiln")
    opened = kiln.load(tmp_path / "e.kiln")
    for _ in range(2):
        close(opened(x.cuda()), model(x))
    opened.engine.save(tmp_path / "here.kiln")
    assert kiln.Engine.open(tmp_path / "here.kiln").target != f"cuda:{other}"
    said = python(f"import kiln, torch; print(kiln.load({str(tmp_path / 'here.kiln')!r})(torch.ones(5, 64)).shape)")
    assert "[5, 8]" in said
