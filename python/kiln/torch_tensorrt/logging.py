"""Levels of messages: ``with torch_tensorrt.logging.debug(): ...``. Kiln reports its stages from info on."""

from __future__ import annotations

import contextlib
import enum
import logging as python_logging
from collections.abc import Iterator
from typing import Any

from kiln import checks

__all__ = [
    "Level",
    "debug",
    "errors",
    "get_is_colored_output_on",
    "get_logging_prefix",
    "get_reportable_log_level",
    "graphs",
    "info",
    "internal_errors",
    "log",
    "set_is_colored_output_on",
    "set_level",
    "set_logging_prefix",
    "set_reportable_log_level",
    "warnings",
]

logger = python_logging.getLogger("kiln.torch_tensorrt")


class Level(enum.IntEnum):
    InternalError = python_logging.CRITICAL
    Error = python_logging.ERROR
    Warning = python_logging.WARNING
    Info = python_logging.INFO
    Debug = python_logging.DEBUG
    Graph = 5


def _number(level: Any) -> int:
    checks.check(
        "torch_tensorrt.logging", "level", level, checks.instance(int, "a level: a member of Level, or of Python's logging")
    )
    return int(level)


def set_level(level: Any) -> None:
    logger.setLevel(_number(level))


@contextlib.contextmanager
def _level(level: Level) -> Iterator[None]:
    before = logger.level
    logger.setLevel(int(level))
    try:
        yield
    finally:
        logger.setLevel(before)


def internal_errors() -> Any:
    return _level(Level.InternalError)


def errors() -> Any:
    return _level(Level.Error)


def warnings() -> Any:
    return _level(Level.Warning)


def info() -> Any:
    return _level(Level.Info)


def debug() -> Any:
    return _level(Level.Debug)


def graphs() -> Any:
    return _level(Level.Graph)


def progress(stage: str, fraction: float) -> None:
    """What kiln.compile calls with its stages."""
    logger.info("%3.0f %% %s", 100 * fraction, stage)


# ---- The C++ logger's interface -------------------------------------------------------------------------------------------

_state = {"prefix": "", "colored": False}


def get_reportable_log_level() -> Level:
    return min(Level, key=lambda level: abs(level - logger.getEffectiveLevel()))


def set_reportable_log_level(level: Any) -> None:
    set_level(level)


def get_logging_prefix() -> str:
    return str(_state["prefix"])


def set_logging_prefix(prefix: str) -> None:
    """A text in front of what :func:`log` writes."""
    checks.check("set_logging_prefix", "prefix", prefix, checks.TEXT)
    _state["prefix"] = prefix


def get_is_colored_output_on() -> bool:
    return bool(_state["colored"])


def set_is_colored_output_on(colored_output_on: bool) -> None:
    """Kept; Python's logging decides how lines look."""
    checks.check("set_is_colored_output_on", "colored_output_on", colored_output_on, checks.BOOL)
    _state["colored"] = colored_output_on


def log(level: Any, msg: str) -> None:
    logger.log(_number(level), "%s%s", _state["prefix"], msg)
