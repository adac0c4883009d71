"""``custom_op`` and its parts: TensorRT plugins made from PyTorch operators.

Kiln needs no plugin to use such an operator: it runs in PyTorch between engines, or inside the engine once a kernel is registered for
it (docs/extending.md). These functions check their arguments and say so.
"""

from __future__ import annotations

from typing import Any, Callable, Optional

from kiln import _kiln, extend
from kiln.torch_tensorrt import logging
from kiln.torch_tensorrt._converters import ConverterPriority

__all__ = ["custom_op", "generate_plugin", "generate_plugin_converter"]


def generate_plugin(plugin_name: str) -> None:
    """Checks that PyTorch has the operator."""
    extend.overload_of(plugin_name)
    if _kiln.op_kernels(plugin_name) < 0:
        logging.logger.info(
            "%s has no kernel in Kiln and runs in PyTorch; kiln.register_cuda_kernel takes it into engines", plugin_name
        )


def generate_plugin_converter(
    plugin_id: str,
    capability_validator: Optional[Callable[..., bool]] = None,
    priority: ConverterPriority = ConverterPriority.STANDARD,
    supports_dynamic_shapes: bool = False,
    requires_output_allocator: bool = False,
    use_aot_if_available: bool = True,
) -> None:
    """Nothing is needed: the operator runs in PyTorch, or by its kernel."""
    extend.overload_of(plugin_id)


def custom_op(
    op_name: str,
    capability_validator: Optional[Callable[..., Any]] = None,
    priority: ConverterPriority = ConverterPriority.STANDARD,
    supports_dynamic_shapes: bool = False,
    requires_output_allocator: bool = False,
    *,
    use_aot_if_available: bool = True,
) -> None:
    """Both of the above."""
    generate_plugin(op_name)
    generate_plugin_converter(op_name, capability_validator, priority, supports_dynamic_shapes, requires_output_allocator)
