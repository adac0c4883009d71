"""kiln torchtrtc: Torch-TensorRT's flags, and TorchScript files that are written without PyTorch."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import torch

import kiln
from test_cli import kiln_program  # noqa: F401 - a fixture


class Results(torch.nn.Module):
    """Results of every kind that nest, one argument written to."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor):
        a = self.fc(x) + y
        return a, {'k"': a * 2, "q": x}, [a, a + 1], a.size(0), (None, 3, "t")


class Counter(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += x
        return self.total * 2


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("torchtrtc")
    torch.manual_seed(0)
    torch.jit.save(torch.jit.script(Results().eval()), folder / "results.ts")
    torch.jit.save(torch.jit.script(Counter().eval()), folder / "counter.ts")
    return folder


@pytest.fixture
def run(kiln_program, work):  # noqa: F811 - the fixture
    def call(*arguments: str, status: int = 0) -> subprocess.CompletedProcess[str]:
        command = [kiln_program, "torchtrtc", *arguments]
        result = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
        assert result.returncode == status, f"{result.stdout}{result.stderr}"
        return result

    return call


def check(got, expected) -> None:
    torch.testing.assert_close(got[:4], expected[:4])
    assert got[4] == expected[4] == (None, 3, "t")


RANGES = ["[(1,4);(2,4);(8,4)]@f32%contiguous", "[ (1, 3) ; (2, 3) ; (8, 3) ]"]


def test_compile_load_and_save_again(run, work):
    out = run("results.ts", "compiled.ts", *RANGES, "-d", "cpu", "--rtol=1e-3", "--atol", "1e-5", "-i")
    assert "saved to compiled.ts" in out.stdout and "numbers are within" in out.stdout and not out.stderr
    model = torch.jit.load(work / "results.ts")
    compiled = torch.jit.load(work / "compiled.ts")
    torch.jit.save(compiled, work / "again.ts")
    for module in (compiled, torch.jit.load(work / "again.ts")):
        for n in (1, 5, 8):
            arguments = torch.randn(n, 4), torch.randn(n, 3)
            check(module(*arguments), model(*arguments))
        with pytest.raises(RuntimeError, match="dimension 0 is 9"):
            module(torch.randn(9, 4), torch.randn(9, 3))
    assert kiln.Engine.load(kiln.engine_bytes(compiled)).inputs[0].max_shape == (8, 4)
    module = torch.nn.Sequential(torch.jit.freeze(compiled))  # as a part of another module
    assert torch.equal(module[0](*arguments)[0], compiled(*arguments)[0])


def test_engine_files(run, work):
    run("results.ts", "results.kiln", "(2,4)", "(2,3)", "--save-engine", "--no-threshold-check")
    run("results.kiln", "embedded.ts", "--embed-engine")
    arguments = torch.randn(2, 4), torch.randn(2, 3)
    check(torch.jit.load(work / "embedded.ts")(*arguments), torch.jit.load(work / "results.ts")(*arguments))
    assert "is a model" in run("results.ts", "x.ts", "--embed-engine", status=1).stderr
    assert not (work / "x.ts").exists()


def test_state(run, work):
    run("counter.ts", "counting.ts", "(2,)", "--no-threshold-check")
    module, x = torch.jit.load(work / "counting.ts"), torch.ones(2)
    assert [module(x)[0].item() for _ in range(3)] == [2, 4, 6]
    assert torch.jit.load(work / "counting.ts")(x)[0].item() == 2


def test_method_support(run, work):
    assert "supported" in run("results.ts", "--check-method-support=forward").stdout

    class Missing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nextafter(x, x)

    torch.jit.save(torch.jit.script(Missing().eval()), work / "missing.ts")
    assert "nextafter" in run("missing.ts", "--check-method-support", "forward", status=1).stdout
    assert "nextafter" in run("missing.ts", "out.ts", "(2,2)", status=1).stderr


NOTED = """--build-debuggable-engine --allow-gpu-fallback --require-full-compilation --sparse-weights --engine-capability=safety
--teo=aten::relu --tem=fc --mbs=3 --num-avg-timing-iters=2 --workspace-size=1000 --dla-sram-size=1 --truncate
--dla-local-dram-size=1 --dla-global-dram-size=1 --allow-shape-tensors""".split()


def test_flags_that_need_not_be_set_say_why_once(run):
    flags = [*NOTED, "--torch-executed-op=aten::add", "--truncate-long-double", "-p", "f16", "-p", "i8", "-v", "-w"]
    lines = run("results.ts", "noted.ts", *RANGES, "-d", "cpu", *flags).stderr.splitlines()
    assert lines.pop().startswith("kiln: note: -p i8 has no effect without --calibration-cache-file")
    assert lines.pop().startswith("kiln: note: -p f16") and all(line.startswith("kiln: note: --") for line in lines)
    names = [flag.partition("=")[0] for flag in NOTED]
    for name in names:
        assert sum(line.startswith(f"kiln: note: {name} ") for line in lines) == (not name.startswith(("--dla-l", "--dla-g")))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["(2,a)"], "no input specification: a shape has sizes"),
        (["(2,-1)"], "no input specification: a shape has sizes"),
        (["(1,1,1,1,1,1,1,1,1)"], "at most 8"),
        (["[(1,4);(2,4)]"], "three shapes"),
        (["[(1,4);(2,4);(8)]"], "differ in their number"),
        (["[(3,4);(2,4);(8,4)]"], "min <= opt <= max"),
        (["(2,4)@f99"], "data type"),
        (["(2,4)@"], "data type"),
        (["(2,4)%abc"], "format"),
        (["(2,4) x"], "behind the shape"),
        (["-p", "f12"], "--enable-precision must be one of f32, f16, i8, got 'f12'"),
        (["-d", "dla"], "no DLA backend"),
        (["-d", "tpu"], "--device-type must be one of"),
        (["--dla-core=1"], "no DLA backend"),
        (["--gpu-id=x"], "--gpu-id must be a whole number"),
        (["--engine-capability=fast"], "--engine-capability must be one of"),
        (["--rtol=much"], "--rtol must be a number"),
        (["--workspace-size=-1"], "--workspace-size must be a number"),
        (["--mbs=0"], "mbs must be a whole number"),
        (["--save-engine", "--embed-engine"], "exclude each other"),
        (["--bogus"], "--help"),
    ],
)
def test_wrong_arguments_are_named(run, arguments, text):
    assert text in run("results.ts", "wrong.ts", *arguments, status=2).stderr


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["none.ts", "x.ts", "(2,4)"], "cannot open 'none.ts'"),
        (["results.ts", "none/x.ts", "(2,4)", "(2,3)", "--no-threshold-check"], "cannot write 'none/x.ts'"),
        (["results.ts", "x.ts", "(2,5)", "(2,3)"], "linear"),
        (["results.ts", "x.ts", "(2,4)", "(2,3)", "--custom-torch-ops=none.so"], "none.so"),
    ],
)
def test_failures(run, work, arguments, text):
    assert text in run(*arguments, status=1).stderr
    assert not list(work.glob("*.tmp"))


def test_tolerances_warn(run):
    out = run("results.ts", "warned.ts", *RANGES, "-d", "cpu", "--rtol=0", "--atol=0")
    assert not out.stderr or "maximum numerical deviation" in out.stderr
