"""kiln.quantization: the numbers of int8, ranges from data, cache files."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
import torch

import kiln
from kiln import compiler
from kiln.quantization import ALGORITHMS, Calibration, _Histogram, quantize, quantize_script, quantized_weight


def grid(x: torch.Tensor, limit: float) -> torch.Tensor:
    """int8 by the book: integers, and their values."""
    scale = limit / 127
    integers = (x / scale).round().clamp(-127, 127).to(torch.int8)
    return integers.to(torch.float32) * scale


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 8, 3, padding=1, groups=2)
        self.up = torch.nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.fc = torch.nn.Linear(6, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        return self.fc(self.up(x).mean((2, 3)))


def samples(count: int = 6) -> list[tuple[torch.Tensor]]:
    torch.manual_seed(1)
    return [(torch.randn(2, 4, 8, 8),) for _ in range(count)]


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def captured(model: torch.nn.Module, *inputs: object) -> torch.export.ExportedProgram:
    return compiler.capture(model, list(inputs), {}, None)[0]


def test_numbers_are_those_of_int8(net):
    data = samples()
    with torch.no_grad():
        hidden = [torch.relu(net.conv(x)) for (x,) in data]
        pooled = [net.up(h).mean((2, 3)) for h in hidden]
        limits = [max(float(t.abs().max()) for t in values) for values in ([x for (x,) in data], hidden, pooled)]
        x = data[0][0]
        y = torch.relu(
            torch.nn.functional.conv2d(grid(x, limits[0]), quantized_weight(net.conv.weight, 0), net.conv.bias, padding=1, groups=2)
        )
        y = torch.nn.functional.conv_transpose2d(grid(y, limits[1]), quantized_weight(net.up.weight, 1), net.up.bias, stride=2)
        y = torch.nn.functional.linear(grid(y.mean((2, 3)), limits[2]), quantized_weight(net.fc.weight, 0), net.fc.bias)
    program = quantize(captured(net, x), Calibration(data, "minmax"))
    scripted = quantize_script(torch.jit.script(net), Calibration(data, "minmax"))
    for compiled in (kiln.compile(program), kiln.compile(scripted, inputs=[x])):
        torch.testing.assert_close(compiled(x), y, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert (net(x) - y).abs().max() > 1e-4  # it does show
        assert torch.equal(net(x), net(x)) and net.fc.weight.unique().numel() == 30  # the model itself is as it was


def test_weights_have_a_scale_for_each_channel():
    weight = torch.randn(4, 3, 3, 3) * torch.tensor([1.0, 10.0, 100.0, 0.0]).view(4, 1, 1, 1)
    rounded = quantized_weight(weight, 0)
    for channel, largest in zip((weight - rounded).abs().amax((1, 2, 3)), weight.abs().amax((1, 2, 3))):
        assert channel <= largest / 127 / 2 * 1.001
    assert all(row.unique().numel() <= 255 for row in rounded)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_histograms(algorithm):
    torch.manual_seed(0)
    histogram = _Histogram()
    for scale in (0.1, 1.0, 1.0, 1.0):  # the range grows
        histogram.add(torch.randn(20000) * scale)
    largest = histogram.largest
    histogram.add(torch.tensor([50.0, float("nan"), float("inf")]))  # one that is far off, and some that are none
    limit = histogram.limit(algorithm)
    assert limit == 50.0 if algorithm == "minmax" else 2.0 < limit < 1.3 * largest
    assert histogram.counts.sum() == 80001
    zeros = _Histogram()
    zeros.add(torch.zeros(10))
    assert zeros.limit(algorithm) == 0.0


def test_accuracy_of_a_trained_classifier():
    torch.manual_seed(0)
    centers = torch.randn(10, 1, 12, 12)
    labels = torch.randint(0, 10, (1200,))
    images = centers[labels] + 0.7 * torch.randn(1200, 1, 12, 12)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Conv2d(8, 16, 3, stride=2), torch.nn.ReLU(),
        torch.nn.Flatten(), torch.nn.Linear(256, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(60):
        at = slice(step % 10 * 100, step % 10 * 100 + 100)
        with torch.enable_grad():
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(images[at]), labels[at]).backward()
            optimizer.step()
    model.eval()
    tested, truth = images[1000:], labels[1000:]

    def accuracy(module) -> float:
        with torch.no_grad():
            return float((module(tested).argmax(1) == truth).float().mean())

    before = accuracy(model)
    assert before > 0.9
    for algorithm in ALGORITHMS:
        data = [(images[i : i + 50],) for i in range(0, 500, 50)]
        compiled = kiln.compile(quantize(captured(model, tested), Calibration(data, algorithm)))
        assert accuracy(compiled) >= before - 0.02, algorithm


def test_sizes_that_vary(net):
    data = samples()
    spec = kiln.Input(min_shape=(1, 4, 4, 4), opt_shape=(2, 4, 8, 8), max_shape=(4, 4, 16, 16))
    compiled = kiln.compile(quantize(captured(net, spec), Calibration(data)), inputs=[spec])
    with torch.no_grad():
        for shape in ((1, 4, 4, 4), (3, 4, 9, 16)):
            x = torch.randn(shape)
            assert (compiled(x) - net(x)).norm() < 0.05 * net(x).norm()


def test_what_stays_as_it_is():
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.randn(5, 4))

        def forward(self, x, w):
            return torch.nn.functional.linear(x, self.weight) + self.weight.sum() + torch.nn.functional.linear(x, w)

    model, x, w = Tied().eval(), torch.randn(3, 4), torch.randn(5, 4)
    compiled = kiln.compile(quantize(captured(model, x, w), Calibration([(x, w)])))
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, w), model(x, w), rtol=1e-5, atol=1e-5)

    class Loop(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor, n: int) -> torch.Tensor:
            for _ in range(n):
                x = self.fc(x)
            return x

    loop = Loop().eval()
    compiled = kiln.compile(quantize_script(torch.jit.script(loop), Calibration([(x, 2)])), inputs=[x, 2])
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, 2), loop(x, 2), rtol=1e-5, atol=1e-5)


def test_cache_files(net, tmp_path):
    data, path = samples(), tmp_path / "calibration.cache"
    x = data[0][0]
    first = kiln.compile(quantize(captured(net, x), Calibration(data, "entropy", path)))
    again = kiln.compile(quantize(captured(net, x), Calibration(None, cache_file=path)))
    assert torch.equal(first(x), again(x))
    stored = json.loads(path.read_text())
    assert stored["kiln_calibration"] == 1 and stored["algorithm"] == "entropy" and len(stored["ranges"]) == 3
    stored["ranges"] = {name: 2 * value for name, value in stored["ranges"].items()}
    path.write_text(json.dumps(stored))
    assert not torch.equal(kiln.compile(quantize(captured(net, x), Calibration(data, cache_file=path)))(x), first(x))
    fresh = Calibration(data, "entropy", path, use_cache=False)  # measures again, and writes
    assert torch.equal(kiln.compile(quantize(captured(net, x), fresh))(x), first(x))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no calibration cache"),
        ("[]", "no calibration cache"),
        ('{"kiln_calibration": 2, "ranges": {}}', "version 2"),
        ('{"kiln_calibration": 1, "ranges": {"a": -1}}', "negative"),
        ('{"kiln_calibration": 1, "ranges": {"a": "x"}}', "no calibration cache"),
        ('{"kiln_calibration": 1, "ranges": 3}', "no calibration cache"),
        ('{"kiln_calibration": 1, "ranges": {"a": NaN}}', "not finite"),
        ('{"kiln_calibration": 1, "ranges": {"a": 1}}', "of another model"),
    ],
)
def test_bad_cache_files(net, tmp_path, text, message):
    path = tmp_path / "calibration.cache"
    path.write_text(text)
    with pytest.raises(kiln.KilnError, match=message):
        quantize(captured(net, samples(1)[0][0]), Calibration(None, cache_file=path))


def test_no_data(net, tmp_path):
    program = captured(net, samples(1)[0][0])
    with pytest.raises(ValueError, match="empty"):
        quantize(program, Calibration([]))
    with pytest.raises(kiln.KilnError, match="there is no cache file"):
        quantize(program, Calibration(None, cache_file=tmp_path / "none"))


# ---- The program in C, with caches that Python wrote -----------------------------------------------------------------------


class Mixed(torch.nn.Module):
    """Layers that count once, twice and not at all: equal calls, a weight that others use, a branch on data."""

    def __init__(self) -> None:
        super().__init__()
        self.net = Net()
        self.fc = torch.nn.Linear(5, 5)
        self.out = torch.nn.Linear(5, 3, bias=False)
        self.norm = torch.nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.net(self.norm(x)).relu()
        y = self.fc(y) + self.fc(y) + self.fc.weight.sum()
        return self.out(y)


class Branch(Mixed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(self.net(self.norm(x)).relu())
        if bool(y.sum() > 0):  # noqa: SIM108 - as users write it
            y = self.out(y)
        else:
            y = self.out(-y)
        return y


def program(build_folder: Path, *arguments: object, status: int = 0) -> str:
    run = subprocess.run([str(build_folder / "kiln"), *map(str, arguments)], capture_output=True, text=True, check=False)
    assert run.returncode == status, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_program_reads_caches_of_exported_models(tmp_path, build_folder, dtype):
    torch.manual_seed(0)
    model, x = Mixed().eval().to(dtype), samples()[0][0].to(dtype)
    calibration = Calibration([(x.to(dtype),) for (x,) in samples()], "entropy", tmp_path / "c.json")
    torch.export.save(torch.export.export(model, (x,)), tmp_path / "m.pt2")
    expected = kiln.compile(quantize(captured(model, x), calibration))(x)
    program(
        build_folder,
        "build",
        tmp_path / "m.pt2",
        "-o",
        tmp_path / "m.kiln",
        "--precision",
        "int8",
        "--calibration-cache",
        tmp_path / "c.json",
    )
    engine = kiln.load(tmp_path / "m.kiln")
    assert torch.equal(engine(x), expected)
    with torch.no_grad():
        assert not torch.equal(expected, model(x))
    changed = {**model.state_dict(), "net.conv.weight": model.net.conv.weight.detach() * 2}
    with pytest.raises(kiln.KilnError, match=r"net\.conv\.weight"):  # rounded ones are no weights that a refit could bring
        engine.refit(changed)
    assert torch.equal(engine(x), expected)


@pytest.mark.parametrize("kind", [Mixed, Branch])
def test_the_program_reads_caches_of_scripted_models(tmp_path, build_folder, kind):
    torch.manual_seed(0)
    model, x = torch.jit.script(kind().eval()), samples()[0][0]
    torch.jit.save(model, tmp_path / "m.pt")
    calibration = Calibration(samples(), "entropy", tmp_path / "c.json")
    quantized = quantize_script(model, calibration)
    files = ("--precision", "int8", "--calibration-cache", tmp_path / "c.json")
    program(build_folder, "build", tmp_path / "m.pt", "-o", tmp_path / "m.kiln", "--input", "x=2x4x8x8:f32", *files)
    program(
        build_folder,
        "torchtrtc",
        tmp_path / "m.pt",
        tmp_path / "m.ts",
        "(2,4,8,8)",
        "-p",
        "i8",
        "--calibration-cache-file",
        tmp_path / "c.json",
        "-d",
        "cpu",
    )
    with torch.no_grad():
        expected = quantized(x)
        for compiled in (kiln.load(tmp_path / "m.kiln"), torch.jit.load(tmp_path / "m.ts")):
            torch.testing.assert_close(compiled(x), expected, rtol=1e-5, atol=1e-6)
        assert (expected - model(x)).abs().max() > 1e-4


def test_caches_that_the_program_refuses(net, tmp_path, build_folder):
    x = samples()[0][0]
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "m.pt2")
    torch.jit.save(torch.jit.script(net), tmp_path / "m.pt")
    quantize(captured(net, x), Calibration(samples(), "minmax", tmp_path / "good.json"))
    good = json.loads((tmp_path / "good.json").read_text())
    build = ("build", tmp_path / "m.pt2", "-o", tmp_path / "m.kiln", "--precision", "int8")
    assert "--precision int8 needs --calibration-cache FILE" in program(build_folder, *build, status=2)
    assert "c.json" in program(build_folder, *build, "--calibration-cache", tmp_path / "c.json", status=1)
    ranges = good["ranges"]
    bad = {
        "{": "c.json",
        "[]": "is no calibration cache of Kiln",
        json.dumps({**good, "kiln_calibration": 2}): "its version is 2, expected 1",
        json.dumps({**good, "ranges": {**ranges, "x": -1.0}}): "negative or not finite",
        json.dumps({**good, "ranges": {**ranges, "x": "one"}}): "ranges",
        json.dumps({**good, "ranges": {**ranges, "other": 1.0}}): "has ranges for 4 values, of which this model has 3",
        json.dumps({**good, "ranges": {"x": 1.0}}): "of another model: it has no range for",
    }
    for text, message in bad.items():
        (tmp_path / "c.json").write_text(text)
        assert message in program(build_folder, *build, "--calibration-cache", tmp_path / "c.json", status=1), text
    script = ("build", tmp_path / "m.pt", "-o", tmp_path / "m.kiln", "--input", "x=2x4x8x8:f32")
    assert "no range for '0:aten::conv2d'" in program(
        build_folder, *script, "--calibration-cache", tmp_path / "good.json", status=1
    )
    note = program(
        build_folder,
        "torchtrtc",
        tmp_path / "m.pt",
        tmp_path / "m.ts",
        "(2,4,8,8)",
        "-d",
        "cpu",
        "--calibration-cache-file",
        "none",
        "--no-threshold-check",
    )
    assert "--calibration-cache-file has no effect without -p i8" in note
