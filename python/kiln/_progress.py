"""``progress=True``: a line on standard error that tells what a build does."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, Callable, Optional, TextIO, Union

__all__ = ["Line", "Progress", "shown"]

Progress = Union[bool, Callable[[str, float], Any], None]


class Line:
    """On a terminal one line that changes; elsewhere (a notebook, a log) a line for each stage."""

    def __init__(self, stream: Optional[TextIO] = None) -> None:
        self.stream = stream or sys.stderr
        self.moves = self.stream.isatty()
        self.stage = self.text = ""

    def __call__(self, stage: str, fraction: float) -> None:
        text = f"{100 * fraction:3.0f} %  {stage}"
        if text == self.text or (not self.moves and stage == self.stage):
            return
        self.stage, self.text = stage, text
        self.stream.write(f"\r\033[K{text}" if self.moves else f"kiln: {text}\n")
        self.stream.flush()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *unused: object) -> None:
        if self.moves and self.text:
            self.stream.write("\r\033[K")
            self.stream.flush()


@contextlib.contextmanager
def shown(progress: Progress) -> Iterator[Optional[Callable[[str, float], Any]]]:
    """What to call: the caller's function, a :class:`Line` for True, None for none."""
    if isinstance(progress, bool):
        with Line() if progress else contextlib.nullcontext() as line:
            yield line
    else:
        yield progress
