"""More of ``network.add_*``: gathers, scatters, windows by their old names, and what else TensorRT has that PyTorch computes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Callable

import torch
import torch.nn.functional as F

from kiln.torch2trt import trt

if TYPE_CHECKING:
    from kiln.torch2trt.network import ITensor, Layer

__all__ = ["MoreLayers"]


def _mode(kind: Any) -> str:
    return str(getattr(kind, "name", kind))


def _take(x: torch.Tensor, indices: torch.Tensor, axis: int) -> torch.Tensor:
    taken = torch.index_select(x, axis, indices.reshape(-1).to(torch.int64))
    return taken.reshape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


def _channels(like: torch.Tensor, scale: torch.Tensor, axis: int) -> torch.Tensor:
    view = [1] * like.ndim
    if scale.numel() > 1:
        view[axis] = -1
    return scale.reshape(view).to(like.dtype)


class MoreLayers:
    """Of :class:`kiln.torch2trt.network.Network`."""

    _add: Callable[..., Layer]
    add_convolution_nd: Callable[..., Layer]
    add_deconvolution_nd: Callable[..., Layer]
    add_pooling_nd: Callable[..., Layer]
    add_padding_nd: Callable[..., Layer]

    # ---- windows, by the names of older versions ----

    def _old_names(self, layer: Layer, names: Sequence[str]) -> Layer:
        """``layer.stride = (2, 2)`` is ``layer.stride_nd``."""
        function = layer._function

        def compute(own: Layer) -> Any:
            for name in names:
                if name in vars(own):
                    setattr(own, f"{name}_nd", vars(own)[name])
            return function(own)

        layer._function = compute
        return layer

    def add_convolution(self, input: ITensor, num_output_maps: int, kernel_shape: Any, kernel: Any, bias: Any = None) -> Layer:
        layer = self.add_convolution_nd(input, num_output_maps, kernel_shape, kernel, bias)
        return self._old_names(layer, ("stride", "padding", "dilation"))

    def add_deconvolution(self, input: ITensor, num_output_maps: int, kernel_shape: Any, kernel: Any, bias: Any = None) -> Layer:
        return self._old_names(
            self.add_deconvolution_nd(input, num_output_maps, kernel_shape, kernel, bias), ("stride", "padding", "dilation")
        )

    def add_pooling(self, input: ITensor, type: Any, window_size: Any) -> Layer:
        return self._old_names(self.add_pooling_nd(input, type, window_size), ("stride", "padding"))

    def add_padding(self, input: ITensor, pre_padding: Any, post_padding: Any) -> Layer:
        return self.add_padding_nd(input, pre_padding, post_padding)

    def add_fully_connected(self, input: ITensor, num_outputs: int, kernel: Any, bias: Any = None) -> Layer:
        """The last three dimensions, flat, times a weight; the result has ``num_outputs`` channels of size 1 by 1."""
        from kiln.torch2trt.network import _constant

        weight, offset = _constant(kernel), _constant(bias)
        if weight is None:
            raise ValueError("add_fully_connected: the kernel is empty")

        def compute(layer: Layer) -> torch.Tensor:
            flat = input.value.flatten(-3)
            y = F.linear(flat, weight.reshape(num_outputs, -1).to(flat.dtype), None if offset is None else offset.to(flat.dtype))
            return y[..., None, None]

        return self._add(compute)

    def add_lrn(self, input: ITensor, window: int, alpha: float, beta: float, k: float) -> Layer:
        return self._add(lambda layer: F.local_response_norm(input.value, window, alpha, beta, k))

    # ---- places ----

    def add_gather_v2(self, input: ITensor, indices: ITensor, mode: Any) -> Layer:
        """``mode`` DEFAULT takes slices of ``layer.axis``, ELEMENT single elements along it, ND elements (or slices) by whole indices."""
        kind = _mode(mode)

        def compute(layer: Layer) -> torch.Tensor:
            x, at = input.value, indices.value.to(torch.int64)
            if kind == "DEFAULT":
                return _take(x, at, layer.axis % x.ndim)
            if kind == "ELEMENT":
                return torch.gather(x, layer.axis % x.ndim, torch.where(at < 0, at + x.shape[layer.axis], at))
            if kind == "ND" and layer.num_elementwise_dims == 0:
                return x[at.unbind(-1)]
            raise ValueError(
                f"add_gather_v2: mode {kind} with {layer.num_elementwise_dims} elementwise dimensions is not supported"
            )

        return self._add(compute, axis=0, mode=mode, num_elementwise_dims=0)

    def add_scatter(self, data: ITensor, indices: ITensor, updates: ITensor, mode: Any) -> Layer:
        """``mode`` ELEMENT writes single elements along ``layer.axis``, ND elements (or slices) by whole indices."""

        def compute(layer: Layer) -> torch.Tensor:
            x, at = data.value, indices.value.to(torch.int64)
            if _mode(mode) == "ELEMENT":
                return torch.scatter(x, layer.axis, torch.where(at < 0, at + x.shape[layer.axis], at), updates.value)
            return torch.index_put(x, at.unbind(-1), updates.value)

        return self._add(compute, axis=0, mode=mode)

    def add_one_hot(self, indices: ITensor, values: ITensor, depth: ITensor, axis: int) -> Layer:
        """``values`` are those of all other places and of the place itself."""

        def compute(layer: Layer) -> torch.Tensor:
            from kiln.torch2trt.network import _ints

            at = indices.value.unsqueeze(layer.axis if layer.axis >= 0 else at_end(layer.axis))
            sizes = _ints(depth)
            count = int(sizes[0] if isinstance(sizes, list) else sizes)
            view = [1] * at.ndim
            view[layer.axis] = count
            places = torch.arange(count, device=at.device).reshape(view)
            off, on = values.value.unbind()
            return torch.where(at == places, on, off)

        def at_end(axis: int) -> int:
            return indices.value.ndim + 1 + axis

        return self._add(compute, axis=axis)

    def add_non_zero(self, input: ITensor) -> Layer:
        """The indices of all elements that are not 0, a column each."""
        return self._add(lambda layer: torch.nonzero(input.value).t())

    # ---- others ----

    def add_grid_sample(self, input: ITensor, grid: ITensor) -> Layer:
        def compute(layer: Layer) -> torch.Tensor:
            modes = {"NEAREST": "nearest", "LINEAR": "bilinear", "CUBIC": "bicubic"}
            padding = {"FILL": "zeros", "CLAMP": "border", "REFLECT": "reflection"}
            return F.grid_sample(
                input.value,
                grid.value,
                modes[_mode(layer.interpolation_mode)],
                padding[_mode(layer.sample_mode)],
                layer.align_corners,
            )

        return self._add(
            compute, interpolation_mode=trt.InterpolationMode.LINEAR, sample_mode=trt.SampleMode.FILL, align_corners=False
        )

    def add_cumulative(self, input: ITensor, axis: Any, op: Any, exclusive: bool, reverse: bool) -> Layer:
        """Running sums, maybe from the end, maybe without the element itself."""
        if _mode(op) != "SUM":
            raise ValueError(f"add_cumulative: {_mode(op)} is not supported; known: SUM")

        def compute(layer: Layer) -> torch.Tensor:
            from kiln.torch2trt.network import ITensor, _ints

            x = input.value
            places = _ints(axis) if isinstance(axis, ITensor) else axis
            dim = int(places[0] if isinstance(places, (list, tuple)) else places)
            x = x.flip(dim) if reverse else x
            total = torch.cumsum(x, dim)
            total = total - x if exclusive else total
            return total.flip(dim) if reverse else total

        return self._add(compute)

    def add_fill(self, shape: Sequence[int], op: Any, output_type: Any = trt.DataType.FLOAT) -> Layer:
        """``op`` LINSPACE: ``layer.alpha`` + i * ``layer.beta`` for one dimension."""
        if _mode(op) != "LINSPACE" or len(tuple(shape)) != 1:
            raise ValueError(f"add_fill: {_mode(op)} of {len(tuple(shape))} dimensions is not supported; known: LINSPACE of one")

        def compute(layer: Layer) -> torch.Tensor:
            return layer.alpha + torch.arange(int(next(iter(shape))), dtype=output_type.value) * layer.beta

        return self._add(compute, alpha=0, beta=1)

    def add_quantize(self, input: ITensor, scale: ITensor, output_type: Any = trt.DataType.INT8) -> Layer:
        def compute(layer: Layer) -> torch.Tensor:
            x = input.value
            return torch.clamp(torch.round(x / _channels(x, scale.value, layer.axis)), -128, 127).to(output_type.value)

        return self._add(compute, axis=0)

    def add_dequantize(self, input: ITensor, scale: ITensor, output_type: Any = trt.DataType.FLOAT) -> Layer:
        def compute(layer: Layer) -> torch.Tensor:
            x = input.value.to(output_type.value)
            return x * _channels(x, scale.value, layer.axis)

        return self._add(compute, axis=0)


def product(x: torch.Tensor, axes: Sequence[int], keep: bool) -> torch.Tensor:
    for axis in sorted(axes, reverse=True):
        x = torch.prod(x, axis, keep)
    return x
