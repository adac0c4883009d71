"""Where the C headers and libraries are: for building plugins and C programs, and for processes that have PyTorch but not Kiln's package."""

from __future__ import annotations

from pathlib import Path

from kiln import checks

__all__ = ["include_dir", "library_path"]

_LIBRARIES = {"kiln": "libkiln.so.0", "kiln_torch": "libkiln_torch.so.0"}


def _package() -> Path:
    return Path(__file__).absolute().parent


def _first(places: list[Path], what: str) -> str:
    for place in places:
        if place.exists():
            return str(place)
    raise FileNotFoundError(f"{what} is not at {' or '.join(map(str, places))}; pip install . puts it there")


def include_dir() -> str:
    """The folder to give a C compiler with ``-I``: it has ``kiln/kiln.h``, ``kiln/kiln_ext.h`` (plugins) and ``kiln/kiln_torch.h``."""
    source = Path(__file__).resolve().parents[2] / "include"  # in a source tree
    found = _first([_package() / "include" / "kiln" / "kiln_ext.h", source / "kiln" / "kiln_ext.h"], "kiln/kiln_ext.h")
    return str(Path(found).parents[1])


def library_path(name: str = "kiln") -> str:
    """A shared library of Kiln's, which does not need Python.

    Args:
        name: "kiln", the C library (``cc main.c -I include_dir() library_path()``), or "kiln_torch", PyTorch's operators: for
            ``torch.ops.load_library`` in a process that does not import kiln, and for C++ programs with libtorch.
    """
    checks.check("library_path", "name", name, checks.one_of(*_LIBRARIES))
    file = _LIBRARIES[name]
    build = Path(__file__).resolve().parents[2] / "build"
    return _first([_package() / "lib" / file, build / file], file)
