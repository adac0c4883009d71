"""Engine caches under Torch-TensorRT's names. What they keep are engines without weights, see ``kiln.engine_cache``."""

from __future__ import annotations

import os
import tempfile
from typing import Any, Optional

from kiln.engine_cache import DiskEngineCache as _Folder
from kiln.engine_cache import EngineCache

__all__ = ["BaseEngineCache", "DiskEngineCache", "cache_for", "default_folder"]

DEFAULT_SIZE = 5 << 30


def default_folder() -> str:
    """One for each user: others must not be able to put engines there."""
    user = os.getuid() if hasattr(os, "getuid") else 0
    return os.path.join(tempfile.gettempdir(), f"kiln_engine_cache_{user}")


class BaseEngineCache:
    """To be subclassed for ``custom_engine_cache``: ``save`` and ``load`` move bytes under a text of 64 letters and digits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def save(self, hash: str, blob: bytes, *args: Any, **kwargs: Any) -> None:
        raise NotImplementedError

    def load(self, hash: str, *args: Any, **kwargs: Any) -> Optional[bytes]:
        """None: there is nothing under this text."""
        raise NotImplementedError


class DiskEngineCache(BaseEngineCache):
    """A folder; the least recently used engines make room when there is more than ``engine_cache_size`` bytes."""

    def __init__(self, engine_cache_dir: str, engine_cache_size: int = DEFAULT_SIZE) -> None:
        super().__init__()
        self.engine_cache_dir = engine_cache_dir
        self.total_engine_cache_size = engine_cache_size
        self._folder = _Folder(engine_cache_dir, engine_cache_size)

    def save(self, hash: str, blob: bytes, *args: Any, **kwargs: Any) -> None:
        self._folder.save(hash, blob)

    def load(self, hash: str, *args: Any, **kwargs: Any) -> Optional[bytes]:
        return self._folder.load(hash)


class _Settings(EngineCache):
    """A cache as the settings want it: only written, only read, or both."""

    def __init__(self, cache: Any, writes: bool, reads: bool) -> None:
        self.cache, self.writes, self.reads = cache, writes, reads

    def save(self, key: str, blob: bytes) -> None:
        if self.writes:
            self.cache.save(key, blob)

    def load(self, key: str) -> Optional[bytes]:
        return self.cache.load(key) if self.reads else None


def cache_for(writes: bool, reads: bool, custom: Any, folder: Optional[str], size: Optional[int]) -> Optional[EngineCache]:
    """None unless the settings ask for one."""
    if not (writes or reads):
        return None
    if custom is None:
        made = size if isinstance(size, int) else DEFAULT_SIZE
        custom = DiskEngineCache(os.fspath(folder) if folder else default_folder(), made)
    elif not (callable(getattr(custom, "save", None)) and callable(getattr(custom, "load", None))):
        raise TypeError(f"torch_tensorrt: custom_engine_cache must have save and load, got {type(custom).__name__}")
    return _Settings(custom, writes, reads)
