"""``torch2trt.version_utils``: versions that compare with texts by their numbers."""

from __future__ import annotations

import re

import torch

from kiln.torch2trt import trt

__all__ = ["Version", "torch_version", "trt_version"]


class Version(str):
    """A version as a text that orders by its numbers: ``Version("10.0") >= "7.0"``. What follows the numbers does not count."""

    @property
    def release(self) -> tuple[int, ...]:
        found = re.match(r"\s*v?(\d+(?:\.\d+)*)", self)
        if not found:
            raise ValueError(f"{str(self)!r} is no version: it must start with numbers and dots")
        numbers = [int(number) for number in found[1].split(".")]
        while numbers and not numbers[-1]:
            numbers.pop()
        return tuple(numbers)

    def _other(self, other: object) -> tuple[int, ...]:
        return Version(other).release

    def __eq__(self, other: object) -> bool:
        return isinstance(other, str) and self.release == self._other(other)

    def __lt__(self, other: str) -> bool:
        return self.release < self._other(other)

    def __le__(self, other: str) -> bool:
        return self.release <= self._other(other)

    def __gt__(self, other: str) -> bool:
        return self.release > self._other(other)

    def __ge__(self, other: str) -> bool:
        return self.release >= self._other(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(self.release)


def trt_version() -> Version:
    """The version of TensorRT whose names :mod:`kiln.torch2trt.trt` has."""
    return Version(trt.__version__)


def torch_version() -> Version:
    return Version(torch.__version__)
