"""``torch_tensorrt.fx``: its compile goes by torch.export, as all others do."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import torch

from kiln import checks
from kiln.torch_tensorrt import dynamo
from kiln.torch_tensorrt._engine_module import TorchTensorRTModule as TRTModule
from kiln.torch_tensorrt._input import Input
from kiln.torch_tensorrt._settings import note

__all__ = ["InputTensorSpec", "LowerPrecision", "TRTModule", "compile", "settings_of"]


class LowerPrecision(enum.Enum):
    FP32 = torch.float32
    FP16 = torch.float16
    BF16 = torch.bfloat16
    INT8 = torch.int8


class InputTensorSpec:
    """One input: its sizes (-1 for those that ``shape_ranges`` gives as (min, opt, max)) and its type."""

    def __init__(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        device: Any = None,
        shape_ranges: Sequence[Sequence[Sequence[int]]] = (),
        has_batch_dim: bool = True,
    ) -> None:
        checks.check("InputTensorSpec", "shape", shape, checks.shape(wild=True))
        checks.check("InputTensorSpec", "dtype", dtype, checks.instance(torch.dtype, "a torch.dtype"))
        self.shape, self.dtype, self.device = tuple(shape), dtype, device
        self.shape_ranges, self.has_batch_dim = list(shape_ranges), has_batch_dim

    @classmethod
    def from_tensor(cls, tensor: torch.Tensor) -> InputTensorSpec:
        return cls(tensor.shape, tensor.dtype, tensor.device)

    @classmethod
    def from_tensors(cls, tensors: Sequence[torch.Tensor]) -> list[InputTensorSpec]:
        return [cls.from_tensor(tensor) for tensor in tensors]

    def to_input(self) -> Input:
        if -1 not in self.shape:
            return Input(self.shape, dtype=self.dtype)
        profiles = [dict(zip(("min_shape", "opt_shape", "max_shape"), shapes)) for shapes in self.shape_ranges]
        return Input(profiles=profiles, dtype=self.dtype)


_WHY = {
    "max_batch_size": "sizes vary as the inputs say",
    "max_workspace_size": "Kiln plans all memory at build time",
    "explicit_batch_dimension": "the batch is a dimension like others",
    "timing_cache_prefix": "see timing_cache_path",
    "save_timing_cache": "see timing_cache_path",
    "cuda_graph_batch_size": "GPU engines run as CUDA graphs in any case",
    "dynamic_batch": "sizes vary as the inputs say",
    "is_aten": "models are captured by torch.export",
    "use_experimental_rt": "there is one runtime",
    "correctness_atol": "see kiln.accuracy",
    "correctness_rtol": "see kiln.accuracy",
    "verbose_log": "see torch_tensorrt.logging",
}
_RULES = {
    "min_acc_module_size": checks.count(1),
    "max_batch_size": checks.count(1),
    "max_workspace_size": checks.count(),
    "timing_cache_prefix": checks.TEXT,
    "cuda_graph_batch_size": checks.count(-1),
    "lower_precision": checks.one_of(LowerPrecision, torch.float32, torch.float16, torch.bfloat16, "fp32", "fp16", "bf16", "int8"),
    "correctness_atol": checks.instance((int, float), "a number"),
    "correctness_rtol": checks.instance((int, float), "a number"),
    **dict.fromkeys(
        ("explicit_batch_dimension", "save_timing_cache", "dynamic_batch", "is_aten", "use_experimental_rt", "verbose_log"),
        checks.BOOL,
    ),
}


def settings_of(**given: Any) -> dict[str, Any]:
    """The other settings for those of the fx frontend."""
    checks.check_all("torch_tensorrt.fx", given, _RULES)
    result = {name: value for name, value in given.items() if name not in _RULES}
    for name, why in _WHY.items():
        if name in given:
            note(name, why)
    if "min_acc_module_size" in given:
        result["min_block_size"] = given["min_acc_module_size"]
    if "lower_precision" in given:
        low = given["lower_precision"]
        kind = LowerPrecision[low.upper()].value if isinstance(low, str) else getattr(low, "value", low)
        result["enabled_precisions"] = {torch.float32, kind}
    return result


def compile(module: torch.nn.Module, input: Sequence[Any], **settings: Any) -> torch.nn.Module:
    """Compiles a module for example inputs (tensors, Inputs or InputTensorSpecs)."""
    checks.check("torch_tensorrt.fx.compile", "module", module, checks.instance(torch.nn.Module, "a torch.nn.Module"))
    checks.check("torch_tensorrt.fx.compile", "input", input, checks.instance((list, tuple), "a list of inputs"))
    inputs = [item.to_input() if isinstance(item, InputTensorSpec) else item for item in input]
    program = dynamo.trace(module, inputs)
    return dynamo.compile(program, inputs, **settings_of(**settings))
