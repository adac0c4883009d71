"""Building blocks of converters: ``impl.elementwise.mul(ctx, target, source_ir, name, lhs_val, rhs_val)`` and the like."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Callable

import torch

from kiln.torch2trt import trt
from kiln.torch2trt.network import ITensor, Layer
from kiln.torch_tensorrt.dynamo.conversion.converter_utils import get_positive_dim, get_trt_tensor

__all__ = ["activation", "elementwise", "matmul", "normalization", "permutation", "shuffle", "unary"]


def _finish(layer: Layer, name: str) -> ITensor:
    layer.name = name
    return layer.get_output(0)


def _binary(operation: str) -> Callable[..., ITensor]:
    def build(ctx: Any, target: Any, source_ir: Any, name: str, lhs_val: Any, rhs_val: Any) -> ITensor:
        sides = [lhs_val, rhs_val]
        for i, other in ((0, 1), (1, 0)):  # numbers take the type of the tensor beside them
            dtype = sides[other].value.dtype if isinstance(sides[other], ITensor) else None
            sides[i] = get_trt_tensor(ctx, sides[i], name, None if isinstance(sides[i], (ITensor, torch.Tensor)) else dtype)
        return _finish(ctx.net.add_elementwise(*sides, trt.ElementWiseOperation[operation]), name)

    return build


def _unary(operation: str) -> Callable[..., ITensor]:
    def build(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any) -> ITensor:
        return _finish(ctx.net.add_unary(get_trt_tensor(ctx, input_val, name), trt.UnaryOperation[operation]), name)

    return build


def _activation(kind: str) -> Callable[..., ITensor]:
    def build(ctx: Any, target: Any, source_ir: Any, name: str, input_val: Any, *numbers: float, **named: float) -> ITensor:
        layer = ctx.net.add_activation(get_trt_tensor(ctx, input_val, name), trt.ActivationType[kind])
        for key, number in [*zip(("alpha", "beta"), numbers), *named.items()]:
            setattr(layer, key, number)
        return _finish(layer, name)

    return build


def _matrix_multiply(
    ctx: Any,
    target: Any,
    source_ir: Any,
    name: str,
    input: Any,
    other: Any,
    input_matrix_op: Any = None,
    other_matrix_op: Any = None,
) -> ITensor:
    none = trt.MatrixOperation.NONE
    left, right = get_trt_tensor(ctx, input, name), get_trt_tensor(ctx, other, name)
    return _finish(ctx.net.add_matrix_multiply(left, input_matrix_op or none, right, other_matrix_op or none), name)


def _softmax(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, dim: int, half_to_float: bool = False) -> ITensor:
    x = get_trt_tensor(ctx, input, name)
    layer = ctx.net.add_softmax(x)
    layer.axes = 1 << get_positive_dim(dim, len(x.shape))
    return _finish(layer, name)


def _permute(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, permutation: Any) -> ITensor:
    x = get_trt_tensor(ctx, input, name)
    layer = ctx.net.add_shuffle(x)
    layer.second_transpose = trt.Permutation(get_positive_dim(tuple(permutation), len(x.shape)))
    return _finish(layer, name)


def _reshape(ctx: Any, target: Any, source_ir: Any, name: str, input: Any, shape: Any) -> ITensor:
    layer = ctx.net.add_shuffle(get_trt_tensor(ctx, input, name))
    layer.reshape_dims = tuple(shape)
    return _finish(layer, name)


elementwise = SimpleNamespace(
    **{
        name: _binary(operation)
        for name, operation in {
            "add": "SUM", "mul": "PROD", "sub": "SUB", "div": "DIV", "pow": "POW", "max": "MAX", "min": "MIN", "eq": "EQUAL",
            "gt": "GREATER", "lt": "LESS", "logical_and": "AND", "logical_or": "OR", "logical_xor": "XOR", "floor_divide": "FLOOR_DIV",
        }.items()
    }
)  # fmt: skip
unary = SimpleNamespace(
    **{
        name: _unary(name.upper())
        for name in (
            "exp log sqrt recip abs neg sin cos tan sinh cosh asin acos atan asinh acosh atanh ceil floor erf sign round isinf isnan"
        ).split()
    }
)
activation = SimpleNamespace(
    **{
        name: _activation(name.upper())
        for name in "relu sigmoid tanh leaky_relu elu selu softsign softplus clip hard_sigmoid".split()
    }
)
matmul = SimpleNamespace(matrix_multiply=_matrix_multiply)
normalization = SimpleNamespace(softmax=_softmax)
permutation = SimpleNamespace(permute=_permute)
shuffle = SimpleNamespace(reshape=_reshape)
