"""``torch_tensorrt.dynamo._tracer``."""

from __future__ import annotations

from kiln.torch_tensorrt.dynamo import trace

__all__ = ["trace"]
