"""kiln.torch_tensorrt against PyTorch: scripts as Torch-TensorRT's users write them, with the import line changed."""

from __future__ import annotations

import subprocess
import sys
import threading
import warnings

import pytest
import torch

import kiln
from kiln import torch_tensorrt


class Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 8, 3, padding=1)
        self.fc = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(torch.relu(self.conv(x)).mean((2, 3)))

    @torch.jit.export
    def features(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.conv(x))


class WithMissing(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.fc(x)
        return torch.relu(torch.nextafter(y, y) + 1) * 2


@pytest.fixture(autouse=True)
def quiet():
    torch.manual_seed(0)
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        yield


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("ir", ["default", "dynamo", "torch_compile", "ts"])
def test_every_ir(ir):
    model, x = Small().eval(), torch.randn(2, 3, 16, 16)
    compiled = torch_tensorrt.compile(model, ir=ir, inputs=[x], min_block_size=1, enabled_precisions={torch.float32})
    close(compiled(x), model(x))
    assert isinstance(compiled, torch.jit.ScriptModule) == (ir == "ts")


def test_dynamic_shapes():
    model = Small().eval()
    spec = torch_tensorrt.Input(min_shape=(1, 3, 16, 16), opt_shape=(4, 3, 16, 16), max_shape=(8, 3, 16, 16), dtype=torch.float32)
    for compiled in (torch_tensorrt.compile(model, inputs=[spec]), torch_tensorrt.compile(torch.jit.script(model), inputs=[spec])):
        for n in (1, 3, 8):
            x = torch.randn(n, 3, 16, 16)
            close(compiled(x), model(x))
        with pytest.raises((kiln.KilnError, RuntimeError), match="9"):
            compiled(torch.randn(9, 3, 16, 16))


def ranges(*shapes):
    return [dict(zip(("min_shape", "opt_shape", "max_shape"), row)) for row in shapes]


def test_optimization_profiles():
    spec = torch_tensorrt.Input(profiles=ranges(((1, 4), (1, 4), (2, 4)), ((8, 4), (8, 4), (16, 4))))
    model = torch.nn.Linear(4, 4).eval()
    compiled = torch_tensorrt.compile(model, inputs=[spec])
    for n, profile in ((1, 0), (16, 1), (2, 0)):
        close(compiled(x := torch.randn(n, 4)), model(x))
        assert compiled.last_profile_index == profile
    with torch_tensorrt.runtime.optimization_profile(compiled, 1) as module:
        close(module(x := torch.randn(9, 4)), model(x))
        with pytest.raises(
            kiln.KilnError, match=r'input 0 \("input"\), dimension 0 is 1, outside optimization profile 1 \(8 to 16\)'
        ):
            module(torch.randn(1, 4))
        with torch_tensorrt.runtime.optimization_profile(compiled, "auto"):
            close(module(x := torch.randn(1, 4)), model(x))
        assert module.active_profile_index == 1
    assert compiled.active_profile_index is None
    torch_tensorrt.runtime.set_active_profile_index(compiled, 0)
    with pytest.raises(kiln.KilnError, match="outside optimization profile 0"):
        compiled(torch.randn(9, 4))
    torch_tensorrt.runtime.set_active_profile_index(compiled)
    close(compiled(x := torch.randn(9, 4)), model(x))
    with pytest.raises(ValueError, match="optimization profile 2: the engine has 2"):
        torch_tensorrt.runtime.set_active_profile_index(compiled, 2)
    for module in (compiled, torch_tensorrt.compile(torch.jit.script(model), inputs=[spec])):
        for n in (6, 17):  # between the profiles, and above
            with pytest.raises((kiln.KilnError, RuntimeError)) as error:
                module(torch.randn(n, 4))
            for k, text in enumerate(("1 to 2", "8 to 16")):
                assert f"dimension 0 is {n}, outside optimization profile {k} ({text})" in str(error.value)


def test_sizes_that_inputs_share():
    shapes = {"min_shape": (1, 4), "opt_shape": (4, 4), "max_shape": (8, 4)}
    specs = [torch_tensorrt.Input(**shapes, shared_dims={0: "batch"}) for _ in range(2)]

    class Sum(torch.nn.Module):
        def forward(self, x, y, z):
            return x * 2 + y + z

    compiled = torch_tensorrt.compile(Sum().eval(), inputs=[torch.zeros(4), *specs])  # a static input first
    for n in (1, 5, 8):
        x, y, z = torch.randn(4), torch.randn(n, 4), torch.randn(n, 4)
        close(compiled(x, y, z), x * 2 + y + z)
    with pytest.raises(
        kiln.KilnError, match=r'input 2 \("z"\), dimension 0 is 4, but input 1 \("y"\), dimension 0 is 3: these two'
    ):
        compiled(torch.randn(4), torch.randn(3, 4), torch.randn(4, 4))


def test_sizes_that_only_the_caller_shares():
    class Joined(torch.nn.Module):
        def forward(self, x, y):
            return torch.cat([x.sum(1), y.sum(1)])

    shapes = {"min_shape": (1, 4), "opt_shape": (4, 4), "max_shape": (8, 4)}
    specs = [torch_tensorrt.Input(**shapes, shared_dims={axis: "batch"}) for axis in (0, -2)]
    apart = torch_tensorrt.compile(Joined().eval(), inputs=[torch_tensorrt.Input(**shapes)] * 2)
    assert apart(torch.ones(3, 4), torch.ones(2, 4)).shape == (5,)
    for model in (Joined().eval(), torch.jit.script(Joined().eval())):
        compiled = torch_tensorrt.compile(model, inputs=specs)
        close(compiled(torch.ones(3, 4), torch.ones(3, 4)), torch.full((6,), 4.0))
        with pytest.raises(
            (kiln.KilnError, RuntimeError), match=r'"y"\), dimension 0 is 2, but .*"x"\), dimension 0 is 3: .* declared'
        ):
            compiled(torch.ones(3, 4), torch.ones(2, 4))


def test_shapes_as_inputs():
    class Tiled(torch.nn.Module):
        def forward(self, x, sizes):
            a, b = sizes.tolist()
            torch._check(a >= 0)
            torch._check(b >= 0)
            return x.expand(a, b) * 2

    sizes = torch_tensorrt.Input((2,), dtype=torch.int64, is_shape_tensor=True, torch_tensor=torch.tensor([2, 3]))
    program = torch.export.export(Tiled().eval(), (torch.ones(1, 1), torch.tensor([2, 3])), strict=False)
    compiled = torch_tensorrt.dynamo.compile(program, inputs=[torch_tensorrt.Input((1, 1)), sizes])
    for a, b in ((2, 3), (5, 1), (4, 7)):
        assert compiled(torch.ones(1, 1), torch.tensor([a, b])).shape == (a, b)


def test_trace_and_compile_with_keywords():
    class Keywords(torch.nn.Module):
        def forward(self, x, *, scale, shift=None):
            return x * scale if shift is None else x * scale + shift

    model, x = Keywords().eval(), torch.randn(3, 4)
    keywords = {"scale": torch.tensor(2.0), "shift": torch.ones(4)}
    program = torch_tensorrt.dynamo.trace(model, arg_inputs=[x], kwarg_inputs=keywords)
    close(torch_tensorrt.dynamo.compile(program, arg_inputs=[x], kwarg_inputs=keywords)(x, **keywords), model(x, **keywords))
    with pytest.raises(ValueError, match="arg_inputs"):
        torch_tensorrt.compile(model, inputs=[x], arg_inputs=[x])


def test_fallback_and_dryrun(tmp_path, capsys):
    model, x = WithMissing().eval(), torch.randn(4, 4)
    compiled = torch_tensorrt.compile(model, inputs=[x], min_block_size=1)
    close(compiled(x), model(x))
    assert len(compiled.report.left) == 1 and "nextafter" in compiled.report.reasons()
    with pytest.raises(kiln.KilnError, match="nextafter"):
        torch_tensorrt.compile(model, inputs=[x], require_full_compilation=True)
    torch_tensorrt.compile(model, inputs=[x], dryrun=str(tmp_path / "report.txt"))
    assert "nextafter" in (tmp_path / "report.txt").read_text()
    torch_tensorrt.compile(Small().eval(), inputs=[torch.randn(1, 3, 8, 8)], dryrun=True)
    assert "100.0 % in 1 engines" in capsys.readouterr().out
    kept = torch_tensorrt.compile(model, inputs=[x], min_block_size=1, torch_executed_ops={torch.ops.aten.relu.default})
    assert "aten::relu" in kept.report.left
    close(kept(x), model(x))


@pytest.mark.parametrize("output_format", ["exported_program", "torchscript"])
def test_save_and_load(tmp_path, output_format):
    model, x = Small().eval(), torch.randn(2, 3, 16, 16)
    compiled = torch_tensorrt.compile(model, inputs=[x])
    path = tmp_path / "model.ep"
    torch_tensorrt.save(compiled, path, output_format=output_format, inputs=[x])
    loaded = torch_tensorrt.load(path)
    close(loaded(x), model(x))
    if output_format == "exported_program":
        close(loaded.module()(x), model(x))


LOAD = """
import sys, torch
import kiln
from kiln import torch_tensorrt
kind, path = sys.argv[1:]
values = torch.load(path + ".values", weights_only=True)
module = torch.jit.load(path) if kind == "torchscript" else torch_tensorrt.load(path).module()
for arguments, expected in values:
    torch.testing.assert_close(module(*arguments), expected, rtol=1e-4, atol=1e-5)
"""


class Parts(torch.nn.Module):
    """An operator that Kiln lacks between others; results that nest."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = torch.nn.Linear(4, 4), torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        h = torch.relu(self.first(x)) + y
        s = h.reshape(-1, 2, 2) / 4
        s = torch.nextafter(s, s).reshape(h.shape[0], -1)
        return {"out": torch.tanh(self.second(s * 0.1)) * 2, "values": s}


@pytest.mark.parametrize("output_format", ["exported_program", "torchscript"])
def test_partly_compiled_modules_are_loaded_by_a_new_process(tmp_path, output_format):
    model = Parts().eval()
    spec = torch_tensorrt.Input(min_shape=(1, 4), opt_shape=(4, 4), max_shape=(8, 4))
    compiled = torch_tensorrt.compile(model, inputs=[spec, spec], min_block_size=1)
    assert len(compiled.report.engines) == 2
    path = tmp_path / "parts.pt"
    torch_tensorrt.save(compiled, path, output_format=output_format)
    with torch.no_grad():
        arguments = [(torch.randn(n, 4), torch.randn(n, 4)) for n in (1, 2, 8)]
        torch.save([(pair, model(*pair)) for pair in arguments], f"{path}.values")
    subprocess.run([sys.executable, "-W", "ignore", "-c", LOAD, output_format, str(path)], check=True)
    assert not list(tmp_path.glob("*.tmp"))


def test_partly_compiled_modules_that_cannot_be_saved(tmp_path):
    class Sizes(torch.nn.Module):
        def forward(self, x):
            return torch.nextafter(torch.relu(x), x), x.shape[0]

    spec = torch_tensorrt.Input(min_shape=(2, 4), opt_shape=(4, 4), max_shape=(8, 4))
    compiled = torch_tensorrt.compile(Sizes().eval(), inputs=[spec], min_block_size=1)
    with pytest.raises(kiln.KilnError, match="returns a size; use exported_program"):
        torch_tensorrt.save(compiled, tmp_path / "m.ts", output_format="torchscript")
    assert not (tmp_path / "m.ts").exists()


def test_torchscript_engines(tmp_path):
    model, x = torch.jit.script(Small().eval()), torch.randn(2, 3, 16, 16)
    compiled = torch_tensorrt.ts.compile(model, inputs=[torch_tensorrt.Input(x.shape)])
    torch.jit.save(compiled, str(tmp_path / "model.ts"))
    close(torch.jit.load(str(tmp_path / "model.ts"))(x), model(x))
    engine = torch_tensorrt.ts.convert_method_to_trt_engine(model, "features", inputs=[x])
    close(torch_tensorrt.ts.embed_engine_in_new_module(engine)(x), model.features(x))
    assert torch_tensorrt.ts.check_method_op_support(model)
    engine = torch_tensorrt.convert_method_to_trt_engine(Small().eval(), inputs=[x])
    assert isinstance(engine, bytes) and kiln.Engine.load(engine).outputs[0].dtype == "f32"


def test_missing_operators_of_a_script(capsys):
    assert not torch_tensorrt.ts.check_method_op_support(torch.jit.script(WithMissing().eval()))
    assert "nextafter" in capsys.readouterr().out


def test_mutable_module(tmp_path):
    model, x = Small().eval(), torch.randn(2, 3, 16, 16)
    module = torch_tensorrt.MutableTorchTensorRTModule(model, min_block_size=1)
    close(module(x), model(x))
    model.fc.weight.mul_(2)
    close(module(x), model(x))
    module.load_state_dict(Small().state_dict())
    close(module(x), model(x))
    close(module(y := torch.randn(3, 3, 8, 8)), model(y))
    torch_tensorrt.MutableTorchTensorRTModule.save(module, tmp_path / "m.pt")
    close(torch_tensorrt.MutableTorchTensorRTModule.load(tmp_path / "m.pt")(x), model(x))


def test_input():
    assert torch_tensorrt.Input((1, 3)).shape == (1, 3)
    assert torch_tensorrt.Input([1, 3], dtype=torch_tensorrt.dtype.half).dtype is torch.float16
    ranged = torch_tensorrt.Input(shape=[-1, 3], shape_ranges=[(1, 2, 4)])
    assert ranged.shape == {"min_shape": (1, 3), "opt_shape": (2, 3), "max_shape": (4, 3)}
    assert ranged.example_tensor("max_shape").shape == (4, 3)
    values = torch_tensorrt.Input((1000,), tensor_domain=(2, 3)).example_tensor()
    assert values.min() >= 2 and values.max() < 3
    assert torch_tensorrt.Input.from_tensors([torch.ones(2), (torch.ones(3),)])[1][0].shape == (3,)
    for arguments, text in [
        ({}, "one of"),
        ({"shape": (1,), "min_shape": (1,)}, "one of"),
        ({"min_shape": (1,)}, "needs"),
        ({"min_shape": (3,), "opt_shape": (2,), "max_shape": (1,)}, "min <= opt"),
        ({"shape": (-1,)}, "shape_ranges"),
        ({"profiles": []}, "empty"),
    ]:
        with pytest.raises(ValueError, match=text):
            torch_tensorrt.Input(**arguments)
    with pytest.raises(TypeError, match="dtype"):
        torch_tensorrt.Input((1,), dtype="float")


def test_devices():
    assert torch_tensorrt.Device("cuda:1").gpu_id == 1 and torch_tensorrt.Device("gpu:2").to(torch.device) == torch.device("cuda:2")
    assert torch_tensorrt.Device(gpu_id=3).gpu_id == 3
    for spec, text in (("tpu", "expected"), ("cuda:x", "expected"), ("dla:0", "DLA")):
        with pytest.raises(ValueError, match=text):
            torch_tensorrt.Device(spec)


def test_settings_without_effect_say_so_once():
    x = torch.randn(1, 2)
    with pytest.warns(UserWarning, match="workspace_size"):
        torch_tensorrt.compile(torch.nn.Linear(2, 2).eval(), inputs=[x], workspace_size=1 << 30)
    with pytest.raises(TypeError, match="unknown setting 'speed'"):
        torch_tensorrt.compile(torch.nn.Linear(2, 2).eval(), inputs=[x], speed=9)
    with pytest.raises(ValueError, match="ir must be one of"):
        torch_tensorrt.compile(torch.nn.Linear(2, 2).eval(), ir="onnx", inputs=[x])
    with pytest.raises(ValueError, match="min_block_size"):
        torch_tensorrt.compile(torch.nn.Linear(2, 2).eval(), inputs=[x], min_block_size=-1)


def test_served_from_four_threads():
    model, x = Small().eval(), torch.randn(1, 3, 16, 16)
    compiled, expected, wrong = torch_tensorrt.compile(model, inputs=[x]), model(x), []

    def serve() -> None:
        with torch.no_grad():
            for _ in range(50):
                if not torch.allclose(compiled(x), expected, rtol=1e-4, atol=1e-5):
                    wrong.append(1)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
