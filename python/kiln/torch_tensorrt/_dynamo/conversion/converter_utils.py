"""Helpers that converters use."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch.utils._python_dispatch import _disable_current_modes

from kiln.torch2trt import trt
from kiln.torch2trt.network import ITensor, Layer

__all__ = ["cast_trt_tensor", "get_positive_dim", "get_trt_tensor", "set_layer_name", "to_numpy", "to_torch"]


def get_trt_tensor(
    ctx: Any, input_val: Any, name: str = "", dtype: Any = None, min_rank: int = 0, target_quantized: bool = False
) -> ITensor:
    """A tensor, array or number as a tensor of the network."""
    if isinstance(input_val, ITensor):
        return input_val
    value = to_torch(input_val)
    if dtype is not None:
        value = value.to(getattr(dtype, "value", dtype))
    elif not isinstance(input_val, torch.Tensor) and value.dtype is torch.float64:
        value = value.to(torch.float32)
    return ITensor(value.reshape((1,) * max(0, min_rank - value.ndim) + tuple(value.shape)))


def to_torch(value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.as_tensor(value)


def to_numpy(value: Any, dtype: Any = None) -> Optional[Any]:
    """A weight or number as a NumPy array."""
    if value is None:
        return None
    with _disable_current_modes():  # the converter is being traced, but weights are real
        array = to_torch(value).detach().cpu().numpy()
    return array if dtype is None else array.astype(dtype)


def cast_trt_tensor(ctx: Any, input_val: ITensor, dtype: Any, name: str = "", target: Any = None, source_ir: Any = None) -> ITensor:
    return ctx.net.add_cast(input_val, trt.DataType(getattr(dtype, "value", dtype))).get_output(0)


def set_layer_name(layer: Layer, target: Any, name: str, source_ir: Any = None) -> None:
    layer.name = f"{name}-[{target}]"


def get_positive_dim(dim: Any, dim_size: int) -> Any:
    """Dimensions counted from the start; of one or several."""
    if isinstance(dim, (list, tuple)):
        return tuple(get_positive_dim(d, dim_size) for d in dim)
    return dim + dim_size if dim < 0 else dim
