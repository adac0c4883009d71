"""``runtime.TorchTensorRTModule``: an engine's bytes as an nn.Module."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any, Optional

import torch

import kiln
from kiln import checks
from kiln.torch_tensorrt._settings import CompilationSettings, note

__all__ = ["PythonTorchTensorRTModule", "TorchTensorRTModule"]

_RULES = {
    "serialized_engine": checks.optional(checks.instance((bytes, bytearray, memoryview), "the bytes of an engine file")),
    "input_binding_names": checks.optional(checks.NAMES),
    "output_binding_names": checks.optional(checks.NAMES),
    "name": checks.TEXT,
    "settings": checks.optional(checks.instance(CompilationSettings, "a CompilationSettings")),
    "requires_output_allocator": checks.BOOL,
    "requires_native_multidevice": checks.BOOL,
    "symbolic_shape_expressions": checks.optional(checks.MAPPING),
}
_FORMATS = ("perfetto", "trex")


class TorchTensorRTModule(torch.nn.Module):
    """Runs an engine: ``module(*tensors)`` gives its result, or a tuple of them.

    Args:
        serialized_engine: the bytes of an engine file; None: :meth:`load_state_dict` brings them.
        input_binding_names, output_binding_names: one for each tensor; default: the engine's own.
        name: for profiles.
        settings: kept; the engine is built already.
        requires_output_allocator, requires_native_multidevice, symbolic_shape_expressions, weight_name_map, aliased_io: accepted; the engine
            knows what it needs.
    """

    def __init__(
        self,
        serialized_engine: Optional[bytes] = None,
        input_binding_names: Optional[Sequence[str]] = None,
        output_binding_names: Optional[Sequence[str]] = None,
        *,
        name: str = "",
        settings: Optional[CompilationSettings] = None,
        weight_name_map: Any = None,
        requires_output_allocator: bool = False,
        requires_native_multidevice: bool = False,
        symbolic_shape_expressions: Any = None,
        aliased_io: Any = None,
    ) -> None:
        checks.check_all("TorchTensorRTModule", {k: v for k, v in locals().items() if k != "self"}, _RULES)
        super().__init__()
        self.name = name
        self.settings = settings or CompilationSettings()
        self.input_binding_names = list(input_binding_names) if input_binding_names is not None else None
        self.output_binding_names = list(output_binding_names) if output_binding_names is not None else None
        self.serialized_engine = bytes(serialized_engine) if serialized_engine is not None else None
        self._profile: Optional[tuple[str, str]] = None
        self.training = False
        object.__setattr__(self, "compiled", None)  # not a submodule: the bytes are the state
        if self.serialized_engine is not None:
            self.setup_engine()

    def setup_engine(self) -> None:
        """Opens the engine, if that has not happened."""
        if self.serialized_engine is None:
            raise kiln.KilnError("this TorchTensorRTModule has no engine yet: serialized_engine or load_state_dict() gives it one")
        if self.compiled is None:
            compiled = kiln.load(self.serialized_engine)
            for what, infos in (("input", compiled.inputs), ("output", compiled.outputs)):
                names = getattr(self, f"{what}_binding_names")
                if names is not None and len(names) != len(infos):
                    raise ValueError(
                        f"TorchTensorRTModule: {what}_binding_names has {len(names)} names, but the engine has {len(infos)} {what}s"
                    )
                if names is None:
                    setattr(self, f"{what}_binding_names", [info.name for info in infos])
            object.__setattr__(self, "compiled", compiled)

    @property
    def engine(self) -> Optional[kiln.Engine]:
        return self.compiled.engine if self.compiled is not None else None

    def forward(self, *inputs: Any) -> Any:
        self.setup_engine()
        with torch.no_grad():
            result = self.compiled(*inputs)
            if self._profile is not None:
                self._write_profile(inputs)
        return tuple(result) if isinstance(result, list) else result

    # ---- State ----

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "engine": bytearray(self.serialized_engine or b""),
            "input_binding_names": self.input_binding_names,
            "output_binding_names": self.output_binding_names,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.name = state["name"]
        self.input_binding_names, self.output_binding_names = state["input_binding_names"], state["output_binding_names"]
        self.serialized_engine = bytes(state["engine"]) or None
        object.__setattr__(self, "compiled", None)
        if self.serialized_engine is not None:
            self.setup_engine()

    # ---- Profiles and facts ----

    def enable_profiling(self, profiling_results_dir: Optional[str] = None, profile_format: str = "perfetto") -> None:
        """Each call writes the times of the engine's steps to ``<name>_execution_trace.json`` in a folder (default: the current one).

        ``profile_format``: "perfetto" for chrome://tracing and ui.perfetto.dev; "trex" for a list of steps.
        """
        checks.check("enable_profiling", "profiling_results_dir", profiling_results_dir, checks.optional(checks.PATH))
        checks.check("enable_profiling", "profile_format", profile_format, checks.one_of(*_FORMATS))
        self._profile = (os.fspath(profiling_results_dir or "."), profile_format)

    def disable_profiling(self) -> None:
        self._profile = None

    def _write_profile(self, inputs: Sequence[Any]) -> None:
        assert self._profile is not None
        folder, form = self._profile
        steps, events, at = self.compiled.profile(*inputs, runs=1), [], 0.0
        for step in steps:
            events.append({"name": step["name"], "ph": "X", "ts": at, "dur": 1e6 * step["seconds"], "pid": 0, "tid": 0})
            at += 1e6 * step["seconds"]
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, f"{self.name or 'engine'}_execution_trace.json"), "w") as file:
            json.dump({"traceEvents": events} if form == "perfetto" else steps, file)

    def get_layer_info(self) -> str:
        """The engine's plan, as JSON: {"Layers": [lines]}."""
        self.setup_engine()
        return json.dumps({"Layers": self.compiled.engine.report("plan").splitlines(), "Bindings": self._names()}, indent=1)

    def dump_layer_info(self) -> None:
        print(self.get_layer_info())

    def _names(self) -> list[str]:
        return [*(self.input_binding_names or []), *(self.output_binding_names or [])]

    @property
    def total_device_memory_budget(self) -> int:
        """Bytes of the weights."""
        self.setup_engine()
        return int(self.compiled.memory()["weights"])

    @property
    def device_memory_budget(self) -> int:
        return self.total_device_memory_budget

    @device_memory_budget.setter
    def device_memory_budget(self, budget_bytes: int) -> None:
        checks.check("TorchTensorRTModule", "device_memory_budget", budget_bytes, checks.count())
        note("device_memory_budget", "weights are mapped from the file on a CPU, and resident on a GPU")

    def get_automatic_device_memory_budget(self) -> int:
        return self.total_device_memory_budget

    # ---- Switches that engines do not have ----

    def _accept(self, name: str, enable: bool, why: str) -> None:
        checks.check("TorchTensorRTModule", name, enable, checks.BOOL)
        if enable:
            note(name, why)

    def set_pre_allocated_outputs(self, enable: bool) -> None:
        self._accept("set_pre_allocated_outputs", enable, "results come from PyTorch's allocator, which reuses memory")

    def set_use_output_allocator(self, enable: bool) -> None:
        self._accept("set_use_output_allocator", enable, "results are allocated once their shapes are known")

    def set_output_tensors_as_unowned(self, enable: bool) -> None:
        self._accept("set_output_tensors_as_unowned", enable, "results are tensors of PyTorch's")

    def are_output_tensors_unowned(self) -> bool:
        return False

    def use_dynamically_allocated_resources(self, enable: bool) -> None:
        self._accept("use_dynamically_allocated_resources", enable, "a context owns one arena")


class PythonTorchTensorRTModule(TorchTensorRTModule):
    """The same: there is one runtime."""
