"""NumPy code of converters on tensors that are being traced: ``weight.detach().cpu().numpy() / np.sqrt(variance.numpy() + eps)``.

Traced tensors have no data to give to NumPy. They give an array of ``torch._numpy`` instead, whose operations are PyTorch's, and NumPy's
own functions pass such arrays on to their namesakes there.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

__all__ = ["arrays_of_traced_tensors", "tensor_of"]


def _module() -> Any:
    try:
        import torch._numpy as module
    except ImportError:  # pragma: no cover - another version of PyTorch, or NumPy is not installed
        return None
    return module


def tensor_of(value: Any) -> Any:
    """The tensor behind an array of traced tensors; other values as they are."""
    module = _module()
    return value.tensor if module is not None and isinstance(value, module.ndarray) else value


def _ufunc(self: Any, ufunc: Any, method: str, *inputs: Any, **kwargs: Any) -> Any:
    function = getattr(_module(), ufunc.__name__, None)
    return NotImplemented if function is None or method != "__call__" else function(*inputs, **kwargs)


def _function(self: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
    function = getattr(_module(), func.__name__, None)
    return NotImplemented if function is None else function(*args, **kwargs)


@contextlib.contextmanager
def arrays_of_traced_tensors() -> Iterator[None]:
    """``tensor.numpy()`` works on traced tensors."""
    module = _module()
    numpy = torch.Tensor.numpy
    if module is not None:
        module.ndarray.__array_ufunc__, module.ndarray.__array_function__ = _ufunc, _function
    torch.Tensor.numpy = (  # type: ignore[method-assign]
        lambda self, **_: self if module is None else module.asarray(self)  # type: ignore[assignment]
    )
    try:
        yield
    finally:
        torch.Tensor.numpy = numpy  # type: ignore[method-assign]
        if module is not None:
            del module.ndarray.__array_ufunc__, module.ndarray.__array_function__
