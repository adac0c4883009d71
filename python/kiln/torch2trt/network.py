"""``ctx.network`` of custom converters: TensorRT's ``add_*`` methods over PyTorch operators.

A converter runs while torch.export traces the model. Each layer computes its result with PyTorch operators on the traced tensors, so
what a converter builds becomes part of the captured program, and Kiln compiles it as any other. Layers compute when a result is first
looked at, so that attributes set after ``add_*`` (``layer.stride_nd = ...``) count.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Callable, Optional

import torch
import torch.nn.functional as F

from kiln.torch2trt import traced_arrays, trt
from kiln.torch2trt.layers import MoreLayers, product

__all__ = ["ITensor", "Layer", "Network"]


class ITensor:
    """A tensor of the network; ``value`` is the traced PyTorch tensor, and ``sizes`` its numbers where they come from shapes."""

    def __init__(
        self,
        value: Optional[torch.Tensor] = None,
        layer: Optional[Layer] = None,
        index: int = 0,
        sizes: Optional[list[Any]] = None,
    ) -> None:
        self._value = value
        self._layer = layer
        self._index = index
        self._sizes = sizes
        self.name = ""

    @property
    def value(self) -> torch.Tensor:
        if self._value is None and self._sizes is not None:
            self._value = torch.tensor(self._sizes, dtype=torch.int64)
        if self._value is None:
            assert self._layer is not None
            self._value = self._layer.compute()[self._index]
        return self._value

    @property
    def sizes(self) -> Optional[list[Any]]:
        """The numbers of a tensor that is computed from shapes; they stay symbolic. None for other tensors."""
        if self._sizes is None and self._layer is not None and self._layer.sizes is not None:
            self._sizes = self._layer.sizes(self._layer)
        return self._sizes

    @property
    def shape(self) -> trt.Dims:
        return trt.Dims(self.value.shape)

    @property
    def dtype(self) -> trt.DataType:
        return trt.DataType(self.value.dtype)


class Layer:
    """One layer. Attributes are those of its TensorRT namesake; ``name`` is free."""

    def __init__(self, function: Callable[[Layer], Any], **attributes: Any) -> None:
        self._function = function
        self._results: Optional[tuple[torch.Tensor, ...]] = None
        self.name = ""
        self.precision: Any = None
        self.sizes: Optional[Callable[[Layer], Optional[list[Any]]]] = None  # of the result, where it is a list of sizes
        # Copies, for callers change their lists and go on with them.
        self.__dict__.update({key: list(value) if isinstance(value, list) else value for key, value in attributes.items()})

    def compute(self) -> tuple[torch.Tensor, ...]:
        if self._results is None:
            results = self._function(self)
            self._results = results if isinstance(results, tuple) else (results,)
        return self._results

    def get_output(self, index: int) -> ITensor:
        return ITensor(layer=self, index=index)

    def set_output_type(self, index: int, dtype: trt.DataType) -> None:
        function = self._function

        def cast(layer: Layer) -> Any:
            results = function(layer)
            results = list(results) if isinstance(results, tuple) else [results]
            results[index] = results[index].to(dtype.value)
            return tuple(results)

        self._function = cast

    def set_input(self, index: int, tensor: ITensor) -> None:
        """Sizes computed by the network: of a shuffle's reshape (1), of a slice's start, shape and stride (1 to 3)."""
        self.__dict__.setdefault("inputs", {})[index] = tensor


trt.ITensor = ITensor  # type: ignore[attr-defined]  # converters ask isinstance(x, trt.ITensor)


def _axes(mask: int, rank: int) -> list[int]:
    return [i for i in range(rank) if mask >> i & 1]


def _ints(tensor: ITensor) -> list[int]:
    """A tensor of sizes as a list; the sizes stay symbolic where the network took them from a shape."""
    sizes = tensor.sizes
    return list(sizes) if sizes is not None else tensor.value.tolist()


def _all_sizes(*tensors: ITensor) -> Optional[list[list[Any]]]:
    """The sizes of each, if all have them."""
    found = [tensor.sizes for tensor in tensors]
    return None if any(sizes is None for sizes in found) else [list(sizes) for sizes in found if sizes is not None]


def _elementwise_sizes(input1: ITensor, input2: ITensor, op: Any) -> Optional[list[Any]]:
    both, function = _all_sizes(input1, input2), _SIZES.get(getattr(op, "name", str(op)))
    if both is None or function is None:
        return None
    count = max(len(both[0]), len(both[1]))
    a, b = (sizes * count if len(sizes) == 1 else sizes for sizes in both)
    return [function(x, y) for x, y in zip(a, b)]


def _slice_sizes(layer: Layer, input: ITensor) -> Optional[list[Any]]:
    if input.sizes is None or getattr(layer, "inputs", None):
        return None
    start, count, step = (int(next(iter(given))) for given in (layer.start, layer.shape, layer.stride))
    return [input.sizes[start + i * step] for i in range(count)]


def _gather_sizes(input: ITensor, indices: ITensor) -> Optional[list[Any]]:
    both = _all_sizes(input, indices)
    return None if both is None else [both[0][i] for i in both[1]]


def _is_traced(value: torch.Tensor) -> bool:
    """It stands for numbers that are not known yet."""
    return isinstance(value, (torch._subclasses.FakeTensor, torch._subclasses.functional_tensor.FunctionalTensor))


def _constant(weights: Any) -> Optional[torch.Tensor]:
    weights = traced_arrays.tensor_of(weights.value if isinstance(weights, trt.Weights) else weights)
    if weights is None:
        return None
    return weights if isinstance(weights, torch.Tensor) else torch.as_tensor(weights)


def _whole_numbers(weights: Any) -> Optional[list[int]]:
    """The numbers of a constant of integers, which may be sizes."""
    if isinstance(weights, torch.Tensor):
        known = weights.dtype in (torch.int32, torch.int64) and not _is_traced(weights)
    else:
        known = getattr(getattr(weights, "dtype", None), "kind", "") == "i"
    return list(weights.reshape(-1).tolist()) if known else None


def _divide(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Integers stay integers."""
    whole = not a.is_floating_point() and not b.is_floating_point()
    return torch.div(a, b, rounding_mode="trunc" if whole else None)


def _take_beyond(x: torch.Tensor, axis: int, at: torch.Tensor, mode: str) -> torch.Tensor:
    """Places of an axis that may lie outside of it, or go backwards."""
    count = x.shape[axis]
    if mode == "WRAP":
        at = at % count
    elif mode == "CLAMP":
        at = at.clamp(0, count - 1)
    elif mode == "REFLECT":
        period = 2 * (count - 1)
        at = at % period
        at = torch.minimum(at, period - at)
    elif mode not in ("STRICT_BOUNDS", "DEFAULT", "FILL"):
        raise ValueError(f"slice: mode {mode} is not supported; known: STRICT_BOUNDS, WRAP, CLAMP, REFLECT, FILL")
    taken = x.index_select(axis, at.clamp(0, count - 1))
    if mode != "FILL":
        return taken
    inside = ((at >= 0) & (at < count)).reshape([-1 if i == axis else 1 for i in range(x.ndim)])
    return torch.where(inside, taken, torch.zeros((), dtype=x.dtype, device=x.device))


_UNARY = {
    "EXP": torch.exp, "LOG": torch.log, "SQRT": torch.sqrt, "RECIP": torch.reciprocal, "ABS": torch.abs, "NEG": torch.neg,
    "SIN": torch.sin, "COS": torch.cos, "TAN": torch.tan, "SINH": torch.sinh, "COSH": torch.cosh, "ASIN": torch.asin,
    "ACOS": torch.acos, "ATAN": torch.atan, "ASINH": torch.asinh, "ACOSH": torch.acosh, "ATANH": torch.atanh, "CEIL": torch.ceil,
    "FLOOR": torch.floor, "ERF": torch.erf, "NOT": torch.logical_not, "SIGN": torch.sign, "ROUND": torch.round,
    "ISINF": torch.isinf, "ISNAN": torch.isnan,
}  # fmt: skip
_BINARY = {
    "SUM": torch.add, "PROD": torch.mul, "MAX": torch.maximum, "MIN": torch.minimum, "SUB": torch.sub, "DIV": _divide,
    "POW": torch.pow, "FLOOR_DIV": torch.floor_divide, "AND": torch.logical_and, "OR": torch.logical_or, "XOR": torch.logical_xor,
    "EQUAL": torch.eq, "GREATER": torch.gt, "LESS": torch.lt,
}  # fmt: skip
_SIZES: dict[str, Callable[[Any, Any], Any]] = {
    "SUM": operator.add,
    "SUB": operator.sub,
    "PROD": operator.mul,
    "DIV": operator.floordiv,
    "FLOOR_DIV": operator.floordiv,
    "MAX": torch.sym_max,
    "MIN": torch.sym_min,
}
_ACTIVATION: dict[str, Callable[[torch.Tensor, float, float], torch.Tensor]] = {
    "RELU": lambda x, a, b: F.relu(x),
    "SIGMOID": lambda x, a, b: torch.sigmoid(x),
    "TANH": lambda x, a, b: torch.tanh(x),
    "LEAKY_RELU": lambda x, a, b: F.leaky_relu(x, a),
    "ELU": lambda x, a, b: F.elu(x, a),
    "SELU": lambda x, a, b: torch.where(x > 0, b * x, b * a * torch.expm1(x)),
    "SOFTSIGN": lambda x, a, b: F.softsign(x),
    "SOFTPLUS": lambda x, a, b: a * F.softplus(b * x),
    "CLIP": lambda x, a, b: torch.clamp(x, a, b),
    "HARD_SIGMOID": lambda x, a, b: torch.clamp(a * x + b, 0, 1),
    "SCALED_TANH": lambda x, a, b: a * torch.tanh(b * x),
    "THRESHOLDED_RELU": lambda x, a, b: torch.where(x > a, x, 0.0),
    "GELU_ERF": lambda x, a, b: F.gelu(x),
    "GELU_TANH": lambda x, a, b: F.gelu(x, approximate="tanh"),
}
_REDUCE: dict[str, Callable[[torch.Tensor, list[int], bool], torch.Tensor]] = {
    "SUM": lambda x, axes, keep: torch.sum(x, axes, keep),
    "AVG": lambda x, axes, keep: torch.mean(x, axes, keep),
    "MAX": lambda x, axes, keep: torch.amax(x, axes, keep),
    "MIN": lambda x, axes, keep: torch.amin(x, axes, keep),
    "PROD": product,
}
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_DECONV = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def _name(kind: Any, known: dict[str, Any], what: str) -> Any:
    name = getattr(kind, "name", str(kind))
    if name not in known:
        raise ValueError(f"{what} {name} is not supported; known: {', '.join(known)}")
    return known[name]


class Network(MoreLayers):
    """What a converter adds layers to."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []
        self.inputs: list[ITensor] = []
        self.outputs: list[ITensor] = []

    @property
    def _network(self) -> Network:
        """torch2trt wraps TensorRT's network; here both are one."""
        return self

    def _add(self, function: Callable[[Layer], Any], **attributes: Any) -> Layer:
        layer = Layer(function, **attributes)
        self.layers.append(layer)
        return layer

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> Layer:
        return self.layers[index]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("add_"):
            known = sorted(n for n in dir(type(self)) if n.startswith("add_"))
            raise NotImplementedError(f"network.{name} is not supported; known: {', '.join(known)}")
        raise AttributeError(name)

    # ---- elements ----

    def add_identity(self, input: ITensor) -> Layer:
        return self._add(lambda layer: input.value.clone(), sizes=lambda layer: input.sizes)

    def add_cast(self, input: ITensor, to_type: trt.DataType) -> Layer:
        whole = to_type.value in (torch.int32, torch.int64)
        return self._add(lambda layer: input.value.to(to_type.value), sizes=lambda layer: input.sizes if whole else None)

    def add_constant(self, shape: Sequence[int], weights: Any) -> Layer:
        value = _constant(weights)
        if value is None:
            raise ValueError("add_constant: weights are empty")
        dims = tuple(shape)
        sizes = _whole_numbers(weights) if len(dims) <= 1 else None
        return self._add(lambda layer: value.reshape(dims), sizes=lambda layer: sizes)

    def add_activation(self, input: ITensor, type: Any) -> Layer:
        function = _name(type, _ACTIVATION, "activation")
        alpha, beta = {"SELU": (1.6732632423543772, 1.0507009873554805), "SOFTPLUS": (1.0, 1.0), "ELU": (1.0, 0.0)}.get(
            getattr(type, "name", ""), (0.0, 0.0)
        )
        return self._add(lambda layer: function(input.value, layer.alpha, layer.beta), alpha=alpha, beta=beta, type=type)

    def add_unary(self, input: ITensor, op: Any) -> Layer:
        function = _name(op, _UNARY, "unary operation")
        return self._add(lambda layer: function(input.value), op=op)

    def add_elementwise(self, input1: ITensor, input2: ITensor, op: Any) -> Layer:
        function = _name(op, _BINARY, "elementwise operation")
        return self._add(
            lambda layer: function(input1.value, input2.value), op=op, sizes=lambda layer: _elementwise_sizes(input1, input2, op)
        )

    def add_select(self, condition: ITensor, then_input: ITensor, else_input: ITensor) -> Layer:
        return self._add(lambda layer: torch.where(condition.value, then_input.value, else_input.value))

    def add_parametric_relu(self, input: ITensor, slopes: ITensor) -> Layer:
        return self._add(lambda layer: torch.where(input.value >= 0, input.value, input.value * slopes.value))

    def add_scale(self, input: ITensor, mode: Any, shift: Any = None, scale: Any = None, power: Any = None) -> Layer:
        return self.add_scale_nd(input, mode, shift, scale, power, 1)

    def add_scale_nd(
        self, input: ITensor, mode: Any, shift: Any = None, scale: Any = None, power: Any = None, channel_axis: int = 1
    ) -> Layer:
        """(x * scale + shift) ** power"""

        def compute(layer: Layer) -> torch.Tensor:
            x = input.value
            view = [1] * x.ndim
            if layer.mode.name == "CHANNEL":
                view[layer.channel_axis] = -1
            elif layer.mode.name == "ELEMENTWISE":
                view = [1, *x.shape[1:]]
            parts = [_constant(part) for part in (layer.scale, layer.shift, layer.power)]
            factor, offset, exponent = (None if p is None else p.to(x.dtype).reshape(view) for p in parts)
            x = x if factor is None else x * factor
            x = x if offset is None else x + offset
            return x if exponent is None else x**exponent

        return self._add(compute, mode=mode, shift=shift, scale=scale, power=power, channel_axis=channel_axis)

    # ---- matrices and windows ----

    def add_matrix_multiply(self, input0: ITensor, op0: Any, input1: ITensor, op1: Any) -> Layer:
        def side(x: torch.Tensor, op: Any) -> torch.Tensor:
            return x.transpose(-1, -2) if op.name == "TRANSPOSE" else x

        def compute(layer: Layer) -> torch.Tensor:
            return torch.matmul(side(input0.value, layer.op0), side(input1.value, layer.op1))

        return self._add(compute, op0=op0, op1=op1)

    def add_einsum(self, inputs: Sequence[ITensor], equation: str) -> Layer:
        return self._add(lambda layer: torch.einsum(layer.equation, *[t.value for t in inputs]), equation=equation)

    def _windowed(self, input: ITensor, kernel: Any, bias: Any, functions: dict[int, Any], size: Sequence[int], maps: int) -> Layer:
        dims = len(size)

        def compute(layer: Layer) -> torch.Tensor:
            weight, offset = _constant(layer.kernel), _constant(layer.bias)
            assert weight is not None
            deconvolution = functions is _DECONV
            inner = input.value.shape[1] // (1 if deconvolution else layer.num_groups)
            outer = maps // layer.num_groups if deconvolution else maps
            weight = weight.reshape((inner, outer, *size) if deconvolution else (outer, inner, *size))
            options = {"stride": tuple(layer.stride_nd), "padding": tuple(layer.padding_nd), "dilation": tuple(layer.dilation_nd)}
            return functions[dims](input.value, weight, offset, groups=layer.num_groups, **options)

        one = (1,) * dims
        attributes = {"stride_nd": one, "padding_nd": (0,) * dims, "dilation_nd": one, "num_groups": 1}
        return self._add(compute, kernel=kernel, bias=bias, **attributes)

    def add_convolution_nd(
        self, input: ITensor, num_output_maps: int, kernel_shape: Sequence[int], kernel: Any, bias: Any = None
    ) -> Layer:
        return self._windowed(input, kernel, bias, _CONV, tuple(kernel_shape), num_output_maps)

    def add_deconvolution_nd(
        self, input: ITensor, num_output_maps: int, kernel_shape: Sequence[int], kernel: Any, bias: Any = None
    ) -> Layer:
        return self._windowed(input, kernel, bias, _DECONV, tuple(kernel_shape), num_output_maps)

    def add_pooling_nd(self, input: ITensor, type: Any, window_size: Sequence[int]) -> Layer:
        dims = len(tuple(window_size))

        def compute(layer: Layer) -> torch.Tensor:
            up = layer.padding_mode.name == "EXPLICIT_ROUND_UP"
            window, stride, padding = tuple(window_size), tuple(layer.stride_nd), tuple(layer.padding_nd)
            if layer.type.name == "MAX":
                return _MAX_POOL[dims](input.value, window, stride, padding, ceil_mode=up)
            if layer.type.name != "AVERAGE":
                raise ValueError(f"pooling {layer.type.name} is not supported; known: MAX, AVERAGE")
            include = not layer.average_count_excludes_padding
            return _AVERAGE_POOL[dims](input.value, window, stride, padding, ceil_mode=up, count_include_pad=include)

        return self._add(
            compute,
            type=type,
            stride_nd=(1,) * dims,
            padding_nd=(0,) * dims,
            padding_mode=trt.PaddingMode.EXPLICIT_ROUND_DOWN,
            average_count_excludes_padding=True,
        )

    # ---- reductions ----

    def add_reduce(self, input: ITensor, op: Any, axes: int, keep_dims: bool) -> Layer:
        def compute(layer: Layer) -> torch.Tensor:
            x, axes = input.value, _axes(layer.axes, input.value.ndim)
            if layer.op.name == "PROD":
                for axis in sorted(axes, reverse=True):
                    x = torch.prod(x, axis, layer.keep_dims)
                return x
            return _name(layer.op, _REDUCE, "reduction")(x, axes, layer.keep_dims)

        return self._add(compute, op=op, axes=axes, keep_dims=keep_dims)

    def add_softmax(self, input: ITensor) -> Layer:
        def compute(layer: Layer) -> torch.Tensor:
            axes = _axes(layer.axes, input.value.ndim)
            if len(axes) != 1:
                raise ValueError(f"softmax: axes must name one axis, got {axes}")
            return torch.softmax(input.value, axes[0])

        return self._add(compute, axes=2)

    def add_topk(self, input: ITensor, op: Any, k: int, axes: int) -> Layer:
        def compute(layer: Layer) -> tuple[torch.Tensor, ...]:
            axis = _axes(layer.axes, input.value.ndim)[0]
            values, places = torch.topk(input.value, layer.k, axis, largest=layer.op.name == "MAX")
            return values, places.to(torch.int32)

        return self._add(compute, op=op, k=k, axes=axes)

    def add_normalization(self, input: ITensor, scale: ITensor, bias: ITensor, axesMask: int) -> Layer:
        def compute(layer: Layer) -> torch.Tensor:
            x, axes = input.value, _axes(layer.axes, input.value.ndim)
            centered = x - x.mean(axes, True)
            return centered * torch.rsqrt((centered * centered).mean(axes, True) + layer.epsilon) * scale.value + bias.value

        return self._add(compute, axes=axesMask, epsilon=1e-5)

    # ---- movement ----

    def add_shuffle(self, input: ITensor) -> Layer:
        def compute(layer: Layer) -> torch.Tensor:
            x = input.value
            if layer.first_transpose is not None:
                x = x.permute(tuple(layer.first_transpose))
            dims = _ints(layer.inputs[1]) if 1 in layer.inputs else layer.reshape_dims
            if dims is not None:
                x = x.reshape([x.shape[i] if size == 0 and isinstance(size, int) else size for i, size in enumerate(dims)])
            return x if layer.second_transpose is None else x.permute(tuple(layer.second_transpose))

        return self._add(compute, first_transpose=None, reshape_dims=None, second_transpose=None, inputs={})

    def add_concatenation(self, inputs: Sequence[ITensor]) -> Layer:
        inputs = list(inputs)

        def sizes(layer: Layer) -> Optional[list[Any]]:
            parts = _all_sizes(*inputs)
            return None if parts is None else [size for part in parts for size in part]

        return self._add(lambda layer: torch.cat([t.value for t in inputs], layer.axis), axis=1, sizes=sizes)

    def add_slice(self, input: ITensor, start: Sequence[int], shape: Sequence[int], stride: Sequence[int]) -> Layer:
        def compute(layer: Layer) -> torch.Tensor:
            given = (layer.start, layer.shape, layer.stride)
            starts, sizes, steps = (_ints(layer.inputs[i + 1]) if i + 1 in layer.inputs else list(g) for i, g in enumerate(given))
            x = input.value
            mode = layer.mode.name
            for axis, (first, size, step) in enumerate(zip(starts, sizes, steps)):
                if isinstance(step, int) and step == 0:
                    x = x.narrow(axis, first, 1).expand([size if i == axis else -1 for i in range(x.ndim)])
                    continue
                if mode not in ("STRICT_BOUNDS", "DEFAULT") or (isinstance(step, int) and step < 0):
                    x = _take_beyond(x, axis, first + step * torch.arange(size, device=x.device), mode)
                    continue
                x = x.narrow(axis, first, (size - 1) * step + 1 if step != 1 else size)
                if step != 1:
                    x = x[(slice(None),) * axis + (slice(None, None, step),)]
            return x

        return self._add(
            compute,
            start=start,
            shape=shape,
            stride=stride,
            inputs={},
            mode=trt.SampleMode.STRICT_BOUNDS,
            sizes=lambda layer: _slice_sizes(layer, input),
        )

    def add_gather(self, input: ITensor, indices: ITensor, axis: int) -> Layer:
        def compute(layer: Layer) -> torch.Tensor:
            x, at, axis = input.value, indices.value, layer.axis % input.value.ndim
            taken = torch.index_select(x, axis, at.reshape(-1).to(torch.int64))
            return taken.reshape((*x.shape[:axis], *at.shape, *x.shape[axis + 1 :]))

        return self._add(compute, axis=axis, sizes=lambda layer: _gather_sizes(input, indices))

    def add_shape(self, input: ITensor) -> Layer:
        return self._add(
            lambda layer: torch.tensor(list(input.value.shape), dtype=torch.int64), sizes=lambda layer: list(input.value.shape)
        )

    def add_padding_nd(self, input: ITensor, pre_padding: Sequence[int], post_padding: Sequence[int]) -> Layer:
        def compute(layer: Layer) -> torch.Tensor:
            pairs = zip(reversed(tuple(layer.pre_padding_nd)), reversed(tuple(layer.post_padding_nd)))
            return F.pad(input.value, [size for pair in pairs for size in pair])

        return self._add(compute, pre_padding_nd=pre_padding, post_padding_nd=post_padding)

    add_padding = add_padding_nd

    def add_resize(self, input: ITensor) -> Layer:
        def compute(layer: Layer) -> torch.Tensor:
            x = input.value
            spatial = x.ndim - 2
            modes = {"NEAREST": "nearest", "LINEAR": ("linear", "bilinear", "trilinear")[spatial - 1], "CUBIC": "bicubic"}
            mode = modes[layer.resize_mode.name]
            where = getattr(layer.coordinate_transformation, "name", "")
            if mode == "nearest":
                mode = "nearest-exact" if where == "HALF_PIXEL" else mode
            elif where == "ASYMMETRIC":
                raise ValueError(f"resize: coordinate_transformation ASYMMETRIC is not supported for {layer.resize_mode.name}")
            corners = bool(layer.align_corners) or where == "ALIGN_CORNERS"
            options: dict[str, Any] = {} if mode.startswith("nearest") else {"align_corners": corners}
            size = _ints(layer.inputs[1]) if 1 in layer.inputs else layer.shape
            if size is not None:
                return F.interpolate(x, size=list(size)[2:], mode=mode, **options)
            if layer.scales is None:
                raise ValueError("resize: set shape or scales")
            return F.interpolate(x, scale_factor=[float(s) for s in list(layer.scales)[2:]], mode=mode, **options)

        return self._add(
            compute,
            shape=None,
            scales=None,
            resize_mode=trt.InterpolationMode.NEAREST,
            coordinate_transformation=None,
            align_corners=False,
            inputs={},
        )
