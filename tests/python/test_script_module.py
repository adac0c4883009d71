"""TorchScript in, TorchScript out: compiled ScriptModules, their operators, and what PyTorch does with them."""

from __future__ import annotations

import copy
import gc
import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable

import pytest
import torch

import kiln
import script_models as models
from compare import relative_errors
from conftest import PACKAGES
from kiln import _kiln
from kiln.operators import Signature
from models import MODELS
from test_torchscript_corpus import CASES
from test_torchscript_silero import CHUNKS, probabilities, speech, wrapper
from torchscript_build import plain

pytestmark = pytest.mark.filterwarnings("ignore")


def saved(module: torch.jit.ScriptModule) -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    return buffer.getvalue()


def reloaded(module: torch.jit.ScriptModule, **options: Any) -> torch.jit.ScriptModule:
    return torch.jit.load(io.BytesIO(saved(module)), **options)


def leaves(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for item in value.values() for leaf in leaves(item)]
    if isinstance(value, (tuple, list)):
        return [leaf for item in value for leaf in leaves(item)]
    return [value]


def assert_same(got: Any, expected: Any) -> None:
    got, expected = leaves(got), leaves(expected)
    assert [type(leaf) for leaf in got] == [type(leaf) for leaf in expected]
    for a, b in zip(got, expected):
        if isinstance(a, torch.Tensor):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        else:
            assert a == b


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    torch.manual_seed(1)
    return torch.randn(2, 16)


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(2)
    return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 16)).eval()


@pytest.fixture(scope="module")
def compiled(model: torch.nn.Module, x: torch.Tensor) -> torch.jit.ScriptModule:
    return kiln.compile(torch.jit.script(model), inputs=[x])


@pytest.fixture
def counted() -> Callable[[], tuple[int, int]]:
    """Instances and engines that came to life in the test."""

    def count() -> tuple[int, int]:
        gc.collect()
        _kiln.torch_clear_cache()
        return _kiln.torch_counts()

    before = count()
    return lambda: tuple(now - then for now, then in zip(count(), before))  # type: ignore[misc,return-value]


def stateful() -> torch.jit.ScriptModule:
    return kiln.compile(torch.jit.script(models.Counter().eval()), inputs=[torch.ones(4)])


ONES = torch.ones(4)


# ---- What comes out survives what PyTorch does with ScriptModules ----------------------------------------------------------------


def test_result_is_a_script_module(model: torch.nn.Module, compiled: torch.jit.ScriptModule, x: torch.Tensor) -> None:
    assert isinstance(compiled, torch.jit.ScriptModule)
    assert_same(compiled(x), model(x))
    assert "forward" in str(compiled.forward.schema)
    assert not compiled.training


def test_saved_bytes(compiled: torch.jit.ScriptModule) -> None:
    assert len(saved(compiled)) <= len(kiln.engine_bytes(compiled)) + 64 * 1024


@pytest.mark.parametrize("first", ["kiln", "torch"])
def test_fresh_process(
    model: torch.nn.Module, compiled: torch.jit.ScriptModule, x: torch.Tensor, tmp_path: Path, first: str
) -> None:
    torch.jit.save(compiled, tmp_path / "m.ts")
    torch.save([x, model(x)], tmp_path / "x.pt")
    code = f"import {first}\nimport kiln, torch\nm = torch.jit.load('m.ts'); x, y = torch.load('x.pt')\ntorch.testing.assert_close(m(x), y)"
    result = python(code, tmp_path)
    assert result.returncode == 0, result.stderr


def test_without_kiln_pytorch_says_what_is_missing(compiled: torch.jit.ScriptModule, tmp_path: Path) -> None:
    torch.jit.save(compiled, tmp_path / "m.ts")
    result = python("import torch\ntorch.jit.load('m.ts')", tmp_path)
    assert result.returncode != 0
    assert "Unknown builtin op: kiln::load" in result.stderr


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(PACKAGES), "PYTHONWARNINGS": "ignore"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=folder, env=environment)


def test_cpp_program(compiled: torch.jit.ScriptModule, tmp_path: Path, build_folder: Path) -> None:
    program, library = build_folder / "examples" / "run_script_module", build_folder / "libkiln_torch.so"
    if not program.exists():
        pytest.skip("the build found no libtorch for the example")
    torch.jit.save(compiled, tmp_path / "m.ts")

    def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, tmp_path / "m.ts", *arguments], capture_output=True, text=True, check=False, env={})

    result = run(library, "2", "16")
    assert result.returncode == 0, result.stderr
    assert "output [2, 16], same from both threads: true" in result.stdout
    assert float(result.stdout.split("mean ")[1]) == pytest.approx(compiled(torch.ones(2, 16)).mean().item(), abs=1e-5)
    assert "wrong shape; expected f32[2,16], got f32[3,16]" in run(library, "3", "16").stderr
    assert "Unknown builtin op: kiln::load" in run("libdl.so.2", "2", "16").stderr
    needs = subprocess.run(["ldd", library], capture_output=True, text=True, check=True).stdout
    assert "torch" not in needs and "python" not in needs


def test_nested_traced_frozen_copied(model: torch.nn.Module, compiled: torch.jit.ScriptModule, x: torch.Tensor) -> None:
    expected = model(x)
    parent = torch.nn.Sequential(torch.nn.Identity(), reloaded(compiled), torch.nn.ReLU()).eval()
    for outer in (parent, torch.jit.script(parent), torch.jit.trace(parent, x), torch.jit.freeze(torch.jit.script(parent))):
        assert_same(outer(x), expected.relu())
        if isinstance(outer, torch.jit.ScriptModule):
            assert_same(reloaded(outer)(x), expected.relu())
            assert_same(copy.deepcopy(outer)(x), expected.relu())
            assert kiln.engine_bytes(reloaded(outer)) == kiln.engine_bytes(compiled)


def test_moved_and_converted(model: torch.nn.Module, compiled: torch.jit.ScriptModule, x: torch.Tensor) -> None:
    module = reloaded(compiled, map_location="cpu")
    for moved in (module.to(torch.float64), module.half(), module.to("cpu"), module.float().eval()):
        assert moved.engine.kiln_engine.dtype == torch.uint8
        assert_same(moved(x), model(x))


def test_freed_with_its_module(compiled: torch.jit.ScriptModule, x: torch.Tensor, counted: Callable[[], tuple[int, int]]) -> None:
    module = reloaded(compiled)
    copies = [copy.deepcopy(module) for _ in range(3)]
    assert counted() == (4, 0)  # the engine is that of `compiled`
    for each in copies:
        each(x)
    del module, copies, each
    assert counted() == (0, 0)


def test_frozen_and_loaded_engines_are_bounded(x: torch.Tensor, counted: Callable[[], tuple[int, int]]) -> None:
    modules = []
    for _ in range(20):
        # Loaded before it is frozen: PyTorch keeps the constants of modules that were scripted in this process.
        module = reloaded(kiln.compile(torch.jit.script(torch.nn.Linear(16, 4).eval()), inputs=[x]))
        modules.append(reloaded(torch.jit.freeze(module)))
    del module
    before, start = counted(), _kiln.torch_counts()
    first = [each(x) for each in modules]
    alive = _kiln.torch_counts()
    assert_same([each(x) for each in modules], first)
    after = counted()
    assert before == after == (0, 0)
    assert alive[0] - start[0] == 16


def resident() -> int:
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem"))


def test_memory_does_not_grow(compiled: torch.jit.ScriptModule, x: torch.Tensor) -> None:
    data = saved(compiled)
    module = torch.jit.load(io.BytesIO(data))

    def work(calls: int, loads: int) -> None:
        for _ in range(calls):
            module(x)
        for _ in range(loads):
            torch.jit.load(io.BytesIO(data))(x)
        for _ in range(calls):
            with pytest.raises(RuntimeError):
                torch.ops.kiln.execute(module.engine.kiln_engine, [])

    work(500, 50)
    before = resident()
    work(2000, 100)
    assert resident() - before < 4 * 1024  # KiB; a leaked engine would be at least 10 KiB, a hundred times


def test_failing_calls_do_not_leak(compiled: torch.jit.ScriptModule) -> None:
    engine, large = engine_of(compiled), 1 << 18  # 1 MiB each: a leaked handle shows at once
    wrong = [
        lambda: [torch.ones(large), torch.ones(large)],
        lambda: [torch.ones(large)],
        lambda: [torch.ones(large, dtype=torch.int32)],
        lambda: [torch.ones(large).view(*[1] * 9, large)],
    ]

    def work(count: int) -> None:
        for _ in range(count):
            for inputs in wrong:
                for tensor in (engine, torch.zeros(large, dtype=torch.uint8)):
                    with pytest.raises(RuntimeError):
                        torch.ops.kiln.execute(tensor, inputs())

    work(2)
    before = resident()
    work(20)
    assert resident() - before < 16 * 1024  # KiB; it would be 320 MiB


def test_threads(model: torch.nn.Module, compiled: torch.jit.ScriptModule) -> None:
    for module in (reloaded(compiled), reloaded(torch.jit.freeze(reloaded(compiled)))):
        xs = [torch.randn(2, 16) for _ in range(8)]
        expected = [model(x) for x in xs]
        wrong: list[int] = []

        def work(i: int, module: Any = module, xs: Any = xs, expected: Any = expected, wrong: Any = wrong) -> None:
            for _ in range(100):
                if not torch.allclose(module(xs[i]), expected[i], rtol=1e-5, atol=1e-6):
                    wrong.append(i)

        workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert not wrong


# ---- Interfaces ------------------------------------------------------------------------------------------------------------------


def test_structured_arguments_and_results(x: torch.Tensor) -> None:
    module = torch.jit.script(models.Structured().eval())
    args = (x, {"a": torch.randn(3), "b": torch.randn(16)}, [x, x * 2], models.Pair(x, x + 1))
    compiled = kiln.compile(module, inputs=args)
    expected = module(*args)
    for each in (compiled, reloaded(compiled), kiln.embed_engine(kiln.engine_bytes(compiled))):
        got = each(*args)
        assert_same(got, expected)
        assert got[4]._fields == ("a", "b")
        assert_same(each(*args, None, 2, mode="sum"), expected)  # as when it was compiled
    names = [argument.name for argument in compiled.forward.schema.arguments]
    assert names == [argument.name for argument in module.forward.schema.arguments]
    with pytest.raises(Exception, match="argument 'n' is fixed to 2"):
        compiled(*args, None, 3)
    with pytest.raises(Exception, match="argument 'm' was None when the module was compiled"):
        compiled(*args, x)
    with pytest.raises(Exception, match="argument 'd' must have the keys 'a', 'b'"):
        compiled(args[0], {"a": args[1]["a"], "c": args[1]["b"]}, *args[2:])
    with pytest.raises(Exception, match="argument 'xs' must have 2 items"):
        compiled(args[0], args[1], [x], args[3])


def test_optional_arguments_that_are_given(x: torch.Tensor) -> None:
    module = torch.jit.script(models.Structured().eval())
    args = (x, {"a": torch.randn(3), "b": torch.randn(16)}, [x], models.Pair(x, x + 1))
    compiled = kiln.compile(module, inputs=args, kwargs={"m": x, "n": 5, "mode": "none"})
    assert_same(compiled(*args, m=x, n=5, mode="none"), module(*args, m=x, n=5, mode="none"))
    with pytest.raises(Exception, match="argument 'm' is needed"):
        compiled(*args, n=5, mode="none")


def test_methods_and_functions(x: torch.Tensor) -> None:
    module = torch.jit.script(models.Structured().eval())
    assert_same(kiln.compile(module, [x], method="encode")(x), module.encode(x))
    with pytest.raises(kiln.KilnError, match=r"no method 'decode'; it has: forward, encode"):
        kiln.compile(module, [x], method="decode")
    function = torch.jit.script(models.scale)
    assert_same(kiln.compile(function, [x, 3])(x, 3), function(x, 3))


def test_dynamic_shapes() -> None:
    module = torch.jit.script(torch.nn.Linear(16, 4).eval())
    compiled = kiln.compile(module, [kiln.Input(min_shape=(1, 16), opt_shape=(4, 16), max_shape=(9, 16))])
    for n in (1, 4, 9):
        x = torch.randn(n, 16)
        assert_same(compiled(x), module(x))
    with pytest.raises(RuntimeError, match="a size outside the engine's range"):
        compiled(torch.randn(10, 16))


def test_traced_module_remembers_its_inputs(model: torch.nn.Module, x: torch.Tensor) -> None:
    assert_same(kiln.compile(torch.jit.trace(model, x))(x), model(x))
    with pytest.raises(kiln.KilnError):
        kiln.compile(torch.jit.script(model))


def test_live_model_to_script_module(x: torch.Tensor) -> None:
    model = models.Live().eval()
    d = {"a": torch.randn(3), "b": torch.randn(16)}
    live = kiln.compile(model, inputs=[x, d, 2])
    script = reloaded(kiln.embed_engine(kiln.engine_bytes(live)))
    assert_same(script(x, d), model(x, d, 2))
    assert_same(script(x, d, 2), live(x, d, 2))
    assert kiln.engine_bytes(script) == kiln.engine_bytes(live) == live.engine.serialize()


def test_live_model_in_a_trace(model: torch.nn.Module, x: torch.Tensor) -> None:
    parent = torch.nn.Sequential(kiln.compile(model, [x]), torch.nn.ReLU())
    traced = torch.jit.trace(parent, torch.randn(2, 16))
    assert_same(reloaded(traced)(x), model(x).relu())


def test_unsupported_ops(x: torch.Tensor) -> None:
    supported = torch.nn.Linear(16, 4).eval()
    assert kiln.unsupported_ops(supported, [x]) == []
    assert kiln.unsupported_ops(torch.jit.script(supported), [x]) == []
    for module in (models.Unsupported().eval(), torch.jit.script(models.Unsupported().eval())):
        lines = kiln.unsupported_ops(module, [x])
        assert any("nextafter" in line and "script_models.py" in line for line in lines), lines
    with pytest.raises(kiln.KilnError, match="nextafter"):
        kiln.compile(torch.jit.script(models.Unsupported().eval()), [x])


@pytest.mark.parametrize("name", CASES)
def test_corpus(name: str) -> None:
    """The scripted programs of test_torchscript_corpus.py: ScriptModule in, ScriptModule out, writes to arguments included."""
    case = CASES[name]
    script = case.script()
    compiled = kiln.compile(script, case.arguments(0))
    for seed in range(3):
        script = script if case.calls else case.script()
        theirs, ours = case.arguments(seed), case.arguments(seed)
        expected = copy.deepcopy(script(*theirs))
        errors = relative_errors(plain(compiled(*ours)), plain(expected)) + relative_errors(plain(ours), plain(theirs))
        assert not errors or max(errors) <= case.tolerance


@pytest.mark.parametrize("form", ["traced", "frozen", "scripted"])
@pytest.mark.parametrize("name", ["resnet18", "lstm", "tcn"])
def test_models(name: str, form: str) -> None:
    """Some of test_torchscript_models.py, whose results are tensors, nested tuples, and of type Any."""
    model = MODELS[name]
    module, example = model.module(model.sizes[-1]), model.example(model.sizes[-1], 2)
    script = torch.jit.script(module) if form == "scripted" else torch.jit.trace(module, example, check_trace=False)
    compiled = reloaded(kiln.compile(torch.jit.freeze(script) if form == "frozen" else script, list(example)))
    assert max(relative_errors(compiled(*example), module(*example))) <= model.tolerance


@pytest.mark.weights
@pytest.mark.parametrize("rate", [16000, 8000])
def test_silero(rate: int) -> None:
    """Branches on data, and state across 200 chunks, in a module that was saved and loaded."""
    chunks = speech(rate, CHUNKS * rate * 512 // 16000).reshape(CHUNKS, -1)
    script = wrapper()
    expected = probabilities(lambda x: script(x, rate), chunks)
    module = reloaded(kiln.compile(wrapper(), [chunks[:1], rate]))
    for _ in range(2):
        assert (probabilities(lambda x: module(x, rate), chunks) - expected).abs().max() <= 1e-5
        kiln.reset(module)


# ---- State -----------------------------------------------------------------------------------------------------------------------


def test_each_module_owns_its_state() -> None:
    module = stateful()
    assert [module(ONES)[0].item() for _ in range(3)] == [2, 4, 6]
    other, loaded = copy.deepcopy(module), reloaded(module)
    assert [other(ONES)[0].item(), loaded(ONES)[0].item(), module(ONES)[0].item()] == [2, 2, 8]
    kiln.reset(module)
    assert [module(ONES)[0].item(), other(ONES)[0].item()] == [2, 4]


def test_state_in_nested_and_frozen_modules() -> None:
    parent = torch.jit.script(models.Twice(stateful()).eval())
    assert parent(ONES)[0].item() == 2 + 4  # two calls with the same input are two calls
    kiln.reset(parent)
    for module in (torch.jit.freeze(copy.deepcopy(parent)), reloaded(torch.jit.freeze(parent)), torch.jit.trace(parent, ONES)):
        kiln.reset(module)
        assert [module(ONES)[0].item() for _ in range(2)] == [6, 14]
        kiln.reset(module)
        assert module(ONES)[0].item() == 6


def test_state_with_threads() -> None:
    module = stateful()
    workers = [threading.Thread(target=lambda: [module(ONES) for _ in range(50)]) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert module(ONES)[0].item() == 2 * 201


# ---- Wrong use -------------------------------------------------------------------------------------------------------------------


def engine_of(module: torch.jit.ScriptModule) -> torch.Tensor:
    return module.engine.kiln_engine


def test_wrong_inputs(compiled: torch.jit.ScriptModule, x: torch.Tensor) -> None:
    engine = engine_of(compiled)
    for inputs, text in (
        ([x.double()], r'input 0 \("\w+"\): wrong element type; expected f32\[2,16\], got f64\[2,16\]'),
        ([torch.randn(3, 16)], "wrong shape"),
        ([], "the engine takes 1 input, got 0"),
        ([x, x], "the engine takes 1 input, got 2"),
        ([x.to(torch.complex64)], "dtype"),
        ([torch.zeros([1] * 9)], "9 dimensions"),
    ):
        with pytest.raises(RuntimeError, match=text):
            torch.ops.kiln.execute(engine, inputs)
    with pytest.raises(RuntimeError):
        compiled(x, x)
    assert_same(torch.ops.kiln.execute(engine, [x.t().contiguous().t()])[0], compiled(x))  # any strides


def test_wrong_engine_tensors(compiled: torch.jit.ScriptModule, x: torch.Tensor) -> None:
    good = engine_of(compiled).clone()
    altered_weight, altered_plan = good.clone(), good.clone()
    altered_weight[-40] ^= 1
    altered_plan[200] ^= 1
    for blob, text in (
        (torch.zeros(0, dtype=torch.uint8), "empty"),
        (torch.zeros(4096, dtype=torch.uint8), "not a Kiln engine"),
        (good[:1000], "cut off"),
        (altered_weight, "damaged"),
        (altered_plan, "damaged"),
        (x, "uint8"),
        (good[::2], "contiguous"),
    ):
        for call in (lambda blob=blob: torch.ops.kiln.load(blob), lambda blob=blob: torch.ops.kiln.execute(blob, [x])):
            with pytest.raises(RuntimeError, match=text):
                call()
    with pytest.raises(kiln.KilnError):
        kiln.embed_engine(bytes(altered_weight.numpy()))
    with pytest.raises(kiln.KilnError, match="one engine, found 0"):
        kiln.engine_bytes(torch.nn.Linear(2, 2))


def test_engine_tensor_altered_in_place(compiled: torch.jit.ScriptModule, x: torch.Tensor) -> None:
    expected = compiled(x)
    module = reloaded(compiled)
    module(x)
    engine_of(module).zero_()
    with pytest.raises(RuntimeError, match="altered"):
        module(x)
    assert_same(compiled(x), expected)  # which has the same engine, but a tensor of its own
    foreign = engine_of(compiled).clone()
    assert_same(torch.ops.kiln.execute(foreign, [x])[0], expected)
    foreign[-40] ^= 1
    with pytest.raises(RuntimeError, match="damaged"):
        torch.ops.kiln.execute(foreign, [x])


def test_altered_file(compiled: torch.jit.ScriptModule) -> None:
    class Spoilt(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.engine = compiled

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.engine(x)

    module = reloaded(torch.jit.script(Spoilt()))
    engine_of(module.engine)[-40] ^= 1
    with pytest.raises(RuntimeError, match="damaged"):
        reloaded(module)


def test_cannot_compile(compiled: torch.jit.ScriptModule, x: torch.Tensor) -> None:
    with pytest.raises(kiln.KilnError, match="already compiled"):
        kiln.compile(compiled, [x])
    with pytest.raises(kiln.KilnError, match="training mode"):
        kiln.compile(torch.jit.script(torch.nn.Linear(16, 4)), [x])
    with pytest.raises(TypeError, match="lack argument"):
        kiln.compile(torch.jit.script(models.Structured().eval()), [x])


# ---- Fake tensors ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dynamic() -> kiln.CompiledModule:
    torch.manual_seed(3)
    return kiln.compile(torch.nn.Linear(16, 4).eval(), [kiln.Input(min_shape=(1, 16), opt_shape=(8, 16), max_shape=(64, 16))])


def test_opcheck(dynamic: kiln.CompiledModule) -> None:
    x = torch.randn(3, 16)
    engine = kiln.embed_engine(dynamic, script=False).engine.kiln_engine
    for arguments in ((engine, [x]), (engine, [x], dynamic.engine.report("signature"))):
        result = torch.library.opcheck(torch.ops.kiln.execute.default, arguments)
        assert set(result.values()) == {"SUCCESS"}
    assert set(torch.library.opcheck(torch.ops.kiln.load.default, (engine.clone(),)).values()) == {"SUCCESS"}


@pytest.mark.parametrize("live", [True, False])
def test_export(dynamic: kiln.CompiledModule, live: bool) -> None:
    parent = torch.nn.Sequential(dynamic if live else kiln.embed_engine(dynamic, script=False), torch.nn.ReLU()).eval()
    x, other = torch.randn(3, 16), torch.randn(7, 16)
    n = torch.export.Dim("n", min=1, max=64)
    program = torch.export.export(parent, (x,), dynamic_shapes=({0: n},), strict=False)
    assert "kiln.execute" in program.graph_module.code
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    buffer.seek(0)
    assert_same(torch.export.load(buffer).run_decompositions().module()(other), parent(other))


def test_torch_compile(dynamic: kiln.CompiledModule) -> None:
    parts = [(kiln.embed_engine(dynamic, script=False), True), (kiln.embed_engine(dynamic), False), (dynamic, False)]
    for part, whole in parts:  # PyTorch breaks the graph before ScriptModules and C functions
        torch._dynamo.reset()
        parent = torch.nn.Sequential(part, torch.nn.ReLU()).eval()
        fast = torch.compile(parent, backend="aot_eager", fullgraph=whole, dynamic=True)
        for n in (3, 5):
            x = torch.randn(n, 16)
            assert_same(fast(x), parent(x))


def test_signatures() -> None:
    text = "(f32[s0,2*s1 + 1], i64[]) -> (f32[s0*s1,max(s0, 3),(s1 + 1)//2], bool[4 % s0]); 1<=s0<=9; 2<=s1"
    signature = Signature.parse(text)
    shapes = [tuple(t.shape) for t in signature.empty_outputs([torch.empty(5, 9), torch.empty((), dtype=torch.int64)])]
    assert shapes == [(20, 5, 2), (4,)]
    for inputs, text in (
        ([torch.empty(10, 9), torch.empty((), dtype=torch.int64)], "above the engine's range"),
        ([torch.empty(5, 8), torch.empty((), dtype=torch.int64)], "wrong size in dimension 1"),
        ([torch.empty(5, 9), torch.empty(())], "torch.float32"),
        ([torch.empty(5, 9)], "takes 2 inputs, got 1"),
    ):
        with pytest.raises(RuntimeError, match=text):
            signature.empty_outputs(inputs)
    with pytest.raises(RuntimeError, match="is not an engine's signature"):
        Signature.parse("nonsense")
