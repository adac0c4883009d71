"""The Python interface: nesting, memory, threads, errors, files."""

from __future__ import annotations

import copy
import gc
import inspect
import io
import pickle
import threading
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

import kiln
from compare import relative_errors
from kiln import compiler


class Mlp(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(width, 32), nn.Linear(32, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.b(torch.relu(self.a(x)))


@pytest.fixture(scope="module")
def mlp() -> nn.Module:
    torch.manual_seed(0)
    return Mlp().eval()


@pytest.fixture(scope="module")
def compiled(mlp: nn.Module) -> kiln.CompiledModule:
    return kiln.compile(mlp, inputs=[torch.zeros(2, 16)], threads=1)


def close(actual: Any, expected: Any, tolerance: float = 1e-5) -> None:
    assert max(relative_errors(actual, expected), default=0) <= tolerance


# ---- Calls -----------------------------------------------------------------------------------------------------------


def test_result_is_a_new_tensor(mlp: nn.Module, compiled: kiln.CompiledModule) -> None:
    x, z = torch.randn(2, 16), torch.randn(2, 16)
    first = compiled(x)
    kept = first.clone()
    second = compiled(z)
    assert first.data_ptr() != second.data_ptr()
    assert torch.equal(first, kept)
    close(first, mlp(x))
    close(second, mlp(z))
    assert not first.requires_grad
    assert first.is_contiguous()


@pytest.mark.parametrize(
    "view",
    [
        lambda: torch.randn(16, 2).t(),
        lambda: torch.randn(4, 32)[::2, ::2],
        lambda: torch.randn(1, 16).expand(2, 16),
        lambda: torch.randn(65)[1:33].view(2, 16),
        lambda: torch.randn(2, 16, dtype=torch.complex64).imag,
    ],
    ids=["transposed", "sliced", "expanded", "offset", "imaginary"],
)
def test_any_strides(mlp: nn.Module, compiled: kiln.CompiledModule, view: Any) -> None:
    x = view()
    close(compiled(x), mlp(x))


def test_keyword_argument(mlp: nn.Module, compiled: kiln.CompiledModule) -> None:
    x = torch.randn(2, 16)
    close(compiled(x=x), mlp(x))


def test_subclass_and_parameter(mlp: nn.Module, compiled: kiln.CompiledModule) -> None:
    class Plain(torch.Tensor):
        pass

    x = torch.randn(2, 16)
    close(compiled(x.as_subclass(Plain)), mlp(x))
    close(compiled(nn.Parameter(x)), mlp(x))


class Pair(NamedTuple):
    left: torch.Tensor
    right: torch.Tensor


class Nested(nn.Module):
    def forward(self, x: torch.Tensor, tree: dict[str, Any], *, scale: float = 2.0, flag: bool = True, extra: Any = None) -> Any:
        y = x * scale + tree["u"][0]
        if flag:
            y = y - tree["v"]
        return {"first": y, "second": (y * 2, [x + 1, None], 3)}, tree["u"][1]


def nested_inputs() -> tuple[torch.Tensor, dict[str, Any]]:
    return torch.randn(2, 3), {"u": (torch.randn(2, 3), torch.randn(4)), "v": torch.randn(3)}


def test_nested_inputs_and_outputs() -> None:
    module = Nested().eval()
    fast = kiln.compile(module, inputs=nested_inputs(), kwargs={"scale": 3.0, "extra": None})
    x, tree = nested_inputs()
    close(fast(x, tree, scale=3.0, extra=None), module(x, tree, scale=3.0))
    close(fast(x, tree), module(x, tree, scale=3.0))  # what was baked in may be left out
    close(fast(tree=tree, x=x), module(x, tree, scale=3.0))
    with pytest.raises(kiln.KilnError, match=r"'scale' is 4\.0, but it was 3\.0"):
        fast(x, tree, scale=4.0)
    with pytest.raises(kiln.KilnError, match="'flag' was not given when the model was compiled"):
        fast(x, tree, flag=True)
    with pytest.raises(kiln.KilnError, match="'tree' is missing"):
        fast(x)
    with pytest.raises(kiln.KilnError, match="'tree' is nested differently"):
        fast(x, {"u": tree["u"]})


def test_tensor_keyword_arguments() -> None:
    class Affine(nn.Module):
        def forward(self, x: torch.Tensor, *, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
            return x * weight + bias

    x, weight, bias = torch.randn(2, 3), torch.randn(3), torch.randn(3)
    fast = kiln.compile(Affine().eval(), inputs=[x], kwargs={"weight": weight, "bias": bias})
    close(fast(x, bias=bias, weight=weight), x * weight + bias)


def test_several_outputs() -> None:
    class Split(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x + 1, x * 2

    x = torch.randn(3)
    result = kiln.compile(Split().eval(), inputs=[x])(x)
    assert isinstance(result, tuple)
    close(result, (x + 1, x * 2))


def test_output_that_is_an_input_is_copied() -> None:
    class Same(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return x, x * 2

    x = torch.randn(3)
    same, double = kiln.compile(Same().eval(), inputs=[x])(x)
    close((same, double), (x, x * 2))
    assert same.data_ptr() != x.data_ptr()


def test_transformers_output() -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64, vocab_size=50)
    module = BertModel(config).eval()
    ids = torch.randint(0, 50, (2, 8))
    mask = torch.ones_like(ids)
    ranged = {"min_shape": (1, 4), "opt_shape": (2, 8), "max_shape": (4, 16), "dtype": torch.int64}
    fast = kiln.compile(module, inputs=[kiln.Input(**ranged, name="input_ids"), kiln.Input(**ranged, name="attention_mask")])
    expected = module(ids, attention_mask=mask)
    result = fast(ids, attention_mask=mask)
    assert type(result) is type(expected)
    close(result.last_hidden_state, expected.last_hidden_state, 1e-4)
    close(fast(ids, mask).pooler_output, expected.pooler_output, 1e-4)


def test_mutated_buffer_is_state() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count.add_(1)
            return x * self.count

    fast = kiln.compile(Counter().eval(), inputs=[torch.ones(2)])
    x = torch.ones(2)
    assert [fast(x)[0].item() for _ in range(3)] == [1, 2, 3]
    fast.reset()
    assert fast(x)[0].item() == 1


def test_zero_sized_batch() -> None:
    module = Mlp().eval()
    fast = kiln.compile(module, inputs=[kiln.Input(min_shape=(0, 16), opt_shape=(2, 16), max_shape=(4, 16))])
    assert fast(torch.zeros(0, 16)).shape == (0, 16)


# ---- Other arrays ----------------------------------------------------------------------------------------------------


def test_numpy_in_numpy_out(mlp: nn.Module, compiled: kiln.CompiledModule) -> None:
    x = np.random.default_rng(0).standard_normal((2, 16), dtype=np.float32)
    expected = mlp(torch.from_numpy(x)).numpy()
    for array in (x, np.asfortranarray(x), np.repeat(x, 2, 0)[::2]):
        (y,) = compiled.engine(array)
        assert isinstance(y, np.ndarray)
        np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_dlpack_objects(mlp: nn.Module, compiled: kiln.CompiledModule) -> None:
    class Wrapped:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def __dlpack__(self) -> Any:
            return self.tensor.__dlpack__()

    x = torch.randn(2, 16)
    (y,) = compiled.engine(Wrapped(x))
    np.testing.assert_allclose(y, mlp(x).numpy(), rtol=1e-4, atol=1e-5)


# ---- Errors ----------------------------------------------------------------------------------------------------------


def test_training_mode_is_refused() -> None:
    with pytest.raises(kiln.KilnError, match=r"training mode.*call model\.eval\(\)"):
        kiln.compile(Mlp().train(), inputs=[torch.zeros(2, 16)])
    module = Mlp().eval()
    module.a.train()
    with pytest.raises(kiln.KilnError, match=r"training mode \(a\)"):
        kiln.compile(module, inputs=[torch.zeros(2, 16)])


def test_compiled_module_cannot_train(compiled: kiln.CompiledModule) -> None:
    assert compiled.eval() is compiled
    with pytest.raises(kiln.KilnError, match="inference only"):
        compiled.train()


def test_gradients_are_refused(mlp: nn.Module, compiled: kiln.CompiledModule) -> None:
    x = torch.randn(2, 16, requires_grad=True)
    close(compiled(x), mlp(x))  # no gradients are recorded here
    with torch.enable_grad(), pytest.raises(kiln.KilnError, match=r"input 0 \(x\) requires grad.*torch\.no_grad\(\)"):
        compiled(x)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.zeros(3, 16), "x"),
        (lambda: torch.zeros(2, 15), "x"),
        (lambda: torch.zeros(32), "x"),
        (lambda: torch.zeros(2, 16, dtype=torch.float64), "f32"),
        (lambda: torch.zeros(2, 16, dtype=torch.complex64), "complex"),
        (lambda: torch.zeros(2, 16, device="meta"), r"input 0 \(x\)"),
        (lambda: torch.zeros(2, 16).to_sparse(), r"input 0 \(x\)"),
        (lambda: torch.zeros(2, 16, dtype=torch.complex64).conj().imag, "negated"),
        (lambda: [1.0, 2.0], "nested differently|expected a torch.Tensor"),
        (lambda: "text", "expected a torch.Tensor"),
    ],
    ids=["batch", "width", "rank", "dtype", "complex", "meta", "sparse", "negative", "list", "text"],
)
def test_wrong_inputs(compiled: kiln.CompiledModule, make: Any, message: str) -> None:
    with pytest.raises(kiln.KilnError, match=message) as caught:
        compiled(make())
    assert caught.value.status == "KILN_INVALID_ARGUMENT"


def test_wrong_counts(compiled: kiln.CompiledModule) -> None:
    x = torch.zeros(2, 16)
    with pytest.raises(kiln.KilnError, match="'x' is missing"):
        compiled()
    with pytest.raises(kiln.KilnError, match="at most 1 arguments"):
        compiled(x, x)
    with pytest.raises(kiln.KilnError, match="takes 1 input, got 2"):
        compiled.engine(x, x)
    close(compiled(x), compiled(x))  # and still works


def test_fake_tensors_and_exports(compiled: kiln.CompiledModule) -> None:
    from torch._subclasses import FakeTensorMode

    x = torch.randn(2, 16)
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(x)
        inside = compiled(fake)
    for result in (inside, compiled(fake)):  # shapes without memory
        assert result.shape == compiled(x).shape and type(result) is type(fake)
    assert not mode.allow_non_fake_inputs
    names = [info.name for info in compiled.inputs]
    assert list(inspect.signature(compiled.forward).parameters) == names
    program = torch.export.export(compiled, (x,), strict=False)
    assert torch.equal(program.module()(x), compiled(x))


def test_model_that_cannot_be_captured() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(kiln.KilnError, match=r"torch\.export could not capture Branches") as caught:
        kiln.compile(Branches().eval(), inputs=[torch.ones(2)])
    assert caught.value.status == "KILN_UNSUPPORTED"


def test_unsupported_operators_are_all_listed() -> None:
    class Strange(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return torch.nextafter(x, x), torch.linalg.ldl_factor_ex(x).LD

    with pytest.raises(kiln.KilnError) as caught:
        kiln.compile(Strange().eval(), inputs=[torch.eye(3)])
    text = str(caught.value)
    assert caught.value.status == "KILN_UNSUPPORTED"
    assert "nextafter" in text
    assert "ldl_factor_ex" in text
    assert "test_api.py" in text


def test_wrong_options(mlp: nn.Module) -> None:
    x = [torch.zeros(2, 16)]
    with pytest.raises(kiln.KilnError, match="gpu"):
        kiln.compile(mlp, inputs=x, target="gpu")
    with pytest.raises(kiln.KilnError, match="int3"):
        kiln.compile(mlp, inputs=x, precision="int3")
    with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
        kiln.compile(lambda y: y, inputs=x)
    with pytest.raises(TypeError, match="does not take these inputs"):
        kiln.compile(mlp, inputs=x * 3)
    with pytest.raises(TypeError, match="kwargs="):
        kiln.compile(mlp, inputs={"x": x[0]})


def test_input_ranges_are_checked() -> None:
    with pytest.raises(ValueError, match="min <= opt <= max"):
        kiln.Input(min_shape=(4,), max_shape=(2,))
    with pytest.raises(ValueError, match="same number of dimensions"):
        kiln.Input(min_shape=(1, 2), max_shape=(2,))
    with pytest.raises(ValueError, match="not both"):
        kiln.Input((1,), max_shape=(2,))
    with pytest.raises(ValueError, match="give shape"):
        kiln.Input(min_shape=(1,))


def test_outside_the_range(mlp: nn.Module) -> None:
    fast = kiln.compile(mlp, inputs=[kiln.Input(min_shape=(1, 16), opt_shape=(2, 16), max_shape=(4, 16))])
    for n in (1, 4):
        close(fast(torch.ones(n, 16)), mlp(torch.ones(n, 16)))
    with pytest.raises(kiln.KilnError, match="x"):
        fast(torch.ones(5, 16))


def test_progress_and_cancelling(mlp: nn.Module) -> None:
    seen: list[tuple[str, float]] = []
    kiln.compile(mlp, inputs=[torch.zeros(2, 16)], progress=lambda stage, fraction: seen.append((stage, fraction)))
    assert seen
    assert all(isinstance(stage, str) and 0 <= fraction <= 1 for stage, fraction in seen)

    def stop(stage: str, fraction: float) -> None:
        raise InterruptedError("enough")

    with pytest.raises(InterruptedError, match="enough"):
        kiln.compile(mlp, inputs=[torch.zeros(2, 16)], progress=stop)


def test_programs_are_written_alike(mlp: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the form that PyTorch computes and drops, and with it."""

    def files() -> dict[str, bytes]:
        with zipfile.ZipFile(io.BytesIO(bytes(compiler._program_bytes(program)))) as archive:
            return {name: archive.read(name) for name in archive.namelist()}

    program = torch.export.export(mlp, (torch.zeros(2, 16),))
    kept = compiler.serde.canonicalize
    fast = files()
    assert compiler.serde.canonicalize is kept
    monkeypatch.setattr(compiler, "_form_is_dropped", lambda: False)
    assert files() == fast


def test_progress_is_shown(mlp: nn.Module, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    program = torch.export.export(mlp, (torch.zeros(2, 16),))
    kiln.compile(program, progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split()[-1] for line in lines] == [
        "exporting",
        "importing",
        "optimizing",
        "planning",
        "compiling",
        "writing",
        "done",
    ]
    parts = [float(line.split()[1]) for line in lines]
    assert parts == sorted(parts) and parts[0] == 0 and parts[-1] == 100
    torch.export.save(program, tmp_path / "mlp.pt2")
    kiln.Engine.build(tmp_path / "mlp.pt2", progress=True)
    assert "optimizing" in capsys.readouterr().err
    kiln.Engine.build(tmp_path / "mlp.pt2", progress=False)
    assert capsys.readouterr().err == ""


# ---- Files -----------------------------------------------------------------------------------------------------------


def test_save_and_load(tmp_path: Path, mlp: nn.Module, compiled: kiln.CompiledModule) -> None:
    x = torch.randn(2, 16)
    path = tmp_path / "mlp.kiln"
    kiln.save(compiled, path)
    for again in (kiln.load(path), kiln.load(str(path), threads=1), kiln.load(path.read_bytes())):
        assert torch.equal(again(x), compiled(x))
    assert [p.name for p in tmp_path.iterdir()] == ["mlp.kiln"]
    kiln.Engine.open(path).verify()


def test_nesting_survives_saving(tmp_path: Path) -> None:
    module = Nested().eval()
    kiln.save(kiln.compile(module, inputs=nested_inputs(), kwargs={"scale": 3.0}), tmp_path / "m.kiln")
    x, tree = nested_inputs()
    close(kiln.load(tmp_path / "m.kiln")(x, tree=tree), module(x, tree, scale=3.0))


def test_pickle_and_deepcopy(mlp: nn.Module, compiled: kiln.CompiledModule) -> None:
    x = torch.randn(2, 16)
    for again in (pickle.loads(pickle.dumps(compiled)), copy.deepcopy(compiled)):
        close(again(x), mlp(x))


def test_exported_program_and_file(tmp_path: Path, mlp: nn.Module) -> None:
    x = torch.randn(2, 16)
    program = torch.export.export(mlp, (x,), strict=False)
    close(kiln.compile(program)(x), mlp(x))
    torch.export.save(program, tmp_path / "mlp.pt2")
    (y,) = kiln.Engine.build(tmp_path / "mlp.pt2")(x)
    close(y, mlp(x))


def test_bad_files(tmp_path: Path, compiled: kiln.CompiledModule) -> None:
    cases = {"missing.kiln": (None, "KILN_IO_ERROR"), "empty.kiln": (b"", "KILN_INVALID_FILE"), "noise.kiln": (b"x" * 999, None)}
    for name, (content, status) in cases.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(kiln.KilnError, match=name) as caught:
            kiln.load(tmp_path / name)
        assert caught.value.status in (status, "KILN_INVALID_FILE")
    data = compiled.engine.serialize()
    for cut in (0, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(kiln.KilnError):
            kiln.Engine.load(data[:cut])
    with pytest.raises(kiln.KilnError, match="nowhere"):
        kiln.save(compiled, tmp_path / "nowhere" / "m.kiln")
    with pytest.raises(kiln.KilnError):
        kiln.Engine.build(b"PK\x03\x04 not really a zip file")


def test_reports(compiled: kiln.CompiledModule) -> None:
    for what in ("summary", "graph", "plan", "memory", "why"):
        assert isinstance(compiled.engine.report(what), str)
    assert "linear" in compiled.engine.report("graph") or "matmul" in compiled.engine.report("graph")
    with pytest.raises(ValueError, match="unknown"):
        compiled.engine.report("colour")
    assert "softmax" in kiln.ops_report()
    assert compiled.inputs[0] == ("x", "f32", (2, 16), (2, 16), (2, 16))
    memory = compiled.memory()
    assert memory["weights"] >= 4 * (16 * 32 + 32 + 32 * 16 + 16)
    steps = compiled.profile(torch.zeros(2, 16))
    assert steps
    assert all(step["seconds"] >= 0 for step in steps)


# ---- Threads and memory ----------------------------------------------------------------------------------------------


def test_one_module_in_many_threads() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 64)).eval()
    fast = kiln.compile(module, inputs=[kiln.Input(min_shape=(1, 64), opt_shape=(4, 64), max_shape=(32, 64))], threads=1)
    failures: list[str] = []

    def work(seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        for i in range(100):
            x = torch.randn(1 + (seed + i) % 32, 64, generator=generator)
            with torch.no_grad():
                error = max(relative_errors(fast(x), module(x)))
            if error > 1e-5:
                failures.append(f"thread {seed}, call {i}: {error}")

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def resident_kilobytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1])
    return 0


def test_calls_do_not_leak(compiled: kiln.CompiledModule) -> None:
    x, wrong = torch.randn(2, 16), torch.randn(3, 16)

    def burst() -> None:
        for _ in range(5000):
            compiled(x)
        for _ in range(500):
            with pytest.raises(kiln.KilnError):
                compiled(wrong)

    burst()
    gc.collect()
    before = resident_kilobytes()
    burst()
    gc.collect()
    assert resident_kilobytes() - before < 1000


def test_modules_are_freed() -> None:
    module = nn.Linear(512, 4096).eval()
    x = torch.zeros(1, 512)

    def once() -> None:
        kiln.compile(module, inputs=[x])(x)

    for _ in range(3):
        once()
    gc.collect()
    before = resident_kilobytes()
    for _ in range(6):
        once()
    gc.collect()
    assert resident_kilobytes() - before < 3 * 8192  # six engines would hold 48 MB


def test_call_is_fast() -> None:
    """The figure itself is bench/run.py's; this catches a call path that fell back to Python."""
    import timeit

    fast = kiln.compile(nn.Linear(16, 16).eval(), inputs=[torch.zeros(1, 16)], threads=1)
    x = torch.randn(1, 16)
    best = min(timeit.repeat(lambda: fast(x), number=2000, repeat=5)) / 2000
    print(f"Linear(16,16) through nn.Module: {1e6 * best:.2f} us")
    assert best < 20e-6
