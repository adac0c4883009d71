"""Levels of messages: ``with torch_tensorrt.logging.debug(): ...``. Kiln reports its stages from info on."""

from __future__ import annotations

import contextlib
import enum
import logging as python_logging
from collections.abc import Iterator
from typing import Any

__all__ = ["Level", "debug", "errors", "graphs", "info", "internal_errors", "set_level", "warnings"]

logger = python_logging.getLogger("kiln.torch_tensorrt")


class Level(enum.IntEnum):
    InternalError = python_logging.CRITICAL
    Error = python_logging.ERROR
    Warning = python_logging.WARNING
    Info = python_logging.INFO
    Debug = python_logging.DEBUG
    Graph = 5


def set_level(level: Any) -> None:
    logger.setLevel(int(level))


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
