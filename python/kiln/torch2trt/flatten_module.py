"""``torch2trt.flatten_module``."""

from __future__ import annotations

from kiln.torch2trt.flattener import Flatten, Unflatten

__all__ = ["Flatten", "Unflatten"]
