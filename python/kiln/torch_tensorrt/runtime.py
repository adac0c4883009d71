"""Context managers around compiled modules, and a module that compiles again when its weights change."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import platform
from collections.abc import Iterator, Mapping
from typing import Any, Optional, Union

import torch

import kiln
from kiln import checks
from kiln.torch_tensorrt._engine_module import PythonTorchTensorRTModule, TorchTensorRTModule
from kiln.torch_tensorrt._refit import refit_with
from kiln.torch_tensorrt._settings import CompilationSettings, note

__all__ = [
    "MutableTorchTensorRTModule",
    "PythonTorchTensorRTModule",
    "RuntimeCache",
    "RuntimeSettings",
    "TorchTensorRTModule",
    "enable_cudagraphs",
    "enable_output_allocator",
    "enable_pre_allocated_outputs",
    "get_cudagraphs_mode",
    "get_whole_cudagraphs_mode",
    "optimization_profile",
    "runtime_cache",
    "runtime_config",
    "set_active_profile_index",
    "set_cudagraphs_mode",
    "set_dynamic_shapes_kernel_strategy",
    "set_multi_device_safe_mode",
    "weight_streaming",
]

_mode = {"cudagraphs": False}


@contextlib.contextmanager
def _unchanged(module: Any) -> Iterator[Any]:
    yield module


class _PreAllocated(contextlib.AbstractContextManager[Any]):
    def __init__(self, module: Any) -> None:
        self.module = module

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: Any) -> None:
        pass

    def set_pre_allocated_output(self, enable: bool) -> None:
        checks.check("set_pre_allocated_output", "enable", enable, checks.BOOL)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.module(*args, **kwargs)


def _check_module(where: str, module: Any) -> None:
    checks.check(where, "module", module, checks.instance(torch.nn.Module, "a compiled module"))


def enable_cudagraphs(module: Any, cuda_graph_strategy: Any = None) -> Any:
    """``with enable_cudagraphs(module) as fast:``; GPU engines run as CUDA graphs in any case."""
    _check_module("enable_cudagraphs", module)
    return _unchanged(module)


def enable_pre_allocated_outputs(module: Any) -> Any:
    """Results come from PyTorch's allocator, which reuses memory."""
    _check_module("enable_pre_allocated_outputs", module)
    return _PreAllocated(module)


def enable_output_allocator(module: Any) -> Any:
    """Results are allocated once their shapes are known."""
    _check_module("enable_output_allocator", module)
    return _unchanged(module)


class _Streaming:
    def __init__(self, module: Any) -> None:
        self.module = module
        self.total_device_budget = sum(engine.memory()["weights"] for engine in _engines(module))
        self._device_budget = self.total_device_budget

    @property
    def device_budget(self) -> int:
        return self._device_budget

    @device_budget.setter
    def device_budget(self, budget: int) -> None:
        checks.check("weight_streaming", "device_budget", budget, checks.count())
        note("device_budget", "weights are mapped from the file on a CPU, and resident on a GPU")
        self._device_budget = min(budget, self.total_device_budget)

    def get_automatic_weight_streaming_budget(self) -> int:
        return self.total_device_budget


@contextlib.contextmanager
def weight_streaming(module: Any) -> Iterator[_Streaming]:
    """Weights of an engine are mapped and paged in as needed on a CPU, and resident on a GPU; budgets are kept but not used."""
    _check_module("weight_streaming", module)
    yield _Streaming(module)


_PROFILE = checks.optional(
    checks.Rule(lambda value: value == "auto" or checks.count().holds(value), 'a profile\'s number, or "auto"', (int, str))
)


def _engines(module: Any) -> list[kiln.CompiledModule]:
    return [m for m in module.modules() if isinstance(m, kiln.CompiledModule)] if isinstance(module, torch.nn.Module) else []


def set_active_profile_index(module: Any, index: Any = None) -> None:
    """The engines of ``module`` take optimization profile ``index`` from now on; None or "auto": each call takes the one that contains its
    sizes (of several the one whose opt sizes are nearest). Compiled TorchScript modules always do the latter."""
    checks.check("set_active_profile_index", "index", index, _PROFILE)
    _select(module, index)


def _select(module: Any, index: Any) -> None:
    number = None if index in (None, "auto") else int(index)
    engines = _engines(module)
    for engine in engines:
        count = len(engine.optimization_profiles)
        if number is not None and number >= count:
            raise ValueError(f"optimization profile {number}: the engine has {count}, counted from 0")
    for engine in engines:
        engine.set_active_profile_index(number)


def optimization_profile(module: Any, profile: Any = None) -> Any:
    """``with optimization_profile(module, 1) as chosen:``; calls inside take that profile and refuse sizes outside of it. "auto" and None:
    each call takes the profile that contains its sizes."""
    checks.check("optimization_profile", "profile", profile, _PROFILE)
    return _with_profile(module, profile)


@contextlib.contextmanager
def _with_profile(module: Any, profile: Any) -> Iterator[Any]:
    before = [(engine, engine.active_profile_index) for engine in _engines(module)]
    _select(module, profile)
    try:
        yield module
    finally:
        for engine, index in before:
            engine.set_active_profile_index(index)


def set_cudagraphs_mode(mode: bool) -> None:
    """GPU engines run as CUDA graphs in any case; :func:`get_cudagraphs_mode` tells what was set."""
    checks.check("set_cudagraphs_mode", "mode", mode, checks.BOOL)
    _mode["cudagraphs"] = bool(mode)


def get_cudagraphs_mode() -> bool:
    return _mode["cudagraphs"]


def get_whole_cudagraphs_mode() -> bool:
    return _mode["cudagraphs"]


def set_multi_device_safe_mode(mode: bool) -> Any:
    """Calls run on the device of their engine in any case."""
    checks.check("set_multi_device_safe_mode", "mode", mode, checks.BOOL)
    return contextlib.nullcontext()


# ---- Of the TensorRT-RTX variant: engines here neither compile at run time nor keep what they compiled -----------------------

_STRATEGIES = ("lazy", "eager", "none")
_RTX = "kernels are compiled when an engine is built or first used at other shapes, and kept in Kiln's own cache"


def set_dynamic_shapes_kernel_strategy(strategy: str = "lazy") -> None:
    checks.check("set_dynamic_shapes_kernel_strategy", "strategy", strategy, checks.one_of(*_STRATEGIES))
    note("set_dynamic_shapes_kernel_strategy", _RTX)


@dataclasses.dataclass(frozen=True)
class RuntimeSettings:
    """Accepted: see :func:`set_dynamic_shapes_kernel_strategy`; GPU engines run as CUDA graphs in any case."""

    dynamic_shapes_kernel_specialization_strategy: str = "lazy"
    cuda_graph_strategy: str = "disabled"
    runtime_cache: Any = None

    def __post_init__(self) -> None:
        for name, rule in (
            ("dynamic_shapes_kernel_specialization_strategy", checks.one_of(*_STRATEGIES)),
            ("cuda_graph_strategy", checks.one_of("disabled", "whole_graph_capture")),
        ):
            checks.check("RuntimeSettings", name, getattr(self, name), rule)

    def merge(self, **changes: Any) -> RuntimeSettings:
        """The same with some values changed."""
        return dataclasses.replace(self, **changes)


@contextlib.contextmanager
def runtime_config(module: Any, settings: Optional[RuntimeSettings] = None, **changes: Any) -> Iterator[Any]:
    _check_module("runtime_config", module)
    rule = checks.optional(checks.instance(RuntimeSettings, "a RuntimeSettings"))
    checks.check("runtime_config", "settings", settings, rule)
    (settings or RuntimeSettings()).merge(**changes)  # wrong ones are refused
    note("runtime_config", _RTX)
    yield module


class RuntimeCache:
    """Accepted: compiled kernels are in Kiln's cache folder (``KILN_CACHE_DIR``), and engine files bring theirs."""

    def __init__(self, path: Union[str, os.PathLike[str], None] = None) -> None:
        checks.check("RuntimeCache", "path", path, checks.optional(checks.PATH))
        self.path = path


@contextlib.contextmanager
def runtime_cache(module: Any, cache: Any = None) -> Iterator[Any]:
    _check_module("runtime_cache", module)
    note("runtime_cache", _RTX)
    yield module


def get_build_info() -> str:
    return f"Kiln {kiln.__version__}, PyTorch {torch.__version__}, {platform.machine()}"


def dump_build_info() -> None:
    print(get_build_info())


def set_device(gpu_id: int) -> None:
    checks.check("set_device", "gpu_id", gpu_id, checks.count())
    torch.cuda.set_device(gpu_id)


_MUTABLE_RULES = {
    "pytorch_model": checks.instance(torch.nn.Module, "a torch.nn.Module"),
    "use_python_runtime": checks.BOOL,
    "immutable_weights": checks.BOOL,
    "strict": checks.BOOL,
    "prefer_deferred_runtime_asserts_over_guards": checks.BOOL,
    "weight_streaming_budget": checks.optional(checks.count()),
}


_MUTABLE_OWN = {"original_model", "settings", "training", "_compiled", "_state", "_checked", "_ranges", "_touched"}


class MutableTorchTensorRTModule(torch.nn.Module):
    """Keeps the original module and compiles it at the first call. When its weights have changed, the next call refits the engines;
    when more has, it compiles again.

    Args:
        pytorch_model: in eval mode.
        device, immutable_weights: of ``torch_tensorrt.compile``; every engine can be refitted.
        strict, prefer_deferred_runtime_asserts_over_guards: accepted; models are captured without strict mode.
        weight_streaming_budget: accepted; weights are mapped from the file on a CPU, and resident on a GPU.
        settings: of ``torch_tensorrt.compile``.
    """

    def __init__(
        self,
        pytorch_model: torch.nn.Module,
        *,
        device: Any = None,
        use_python_runtime: bool = False,
        immutable_weights: bool = False,
        strict: bool = True,
        prefer_deferred_runtime_asserts_over_guards: bool = False,
        weight_streaming_budget: Optional[int] = None,
        **settings: Any,
    ) -> None:
        checks.check_all("MutableTorchTensorRTModule", locals(), _MUTABLE_RULES)
        if immutable_weights:
            raise ValueError("MutableTorchTensorRTModule: immutable_weights must be False: its engines take other weights")
        if weight_streaming_budget is not None:
            note("weight_streaming_budget", "weights are mapped from the file on a CPU, and resident on a GPU")
        if device is not None:
            settings["device"] = device
        CompilationSettings(**settings)  # wrong ones are refused now, not at the first call
        super().__init__()
        self.original_model = pytorch_model
        self.settings = settings
        self._compiled: Optional[torch.nn.Module] = None
        self._state: Any = None
        self._checked: Any = None
        self._ranges: Optional[tuple[Any, Mapping[str, Any]]] = None
        self.training = False

    def set_expected_dynamic_shape_range(
        self, args_dynamic_shape: Any, kwargs_dynamic_shape: Optional[Mapping[str, Any]] = None
    ) -> None:
        """Shapes as torch.export's ``dynamic_shapes``: a tuple for the positional arguments, a dict for the others."""
        self._ranges = (args_dynamic_shape, kwargs_dynamic_shape or {})
        self._compiled = None

    def __getattr__(self, name: str) -> Any:
        """What the module itself lacks is the original's: ``module.config``, say."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            original = self.__dict__.get("_modules", {}).get("original_model")
            if original is None or name.startswith("__"):
                raise
            self.__dict__["_touched"] = True  # whoever has a part may write to it in ways that PyTorch does not count
            return getattr(original, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """What the original has is set there: ``module.head = torch.nn.Linear(8, 2)``."""
        original = self.__dict__.get("_modules", {}).get("original_model")
        if original is not None and name not in _MUTABLE_OWN and hasattr(original, name):
            setattr(original, name, value)
        else:
            super().__setattr__(name, value)

    def _sums(self) -> list[Any]:
        """Changes where a weight does, also by ``weight.data``."""
        tensors = self.original_model.state_dict().values()
        return [t.double().sum().item() if not t.is_complex() else t.abs().double().sum().item() for t in tensors]

    def _fingerprint(self) -> Any:
        """What a refit can bring up to date, and what it cannot."""
        state = self.original_model.state_dict(keep_vars=True)
        others = [(name, tensor) for name, tensor in self.original_model.named_buffers() if name not in state]
        weights = [(name, id(tensor), tensor._version, tensor.data_ptr()) for name, tensor in state.items()]
        kinds = [(name, tensor.shape, tensor.dtype, tensor.device) for name, tensor in state.items()]
        return weights, (kinds, [(name, id(tensor), tensor._version) for name, tensor in others])

    def _update(self) -> bool:
        """Whether the compiled module has the original's weights, now if not before."""
        if self._compiled is None:
            return False
        now = self._fingerprint()
        touched, self.__dict__["_touched"] = self.__dict__.get("_touched", False), False
        if now == self._state and not (touched and self._sums() != self._checked):
            return True
        if now[1] != self._state[1] or self.settings.get("calibrator") is not None:  # int8 rounds weights, a refit does not
            return False
        try:
            refit_with(self._compiled, self.original_model.state_dict())
        except kiln.KilnError:
            return False
        self._state, self._checked = now, self._sums()
        return True

    def compile(self, *args: Any, **kwargs: Any) -> None:  # type: ignore[override]
        """Compiles for these example arguments."""
        from kiln.torch_tensorrt import dynamo
        from kiln.torch_tensorrt._settings import CompilationSettings

        shapes: Any = None
        if self._ranges is not None:
            import inspect

            names = list(inspect.signature(self.original_model.forward).parameters)
            shapes = {**dict(zip(names, self._ranges[0])), **self._ranges[1]}
        program = dynamo.trace(self.original_model, arg_inputs=args, kwarg_inputs=kwargs, dynamic_shapes=shapes)
        self._compiled = dynamo.compile_program(program, [], CompilationSettings.of(**self.settings))
        self._state, self._checked = self._fingerprint(), self._sums()
        self.__dict__["_touched"] = False

    def refit_gm(self) -> None:
        """Takes the new weights in now; the next call would do it too."""
        if not self._update():
            self._compiled = None

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return self.original_model.load_state_dict(state_dict, strict=strict, assign=assign)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not self._update():
            self.compile(*args, **kwargs)
        assert self._compiled is not None
        try:
            return self._compiled(*args, **kwargs)
        except kiln.KilnError as error:
            if error.status not in ("KILN_INVALID_ARGUMENT", "KILN_SHAPE_MISMATCH"):
                raise
            self.compile(*args, **kwargs)  # other shapes than before
            return self._compiled(*args, **kwargs)

    @staticmethod
    def save(module: MutableTorchTensorRTModule, path: Union[str, os.PathLike[str]]) -> None:
        """Saves the original module and the settings; the file is a pickle: load only what you trust."""
        torch.save({"model": module.original_model, "settings": module.settings, "ranges": module._ranges}, path)

    @staticmethod
    def load(path: Union[str, os.PathLike[str]]) -> MutableTorchTensorRTModule:
        state = torch.load(path, weights_only=False)
        module = MutableTorchTensorRTModule(state["model"], **state["settings"])
        module._ranges = state["ranges"]
        return module
