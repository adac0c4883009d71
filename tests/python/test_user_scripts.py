"""Scripts as the documentation of torch2trt and Torch-TensorRT shows their use, in our own words, with only the import line changed.

They run on this machine's CPU, where those tools need a GPU: ``.cuda()`` is what such scripts leave out here.
"""

from __future__ import annotations

import runpy
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import pytest

from kiln.torch2trt import CONVERTERS

COMMON = """
import torch
torch.manual_seed(0)

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, stride=2, padding=1), torch.nn.BatchNorm2d(16), torch.nn.ReLU(inplace=True),
            torch.nn.MaxPool2d(2), torch.nn.Conv2d(16, 32, 3, padding=1), torch.nn.ReLU(inplace=True))
        self.classifier = torch.nn.Linear(32, 10)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))

def close(a, b, tolerance=1e-4):
    error = (a.float() - b.float()).abs().max() / b.float().abs().max()
    assert error < tolerance, error
"""

TORCH2TRT = {
    "basic": """
        from kiln.torch2trt import torch2trt
        model = Net().eval()
        x = torch.ones((1, 3, 64, 64))
        model_trt = torch2trt(model, [x])
        y = model(x)
        y_trt = model_trt(x)
        close(y_trt, y)
        torch.save(model_trt.state_dict(), "net_trt.pth")

        from kiln.torch2trt import TRTModule
        model_trt = TRTModule()
        model_trt.load_state_dict(torch.load("net_trt.pth"))
        close(model_trt(x), y)
        """,
    "fp16": """
        from kiln.torch2trt import torch2trt
        model = Net().eval()
        data = torch.randn((1, 3, 64, 64))
        model_trt = torch2trt(model, [data], fp16_mode=True)
        close(model_trt(data), model(data), 1e-2)
        half = Net().eval().half()
        model_trt = torch2trt(half, [data.half()], fp16_mode=True)
        assert model_trt(data.half()).dtype == torch.float16
        close(model_trt(data.half()), half(data.half()), 2e-2)
        """,
    "int8": """
        from kiln.torch2trt import torch2trt, trt
        class Photos:
            def __init__(self):
                self.photos = [torch.randn(3, 64, 64) for _ in range(8)]
            def __len__(self):
                return len(self.photos)
            def __getitem__(self, i):
                return [self.photos[i][None]]
        model, dataset = Net().eval(), Photos()
        data = dataset[0][0]
        for algorithm in (trt.CalibrationAlgoType.ENTROPY_CALIBRATION_2, trt.CalibrationAlgoType.MINMAX_CALIBRATION):
            model_trt = torch2trt(
                model, [data], int8_mode=True, int8_calib_dataset=dataset, int8_calib_algorithm=algorithm, int8_calib_batch_size=32)
            close(model_trt(data), model(data), 0.1)
            assert not torch.equal(model_trt(data), model(data))
        """,
    "dynamic shapes": """
        from kiln.torch2trt import torch2trt, TensorBatchDataset
        model = Net().eval()
        model_trt = torch2trt(model, [torch.randn(1, 3, 64, 64)], max_batch_size=8)
        for n in (1, 3, 8):
            x = torch.randn(n, 3, 64, 64)
            close(model_trt(x), model(x))
        model_trt = torch2trt(
            model, [torch.randn(1, 3, 64, 64)],
            min_shapes=[(1, 3, 32, 32)], opt_shapes=[(1, 3, 64, 64)], max_shapes=[(1, 3, 128, 128)])
        x = torch.randn(1, 3, 96, 128)
        close(model_trt(x), model(x))
        dataset = TensorBatchDataset([torch.randn(4, 3, 64, 64)])
        close(torch2trt(model, dataset)(*dataset[2]), model(*dataset[2]))
        """,
    "recording a part": """
        from kiln.torch2trt import torch2trt, ListDataset
        model = Net().eval()
        dataset = ListDataset()
        with dataset.record(model.features):
            for size in (32, 48, 64):
                model(torch.randn(1, 3, size, size))
        whole = model(x := torch.randn(1, 3, 40, 56))
        model.features = torch2trt(model.features, dataset)
        close(model(x), whole)
        """,
    "custom converter": """
        import kiln.torch2trt as torch2trt
        from kiln.torch2trt import tensorrt_converter, trt
        @tensorrt_converter("torch.nn.ReLU.forward")
        def convert_relu(ctx):
            input = ctx.method_args[1]
            output = ctx.method_return
            layer = ctx.network.add_activation(input=input._trt, type=trt.ActivationType.RELU)
            output._trt = layer.get_output(0)
        model, x = Net().eval(), torch.randn(1, 3, 64, 64)
        model_trt = torch2trt.torch2trt(model, [x])
        close(model_trt(x), model(x))
        """,
    "engine file": """
        from kiln.torch2trt import torch2trt, TRTModule
        model, x = Net().eval(), torch.randn(1, 3, 64, 64)
        model_trt = torch2trt(model, [x], input_names=["image"], output_names=["scores"])
        with open("net.engine", "wb") as f:
            f.write(model_trt.engine.serialize())
        close(TRTModule("net.engine", input_names=["image"], output_names=["scores"])(x), model(x))
        """,
}

TORCH_TENSORRT = {
    "torch.compile": """
        import kiln.torch_tensorrt as torch_tensorrt
        model, x = Net().eval(), torch.randn((1, 3, 64, 64))
        optimized_model = torch.compile(model, backend="tensorrt")
        close(optimized_model(x), model(x))
        options = {"truncate_long_and_double": True, "min_block_size": 2, "torch_executed_ops": {"torch.ops.aten.sub.Tensor"}}
        close(torch.compile(model, backend="torch_tensorrt", dynamic=False, options=options)(x), model(x))
        """,
    "ahead of time": """
        import kiln.torch_tensorrt as torch_tensorrt
        model = Net().eval()
        inputs = [torch.randn((1, 3, 64, 64))]
        trt_gm = torch_tensorrt.compile(model, ir="dynamo", inputs=inputs)
        expected = trt_gm(*inputs)
        close(expected, model(*inputs))
        torch_tensorrt.save(trt_gm, "trt.ep", inputs=inputs)
        torch_tensorrt.save(trt_gm, "trt.pt2", inputs=inputs)
        torch_tensorrt.save(trt_gm, "trt.ts", output_format="torchscript", inputs=inputs)
        assert torch.equal(torch.export.load("trt.pt2").module()(*inputs), expected)
        assert torch.equal(torch_tensorrt.load("trt.ep").module()(*inputs), expected)
        assert torch.equal(torch.jit.load("trt.ts")(*inputs), expected)
        """,
    "dynamic shapes": """
        import kiln.torch_tensorrt as torch_tensorrt
        model = Net().eval()
        inputs = [torch_tensorrt.Input(
            min_shape=(1, 3, 64, 64), opt_shape=(4, 3, 64, 64), max_shape=(8, 3, 64, 64), dtype=torch.float32, name="x")]
        trt_gm = torch_tensorrt.compile(model, ir="dynamo", inputs=inputs)
        dim = torch.export.Dim("batch", min=1, max=8)
        exp = torch.export.export(model, (torch.randn(2, 3, 64, 64),), dynamic_shapes={"x": {0: dim}})
        other = torch_tensorrt.dynamo.compile(exp, inputs)
        torch_tensorrt.save(trt_gm, "dynamic.ep", inputs=[torch.randn(4, 3, 64, 64)])
        loaded = torch.export.load(open("dynamic.ep", "rb")).module()
        for n in (1, 5, 8):
            x = torch.randn(n, 3, 64, 64)
            for module in (trt_gm, other, loaded):
                close(module(x), model(x))
        """,
    "TorchScript": """
        import kiln.torch_tensorrt as torch_tensorrt
        model = Net().eval()
        traced = torch.jit.trace(model, [torch.randn((1, 3, 64, 64))])
        trt_ts_module = torch_tensorrt.compile(
            traced, inputs=[torch_tensorrt.Input((1, 3, 64, 64), dtype=torch.float32)], enabled_precisions={torch.float32})
        x = torch.randn((1, 3, 64, 64))
        close(trt_ts_module(x), model(x))
        torch.jit.save(trt_ts_module, "trt_torchscript_module.ts")
        close(torch.jit.load("trt_torchscript_module.ts")(x), model(x))
        scripted = torch.jit.script(model)
        assert torch_tensorrt.ts.check_method_op_support(scripted, "forward")
        engine = torch_tensorrt.ts.convert_method_to_trt_engine(scripted, "forward", inputs=[torch_tensorrt.Input((1, 3, 64, 64))])
        close(torch_tensorrt.ts.embed_engine_in_new_module(engine)(x), model(x))
        """,
    "half": """
        import kiln.torch_tensorrt as torch_tensorrt
        model = Net().eval().half()
        inputs = [torch_tensorrt.Input(shape=(1, 3, 64, 64), dtype=torch.half)]
        trt_module = torch_tensorrt.compile(model, inputs=inputs, enabled_precisions={torch.half})
        x = torch.randn((1, 3, 64, 64)).half()
        close(trt_module(x), model(x), 2e-2)
        """,
    "calibration": """
        import kiln.torch_tensorrt as torch_tensorrt
        from torch.utils.data import DataLoader, TensorDataset
        testing = TensorDataset(torch.randn(16, 3, 64, 64), torch.zeros(16, dtype=torch.int64))
        calibrator = torch_tensorrt.ptq.DataLoaderCalibrator(
            DataLoader(testing, batch_size=4), cache_file="./calibration.cache", use_cache=False,
            algo_type=torch_tensorrt.ptq.CalibrationAlgo.ENTROPY_CALIBRATION_2, device=torch.device("cpu"))
        model = Net().eval()
        x = testing[0][0][None]
        trt_mod = torch_tensorrt.compile(
            torch.jit.script(model), inputs=[torch_tensorrt.Input((1, 3, 64, 64))],
            enabled_precisions={torch.float, torch.int8}, calibrator=calibrator)
        close(trt_mod(x), model(x), 0.1)
        cached = torch_tensorrt.ptq.CacheCalibrator("./calibration.cache")
        again = torch_tensorrt.compile(
            torch.jit.script(model), inputs=[torch_tensorrt.Input((1, 3, 64, 64))],
            enabled_precisions={torch.float, torch.int8}, calibrator=cached)
        assert torch.equal(again(x), trt_mod(x)) and not torch.equal(again(x), model(x))
        """,
    "fallback": """
        import kiln.torch_tensorrt as torch_tensorrt
        model, x = Net().eval(), torch.randn((1, 3, 64, 64))
        trt_gm = torch_tensorrt.compile(
            model, ir="dynamo", inputs=[x], min_block_size=1, torch_executed_ops={"aten::max_pool2d"})
        close(trt_gm(x), model(x))
        torch_tensorrt.save(trt_gm, "parts.pt2", inputs=[x])
        close(torch.export.load("parts.pt2").module()(x), model(x))
        torch_tensorrt.compile(model, ir="dynamo", inputs=[x], dryrun=True)
        """,
    "runtime": """
        import kiln.torch_tensorrt as torch_tensorrt
        model, x = Net().eval(), torch.randn((1, 3, 64, 64))
        optimized = torch_tensorrt.compile(model, inputs=[x])
        with torch_tensorrt.runtime.enable_cudagraphs(optimized) as cudagraphs_module:
            close(cudagraphs_module(x), model(x))
        with torch_tensorrt.runtime.weight_streaming(optimized) as context:
            context.device_budget = context.get_automatic_weight_streaming_budget()
            close(optimized(x), model(x))
        with torch_tensorrt.runtime.enable_pre_allocated_outputs(optimized) as fast, torch_tensorrt.logging.errors():
            close(fast(x), model(x))
        mutable = torch_tensorrt.MutableTorchTensorRTModule(model, immutable_weights=False)
        close(mutable(x), model(x))
        mutable.load_state_dict(Net().state_dict())
        close(mutable(x), mutable.original_model(x))
        """,
}

SERVE = """
import sys, threading, torch
import kiln
x, expected = torch.load("case.pt")
{load}
wrong = []
def serve():
    with torch.no_grad():
        for _ in range(40):
            if not torch.allclose(module(x), expected, rtol=1e-4, atol=1e-5):
                wrong.append(1)
threads = [threading.Thread(target=serve) for _ in range(4)]
[t.start() for t in threads]
[t.join() for t in threads]
assert not wrong
"""


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    CONVERTERS.clear()


def run(folder: Path, text: str) -> None:
    """In this process: starting PyTorch takes longer than most scripts do."""
    path = folder / "script.py"
    path.write_text(text)
    runpy.run_path(str(path), run_name="__main__")


def run_in_new_process(folder: Path, text: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", text]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{text}\n{result.stdout}{result.stderr}"


def script(body: str) -> str:
    return f"{COMMON}\nwith torch.no_grad():\n{textwrap.indent(textwrap.dedent(body), '    ')}"


@pytest.mark.parametrize("name", TORCH2TRT)
def test_torch2trt(tmp_path, name):
    run(tmp_path, script(TORCH2TRT[name]))


@pytest.mark.parametrize("name", TORCH_TENSORRT)
def test_torch_tensorrt(tmp_path, name):
    run(tmp_path, script(TORCH_TENSORRT[name]))


SAVED = {
    "torch2trt": (
        """
        from kiln.torch2trt import torch2trt
        torch.save(torch2trt(model, [x], max_batch_size=4).state_dict(), "net_trt.pth")
        """,
        """
from kiln.torch2trt import TRTModule
module = TRTModule()
module.load_state_dict(torch.load("net_trt.pth", weights_only=True))
        """,
    ),
    "exported program": (
        """
        import kiln.torch_tensorrt as torch_tensorrt
        torch_tensorrt.save(torch_tensorrt.compile(model, inputs=[x]), "net.pt2", inputs=[x])
        """,
        'module = torch.export.load("net.pt2").module()',
    ),
    "TorchScript": (
        """
        import kiln.torch_tensorrt as torch_tensorrt
        torch.jit.save(torch_tensorrt.compile(torch.jit.script(model), inputs=[torch_tensorrt.Input((2, 3, 64, 64))]), "net.ts")
        """,
        'module = torch.jit.load("net.ts")',
    ),
}


@pytest.mark.parametrize("name", SAVED)
def test_saved_loaded_by_a_new_process_and_served_from_four_threads(tmp_path, name):
    save, load = SAVED[name]
    case = 'model, x = Net().eval(), torch.randn(2, 3, 64, 64)\ntorch.save([x, model(x)], "case.pt")\n'
    run(tmp_path, script(case + textwrap.dedent(save)))
    run_in_new_process(tmp_path, SERVE.format(load=load.strip()))
