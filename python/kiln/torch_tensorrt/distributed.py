"""``torch_tensorrt.distributed``: this version has no engines that span several GPUs, and says so.

A model that PyTorch distributes keeps its collectives in PyTorch: they run between the engines of each process.
"""

from __future__ import annotations

from typing import Any, NoReturn

from kiln._kiln import KilnError

__all__ = ["distributed_context", "set_distributed_mode", "setup_nccl_for_torch_tensorrt"]


def _refuse(name: str) -> NoReturn:
    error = KilnError(
        f"{name}: this version has no engines that span several GPUs; collectives run in PyTorch, between the engines of each process"
    )
    error.status = "KILN_UNSUPPORTED"
    raise error


def distributed_context(group: Any = None, module: Any = None) -> Any:
    _refuse("distributed_context")


def set_distributed_mode(group: Any = None, module: Any = None) -> None:
    _refuse("set_distributed_mode")


def setup_nccl_for_torch_tensorrt() -> None:
    """Engines do not call NCCL: nothing has to be found."""
