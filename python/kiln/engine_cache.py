"""Engines that were built before, found by the graph and the options they were built for, whatever their weights.

A cache keeps engines without weights, as :meth:`kiln.Engine.strip` makes them; a hit is opened and gets the weights of the model at hand
by a refit. So a model that is trained further, or fine-tuned into many, is planned and tuned once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional, Union

import torch

from kiln._kiln import KilnError, __version__
from kiln.engine import Engine

__all__ = ["DiskEngineCache", "EngineCache", "cached_engine", "engine_key", "open_cache"]

DEFAULT_SIZE = 1 << 30


class EngineCache:
    """Where engines are kept. Subclasses store bytes under keys: texts of 64 letters and digits."""

    def save(self, key: str, blob: bytes) -> None:
        raise NotImplementedError

    def load(self, key: str) -> Optional[bytes]:
        """None: there is nothing under this key."""
        raise NotImplementedError


class DiskEngineCache(EngineCache):
    """A folder with a file for each engine; those that were not used for longest make room when there is more than ``size`` bytes.

    Any number of processes may share a folder. What cannot be read or written is passed over: a cache only saves time.
    """

    def __init__(self, folder: Union[str, os.PathLike[str]], size: int = DEFAULT_SIZE) -> None:
        if size < 0:
            raise ValueError(f"size must be 0 or more bytes, got {size}")
        self.folder = Path(folder)
        self.size = size

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.kiln"

    def save(self, key: str, blob: bytes) -> None:
        if len(blob) > self.size:
            return
        temporary = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".new-", delete=False) as file:
                temporary = file.name
                file.write(blob)
            os.replace(temporary, self._path(key))
            self._make_room()
        except OSError:
            if temporary is not None:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)

    def load(self, key: str) -> Optional[bytes]:
        path = self._path(key)
        try:
            blob = path.read_bytes()
            os.utime(path)
        except OSError:
            return None
        return blob

    def _make_room(self) -> None:
        files = []
        for path in self.folder.glob("*.kiln"):
            with contextlib.suppress(OSError):  # another process may have removed it
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        total = sum(size for _, size, _ in files)
        for _, size, path in sorted(files):
            if total <= self.size:
                break
            with contextlib.suppress(OSError):
                path.unlink()
            total -= size


def open_cache(cache: Any) -> Optional[EngineCache]:
    """A cache, or the path of a folder for one."""
    if cache is None or isinstance(cache, EngineCache):
        return cache
    if isinstance(cache, (str, os.PathLike)):
        return DiskEngineCache(cache)
    raise TypeError(f"engine_cache must be a path or a kiln.EngineCache, got {type(cache).__name__}")


# ---- Keys ------------------------------------------------------------------------------------------------------------------


def _type_of(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype}{tuple(value.shape)}"
    return f"{type(value).__name__} {value}"


def _describe_graph(module: torch.nn.Module, lines: list[str]) -> None:
    graph: Any = module.graph
    for node in graph.nodes:
        value = node.meta.get("val")
        place = list((node.meta.get("nn_module_stack") or {}).values())
        kind = _type_of(value) if isinstance(value, (torch.Tensor, torch.SymInt, int, float, bool)) else ""
        lines.append(f"{node.op} {node.name} {node.target} {node.args} {node.kwargs} {kind} {place[-1][0] if place else ''}")
    for name, child in module.named_children():
        if isinstance(child, torch.fx.GraphModule):
            lines.append(f"graph {name}")
            _describe_graph(child, lines)


def _machine(target: str) -> str:
    if not target.startswith("cuda"):
        return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    ordinal = int(target[5:]) if target[5:].isdigit() else 0
    if target.startswith("cuda:sm_") or ordinal >= torch.cuda.device_count():
        return ""
    return f"{torch.cuda.get_device_name(ordinal)} {torch.cuda.get_device_capability(ordinal)}"


def engine_key(program: torch.export.ExportedProgram, options: dict[str, Any]) -> str:
    """Equal for programs that differ in nothing but the values of their parameters and buffers."""
    lines = [f"kiln {__version__} 1", _machine(str(options.get("target") or "cpu"))]
    lines += [f"{name}={value!r}" for name, value in sorted(options.items())]
    _describe_graph(program.graph_module, lines)
    lines += [str(spec) for spec in [*program.graph_signature.input_specs, *program.graph_signature.output_specs]]
    lines += [str(program.call_spec)]
    lines += sorted(f"{symbol} in {bounds}" for symbol, bounds in program.range_constraints.items())
    lines += [f"weight {name} {_type_of(tensor)}" for name, tensor in program.state_dict.items()]
    digest = hashlib.sha256("\n".join(lines).encode())
    for name, value in program.constants.items():  # they are part of the model, not of its state
        if isinstance(value, torch.Tensor):
            digest.update(f"constant {name} {_type_of(value)}".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        else:
            digest.update(f"constant {name} {value}".encode())
    return digest.hexdigest()


# ---- Use -------------------------------------------------------------------------------------------------------------------


def cached_engine(
    cache: EngineCache, program: torch.export.ExportedProgram, options: dict[str, Any], build: Callable[[], Engine]
) -> Engine:
    """The engine of a program: of the cache with the program's weights, or of ``build``, which the cache then keeps."""
    key = engine_key(program, options)
    blob = cache.load(key)
    if blob is not None:
        # Damaged, of another version, or its weights decided more than their names: it is built as if there were no cache.
        with contextlib.suppress(KilnError):
            engine = Engine.load(blob)
            engine.refit(dict(_weights(program)), strict=False)
            return engine
    engine = build()
    try:
        stripped = engine.strip()
    except KilnError:
        return engine
    cache.save(key, stripped.serialize())
    return engine


def _weights(program: torch.export.ExportedProgram) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in program.state_dict.items():
        if isinstance(value, torch.Tensor):
            yield name, value
