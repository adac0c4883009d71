"""Settings of Torch-TensorRT: what each means here."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Collection
from typing import Any, Optional, Union

import torch

from kiln import checks
from kiln.torch_tensorrt._engine_cache import DEFAULT_SIZE, cache_for
from kiln.torch_tensorrt._enums import Device, EngineCapability, to_torch_dtype
from kiln.torch_tensorrt._rules import RULES
from kiln.torch_tensorrt.ptq import _Calibrator

__all__ = ["CompilationSettings"]

# Settings that have a meaning for TensorRT only, and why nothing needs to be set here.
NOT_NEEDED = {
    "workspace_size": "Kiln plans all memory at build time",
    "max_aux_streams": "engines run on the caller's stream",
    "dla_sram_size": "there is no DLA backend",
    "dla_local_dram_size": "there is no DLA backend",
    "dla_global_dram_size": "there is no DLA backend",
    "sparse_weights": "this version has no structured sparsity",
    "version_compatible": "engine files are portable between versions",
    "hardware_compatible": "an engine file is planned again on a device that it has no plan for",
    "engine_capability": "there is one kind of engine",
    "optimization_level": "the time for tuning is set by tune_seconds",
    "num_avg_timing_iters": "the tuner decides how often it measures",
    "tiling_optimization_level": "the tuner chooses tilings",
    "l2_limit_for_tiling": "the tuner chooses tilings",
    "use_fast_partitioner": "there is one partitioner",
    "assume_dynamic_shape_support": "every operator takes sizes that vary",
    "enable_experimental_decompositions": "operators are decomposed only where Kiln has no row for them",
    "use_complex_decomposition": "engines take complex numbers, as pairs of real ones",
    "decompose_attention": "attention has a kernel of its own",
    "attn_bias_is_causal": "masks are looked at",
    "immutable_weights": "every engine can be refitted",
    "refit_identical_engine_weights": "engines of the cache have no weights of their own",
    "enable_weight_streaming": "weights are mapped from the file",
    "lazy_engine_init": "opening an engine takes milliseconds",
    "offload_module_to_cpu": "building takes no device memory beyond the weights",
    "enable_resource_partitioning": "building takes little memory",
    "cpu_memory_budget": "building takes little memory",
    "dynamically_allocate_resources": "a context owns one arena",
    "truncate_double": "f64 is computed as f64",
    "truncate_long_and_double": "i64 and f64 are native",
    "use_python_runtime": "there is one runtime",
    "allow_shape_tensors": "sizes are symbolic",
    "enable_cross_compile_for_windows": "engine files do not depend on the operating system",
    "timing_cache_path": "",  # handled: the tuner's cache
}
_NONE_IS_A_VALUE = (
    "device",
    "timing_cache_path",
    "threads",
    "calibrator",
    "engine_cache_dir",
    "custom_engine_cache",
    "autocast_low_precision_type",
)
_noted: set[str] = set()


def note(name: str, why: str) -> None:
    """Says once that a setting has no effect."""
    if name not in _noted:
        _noted.add(name)
        warnings.warn(f"torch_tensorrt setting {name} has no effect in Kiln: {why}", stacklevel=4)


# What settings without a field are when they are not given: users' passes and validators look at them.
_DEFAULTS: dict[str, Any] = {
    "workspace_size": 0,
    "dla_sram_size": 1 << 20,
    "dla_local_dram_size": 1 << 30,
    "dla_global_dram_size": 1 << 29,
    "engine_capability": EngineCapability.STANDARD,
    "capability": EngineCapability.STANDARD,
    "num_avg_timing_iters": 1,
    "tiling_optimization_level": "none",
    "l2_limit_for_tiling": -1,
    "max_batch_size": 0,
    "num_min_timing_iters": 1,
    "dynamic_shapes_kernel_specialization_strategy": "lazy",
    "cuda_graph_strategy": "disabled",
    "use_fast_partitioner": True,
    "attn_bias_is_causal": True,
    "immutable_weights": True,
    "autocast_excluded_nodes": frozenset(),
    "autocast_excluded_ops": frozenset(),
    "autocast_max_output_threshold": 512,
    "disabled_constant_fold_exclusions": frozenset(),
    **dict.fromkeys(
        ("max_aux_streams", "optimization_level", "cpu_memory_budget", "autocast_low_precision_type", "target_platform"), None
    ),
    **dict.fromkeys(("autocast_max_depth_of_reduction", "autocast_calibration_dataloader", "use_python_runtime"), None),
}


@dataclasses.dataclass(init=False)
class CompilationSettings:
    """All settings of Torch-TensorRT, by keyword. Those that have a meaning in Kiln are fields; the others are attributes, too."""

    device: Optional[Device] = None
    enabled_precisions: set[torch.dtype] = dataclasses.field(default_factory=lambda: {torch.float32})
    min_block_size: int = 5
    torch_executed_ops: Collection[Any] = ()
    torch_executed_modules: Collection[str] = ()
    require_full_compilation: bool = False
    pass_through_build_failures: bool = False
    disable_tf32: bool = False
    dryrun: Union[bool, str] = False
    tune_seconds: float = 0.0
    timing_cache_path: Optional[str] = None
    threads: Optional[int] = None
    calibrator: Optional[_Calibrator] = None
    strip_engine_weights: bool = False
    cache_built_engines: bool = False
    reuse_cached_engines: bool = False
    engine_cache_dir: Optional[str] = None
    engine_cache_size: int = DEFAULT_SIZE
    custom_engine_cache: Any = None
    enable_autocast: bool = False
    autocast_low_precision_type: Optional[torch.dtype] = None
    autocast_excluded_ops: Collection[Any] = ()

    def __init__(self, **settings: Any) -> None:
        fields = dataclasses.fields(CompilationSettings)
        known = {field.name for field in fields}
        taken: dict[str, Any] = {}
        self.others = {name: value for name, value in settings.items() if name not in known}
        checks.check_all("torch_tensorrt", settings, RULES)
        for name, value in settings.items():
            if name in known:
                taken[name] = value
            elif name in NOT_NEEDED:
                if value and value != _DEFAULTS.get(name):
                    note(name, NOT_NEEDED[name])
            elif name in _ARGUMENTS:
                continue
            elif name in _OTHERS:
                if value and value != _DEFAULTS.get(name):
                    note(name, _OTHERS[name])
            else:
                raise TypeError(
                    f"torch_tensorrt: unknown setting {name!r}; known: {', '.join(sorted([*known, *NOT_NEEDED, *_OTHERS]))}"
                )
        if taken.get("device") is not None:
            taken["device"] = Device.of(taken["device"])
        precisions = taken.get("enabled_precisions") or {torch.float32}
        taken["enabled_precisions"] = {to_torch_dtype(p) for p in precisions}
        if taken.get("autocast_low_precision_type") is not None:
            taken["autocast_low_precision_type"] = to_torch_dtype(taken["autocast_low_precision_type"])
            if taken["autocast_low_precision_type"] not in (torch.float16, torch.bfloat16):
                raise ValueError("torch_tensorrt: autocast_low_precision_type must be torch.float16 or torch.bfloat16")
        for field in fields:
            value = taken.get(field.name, _MISSING)
            if value is None and field.name not in _NONE_IS_A_VALUE:
                value = ()
            if value is _MISSING:
                made = field.default_factory is not dataclasses.MISSING
                value = field.default_factory() if made else field.default  # type: ignore[misc]
            setattr(self, field.name, value)
        if self.calibrator is not None and torch.int8 not in self.enabled_precisions:
            raise ValueError("torch_tensorrt: calibrator needs torch.int8 in enabled_precisions")

    def __getattr__(self, name: str) -> Any:
        if name == "others" or not (name in NOT_NEEDED or name in _OTHERS):
            raise AttributeError(f"CompilationSettings has no setting {name!r}")
        return self.others.get(name, _DEFAULTS.get(name, False))

    @staticmethod
    def of(**settings: Any) -> CompilationSettings:
        return CompilationSettings(**settings)

    def _low_precision(self) -> Optional[torch.dtype]:
        """Of two bytes, if it is wanted."""
        if self.enable_autocast:
            return self.autocast_low_precision_type or torch.float16
        return next((d for d in (torch.float16, torch.bfloat16) if d in self.enabled_precisions), None)

    def options(self, target: str) -> dict[str, Any]:
        """What kiln.compile takes."""
        low = self._low_precision()
        if torch.float8_e4m3fn in self.enabled_precisions:
            note("enabled_precisions", "this version has no fp8; it computes in the other precisions given")
        if torch.int8 in self.enabled_precisions and self.calibrator is None:
            note(
                "enabled_precisions",
                "int8 needs a calibrator of torch_tensorrt.ptq; without one it computes in the other precisions",
            )
        precision = "fp32"
        if low and not target.startswith("cuda"):
            note("enable_autocast" if self.enable_autocast else "enabled_precisions", "engines compute in fp32 on a CPU")
        elif low:
            kept = [_operator_word(op) for op in self.autocast_excluded_ops] if self.enable_autocast else []
            precision = ("fp16" if low is torch.float16 else "bf16") + (f":{','.join(kept)}" if kept else "")
        elif target != "cpu" and not self.disable_tf32:
            precision = "tf32"
        options = {
            "target": target,
            "precision": precision,
            "tune": self.tune_seconds,
            "cache": self.timing_cache_path,
            "threads": self.threads,
        }
        cache = cache_for(
            self.cache_built_engines,
            self.reuse_cached_engines,
            self.custom_engine_cache,
            self.engine_cache_dir,
            self.engine_cache_size,
        )
        return {**options, "engine_cache": cache} if cache else options

    def script_options(self, target: str) -> dict[str, Any]:
        """The same for a TorchScript module."""
        options = self.options(target)
        if options.pop("engine_cache", None):
            note("cache_built_engines", "engines of TorchScript modules are not kept")
        return options


_MISSING = object()


def _operator_word(op: Any) -> str:
    """ "softmax" of torch.ops.aten._softmax.default, "aten::softmax.int" and the like, as Kiln's precision patterns have it."""
    name = str((getattr(op, "_schema", None) and op._schema.name) or op)
    for prefix in ("torch.ops.", "aten.", "aten::"):
        name = name[len(prefix) :] if name.startswith(prefix) else name
    return name.rpartition("::")[2].partition(".")[0].strip("_")


_AUTOCAST = (
    "values are accumulated in fp32; enable_autocast, autocast_low_precision_type and autocast_excluded_ops choose the precision"
)
# Arguments of other functions of Torch-TensorRT, in dictionaries that users hand to all of them.
_ARGUMENTS = ("ir", "method_name", "output_format")
_OTHERS = {
    "use_explicit_typing": "a model computes in the types that it is written in, unless enabled_precisions or autocast say otherwise",
    "use_strong_typing": "a model computes in the types that it is written in, unless enabled_precisions or autocast say otherwise",
    "make_refitable": "every engine can be refitted",
    "runtime_cache_path": "compiled kernels are in engine files and in Kiln's cache folder",
    "dynamic_shapes_kernel_specialization_strategy": "kernels are compiled when an engine is built or first used at other shapes",
    "cuda_graph_strategy": "GPU engines run as CUDA graphs in any case",
    "num_min_timing_iters": "the tuner decides how often it measures",
    "max_batch_size": "the ranges of the inputs tell",
    "strict_types": "a model computes in the types that it is written in",
    "autocast_excluded_nodes": 'modules stay in fp32 by kiln.compile(precision="fp16:head*")',
    "autocast_max_output_threshold": _AUTOCAST,
    "autocast_max_depth_of_reduction": _AUTOCAST,
    "autocast_calibration_dataloader": _AUTOCAST,
    "target_platform": "engine files do not depend on the operating system",
    "use_fp32_acc": "products are accumulated in fp32",
    "debug": "see torch_tensorrt.logging",
    "refit": "every engine can be refitted",
    "make_refittable": "every engine can be refitted",
    "fallback_data_dependent_ops": "operators that Kiln lacks fall back by themselves",
    "use_distributed_mode_trace": "this version has no distributed engines",
    "disabled_constant_fold_exclusions": "constants are folded",
    "capability": "there is one kind of engine",
}
