"""compile, save and load at the top level."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
import zipfile
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Optional, Union

import torch

import kiln
from kiln import checks, operators
from kiln.hybrid import export_engine, export_hybrid, script_hybrid
from kiln.partition import HybridModule
from kiln.torch_tensorrt import dynamo, fx, ts
from kiln.torch_tensorrt._backend import tensorrt_backend
from kiln.torch_tensorrt._settings import CompilationSettings

__all__ = ["compile", "convert_method_to_trt_engine", "load", "save"]

_MODULES = (torch.nn.Module, torch.jit.ScriptFunction, torch.export.ExportedProgram)
_MODULE_WORDS = "an nn.Module, fx.GraphModule, ExportedProgram, ScriptModule or ScriptFunction"
_OTHER_FORMATS = {
    "aot_inductor": "engines are no code for AOTInductor; kiln.save writes an engine file for C and C++ programs without Python",
    "executorch": "Kiln's C library takes the place of ExecuTorch: kiln.save writes an engine file for it",
}
_SAVE_RULES = {
    "file_path": checks.PATH,
    "output_format": checks.one_of("exported_program", "torchscript", *_OTHER_FORMATS),
    "extra_files": checks.optional(checks.MAPPING),
    "retrace": checks.BOOL,
    "use_legacy_exporter": checks.optional(checks.BOOL),
    "pickle_protocol": checks.count(0, 5),
    "dynamic_shapes": checks.optional(checks.anything()),
}
IRS = ("default", "dynamo", "torch_compile", "ts", "torchscript", "fx")


def _ir_of(module: Any, ir: str) -> str:
    if ir not in IRS:
        raise ValueError(f"ir must be one of {', '.join(IRS)}, got {ir!r}")
    if ir == "default":
        return "ts" if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)) else "dynamo"
    return {"torchscript": "ts", "fx": "dynamo"}.get(ir, ir)


def compile(
    module: Any,
    ir: str = "default",
    inputs: Optional[Sequence[Any]] = None,
    arg_inputs: Optional[Sequence[Any]] = None,
    kwarg_inputs: Optional[Mapping[str, Any]] = None,
    enabled_precisions: Optional[Collection[Any]] = None,
    **kwargs: Any,
) -> Any:
    """Compiles a module.

    Args:
        module: nn.Module, ExportedProgram, fx.GraphModule, ScriptModule or ScriptFunction, in eval mode.
        ir: "default" takes the TorchScript path for ScriptModules and torch.export for all else; "dynamo", "torch_compile", "ts".
        inputs, arg_inputs: the positional arguments, as tensors or :class:`Input`; two names of one argument.
        kwarg_inputs: the keyword arguments.
        enabled_precisions: the lowest of these is used where the target has it.
        kwargs: settings, see ``CompilationSettings``.

    Returns:
        An nn.Module; a ScriptModule for the TorchScript path.
    """
    checks.check("torch_tensorrt.compile", "ir", ir, checks.one_of(*IRS))
    checks.check("torch_tensorrt.compile", "module", module, checks.instance(_MODULES, _MODULE_WORDS))
    checks.check("torch_tensorrt.compile", "kwarg_inputs", kwarg_inputs, checks.optional(checks.MAPPING))
    settings = {**kwargs, **({"enabled_precisions": enabled_precisions} if enabled_precisions is not None else {})}
    chosen_ir = _ir_of(module, ir)
    if ir == "fx":
        settings = fx.settings_of(**settings)
    if chosen_ir == "ts":
        if kwarg_inputs:
            raise ValueError("kwarg_inputs: the TorchScript path takes positional inputs; give them in the order of the method")
        return ts.compile(module, inputs=inputs if inputs is not None else arg_inputs, **settings)
    if chosen_ir == "torch_compile":
        if isinstance(module, torch.export.ExportedProgram):
            raise TypeError('torch_tensorrt.compile: module must be an nn.Module for ir="torch_compile", got an ExportedProgram')
        CompilationSettings.of(**settings)  # wrong ones are refused now, not at the first call
        return torch.compile(module, backend=tensorrt_backend, dynamic=False, options=settings)
    program = module
    if not isinstance(module, torch.export.ExportedProgram):
        program = dynamo.trace(module, inputs, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs)
    return dynamo.compile(program, inputs, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs, **settings)


def convert_method_to_trt_engine(
    module: Any,
    method_name: str = "forward",
    inputs: Optional[Sequence[Any]] = None,
    arg_inputs: Optional[Sequence[Any]] = None,
    kwarg_inputs: Optional[Mapping[str, Any]] = None,
    ir: str = "default",
    **kwargs: Any,
) -> bytes:
    """The bytes of an engine file; all of the method must fit into one engine."""
    if _ir_of(module, ir) == "ts":
        return ts.convert_method_to_trt_engine(module, method_name, inputs if inputs is not None else arg_inputs, **kwargs)
    if method_name != "forward":
        raise ValueError("method_name: torch.export captures forward only; script the module for other methods")
    program = dynamo.trace(module, inputs, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs)
    return dynamo.convert_exported_program_to_serialized_trt_engine(
        program, inputs, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs, **kwargs
    )


def save(
    module: Any,
    file_path: Union[str, os.PathLike[str]] = "",
    *,
    extra_files: Optional[dict[str, Any]] = None,
    output_format: str = "exported_program",
    inputs: Optional[Sequence[Any]] = None,
    arg_inputs: Optional[Sequence[Any]] = None,
    kwarg_inputs: Optional[Mapping[str, Any]] = None,
    **kwargs: Any,
) -> None:
    """Saves a compiled module.

    ``output_format`` "torchscript" writes a file for torch.jit.load, "exported_program" one for torch.export.load and :func:`load`; both
    need ``import kiln`` first. Exported programs, and modules that are not compiled (with their ``inputs``), are saved as they are. ``retrace``, ``use_legacy_exporter``, ``pickle_protocol`` and ``dynamic_shapes`` are accepted: engines are saved as
    they are, with the shapes that they were built for. A module with state becomes a Kiln engine file instead of an exported program. :func:`kiln.save` writes an
    engine file for the C library and the shell.
    """
    given = {"file_path": file_path, "output_format": output_format, "extra_files": extra_files, **kwargs}
    checks.check_all("torch_tensorrt.save", given, _SAVE_RULES)
    if output_format in _OTHER_FORMATS:
        raise ValueError(f'torch_tensorrt.save: output_format "{output_format}": {_OTHER_FORMATS[output_format]}')
    unknown = set(kwargs) - set(_SAVE_RULES)
    if unknown:
        known = sorted([*_SAVE_RULES, "inputs", "arg_inputs", "kwarg_inputs"])
        raise TypeError(f"torch_tensorrt.save: unknown arguments {sorted(unknown)}; known: {', '.join(known)}")
    if isinstance(module, _Loaded):
        module = module.compiled
    if isinstance(module, torch.export.ExportedProgram):
        if output_format != "exported_program":
            raise ValueError(
                f'torch_tensorrt.save: output_format of an ExportedProgram must be "exported_program", got "{output_format}"'
            )
        _save_program(module, file_path, extra_files)
        return
    if isinstance(module, HybridModule):
        if output_format == "torchscript":
            torch.jit.save(script_hybrid(module), str(file_path), _extra_files=extra_files)
        else:
            _save_program(export_hybrid(module), file_path, extra_files)
        return
    scripted = isinstance(module, torch.jit.ScriptModule)
    if isinstance(module, torch.nn.Module) and not scripted and not isinstance(module, kiln.CompiledModule):
        program = dynamo.trace(module, inputs, arg_inputs=arg_inputs, kwarg_inputs=kwarg_inputs)
        if output_format == "torchscript":
            torch.jit.save(torch.jit.trace(module, program.example_inputs[0]), str(file_path), _extra_files=extra_files)
        else:
            _save_program(program, file_path, extra_files)
        return
    if scripted or output_format == "torchscript":
        torch.jit.save(
            module if scripted else kiln.embed_engine(kiln.engine_bytes(module)), str(file_path), _extra_files=extra_files
        )
        return
    try:
        program = export_engine(module) if isinstance(module, kiln.CompiledModule) else None
    except kiln.KilnError:
        program = None
    if program is not None:
        _save_program(program, file_path, extra_files)
    else:
        kiln.save(module, file_path)


def _save_program(program: torch.export.ExportedProgram, path: Any, extra_files: Optional[dict[str, Any]]) -> None:
    """As torch.export.save, but the file is either the old one or the complete new one, whatever its name ends with."""
    buffer = io.BytesIO()
    torch.export.save(program, buffer, extra_files=extra_files)
    temporary = f"{os.fspath(path)}.tmp"
    try:
        with open(temporary, "wb") as file:
            file.write(buffer.getbuffer())
        os.replace(temporary, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def load(file_path: Union[str, os.PathLike[str]] = "", extra_files: Optional[dict[str, Any]] = None, **kwargs: Any) -> Any:
    """Loads what :func:`save` wrote. The result is called as the compiled module; ``.module()`` gives itself."""
    checks.check("torch_tensorrt.load", "file_path", file_path, checks.PATH)
    if kwargs.get("format") is not None:
        raise ValueError(f"torch_tensorrt.load: format must be None, got {kwargs['format']!r}: {_OTHER_FORMATS['executorch']}")
    operators.register()
    try:
        return _Loaded(kiln.load(file_path))
    except kiln.KilnError as not_an_engine:
        for read in (_load_program, torch.jit.load):
            try:
                return (
                    read(str(file_path), extra_files) if read is _load_program else read(str(file_path), _extra_files=extra_files)
                )
            except (RuntimeError, ValueError, KeyError, AssertionError, OSError, EOFError, zipfile.BadZipFile):
                continue
        raise not_an_engine from None


def _load_program(path: str, extra_files: Optional[dict[str, Any]]) -> _Loaded:
    with zipfile.ZipFile(path) as archive:
        if not any(name.endswith("archive_format") for name in archive.namelist()):
            raise ValueError("no exported program")
    with warnings.catch_warnings(), open(path, "rb") as file:
        warnings.simplefilter("ignore")
        return _Loaded(torch.export.load(file, extra_files=extra_files).module())


class _Loaded(torch.nn.Module):
    """A loaded module that answers ``.module()``, as Torch-TensorRT's users write for exported programs."""

    def __init__(self, compiled: torch.nn.Module) -> None:
        super().__init__()
        if isinstance(compiled, kiln.CompiledModule):
            compiled.lenient = True
        self.compiled = compiled
        self.training = False

    def module(self) -> torch.nn.Module:
        return self.compiled

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.compiled(*args, **kwargs)
