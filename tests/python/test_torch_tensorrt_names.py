"""The rest of Torch-TensorRT's interface: every name is there, and does what it says or says why it does nothing."""

from __future__ import annotations

import collections
import copy
import importlib
import json
import pickle
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from kiln.torch_tensorrt.dynamo.lowering.passes import _aten_lowering_pass, _remove_lowering_pass
from kiln.torch_tensorrt.dynamo.partitioning import partition_report, register_atomic_subgraph
from kiln.torch_tensorrt.dynamo.runtime import ResourceAllocationStrategy, TorchTensorRTModule

import kiln
from kiln import modes, torch_tensorrt
from kiln.torch2trt import trt
from kiln.torch_tensorrt import _settings
from kiln.torch_tensorrt.dynamo import CompilationSettings, Debugger

NAMES = """
compile convert_method_to_trt_engine save load cross_compile_for_windows load_cross_compiled_exported_program Input Device dtype
memory_format DeviceType EngineCapability Platform ENABLED_FEATURES MutableTorchTensorRTModule dump_build_info get_build_info set_device
__version__ ts.compile ts.convert_method_to_trt_engine ts.embed_engine_in_new_module ts.check_method_op_support ts.TensorRTCompileSpec
dynamo.compile dynamo.trace dynamo.refit_module_weights dynamo.CompilationSettings dynamo.Debugger dynamo.debug.Debugger
dynamo.convert_exported_program_to_serialized_trt_engine dynamo.cross_compile_for_windows dynamo.save_cross_compiled_exported_program
dynamo.load_cross_compiled_exported_program dynamo.SourceIR dynamo.runtime.TorchTensorRTModule
dynamo.runtime.PythonTorchTensorRTModule dynamo.runtime.ResourceAllocationStrategy dynamo.conversion.dynamo_tensorrt_converter
dynamo.conversion.ConversionContext dynamo.conversion.DYNAMO_CONVERTERS dynamo.conversion.ConverterPriority
dynamo.conversion.ConverterSupport dynamo.conversion.plugins.custom_op dynamo.conversion.plugins.generate_plugin
dynamo.conversion.plugins.generate_plugin_converter dynamo.lowering.register_torch_trt_decomposition dynamo.lowering.get_decompositions
dynamo.lowering.post_lowering dynamo.lowering.pre_export_lowering dynamo.lowering.SubgraphBuilder
dynamo.lowering.passes._aten_lowering_pass dynamo.lowering.passes._remove_lowering_pass dynamo.lowering.passes.dump_lowering_passes
dynamo._engine_cache.BaseEngineCache dynamo._engine_cache.DiskEngineCache dynamo.partitioning.register_atomic_subgraph
dynamo.backend.torch_tensorrt_backend dynamo._settings.CompilationSettings dynamo._refit.refit_module_weights dynamo._compiler.compile
dynamo._tracer.trace runtime.TorchTensorRTModule runtime.PythonTorchTensorRTModule runtime.enable_cudagraphs
runtime.set_cudagraphs_mode runtime.get_cudagraphs_mode runtime.get_whole_cudagraphs_mode runtime.enable_pre_allocated_outputs
runtime.enable_output_allocator runtime.weight_streaming runtime.optimization_profile runtime.set_multi_device_safe_mode
runtime.RuntimeSettings runtime.runtime_config runtime.RuntimeCache runtime.runtime_cache runtime.set_dynamic_shapes_kernel_strategy
logging.internal_errors logging.errors logging.warnings logging.info logging.debug logging.graphs logging.set_level logging.Level
logging.get_reportable_log_level logging.set_reportable_log_level logging.get_logging_prefix logging.set_logging_prefix
logging.get_is_colored_output_on logging.set_is_colored_output_on logging.log kernels.cuda_kernel_op kernels.KernelSpec kernels.ptx_op
kernels.InputDecl kernels.OutputDecl kernels.ScalarInput kernels.SameAs kernels.ReduceDims kernels.Numel kernels.DimSize
kernels.Elementwise kernels.Reduction kernels.Custom distributed.distributed_context distributed.set_distributed_mode
distributed.setup_nccl_for_torch_tensorrt executorch.export executorch.TensorRTPartitioner executorch.TensorRTBackend fx.compile
dynamo.utils.cosine_similarity dynamo.utils.COSINE_THRESHOLD dynamo.utils.prepare_inputs dynamo.utils.get_torch_inputs
dynamo._defaults.TIMING_CACHE_PATH dynamo._defaults.MIN_BLOCK_SIZE dynamo.conversion._ConverterRegistry.DYNAMO_CONVERTERS
dynamo.conversion._ConversionContext.ConversionContext dynamo.runtime._TorchTensorRTModule.TorchTensorRTModule
dynamo.runtime._MutableTorchTensorRTModule.MutableTorchTensorRTModule ts.TorchScriptInput _Input.Input _Device.Device
fx.InputTensorSpec fx.TRTModule ptq.DataLoaderCalibrator ptq.CacheCalibrator ptq.CalibrationAlgo
""".split()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    _settings._noted.clear()
    yield
    _settings._noted.clear()


def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).eval()


def x() -> torch.Tensor:
    return torch.randn(2, 4)


@pytest.mark.parametrize("name", NAMES)
def test_name(name: str) -> None:
    found: Any = torch_tensorrt
    path = found.__name__
    for part in name.split("."):
        path = f"{path}.{part}"
        found = getattr(found, part) if hasattr(found, part) else importlib.import_module(path)
    assert found is not None


def noted(call: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if "has no effect in Kiln" in str(w.message)]


@pytest.mark.parametrize("name", sorted({*_settings.NOT_NEEDED, *_settings._OTHERS} - {"timing_cache_path"}))
def test_settings_without_meaning_say_so_once(name: str) -> None:
    values: dict[str, Any] = {
        "engine_capability": torch_tensorrt.EngineCapability.SAFETY,
        "capability": torch_tensorrt.EngineCapability.SAFETY,
        "tiling_optimization_level": "fast",
        "use_fast_partitioner": None,
        "immutable_weights": None,
        "attn_bias_is_causal": None,
        "autocast_excluded_nodes": {"a.*"},
        "autocast_calibration_dataloader": [1],
        "target_platform": torch_tensorrt.Platform.WIN_X86_64,
        "disabled_constant_fold_exclusions": {"aten::add"},
        "dla_sram_size": 1 << 21,
        "use_python_runtime": True,
        "runtime_cache_path": "cache",
        "cuda_graph_strategy": "whole_graph_capture",
        "dynamic_shapes_kernel_specialization_strategy": "eager",
    }
    default = _settings._DEFAULTS.get(name, False)
    value = values.get(name, True if isinstance(default, bool) and not default else 3)
    if value is None:  # True is the default, and False changes nothing either
        assert CompilationSettings(**{name: False}).others[name] is False
        return
    first = noted(lambda: CompilationSettings(**{name: value}))
    assert len(first) == 1 and f"setting {name} has no effect" in first[0], first
    assert not noted(lambda: CompilationSettings(**{name: value}))
    assert getattr(CompilationSettings(**{name: value}), name) == value
    assert getattr(CompilationSettings(), name) == default


def test_settings_are_attributes() -> None:
    settings = CompilationSettings(min_block_size=3, use_fp32_acc=True, device="cpu")
    assert (settings.min_block_size, settings.use_fp32_acc, settings.truncate_double) == (3, True, False)
    assert settings.workspace_size == 0 and settings.use_fast_partitioner is True
    with pytest.raises(AttributeError, match="no setting 'speed'"):
        _ = settings.speed
    with pytest.raises(TypeError, match="unknown setting 'speed'"):
        CompilationSettings(speed=3)


def test_autocast_is_a_precision() -> None:
    settings = CompilationSettings(
        enable_autocast=True,
        autocast_low_precision_type=torch.bfloat16,
        autocast_excluded_ops={torch.ops.aten.softmax.int, "torch.ops.aten.sigmoid.default"},
    )
    assert settings.options("cuda")["precision"] in ("bf16:softmax,sigmoid", "bf16:sigmoid,softmax")
    assert CompilationSettings(enable_autocast=True).options("cuda")["precision"] == "fp16"
    assert CompilationSettings().options("cuda")["precision"] == "tf32"
    assert noted(lambda: settings.options("cpu")) == [
        "torch_tensorrt setting enable_autocast has no effect in Kiln: engines compute in fp32 on a CPU"
    ]
    with pytest.raises(ValueError, match="autocast_low_precision_type must be"):
        CompilationSettings(autocast_low_precision_type=torch.float64)


def test_dtypes_and_formats() -> None:
    dtype, memory_format = torch_tensorrt.dtype, torch_tensorrt.memory_format
    for kind in (dtype.u8, dtype.i8, dtype.i32, dtype.i64, dtype.f16, dtype.f32, dtype.f64, dtype.b, dtype.bf16, dtype.f8):
        assert dtype.from_(kind.to(torch.dtype)) is kind
    assert dtype.f16.to(np.dtype) == np.float16 and dtype.from_(np.dtype("int64")) is dtype.i64 and dtype.from_(np.bool_) is dtype.b
    assert dtype.half.to(trt.DataType) is trt.DataType.HALF and dtype.from_(trt.DataType.BOOL) is dtype.b
    assert dtype.f32.to(dtype) is dtype.f32 and dtype.fp16 is dtype.half
    assert dtype.bf16.try_to(np.dtype) is None and dtype.f4.try_to(torch.dtype) is None and dtype.try_from("x") is None
    assert dtype.f4.to(torch.dtype, use_default=True) is torch.float32 and dtype.from_("x", use_default=True) is dtype.f32
    for bad in (lambda: dtype.f4.to(torch.dtype), lambda: dtype.from_("float"), lambda: torch_tensorrt.Input((1,), dtype=dtype.f4)):
        with pytest.raises(TypeError, match="dtype"):
            bad()
    assert memory_format.channels_last.to(torch.memory_format) is torch.channels_last
    assert memory_format.from_(torch.contiguous_format) is memory_format.linear
    for bad in (lambda: memory_format.chw32.to(torch.memory_format), lambda: memory_format.from_("nchw")):
        with pytest.raises(TypeError, match="memory_format"):
            bad()


def test_engine_modules(tmp_path) -> None:
    m, a = model(), x()
    data = torch_tensorrt.convert_method_to_trt_engine(m, inputs=[a])
    module = TorchTensorRTModule(data, ["x"], ["y"], name="part", settings=CompilationSettings())
    torch.testing.assert_close(module(a), m(a))
    outer = torch.nn.Sequential(module, torch.nn.ReLU())
    torch.save(outer.state_dict(), tmp_path / "m.pth")
    again = torch.nn.Sequential(TorchTensorRTModule(), torch.nn.ReLU())
    again.load_state_dict(torch.load(tmp_path / "m.pth"))
    torch.testing.assert_close(again(a), m(a).relu())
    assert again[0].input_binding_names == ["x"]
    for form in ("perfetto", "trex"):
        module.enable_profiling(str(tmp_path / form), form)
        module(a)
        trace = json.loads((tmp_path / form / "part_execution_trace.json").read_text())
        assert trace["traceEvents"] if form == "perfetto" else trace
    module.disable_profiling()
    info = json.loads(module.get_layer_info())
    assert info["Layers"] and info["Bindings"] == ["x", "y"]
    assert module.device_memory_budget == module.get_automatic_device_memory_budget() > 0
    assert noted(lambda: module.set_pre_allocated_outputs(True)) and not noted(lambda: module.set_pre_allocated_outputs(False))
    bad: list[tuple[str, Any]] = [
        ("serialized_engine", lambda: TorchTensorRTModule("engine")),
        ("input_binding_names", lambda: TorchTensorRTModule(data, ["a", "b"])),
        ("output_binding_names", lambda: TorchTensorRTModule(data, None, 3)),
        ("settings", lambda: TorchTensorRTModule(data, settings=3)),
        ("profile_format", lambda: module.enable_profiling(profile_format="svg")),
        ("device_memory_budget", lambda: setattr(module, "device_memory_budget", -1)),
        ("set_use_output_allocator", lambda: module.set_use_output_allocator(3)),
        ("serialized_engine", lambda: TorchTensorRTModule()(a)),
    ]
    for name, call in bad:
        with pytest.raises((TypeError, ValueError, kiln.KilnError), match=name):
            call()


def test_debugger(tmp_path) -> None:
    @_aten_lowering_pass
    def to_tanh(module: torch.fx.GraphModule, settings: Any) -> torch.fx.GraphModule:
        for node in module.graph.nodes:
            if node.target is torch.ops.aten.relu.default:
                node.target = torch.ops.aten.tanh.default
        return module

    try:
        with Debugger(
            log_level="info",
            capture_fx_graph_before=["to_tanh"],
            capture_fx_graph_after=["all"],
            save_engine_profile=True,
            save_layer_info=True,
            logging_dir=tmp_path / "debug",
        ) as debugger:
            torch_tensorrt.compile(model(), inputs=[x()])
    finally:
        _remove_lowering_pass(index=0)
    folder = tmp_path / "debug"
    assert debugger.logging_dir == str(folder)
    assert "relu" in (folder / "to_tanh_before.txt").read_text() and "tanh" in (folder / "to_tanh_after.txt").read_text()
    assert "linear" in (folder / "engine_layer_info.txt").read_text()
    assert "planning" in (folder / "torch_tensorrt_logging.log").read_text()
    for name, value in {"log_level": "loud", "profile_format": "svg", "logging_dir": 3, "save_layer_info": 3}.items():
        with pytest.raises((TypeError, ValueError), match=f"Debugger: {name} must be"):
            Debugger(**{name: value})


def test_files_for_other_systems(tmp_path) -> None:
    m, a = model(), x()
    path = tmp_path / "windows.pt2"
    assert len(noted(lambda: torch_tensorrt.cross_compile_for_windows(m, path, inputs=[a]))) == 1
    torch.testing.assert_close(torch_tensorrt.load_cross_compiled_exported_program(path).module()(a), m(a))
    torch_tensorrt.dynamo.save_cross_compiled_exported_program(torch_tensorrt.compile(m, inputs=[a]), path)
    torch.testing.assert_close(torch_tensorrt.load(path).module()(a), m(a))


def test_fx(tmp_path) -> None:
    m, a = model(), x()
    spec = torch_tensorrt.fx.InputTensorSpec((-1, 4), torch.float32, shape_ranges=[((1, 4), (2, 4), (8, 4))])
    for inputs in ([a], [spec], torch_tensorrt.fx.InputTensorSpec.from_tensors([a])):
        notes = noted(lambda: torch_tensorrt.fx.compile(m, inputs, min_acc_module_size=1, explicit_batch_dimension=True))  # noqa: B023
        assert len(notes) <= 1
    compiled = torch_tensorrt.fx.compile(m, [spec])
    torch.testing.assert_close(compiled(torch.ones(7, 4)), m(torch.ones(7, 4)))
    torch.testing.assert_close(torch_tensorrt.compile(m, ir="fx", inputs=[a], lower_precision="fp32", verbose_log=True)(a), m(a))
    with pytest.raises(TypeError, match="min_acc_module_size"):
        torch_tensorrt.compile(m, ir="fx", inputs=[a], min_acc_module_size="3")
    with pytest.raises(ValueError, match="lower_precision"):
        torch_tensorrt.compile(m, ir="fx", inputs=[a], lower_precision="int3")


def test_runtime_switches() -> None:
    runtime = torch_tensorrt.runtime
    m, a = model(), x()
    compiled = torch_tensorrt.compile(m, inputs=[a])
    managers: list[Any] = [
        runtime.enable_cudagraphs(compiled),
        runtime.enable_pre_allocated_outputs(compiled),
        runtime.enable_output_allocator(compiled),
        runtime.runtime_config(compiled, runtime.RuntimeSettings("eager")),
        runtime.runtime_cache(compiled, runtime.RuntimeCache("cache")),
        ResourceAllocationStrategy(compiled, dynamically_allocate_resources=True),
    ]
    for manager in managers:
        with manager as fast:
            torch.testing.assert_close(fast(a), m(a))
    with runtime.enable_pre_allocated_outputs(compiled) as outputs:
        outputs.set_pre_allocated_output(False)
    settings = runtime.RuntimeSettings("eager").merge(cuda_graph_strategy="whole_graph_capture")
    assert settings == runtime.RuntimeSettings("eager", "whole_graph_capture") != runtime.RuntimeSettings()
    with pytest.raises(TypeError, match="speed"), runtime.runtime_config(compiled, speed=3):
        pass
    assert torch_tensorrt.Device("cpu:0") == torch_tensorrt.Device("cpu") != torch_tensorrt.Device("cuda:0")
    torch.testing.assert_close(torch_tensorrt.compile(m, inputs=[a], device=torch.device("cpu", 0))(a), m(a))
    with runtime.weight_streaming(compiled) as streaming:
        total = streaming.total_device_budget
        assert total == streaming.get_automatic_weight_streaming_budget() > 0
        assert len(noted(lambda: setattr(streaming, "device_budget", total // 2))) == 1
        assert streaming.device_budget == total // 2
        torch.testing.assert_close(compiled(a), m(a))
    runtime.set_cudagraphs_mode(True)
    assert runtime.get_cudagraphs_mode() and runtime.get_whole_cudagraphs_mode()
    runtime.set_cudagraphs_mode(False)
    assert len(noted(lambda: runtime.set_dynamic_shapes_kernel_strategy("eager"))) == 1
    assert kiln.__version__ in torch_tensorrt.get_build_info()
    bad = {
        "mode": lambda: runtime.set_cudagraphs_mode("on"),
        "module": lambda: runtime.enable_cudagraphs(3),
        "strategy": lambda: runtime.set_dynamic_shapes_kernel_strategy("fast"),
        "settings": lambda: runtime.runtime_config(compiled, 3).__enter__(),
        "gpu_id": lambda: torch_tensorrt.set_device("one"),
    }
    for name, call in bad.items():
        with pytest.raises((TypeError, ValueError), match=f"{name} must be"):
            call()


def test_logging(caplog) -> None:
    logging = torch_tensorrt.logging
    before = logging.get_reportable_log_level()
    try:
        logging.set_reportable_log_level(logging.Level.Info)
        assert logging.get_reportable_log_level() is logging.Level.Info
        logging.set_logging_prefix("mine: ")
        logging.set_is_colored_output_on(True)
        with caplog.at_level(20, "kiln.torch_tensorrt"):
            logging.log(logging.Level.Warning, "text")
        assert caplog.messages == ["mine: text"] and logging.get_is_colored_output_on()
        with pytest.raises(TypeError, match="level must be"):
            logging.set_level("info")
        with pytest.raises(TypeError, match="prefix must be"):
            logging.set_logging_prefix(3)
    finally:
        logging.set_logging_prefix("")
        logging.set_is_colored_output_on(False)
        logging.set_level(before)


def test_refusals() -> None:
    compiled = torch_tensorrt.compile(model(), inputs=[x()])
    refused = {
        "aot_inductor": lambda: torch_tensorrt.save(compiled, "m.pt2", output_format="aot_inductor"),
        "executorch.export": lambda: torch_tensorrt.executorch.export(compiled),
        "executorch": lambda: torch_tensorrt.load("m.pte", format="executorch"),
        "distributed_context": lambda: torch_tensorrt.distributed.distributed_context(None, compiled),
        "unknown arguments": lambda: torch_tensorrt.save(compiled, "m.pt2", speed=3),
        "retrace must be": lambda: torch_tensorrt.save(compiled, "m.pt2", retrace="yes"),
        "immutable_weights must be": lambda: torch_tensorrt.MutableTorchTensorRTModule(model(), immutable_weights=True),
        "min_block_size must be": lambda: torch_tensorrt.MutableTorchTensorRTModule(model(), min_block_size=-1),
        "unknown setting 'speed'": lambda: torch_tensorrt.dynamo.trace(model(), [x()], speed=3),
        "arg_input_binding_names must be": lambda: torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
            torch.export.export(model(), (x(),)), arg_input_binding_names=3
        ),
    }
    for text, call in refused.items():
        with pytest.raises((TypeError, ValueError, kiln.KilnError), match=text):
            call()
    torch_tensorrt.distributed.setup_nccl_for_torch_tensorrt()


def test_the_rest(tmp_path) -> None:
    m, a = model(), x()
    mutable = torch_tensorrt.MutableTorchTensorRTModule(m, device="cpu", strict=False, weight_streaming_budget=1 << 20)
    torch.testing.assert_close(mutable(a), m(a))
    m.tag = "original"
    assert mutable.tag == "original"  # what it lacks is the original's
    with pytest.raises(AttributeError):
        _ = mutable.nothing
    data = torch_tensorrt.dynamo.convert_exported_program_to_serialized_trt_engine(
        torch.export.export(m, (a,)), inputs=[a], arg_input_binding_names=["x"], output_binding_names=["y"]
    )
    torch.testing.assert_close(kiln.load(data)(a), m(a))
    path = tmp_path / "m.pt2"
    torch_tensorrt.save(
        torch_tensorrt.compile(m, inputs=[a]), path, inputs=[a], retrace=False, pickle_protocol=2, dynamic_shapes=None
    )
    torch.testing.assert_close(torch_tensorrt.load(path).module()(a), m(a))
    report = partition_report(torch.export.export(m, (a,)), torch_executed_ops=["aten::relu"])
    assert len(report.engines) == 2 and "aten::relu" in report.left
    assert register_atomic_subgraph(init_args=())(torch.nn.ReLU) is torch.nn.ReLU
    assert torch_tensorrt.ENABLED_FEATURES.dynamo_frontend and not torch_tensorrt.ENABLED_FEATURES.tensorrt_rtx


def test_arguments_of_other_functions_and_versions(tmp_path) -> None:
    """One dictionary for trace and compile, as Torch-TensorRT's scripts have it; settings of its earlier versions."""
    m, a = model(), x()
    spec = {
        "inputs": [torch_tensorrt.Input(a.shape, format=torch.contiguous_format)],
        "ir": "dynamo",
        "min_block_size": 1,
        "use_explicit_typing": True,
        "torch_executed_ops": {"torch.ops.aten.relu.default"},
    }
    compiled = torch_tensorrt.dynamo.compile(torch_tensorrt.dynamo.trace(m, **spec), **spec)
    torch.testing.assert_close(compiled(a), m(a))
    for module in (compiled, torch_tensorrt.compile(m, inputs=[a])):  # exported again, with gradients on
        with torch.enable_grad():
            torch.export.save(torch.export.export(module, (a,), strict=False), tmp_path / "again.pt2")
        torch.testing.assert_close(torch_tensorrt.load(tmp_path / "again.pt2").module()(a), m(a))


def test_modules_in_training_mode() -> None:
    m, a = model().train(), x()
    m[0].eval()
    for compile in (torch_tensorrt.compile, lambda m, inputs: torch_tensorrt.compile(torch.jit.script(m), inputs=inputs)):
        modes._noted.clear()
        with pytest.warns(UserWarning, match="torch_tensorrt: .* is in training mode"):
            compiled = compile(m, inputs=[a])
        torch.testing.assert_close(compiled(a), m(a))
    assert [part.training for part in m] == [False, True, True]


def test_inputs() -> None:
    sizes = collections.namedtuple("sizes", ["batch", "width"])
    named = torch_tensorrt.Input(min_shape=sizes(1, 4), opt_shape=sizes(2, 4), max_shape=sizes(8, 4))
    assert named.shared_dims == {0: "batch"} and named.shape_mode is torch_tensorrt.Input._ShapeMode.DYNAMIC
    ranges = torch_tensorrt.Input(shape=(-1, 4), shape_ranges=[((1, 4), (2, 4), (8, 4))])
    assert ranges.shape == {"min_shape": (1, 4), "opt_shape": (2, 4), "max_shape": (8, 4)}
    named.dtype = torch_tensorrt.dtype.half
    assert (
        named.dtype is torch.float16 and torch.float16 == torch_tensorrt.dtype.half and torch.float16 in {torch_tensorrt.dtype.half}
    )
    with pytest.raises(TypeError, match="all be named tuples"):
        torch_tensorrt.Input(min_shape=sizes(1, 4), opt_shape=(2, 4), max_shape=(8, 4))

    class Add(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    other = torch_tensorrt.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(9, 4), shared_dims={0: "batch"}, name="b")
    with pytest.raises(ValueError, match=r'"batch" is 1 to 8 in input 0, but 1 to 9 in \'b\''):
        torch_tensorrt.compile(
            Add().eval(),
            inputs=[torch_tensorrt.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4), shared_dims={0: "batch"}), other],
        )
    m = model().half()
    compiled = torch_tensorrt.ts.compile(torch.jit.script(m), inputs=[torch_tensorrt.Input((2, 4))])  # of the module's type
    a = x().half()
    torch.testing.assert_close(compiled(a), m(a), atol=1e-2, rtol=1e-2)


def test_backends_run_engines_whatever_requires_gradients() -> None:
    m, a = model(), x()
    settings: dict[str, Any] = {"min_block_size": 0, "torch_executed_ops": {}}
    with torch.enable_grad():
        fast = torch_tensorrt.compile(m, ir="torch_compile", inputs=[a], **settings)
        result, expected = fast(a), m(a)
        assert expected.requires_grad and not result.requires_grad
        torch.testing.assert_close(result, expected.detach())
        assert torch.compile(m, backend="kiln", dynamic=False)(a).requires_grad  # a training step is PyTorch's


def test_modules_among_others_that_learn() -> None:
    """A compiled module takes what requires gradients and gives what does not; train() of the whole leaves it as it is."""
    m, a = model(), x().requires_grad_()
    compiled = torch_tensorrt.compile(m, inputs=[x()])
    parts = torch_tensorrt.compile(m, inputs=[x()], torch_executed_ops=["aten::relu"], min_block_size=1)
    with torch.enable_grad():
        for module in (compiled, copy.deepcopy(compiled), pickle.loads(pickle.dumps(compiled)), parts):
            assert not torch.nn.Sequential(module).train()[0].training
            result = module(a)
            torch.testing.assert_close(result, m(a).detach())
            assert not result.requires_grad
        with pytest.raises(kiln.KilnError, match="requires grad"):
            kiln.compile(m, inputs=[x()])(a)


def test_mutable_modules_notice_every_change() -> None:
    m, a = model(), x()
    mutable = torch_tensorrt.MutableTorchTensorRTModule(m)
    m.add_module("3", torch.nn.Linear(3, 3).eval())
    m.head = m[3]
    changes = [
        lambda: mutable.head.bias.data.zero_(),
        lambda: setattr(mutable.head.weight, "data", torch.eye(3)),
        lambda: setattr(mutable.head, "weight", torch.nn.Parameter(torch.ones(3, 3))),
        lambda: mutable.load_state_dict({name: 2 * value for name, value in m.state_dict().items()}),
        lambda: setattr(mutable, "0", torch.nn.Linear(4, 8).eval()),
        lambda: m[2].weight.add_(1),
    ]
    torch.testing.assert_close(mutable(a), m(a))
    for change in changes:
        before = m(a)
        change()
        assert not torch.equal(before, m(a))
        torch.testing.assert_close(mutable(a), m(a))


class Sums(torch.nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        return a.sum() + 2 * b.sum() + 3 * c.sum()


def test_keyword_inputs_in_any_order() -> None:
    m, a, b, c = Sums().eval(), torch.ones(2), torch.ones(3), torch.ones(4)
    free = {0: torch.export.Dim.DYNAMIC}
    program = torch.export.export(m, (a,), {"b": b, "c": c}, dynamic_shapes={"a": None, "b": free, "c": free})
    ranges = {
        "c": torch_tensorrt.Input(min_shape=(2,), opt_shape=(2,), max_shape=(4,)),
        "b": torch_tensorrt.Input(min_shape=(2,), opt_shape=(2,), max_shape=(30,)),
    }
    compiled = torch_tensorrt.dynamo.compile(program, arg_inputs=(a,), kwarg_inputs=ranges)
    assert compiled(a, c=c, b=torch.ones(20)).item() == 2 + 40 + 12
    with pytest.raises(kiln.KilnError, match=r'"c".* 5'):
        compiled(a, b=b, c=torch.ones(5))


def test_saving_what_is_not_compiled(tmp_path) -> None:
    m, a = model(), x()
    for module, options in ((torch.export.export(m, (a,)), {}), (m, {"inputs": [a]})):
        torch_tensorrt.save(module, tmp_path / "m.pt2", **options)
        torch.testing.assert_close(torch_tensorrt.load(tmp_path / "m.pt2").module()(a), m(a))
    torch_tensorrt.save(m, tmp_path / "m.ts", output_format="torchscript", inputs=[a])
    torch.testing.assert_close(torch.jit.load(tmp_path / "m.ts")(a), m(a))
    with pytest.raises(ValueError, match="output_format"):
        torch_tensorrt.save(torch.export.export(m, (a,)), tmp_path / "m.ts", output_format="torchscript")


def test_names_that_are_no_parameters() -> None:
    m = model()
    batches = torch_tensorrt.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4), name="image")
    compiled = torch_tensorrt.compile(m, inputs=[batches])
    a = torch.randn(7, 4)
    torch.testing.assert_close(compiled(a), m(a))
    assert "linear" in str(compiled.graph)
    parts = torch_tensorrt.compile(m, inputs=[a], torch_executed_ops=["aten::relu"], min_block_size=1)
    assert "relu" in str(parts.graph)


def test_utils() -> None:
    utils = torch_tensorrt.dynamo.utils
    a = torch.randn(3, 4)
    assert utils.cosine_similarity(a, 2 * a) > utils.COSINE_THRESHOLD > utils.cosine_similarity(a, -a)
    assert utils.cosine_similarity(torch.zeros(2), torch.zeros(2)) == 1.0
    (made, number), rest = utils.prepare_inputs(([a, 3], {"b": torch.ones(2, dtype=torch.int64)}))
    assert made.shape == (3, 4) and number.shape == () and rest["b"].dtype is torch.int64
    spec = torch_tensorrt.Input(min_shape=(1, 4), opt_shape=(2, 4), max_shape=(8, 4))
    assert utils.get_torch_inputs([spec], "cpu", "max_shape")[0].shape == (8, 4) and utils.input_is_dynamic([spec])
    assert utils.check_output_equal({"a": [a, (a,)]}, {"a": [a + 0, (a,)]}) and not utils.check_output_equal([a], (a,))
    assert utils.get_model_device(model()) == torch.device("cpu") == utils.to_torch_device("cpu")
