"""``torch_tensorrt.dynamo._engine_cache``."""

from __future__ import annotations

from kiln.torch_tensorrt._engine_cache import BaseEngineCache, DiskEngineCache

__all__ = ["BaseEngineCache", "DiskEngineCache"]
