"""``torch2trt.trt_module``."""

from __future__ import annotations

from kiln.torch2trt.module import TRTModule

__all__ = ["TRTModule"]
