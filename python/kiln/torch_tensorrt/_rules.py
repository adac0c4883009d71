"""What each setting of Torch-TensorRT may be, also those that need not be set here: wrong values are refused in any case."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from kiln import checks
from kiln.checks import BOOL, CALLABLE, PATH, SECONDS, count, one_of, optional
from kiln.torch_tensorrt._enums import Device, EngineCapability, Platform, dtype, to_torch_dtype
from kiln.torch_tensorrt.ptq import _Calibrator

__all__ = ["RULES", "is_precision"]

_DEVICE_WORDS = 'a torch_tensorrt.Device, a torch.device, a text such as "cuda:0" or "cpu", or a dictionary of Device\'s arguments'
_PRECISIONS = (
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.int8,
    torch.float8_e4m3fn,
    torch.float64,
    torch.int32,
    torch.int64,
)


def is_precision(value: Any) -> bool:
    return to_torch_dtype(value) in _PRECISIONS


def _all(value: Any, holds: Any) -> bool:
    return isinstance(value, Iterable) and not isinstance(value, (str, bytes, Mapping)) and all(map(holds, value))


def _is_operator(value: Any) -> bool:
    return isinstance(value, str) or callable(value)


_OPERATORS = checks.Rule(
    lambda value: not value or _all(value, _is_operator),  # {} for none
    'a list or set of operators: OpOverloads, or texts such as "aten::add"',
    (list, set, tuple),
)
_MODULES = checks.Rule(
    lambda value: not value or _all(value, lambda item: isinstance(item, (str, type))),
    "a list or set of paths or class names of modules",
    (list, set, tuple),
)
_CAPABILITY = one_of(EngineCapability, "standard", "safety", "dla_standalone")
_BYTES = count()
_FLOAT_OR_NONE = optional(
    checks.Rule(
        lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0,
        "a number above 0",
        (int, float),
    )
)

RULES: dict[str, checks.Rule] = {
    "device": optional(checks.instance((Device, torch.device, str, dict), _DEVICE_WORDS)),
    "enabled_precisions": checks.Rule(
        lambda value: value is None or _all(value, is_precision),
        "a set of data types: torch.float32, torch.float16, torch.bfloat16, torch.int8 (or torch_tensorrt.dtype)",
        (set, list, tuple, frozenset),
    ),
    "min_block_size": count(),
    "torch_executed_ops": _OPERATORS,
    "torch_executed_modules": _MODULES,
    "require_full_compilation": BOOL,
    "pass_through_build_failures": BOOL,
    "disable_tf32": BOOL,
    "dryrun": checks.Rule(lambda value: isinstance(value, (bool, str)), "True, False or the path of a report"),
    "tune_seconds": SECONDS,
    "timing_cache_path": optional(PATH),
    "threads": optional(count(0, 1024)),
    "calibrator": optional(checks.instance(_Calibrator, "a calibrator of torch_tensorrt.ptq")),
    "workspace_size": _BYTES,
    "max_aux_streams": optional(count()),
    "dla_sram_size": _BYTES,
    "dla_local_dram_size": _BYTES,
    "dla_global_dram_size": _BYTES,
    "sparse_weights": BOOL,
    "version_compatible": BOOL,
    "hardware_compatible": BOOL,
    "engine_capability": _CAPABILITY,
    "capability": _CAPABILITY,
    "optimization_level": optional(count(0, 5)),
    "num_avg_timing_iters": count(1),
    "tiling_optimization_level": one_of("none", "fast", "moderate", "full"),
    "l2_limit_for_tiling": count(-1),
    "cpu_memory_budget": optional(count(1)),
    "autocast_low_precision_type": optional(checks.Rule(is_precision, "a data type, such as torch.float16", (torch.dtype, dtype))),
    "autocast_excluded_nodes": checks.Rule(
        lambda value: _all(value, lambda item: isinstance(item, str)), "a set of regular expressions", (set, list, tuple)
    ),
    "autocast_excluded_ops": _OPERATORS,
    "autocast_max_output_threshold": _FLOAT_OR_NONE,
    "autocast_max_depth_of_reduction": optional(count(1)),
    "autocast_calibration_dataloader": optional(checks.Rule(lambda value: hasattr(value, "__iter__"), "iterable")),
    "engine_cache_dir": optional(PATH),
    "engine_cache_size": count(),
    "target_platform": optional(one_of(Platform)),
    "custom_engine_cache": optional(checks.anything("an engine cache")),
    "progress": optional(CALLABLE),
}
for _name in (
    "use_fast_partitioner assume_dynamic_shape_support enable_experimental_decompositions use_complex_decomposition decompose_attention "
    "attn_bias_is_causal immutable_weights strip_engine_weights refit_identical_engine_weights enable_weight_streaming lazy_engine_init "
    "offload_module_to_cpu enable_resource_partitioning dynamically_allocate_resources truncate_double truncate_long_and_double "
    "allow_shape_tensors enable_cross_compile_for_windows use_fp32_acc enable_autocast debug refit "
    "make_refittable make_refitable use_explicit_typing use_strong_typing strict_types cache_built_engines reuse_cached_engines fallback_data_dependent_ops use_distributed_mode_trace"
).split():
    RULES[_name] = BOOL
RULES["runtime_cache_path"] = optional(PATH)
RULES["num_min_timing_iters"] = RULES["max_batch_size"] = count(0)
RULES["dynamic_shapes_kernel_specialization_strategy"] = one_of("lazy", "eager", "none")
RULES["cuda_graph_strategy"] = one_of("disabled", "whole_graph_capture")
RULES["use_python_runtime"] = optional(BOOL)
RULES["disabled_constant_fold_exclusions"] = _OPERATORS
