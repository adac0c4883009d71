"""Files for other operating systems: engines do not depend on the system that they were made on."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

import torch

from kiln import checks
from kiln.torch_tensorrt import _compile
from kiln.torch_tensorrt._settings import note

__all__ = ["cross_compile_for_windows", "load_cross_compiled_exported_program", "save_cross_compiled_exported_program"]


def cross_compile_for_windows(
    module: torch.nn.Module,
    file_path: Union[str, os.PathLike[str]],
    inputs: Optional[Sequence[Any]] = None,
    arg_inputs: Optional[Sequence[Any]] = None,
    kwarg_inputs: Optional[Mapping[str, Any]] = None,
    enabled_precisions: Any = None,
    **kwargs: Any,
) -> None:
    """Compiles and saves an exported program. The file is the same as on any system; this version of Kiln has no build for Windows itself."""
    checks.check("cross_compile_for_windows", "file_path", file_path, checks.PATH)
    note("cross_compile_for_windows", "engine files do not depend on the operating system")
    compiled = _compile.compile(
        module,
        ir="dynamo",
        inputs=inputs,
        arg_inputs=arg_inputs,
        kwarg_inputs=kwarg_inputs,
        enabled_precisions=enabled_precisions,
        **kwargs,
    )
    _compile.save(compiled, file_path)


def save_cross_compiled_exported_program(gm: torch.nn.Module, file_path: Union[str, os.PathLike[str]]) -> None:
    """:func:`torch_tensorrt.save`."""
    _compile.save(gm, file_path)


def load_cross_compiled_exported_program(file_path: Union[str, os.PathLike[str]] = "") -> Any:
    """:func:`torch_tensorrt.load`."""
    checks.check("load_cross_compiled_exported_program", "file_path", file_path, checks.PATH)
    return _compile.load(file_path)
