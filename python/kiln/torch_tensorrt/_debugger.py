"""``with dynamo.Debugger(logging_dir=folder, save_layer_info=True):`` compilations inside write what they do into a folder."""

from __future__ import annotations

import contextlib
import logging as python_logging
import os
import tempfile
from collections.abc import Sequence
from typing import Any, Optional

import torch

from kiln import checks
from kiln.torch_tensorrt import logging

__all__ = ["Debugger", "current"]

_LEVELS = {
    "internal_errors": logging.Level.InternalError,
    "errors": logging.Level.Error,
    "warnings": logging.Level.Warning,
    "info": logging.Level.Info,
    "debug": logging.Level.Debug,
    "graphs": logging.Level.Graph,
}
_FORMATS = ("perfetto", "trex", "cudagraph")
_RULES = {
    "log_level": checks.one_of(*_LEVELS),
    "capture_fx_graph_before": checks.optional(checks.NAMES),
    "capture_fx_graph_after": checks.optional(checks.NAMES),
    "save_engine_profile": checks.BOOL,
    "capture_tensorrt_api_recording": checks.BOOL,
    "profile_format": checks.one_of(*_FORMATS),
    "engine_builder_monitor": checks.BOOL,
    "logging_dir": checks.optional(checks.PATH),
    "save_layer_info": checks.BOOL,
}
_open: list[Debugger] = []


def current() -> Optional[Debugger]:
    return _open[-1] if _open else None


class Debugger:
    """A context manager.

    Args:
        log_level: "internal_errors", "errors", "warnings", "info", "debug" or "graphs", for the time that it is open.
        capture_fx_graph_before, capture_fx_graph_after: names of users' lowering passes; the graph before or after each is written to
            ``<pass>_before.txt`` and ``<pass>_after.txt``. "all" stands for all of them.
        save_engine_profile: the memory plan and which kernels were refused are written, too.
        capture_tensorrt_api_recording: accepted; there is no TensorRT to record.
        profile_format: accepted; ``TorchTensorRTModule.enable_profiling`` chooses a format.
        engine_builder_monitor: stages of builds are logged.
        logging_dir: a folder; default: a new one among the temporary files, which ``logging_dir`` tells.
        save_layer_info: the engine's graph and plan are written to ``engine_layer_info.txt``.
    """

    def __init__(
        self,
        log_level: str = "debug",
        capture_fx_graph_before: Optional[Sequence[str]] = None,
        capture_fx_graph_after: Optional[Sequence[str]] = None,
        save_engine_profile: bool = False,
        capture_tensorrt_api_recording: bool = False,
        profile_format: str = "perfetto",
        engine_builder_monitor: bool = True,
        logging_dir: Any = None,
        save_layer_info: bool = False,
    ) -> None:
        checks.check_all("Debugger", {k: v for k, v in locals().items() if k != "self"}, _RULES)
        self.log_level = log_level if engine_builder_monitor or log_level not in ("info", "debug", "graphs") else "warnings"
        self.before, self.after = set(capture_fx_graph_before or ()), set(capture_fx_graph_after or ())
        self.save_engine_profile, self.save_layer_info = save_engine_profile, save_layer_info
        self.logging_dir = os.fspath(logging_dir) if logging_dir is not None else ""
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Debugger:
        if not self.logging_dir:
            self.logging_dir = tempfile.mkdtemp(prefix="kiln_debug_")
        os.makedirs(self.logging_dir, exist_ok=True)
        handler = python_logging.FileHandler(os.path.join(self.logging_dir, "torch_tensorrt_logging.log"))
        logging.logger.addHandler(handler)
        self._stack.callback(handler.close)
        self._stack.callback(logging.logger.removeHandler, handler)
        self._stack.enter_context(logging._level(_LEVELS[self.log_level]))
        _open.append(self)
        return self

    def __exit__(self, *_: Any) -> None:
        _open.remove(self)
        self._stack.close()

    def _write(self, name: str, text: str) -> None:
        with open(os.path.join(self.logging_dir, name), "w") as file:
            file.write(text + "\n")

    def graph(self, name: str, module: torch.fx.GraphModule, after: bool) -> None:
        """A lowering pass is about to run, or has run."""
        wanted = self.after if after else self.before
        if name in wanted or "all" in wanted:
            self._write(f"{name}_{'after' if after else 'before'}.txt", str(module.graph))

    def engine(self, compiled: Any) -> None:
        """A module was compiled."""
        engines = [m.engine for m in compiled.modules() if hasattr(m, "engine") and hasattr(m.engine, "report")]
        parts = [*(["graph", "plan"] if self.save_layer_info else []), *(["memory", "why"] if self.save_engine_profile else [])]
        if parts and engines:
            self._write("engine_layer_info.txt", "\n".join(engine.report(part) for engine in engines for part in parts))
