"""``torch_tensorrt.executorch``: Kiln's C library takes the place of ExecuTorch's runtime; these names say so."""

from __future__ import annotations

from typing import Any, NoReturn

from kiln._kiln import KilnError

__all__ = ["TensorRTBackend", "TensorRTPartitioner", "export"]


def _refuse(name: str) -> NoReturn:
    error = KilnError(
        f"executorch.{name}: Kiln writes no ExecuTorch programs; kiln.save writes an engine file, which the C library runs without PyTorch"
    )
    error.status = "KILN_UNSUPPORTED"
    raise error


def export(*_: Any, **__: Any) -> None:
    _refuse("export")


class TensorRTPartitioner:
    def __init__(self, *_: Any, **__: Any) -> None:
        _refuse("TensorRTPartitioner")


class TensorRTBackend:
    def __init__(self, *_: Any, **__: Any) -> None:
        _refuse("TensorRTBackend")
