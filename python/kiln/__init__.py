"""Kiln: a compiler and runtime for PyTorch models.

    import kiln
    fast = kiln.compile(model.eval(), inputs=[x])      # an nn.Module that computes the same, faster
    kiln.save(fast, "model.kiln")
    fast = kiln.load("model.kiln")

Everything heavy lives in the C library; this package captures models with torch.export and hands tensors over without
copying. ``import kiln`` works without PyTorch: :class:`kiln.Engine` then runs saved engines on NumPy arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kiln import _torch_hook
from kiln._kiln import KilnError, __version__
from kiln.engine import Engine, TensorInfo, model_report, ops_report
from kiln.extend import load_plugin, register_cuda_kernel, register_decomposition, register_rule, remove_rule
from kiln.inputs import Input
from kiln.paths import include_dir, library_path
from kiln.weights import WeightInfo

if TYPE_CHECKING:
    from kiln.accuracy import AccuracyReport, OutputAccuracy, accuracy
    from kiln.compiler import compile, unsupported_ops
    from kiln.engine_cache import DiskEngineCache, EngineCache
    from kiln.module import CompiledModule, load, save
    from kiln.script import embed_engine, engine_bytes, refit, reset

__all__ = [
    "AccuracyReport",
    "CompiledModule",
    "DiskEngineCache",
    "Engine",
    "EngineCache",
    "Input",
    "KilnError",
    "OutputAccuracy",
    "TensorInfo",
    "WeightInfo",
    "__version__",
    "accuracy",
    "compile",
    "embed_engine",
    "engine_bytes",
    "include_dir",
    "library_path",
    "load",
    "load_plugin",
    "model_report",
    "ops_report",
    "refit",
    "register_cuda_kernel",
    "register_decomposition",
    "register_rule",
    "remove_rule",
    "reset",
    "save",
    "unsupported_ops",
]

# What needs PyTorch is imported at first use.
_LAZY = {
    "accuracy": "kiln.accuracy",
    "AccuracyReport": "kiln.accuracy",
    "OutputAccuracy": "kiln.accuracy",
    "compile": "kiln.compiler",
    "CompiledModule": "kiln.module",
    "DiskEngineCache": "kiln.engine_cache",
    "EngineCache": "kiln.engine_cache",
    "load": "kiln.module",
    "save": "kiln.module",
    "embed_engine": "kiln.script",
    "engine_bytes": "kiln.script",
    "refit": "kiln.script",
    "reset": "kiln.script",
    "unsupported_ops": "kiln.compiler",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'kiln' has no attribute '{name}'")
    import importlib

    try:
        value = getattr(importlib.import_module(_LAZY[name]), name)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise KilnError(f"kiln.{name} needs PyTorch: pip install 'torch>=2.11'") from error
    globals()[name] = value
    return value


# Saved ScriptModules need the operators as soon as PyTorch is there, whichever is imported first.
_torch_hook.install()


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
