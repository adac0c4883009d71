"""torch2trt() and TRTModule over kiln.compile."""

from __future__ import annotations

import dataclasses
import inspect
import keyword
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Optional, Union

import torch

import kiln
from kiln import checks, compiler, quantization
from kiln.modes import for_inference
from kiln.torch2trt import trt
from kiln.torch2trt.calibration import DEFAULT_CALIBRATION_ALGORITHM, calibration_of
from kiln.torch2trt.converters import converting, replacing
from kiln.torch2trt.dataset import Dataset, ListDataset
from kiln.torch2trt.flattener import Flattener, fields_of, is_dataclass

__all__ = ["DEFAULT_CALIBRATION_ALGORITHM", "TRTModule", "default_input_names", "default_output_names", "torch2trt"]

_noted: set[str] = set()


def _note(text: str) -> None:
    """Says once why an argument has no effect."""
    if text not in _noted:
        _noted.add(text)
        warnings.warn(text, stacklevel=3)


def default_input_names(count: int) -> list[str]:
    return [f"input_{i}" for i in range(count)]


def default_output_names(count: int) -> list[str]:
    return [f"output_{i}" for i in range(count)]


class TRTModule(torch.nn.Module):
    """An engine with names for its inputs and outputs, called like the module that it was made from.

    ``torch.save(m.state_dict(), path)`` keeps it, and ``TRTModule().load_state_dict(torch.load(path))`` brings it back, alone or as
    a part of another module.

    Args:
        engine: a :class:`kiln.Engine` or :class:`kiln.CompiledModule`, the bytes of an engine file, or a path to one.
        input_names, output_names: one for each tensor; default ``input_0``...
        input_flattener, output_flattener: how arguments and results nest; default: flat.
    """

    def __init__(
        self,
        engine: Any = None,
        input_names: Optional[Sequence[str]] = None,
        output_names: Optional[Sequence[str]] = None,
        input_flattener: Optional[Flattener] = None,
        output_flattener: Optional[Flattener] = None,
    ) -> None:
        super().__init__()
        self._register_state_dict_hook(TRTModule._put_state)
        self.compiled: Optional[kiln.CompiledModule] = None
        self.input_names = list(input_names) if input_names is not None else None
        self.output_names = list(output_names) if output_names is not None else None
        self.input_flattener = input_flattener
        self.output_flattener = output_flattener
        self.network: Any = None
        self._profiling = False
        self.training = False
        if engine is not None:
            self._set_engine(engine)

    def _set_engine(self, engine: Any) -> None:
        if isinstance(engine, kiln.CompiledModule):
            compiled = engine
        elif isinstance(engine, kiln.Engine):
            compiled = kiln.CompiledModule(engine)
        else:
            words = "a kiln.Engine, a kiln.CompiledModule, bytes of an engine file, or a path to one"
            checks.check("TRTModule", "engine", engine, checks.instance((str, os.PathLike, bytes, bytearray, memoryview), words))
            compiled = kiln.load(bytes(engine) if isinstance(engine, (bytearray, memoryview)) else engine)
        # Not a submodule: the engine's bytes are the state.
        object.__setattr__(self, "compiled", compiled)
        if self.input_names is None:
            self.input_names = default_input_names(len(compiled.inputs))
        if self.output_names is None:
            self.output_names = default_output_names(len(compiled.outputs))
        for what, names, infos in (("input", self.input_names, compiled.inputs), ("output", self.output_names, compiled.outputs)):
            if len(names) != len(infos):
                raise ValueError(f"{what}_names has {len(names)} names, but the engine has {len(infos)} {what}s")

    @property
    def engine(self) -> Optional[kiln.Engine]:
        """The engine; ``engine.serialize()`` gives the bytes of an engine file."""
        return self.compiled.engine if self.compiled is not None else None

    @property
    def context(self) -> Any:
        return self.compiled

    # ---- State ----

    @staticmethod
    def _put_state(module: TRTModule, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        if module.engine is None:
            return
        state[f"{prefix}engine"] = bytearray(module.engine.serialize())
        state[f"{prefix}input_names"] = module.input_names
        state[f"{prefix}output_names"] = module.output_names
        for name in ("input_flattener", "output_flattener"):
            flattener = getattr(module, name)
            state[f"{prefix}{name}"] = None if flattener is None else flattener.dict()

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        data = state_dict.get(f"{prefix}engine")
        if data is None:
            missing_keys.append(f"{prefix}engine")
            return
        self.input_names = state_dict.get(f"{prefix}input_names")
        self.output_names = state_dict.get(f"{prefix}output_names")
        for name in ("input_flattener", "output_flattener"):
            values = state_dict.get(f"{prefix}{name}")
            setattr(self, name, None if values is None else Flattener.from_dict(values))
        try:
            self._set_engine(data.numpy().tobytes() if isinstance(data, torch.Tensor) else data)
        except (kiln.KilnError, ValueError) as error:
            error_msgs.append(f"{prefix}engine: {error}")

    # ---- Calls ----

    def forward(self, *inputs: Any) -> Any:
        if self.compiled is None:
            raise kiln.KilnError("this TRTModule has no engine yet: load_state_dict() gives it one")
        flat = self.input_flattener.flatten(inputs) if self.input_flattener is not None else list(inputs)
        with torch.no_grad():
            results = self.compiled(*flat)
        if self._profiling:
            for step in self.compiled.profile(*flat, runs=1):
                print(f"{step['name']}: {1e3 * step['seconds']:.4f} ms")
        if self.output_flattener is None:
            return results
        return self.output_flattener.unflatten(results if isinstance(results, (tuple, list)) else [results])

    def enable_profiling(self) -> None:
        """Each call prints the time of each step."""
        self._profiling = True


class _Note:
    """Outlives tracing, which puts a module's own attributes back."""

    output_flattener: Optional[Flattener] = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Note:
        return self  # of the module that the caller has, also when a copy in host memory is traced


class _Flat(torch.nn.Module):
    """The module with flat tensors in and out."""

    def __init__(self, module: torch.nn.Module, flattener: Flattener, example: Sequence[Any]) -> None:
        super().__init__()
        self.module = module
        self._flattener = flattener
        self._example = example
        self.note = _Note()
        self.training = False

    @staticmethod
    def of(module: torch.nn.Module, flattener: Flattener, example: Sequence[Any], names: Sequence[str]) -> _Flat:
        """A _Flat whose texts have the name of the user's class, and whose inputs have these names."""

        def forward(self: _Flat, *flat: torch.Tensor) -> Any:
            return self.call(*flat)

        if len(set(names)) == len(names) and all(
            name.isidentifier() and not keyword.iskeyword(name) and name != "self" for name in names
        ):
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            forward.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
                [inspect.Parameter(name, kind) for name in ("self", *names)]
            )
        made: _Flat = type(type(module).__name__, (_Flat,), {"forward": forward})(module, flattener, example)
        return made

    def call(self, *flat: torch.Tensor) -> Any:
        arguments = _nest(self._flattener.schema, self._example, flat)
        with replacing(self.module):
            result = self.module(*arguments)
        flattener = self.note.output_flattener = Flattener.from_value(result)
        leaves = flattener.flatten(result)
        return leaves[0] if len(leaves) == 1 else tuple(leaves)


def _nest(schema: Any, example: Any, flat: Sequence[torch.Tensor]) -> Any:
    """The example with its tensors replaced; other leaves stay as they are."""
    if is_dataclass(example):
        changed = {name: _nest(schema[name], child, flat) for name, child in fields_of(example).items() if name in schema}
        return dataclasses.replace(example, **changed)
    if isinstance(schema, (tuple, list)):
        children = [_nest(s, e, flat) for s, e in zip(schema, example)]
        return type(example)(*children) if hasattr(example, "_fields") else type(example)(children)
    if isinstance(schema, Mapping):
        children = {key: _nest(schema[key], example[key], flat) for key in schema}
        return children if type(example) is dict else type(example)(children)
    return example if schema is None else flat[schema]


def _shapes(name: str, given: Any, flattener: Flattener) -> Optional[list[tuple[int, ...]]]:
    """One shape for each tensor, from a flat list or one that nests as the inputs."""
    if given is None:
        return None
    if len(given) == flattener.size and all(isinstance(s, (tuple, list, torch.Size)) and _is_shape(s) for s in given):
        return [tuple(int(n) for n in shape) for shape in given]
    try:
        flat = flattener.flatten(given)
        return [tuple(int(n) for n in shape) for shape in flat]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name}: expected one shape for each of the {flattener.size} tensors, nested as the inputs: {error}"
        ) from None


def _is_shape(value: Any) -> bool:
    return all(isinstance(n, int) for n in value)


def _inputs(
    dataset: Dataset,
    flattener: Flattener,
    min_shapes: Any,
    opt_shapes: Any,
    max_shapes: Any,
    max_batch_size: Optional[int],
) -> list[Any]:
    """What kiln.compile takes: example tensors, or kiln.Input where sizes vary."""
    tensors = dataset.getitem_flat(0)
    given = [
        _shapes(n, s, flattener) for n, s in (("min_shapes", min_shapes), ("opt_shapes", opt_shapes), ("max_shapes", max_shapes))
    ]
    low = given[0] or dataset.min_shapes(flat=True)
    opt = given[1] or dataset.median_numel_shapes(flat=True)
    high = given[2] or dataset.max_shapes(flat=True)
    if max_batch_size is not None:
        low = [(1, *shape[1:]) if shape else shape for shape in low]
        high = [(max(max_batch_size, 1), *shape[1:]) if shape else shape for shape in high]
        opt = [(min(shape[0], max_batch_size), *shape[1:]) if shape else shape for shape in opt]
    result: list[Any] = []
    for tensor, a, b, c in zip(tensors, low, opt, high):
        b = tuple(min(max(n, lo), hi) for n, lo, hi in zip(b, a, c)) if given[1] is None else b
        result.append(
            tensor if a == c == tuple(tensor.shape) else kiln.Input(min_shape=a, opt_shape=b, max_shape=c, dtype=tensor.dtype)
        )
    return result


def torch2trt(
    module: torch.nn.Module,
    inputs: Union[Sequence[Any], Dataset],
    input_names: Optional[Sequence[str]] = None,
    output_names: Optional[Sequence[str]] = None,
    log_level: int = trt.Logger.ERROR,
    fp16_mode: bool = False,
    max_workspace_size: int = 1 << 25,
    strict_type_constraints: bool = False,
    keep_network: bool = True,
    int8_mode: bool = False,
    int8_calib_dataset: Optional[Dataset] = None,
    int8_calib_algorithm: Any = DEFAULT_CALIBRATION_ALGORITHM,
    use_onnx: bool = False,
    default_device_type: Any = trt.DeviceType.GPU,
    dla_core: int = 0,
    gpu_fallback: bool = True,
    device_types: Optional[Mapping[Any, Any]] = None,
    min_shapes: Any = None,
    max_shapes: Any = None,
    opt_shapes: Any = None,
    onnx_opset: Optional[int] = None,
    max_batch_size: Optional[int] = None,
    avg_timing_iterations: Optional[int] = None,
    **kwargs: Any,
) -> TRTModule:
    """Compiles a module; the drop-in for ``torch2trt.torch2trt``.

    Args:
        module: called as ``module(*inputs)``, on the CPU or a GPU: the engine is made for where its parameters are, and for inference.
        inputs: example arguments, which may nest, or a :class:`Dataset` of such, whose items give the ranges of shapes.
        input_names, output_names: one for each tensor.
        log_level: of :class:`trt.Logger`; from INFO on, the build reports its stages.
        fp16_mode: compute in half precision where the target can. On CPUs, engines compute in fp32.
        min_shapes, opt_shapes, max_shapes: ranges of shapes, nested as ``inputs`` or flat; default: those of the dataset.
        max_batch_size: axis 0 of each input varies from 1 to this.
        int8_mode: convolutions and linear layers take values rounded to int8. Their numbers are those of int8; their speed is not yet.
        int8_calib_dataset: what ranges are measured on: a :class:`Dataset`, a list of arguments, or a :class:`DatasetCalibrator`
            (which has a cache file); default: the inputs.
        int8_calib_algorithm: of ``trt.CalibrationAlgoType``.
        Others are accepted for compatibility: they configure TensorRT, which is not used here.

    Returns:
        A :class:`TRTModule`.

    Raises:
        KilnError: the model cannot be captured or uses operators that Kiln lacks; all are listed with source lines.
        ValueError: an argument is wrong; the text names it.
    """
    arguments = {**kwargs, **{name: value for name, value in locals().items() if name != "kwargs"}}
    checks.check_all("torch2trt", arguments, _RULES)
    if use_onnx or onnx_opset is not None:
        _note("torch2trt: use_onnx and onnx_opset have no effect: Kiln captures the model with torch.export, without ONNX")
    if default_device_type is not trt.DeviceType.GPU or device_types or dla_core:
        _note("torch2trt: device types are ignored: Kiln has no DLA backend")
    if strict_type_constraints or avg_timing_iterations is not None:
        _note("torch2trt: strict_type_constraints and avg_timing_iterations configure TensorRT's builder and have no effect")
    dataset = inputs if isinstance(inputs, Dataset) else ListDataset([_as_arguments(inputs)])
    flattener = dataset.flattener
    if flattener.size == 0:
        raise ValueError("inputs hold no tensor")
    tensors = dataset.getitem_flat(0)
    device = next((p.device for p in [*module.parameters(), *module.buffers()]), tensors[0].device)
    precision = "fp32"
    if fp16_mode and device.type == "cuda":
        precision = "fp16"
    elif fp16_mode:
        _note("torch2trt: fp16_mode has no effect on a CPU: engines compute in fp32 there")
    examples = _inputs(dataset, flattener, min_shapes, opt_shapes, max_shapes, max_batch_size)
    report = (lambda stage, fraction: print(f"[kiln] {100 * fraction:3.0f} % {stage}")) if log_level >= trt.Logger.INFO else None
    if input_names is not None and len(input_names) != flattener.size:
        raise ValueError(f"input_names has {len(input_names)} names, but the inputs hold {flattener.size} tensors")
    flat = _Flat.of(module, flattener, dataset[0], input_names or default_input_names(flattener.size))
    options: dict[str, Any] = {"target": str(device), "precision": precision, "progress": report}
    with converting(arguments) as context, for_inference(module, "torch2trt"):
        if int8_mode:
            calibration = calibration_of(
                dataset if int8_calib_dataset is None else int8_calib_dataset, int8_calib_algorithm, flattener
            )
            compiled = _compile_int8(flat, examples, calibration, options)
        else:
            compiled = _compile(
                flat, examples, options, tensors if max_batch_size is not None and not (min_shapes or max_shapes) else None
            )
    result = TRTModule(compiled, input_names, output_names, flattener, flat.note.output_flattener)
    if keep_network:
        result.network = context.network
    return result


def _compile(flat: _Flat, examples: list[Any], options: dict[str, Any], static: Optional[list[torch.Tensor]]) -> Any:
    """With ``static``, a model that cannot be captured with sizes that vary is compiled for those of these examples."""
    try:
        return kiln.compile(flat, inputs=examples, **options)
    except kiln.KilnError as error:
        if static is None or "could not capture" not in str(error):
            raise
        try:
            compiled = kiln.compile(flat, inputs=static, **options)
        except kiln.KilnError:
            raise error from None
        _note(f"torch2trt: max_batch_size has no effect: the model fixes the size of its batch. {error}")
        return compiled


def _compile_int8(flat: _Flat, examples: list[Any], calibration: quantization.Calibration, options: dict[str, Any]) -> Any:
    model, examples, _ = compiler._to_host(flat, examples, {}, options["target"])
    compiler._check_model(model)
    program, _ = compiler.capture(model, examples, {}, None)
    specs = [e if isinstance(e, kiln.Input) else kiln.Input(tuple(e.shape), dtype=e.dtype) for e in examples]
    return kiln.compile(quantization.quantize(program, calibration), inputs=specs, **options)


_SHAPES = checks.optional(checks.instance((list, tuple, Mapping), "shapes, one for each tensor, in a list or nested as the inputs"))
_NAMES = checks.optional(checks.NAMES)
_RULES = {
    "module": checks.instance(torch.nn.Module, "a torch.nn.Module"),
    "input_names": _NAMES,
    "output_names": _NAMES,
    "log_level": checks.count(trt.Logger.INTERNAL_ERROR, trt.Logger.VERBOSE),
    "fp16_mode": checks.BOOL,
    "max_workspace_size": checks.count(),
    "strict_type_constraints": checks.BOOL,
    "keep_network": checks.BOOL,
    "int8_mode": checks.BOOL,
    "int8_calib_algorithm": checks.one_of(trt.CalibrationAlgoType),
    "use_onnx": checks.BOOL,
    "onnx_opset": checks.optional(checks.count(1)),
    "default_device_type": checks.one_of(trt.DeviceType),
    "dla_core": checks.count(),
    "gpu_fallback": checks.BOOL,
    "device_types": checks.optional(
        checks.Rule(
            lambda value: isinstance(value, Mapping) and all(kind in trt.DeviceType for kind in value.values()),
            "a dictionary from modules to trt.DeviceType",
            (dict,),
        )
    ),
    "min_shapes": _SHAPES,
    "opt_shapes": _SHAPES,
    "max_shapes": _SHAPES,
    "max_batch_size": checks.optional(checks.count(1)),
    "avg_timing_iterations": checks.optional(checks.count(1)),
}


def _as_arguments(inputs: Any) -> tuple[Any, ...]:
    if isinstance(inputs, torch.Tensor):
        return (inputs,)
    if not isinstance(inputs, (tuple, list)) or not Flattener.from_value(inputs).size:
        raise ValueError(f"inputs must be a list or tuple of the module's arguments, or a Dataset; got {type(inputs).__name__}")
    return tuple(inputs)
