"""``torch_tensorrt.dynamo.utils``: what users' scripts compare results and make inputs with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

import torch
from torch.utils import _pytree as pytree

from kiln.torch_tensorrt._enums import Device
from kiln.torch_tensorrt._input import Input

__all__ = [
    "ATOL",
    "COSINE_THRESHOLD",
    "RTOL",
    "check_output_equal",
    "cosine_similarity",
    "get_model_device",
    "get_torch_inputs",
    "input_is_dynamic",
    "prepare_inputs",
    "to_torch_device",
    "to_torch_tensorrt_device",
]

COSINE_THRESHOLD = 0.99
RTOL = ATOL = 5e-3


def cosine_similarity(gt_tensor: torch.Tensor, pred_tensor: torch.Tensor) -> float:
    """Of two tensors of any shape; 1.0 where they hold the same, zeros and other numbers without a direction included."""
    a, b = (t.detach().flatten().to("cpu", torch.float64) for t in (gt_tensor, pred_tensor))
    if torch.equal(a.nan_to_num(), b.nan_to_num()) or torch.allclose(a, b, rtol=1e-4, atol=1e-4, equal_nan=True):
        return 1.0
    return float(torch.nn.functional.cosine_similarity(a, b, dim=0))


def input_is_dynamic(inputs: Any) -> bool:
    return any(isinstance(leaf, Input) and leaf.is_dynamic for leaf in _leaves(inputs))


def _leaves(value: Any) -> list[Any]:
    return pytree.tree_leaves(value, is_leaf=lambda leaf: isinstance(leaf, Input))


def prepare_inputs(inputs: Any, disable_memory_format_check: bool = False) -> Any:
    """The same structure with an Input for each tensor and number."""
    if inputs is None:
        return None

    def one(leaf: Any) -> Any:
        if isinstance(leaf, (bool, int, float)):
            leaf = torch.tensor(leaf)
        return Input.from_tensor(leaf) if isinstance(leaf, torch.Tensor) else leaf

    return pytree.tree_map(one, inputs, is_leaf=lambda leaf: isinstance(leaf, Input))


def get_torch_inputs(inputs: Any, device: Any, mode: str = "") -> Any:
    """The same structure with an example tensor, on a device, for each Input; ``mode``: "min_shape", "opt_shape" or "max_shape"."""
    place = to_torch_device(device)

    def one(leaf: Any) -> Any:
        if isinstance(leaf, Input):
            leaf = leaf.example_tensor(mode or None) if leaf.is_dynamic else leaf.example_tensor()
        return leaf.to(place) if isinstance(leaf, torch.Tensor) else leaf

    return pytree.tree_map(one, inputs, is_leaf=lambda leaf: isinstance(leaf, Input))


def get_model_device(module: torch.nn.Module) -> torch.device:
    """Of the first parameter, buffer or constant; the CPU for a module without any."""
    tensors = [*module.parameters(), *module.buffers(), *(v for v in vars(module).values() if isinstance(v, torch.Tensor))]
    return tensors[0].device if tensors else torch.device("cpu")


def to_torch_device(device: Optional[Any] = None) -> torch.device:
    return to_torch_tensorrt_device(device).to(torch.device)


def to_torch_tensorrt_device(device: Optional[Any] = None) -> Device:
    if device is None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return Device.of(device)


def check_output_equal(output1: Any, output2: Any, rtol: float = RTOL, atol: float = ATOL) -> bool:
    """Whether two results, which may nest, have the same structure and values that are close."""
    if isinstance(output1, torch.Tensor):
        return isinstance(output2, torch.Tensor) and output1.shape == output2.shape and torch.allclose(output1, output2, rtol, atol)
    if isinstance(output1, Mapping):
        return (
            isinstance(output2, Mapping)
            and output1.keys() == output2.keys()
            and all(check_output_equal(output1[key], output2[key], rtol, atol) for key in output1)
        )
    if isinstance(output1, (tuple, list)):
        return (
            type(output1) is type(output2)
            and len(output1) == len(output2)
            and all(check_output_equal(a, b, rtol, atol) for a, b in zip(output1, output2))
        )
    return type(output1) is type(output2) and bool(output1 == output2)
