"""``torch_tensorrt.dynamo.lowering``: passes over the graph before it is compiled."""

from __future__ import annotations

from typing import Any, Callable, Optional

from kiln import extend
from kiln.torch_tensorrt._lowering import (
    ATEN_POST_LOWERING_PASSES,
    ATEN_PRE_LOWERING_PASSES,
    SubgraphBuilder,
    _aten_lowering_pass,
    _pre_aten_lowering_pass,
    _remove_lowering_pass,
    dump_lowering_passes,
    post_lowering,
    pre_export_lowering,
)
from kiln.torch_tensorrt.dynamo.lowering import passes

__all__ = [
    "ATEN_POST_LOWERING_PASSES",
    "ATEN_PRE_LOWERING_PASSES",
    "TORCH_TRT_DECOMPOSITIONS",
    "SubgraphBuilder",
    "_aten_lowering_pass",
    "_pre_aten_lowering_pass",
    "_remove_lowering_pass",
    "dump_lowering_passes",
    "get_decompositions",
    "passes",
    "post_lowering",
    "pre_export_lowering",
    "register_torch_trt_decomposition",
]

# Those that users registered; Kiln takes the operators that Torch-TensorRT decomposes as they are.
TORCH_TRT_DECOMPOSITIONS: dict[Any, Callable[..., Any]] = extend.decompositions()


def get_decompositions(enable_experimental_decompositions: bool = False) -> dict[Any, Callable[..., Any]]:
    return TORCH_TRT_DECOMPOSITIONS


def register_torch_trt_decomposition(aten_op: Any, registry: Optional[Any] = None) -> Callable[[Any], Any]:
    """Decorator: :func:`kiln.register_decomposition`."""
    return extend.register_decomposition(aten_op)
