"""Each public parameter of kiln, kiln.torch2trt and kiln.torch_tensorrt refuses wrong types and values by its name."""

from __future__ import annotations

import dataclasses
import inspect
import re
import warnings

import pytest
import torch

import kiln
from kiln import torch_tensorrt
from kiln.quantization import Calibration
from kiln.torch2trt import DatasetCalibrator, Flattener, ListDataset, TRTModule, torch2trt, trt
from kiln.torch_tensorrt import _rules, _settings

ERRORS = (TypeError, ValueError, RuntimeError)  # KilnError is a RuntimeError; torch.compile wraps what a backend raises
WRONG_BOOL = ["yes", 3, None]
WRONG_COUNT = [-1, 1.5, "3", True]


def model() -> torch.nn.Module:
    return torch.nn.Linear(2, 2).eval()


def x() -> torch.Tensor:
    return torch.zeros(1, 2)


def refused(name: str, call) -> str:
    """The text of the error, which names the parameter."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ERRORS) as error:
            call()
    text = str(error.value)
    assert re.search(rf"\b{name}\b", text), f"{name} is not in: {text}"
    return text


# ---- torch2trt -------------------------------------------------------------------------------------------------------------

TORCH2TRT = {
    "module": [None, 3, "model", torch.zeros(1)],
    "inputs": [None, 3, "x", [], [3]],
    "input_names": ["x", [3], ["a", "b"]],
    "output_names": ["y", [3], ["a", "b"]],
    "log_level": [-1, 9, "info"],
    "fp16_mode": WRONG_BOOL,
    "max_workspace_size": WRONG_COUNT,
    "strict_type_constraints": WRONG_BOOL,
    "keep_network": WRONG_BOOL,
    "int8_mode": WRONG_BOOL,
    "int8_calib_algorithm": ["entropy", 2],
    "use_onnx": WRONG_BOOL,
    "onnx_opset": [0, "11"],
    "default_device_type": ["GPU", 1],
    "dla_core": WRONG_COUNT,
    "gpu_fallback": WRONG_BOOL,
    "device_types": [3, {"a": "GPU"}],
    "min_shapes": [3, [(1,), (2,)], ["x"]],
    "opt_shapes": [3, [(1,), (2,)]],
    "max_shapes": [3, [(1,), (2,)]],
    "max_batch_size": [0, -1, "4", 1.5],
    "avg_timing_iterations": [0, "1"],
}


@pytest.mark.parametrize("name", TORCH2TRT)
def test_torch2trt(name):
    for value in TORCH2TRT[name]:
        text = refused(name, lambda: torch2trt(**{"module": model(), "inputs": [x()], name: value}))  # noqa: B023 - called at once
        assert "got" in text or "has" in text or "expected" in text or "hold" in text, text


def test_all_of_torch2trt_is_in_the_table():
    names = [p.name for p in inspect.signature(torch2trt).parameters.values() if p.kind is not p.VAR_KEYWORD]
    assert set(names) - {"int8_calib_dataset"} == set(TORCH2TRT)


@pytest.mark.parametrize("value", [3, "folder", []])
def test_calibration_data(value):
    refused("int8_calib_dataset", lambda: torch2trt(model(), [x()], int8_mode=True, int8_calib_dataset=value))


def test_parts_of_torch2trt():
    engine = kiln.compile(model(), inputs=[x()])
    refused("input_names", lambda: TRTModule(engine, input_names=["a", "b"]))
    refused("output_names", lambda: TRTModule(engine, output_names=["a", "b"]))
    refused("engine", lambda: TRTModule(3.5))
    refused("algorithm", lambda: DatasetCalibrator(ListDataset([[x()]]), algorithm="minmax"))
    refused("algorithm", lambda: Calibration([[x()]], algorithm="best"))
    refused("data", lambda: Calibration())
    assert "keys" in refused("value", lambda: Flattener.from_value({"a": x()}).flatten({"b": x()}))


# ---- torch_tensorrt ----------------------------------------------------------------------------------------------------------

SETTINGS = {
    "device": ["tpu:0", 3, "dla:0", {"dla_core": 1}],
    "enabled_precisions": ["float", {"f32"}, {torch.complex64}, 3],
    "min_block_size": [-1, "5", True],
    "torch_executed_ops": ["aten::add", {3}, 3],
    "torch_executed_modules": ["layer", {3}],
    "dryrun": [3, None],
    "tune_seconds": [-1, "1", True],
    "timing_cache_path": [3],
    "threads": [-1, "2", 5000],
    "calibrator": [3, "file", [x]],
    "workspace_size": WRONG_COUNT,
    "max_aux_streams": [-1, "1"],
    "dla_sram_size": WRONG_COUNT,
    "dla_local_dram_size": WRONG_COUNT,
    "dla_global_dram_size": WRONG_COUNT,
    "engine_capability": ["fast", 3],
    "capability": ["fast"],
    "optimization_level": [-1, 6, "3"],
    "num_avg_timing_iters": [0, "1"],
    "tiling_optimization_level": ["best", 1],
    "l2_limit_for_tiling": [-2, "1"],
    "cpu_memory_budget": [0, "1"],
    "autocast_low_precision_type": ["half", 3],
    "autocast_excluded_nodes": ["a.*", {3}],
    "autocast_excluded_ops": ["aten::add", {3}],
    "autocast_max_output_threshold": [0, "1"],
    "autocast_max_depth_of_reduction": [0, "1"],
    "autocast_calibration_dataloader": [3],
    "engine_cache_dir": [3],
    "engine_cache_size": WRONG_COUNT,
    "disabled_constant_fold_exclusions": [3],
    "runtime_cache_path": [3],
    "max_batch_size": WRONG_COUNT,
    "num_min_timing_iters": WRONG_COUNT,
    "dynamic_shapes_kernel_specialization_strategy": ["fast", 3],
    "cuda_graph_strategy": ["fast", 3],
}


@pytest.mark.parametrize("name", sorted({*SETTINGS, *(name for name, rule in _rules.RULES.items() if rule is _rules.BOOL)}))
def test_settings(name):
    for value in SETTINGS.get(name, WRONG_BOOL):
        refused(name, lambda: torch_tensorrt.compile(model(), inputs=[x()], **{name: value}))  # noqa: B023 - called at once


def test_every_setting_has_a_rule():
    known = {field.name for field in dataclasses.fields(_settings.CompilationSettings)} | {
        *_settings.NOT_NEEDED,
        *_settings._OTHERS,
    }
    assert not known - set(_rules.RULES), "settings without a rule"
    free = {"custom_engine_cache", "target_platform", "progress", "use_python_runtime"}
    assert not {n for n, r in _rules.RULES.items() if r is not _rules.BOOL} - set(SETTINGS) - free, "rules without wrong values"


INPUT = {
    "shape": ["x", 3, (-1, 2), ("a",), (1.5,)],
    "min_shape": [(-1,), "x"],
    "opt_shape": [(-1,), "x"],
    "max_shape": [(-1,), "x"],
    "dtype": ["float", 3],
    "format": ["nchw", 3],
    "tensor_domain": [3, (1,), (2, 1), ("a", "b")],
    "torch_tensor": [[1, 2], 3],
    "name": [3],
    "is_shape_tensor": WRONG_BOOL,
    "shape_ranges": [3, [(1, 2)]],
    "shared_dims": [3, {"a": 0}, {7: "batch"}],
    "profiles": [3, [], [{}], [{"min_shape": (1,), "opt_shape": (1,)}]],
}


@pytest.mark.parametrize("name", INPUT)
def test_input(name):
    shapes = {"min_shape": (1,), "opt_shape": (2,), "max_shape": (4,)}
    for value in INPUT[name]:
        if name in shapes:
            arguments = {**shapes, name: value}
        elif name in ("shape", "profiles", "torch_tensor"):
            arguments = {name: value}
        else:
            arguments = {"shape": [-1] if name == "shape_ranges" else (1, 2), name: value}
        refused(name, lambda: torch_tensorrt.Input(**arguments))  # noqa: B023 - called at once


CALLS = {
    "ir": lambda: torch_tensorrt.compile(model(), ir="onnx", inputs=[x()]),
    "module": lambda: torch_tensorrt.compile(3, inputs=[x()]),
    "kwarg_inputs": lambda: torch_tensorrt.compile(torch.jit.script(model()), inputs=[x()], kwarg_inputs={"y": x()}),
    "arg_inputs": lambda: torch_tensorrt.compile(model(), inputs=[x()], arg_inputs=[x()]),
    "inputs": lambda: torch_tensorrt.compile(model(), inputs="x"),
    "exported_program": lambda: torch_tensorrt.dynamo.compile(model(), [x()]),
    "method_name": lambda: torch_tensorrt.ts.convert_method_to_trt_engine(torch.jit.script(model()), "none", inputs=[x()]),
    "input_signature": lambda: torch_tensorrt.ts.compile(torch.jit.script(model())),
    "output_format": lambda: torch_tensorrt.save(torch_tensorrt.compile(model(), inputs=[x()]), "m.ep", output_format="onnx"),
    "file_path": lambda: torch_tensorrt.save(torch_tensorrt.compile(model(), inputs=[x()]), 3),
    "speed": lambda: torch_tensorrt.compile(model(), inputs=[x()], speed=9),
    "serialized_engine": lambda: torch_tensorrt.ts.embed_engine_in_new_module("text"),
    "dataloader": lambda: torch_tensorrt.ptq.DataLoaderCalibrator(3),
    "cache_file": lambda: torch_tensorrt.ptq.CacheCalibrator(None),
    "algo_type": lambda: torch_tensorrt.ptq.DataLoaderCalibrator([], algo_type="minmax"),
    "use_cache": lambda: torch_tensorrt.ptq.DataLoaderCalibrator([], use_cache=3),
    "calibrator": lambda: torch_tensorrt.compile(
        model(), inputs=[x()], calibrator=torch_tensorrt.ptq.DataLoaderCalibrator([[x()]])
    ),
    "optimization_profile_field": lambda: torch_tensorrt.Input((1,)).example_tensor("best"),
    "profile": lambda: torch_tensorrt.runtime.optimization_profile(torch_tensorrt.compile(model(), inputs=[x()]), "fast"),
    "pytorch_model": lambda: torch_tensorrt.MutableTorchTensorRTModule(3),
    "gpu_id": lambda: torch_tensorrt.Device(gpu_id="one"),
    "spec": lambda: torch_tensorrt.Device(3),
    "options": lambda: torch.compile(model(), backend="kiln", options={"speed": 9})(x()),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch._dynamo.reset()
    with torch.no_grad():
        refused(name, CALLS[name])


# ---- kiln ------------------------------------------------------------------------------------------------------------------------

COMPILE = {
    "model": [3, None],
    "inputs": [3, "x", {"x": 1}],
    "kwargs": [3],
    "method": ["other", 3],
    "target": ["tpu", 3],
    "precision": ["int3", 3],
    "tune": [-1.0, "long"],
    "cache": [3],
    "threads": [-1, "two"],
    "progress": [3],
    "allow_host_fallback": ["yes"],
    "metadata": [3, {"a": 1}],
    "dynamic_shapes": [3, "x"],
    "engine_cache": [3, ["folder"]],
}


def test_all_of_compile_is_in_the_table():
    assert set(inspect.signature(kiln.compile).parameters) == set(COMPILE)


@pytest.mark.parametrize("name", COMPILE)
def test_compile(name):
    for value in COMPILE[name]:
        refused(name, lambda: kiln.compile(**{"model": model(), "inputs": [x()], name: value}))  # noqa: B023 - called at once


KILN_INPUT = {
    "shape": ["x", 3, (-1,)],
    "min_shape": ["x", 3, (-1,)],
    "opt_shape": ["x", 3, (9,)],
    "max_shape": ["x", 3, (0,)],
    "dtype": ["float", 3],
    "name": [3],
}


@pytest.mark.parametrize("name", KILN_INPUT)
def test_kiln_input(name):
    for value in KILN_INPUT[name]:
        arguments = {name: value} if name == "shape" else {"min_shape": (1,), "opt_shape": (2,), "max_shape": (4,), name: value}
        refused(name, lambda: kiln.Input(**arguments))  # noqa: B023 - called at once


def test_trt_names():
    assert trt.Logger(trt.Logger.INFO).min_severity == trt.Logger.INFO
