"""Pointwise operators, views, movement, creation, indexing, reductions, sorts and softmax against PyTorch.

Each case is a function and inputs. It is exported by torch.export, as captured and after run_decompositions(), compiled for the
reference backend and for the CPU backend, and compared with eager PyTorch: values, dtypes, shapes, NaN and infinity.
"""

import math
import warnings

import pytest

torch = pytest.importorskip("torch")
kiln = pytest.importorskip("kiln")

import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

warnings.filterwarnings("ignore")
A = torch.ops.aten
INF, NAN = math.inf, math.nan
F16, BF16, F32, F64 = torch.float16, torch.bfloat16, torch.float32, torch.float64
I8, U8, I16, I32, I64, BOOL = torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool
TOLERANCE = {F32: 2e-6, F64: 1e-12, BF16: 1e-2, F16: 2e-3}


class Fn(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f = f

    def forward(self, *args):
        return self.f(*args)


def r(*shape, dtype=F32):
    return torch.randn(shape, dtype=F64).to(dtype)


def pos(*shape, dtype=F32):
    return (torch.rand(*shape, dtype=F64) * 3 + 0.05).to(dtype)


def unit(*shape):
    return torch.rand(*shape) * 1.98 - 0.99


def sp(*shape, dtype=F32):
    """Normal values, among them some NaN, infinities and zeros of both signs."""
    x = torch.randn(*shape)
    flat = x.view(-1)
    for i, v in enumerate([NAN, INF, -INF, -0.0, 0.0]):
        flat[(i * 37 + 5) % flat.numel()] = v
    return x.to(dtype)


def ints(low, high, *shape, dtype=I64):
    return torch.randint(low, high, shape, dtype=dtype)


def bools(*shape):
    return torch.randint(0, 2, shape).bool()


CASES = {}


def case(name, function, *inputs):
    """`inputs` are functions, called with the seed of the case set."""
    assert name not in CASES, name
    CASES[name] = (function, inputs)


# ---- pointwise, one operand ----------------------------------------------------------------------------------------------

for _name in (
    "neg abs relu sigmoid tanh exp exp2 expm1 sin cos tan atan sinh cosh asinh erf erfc gelu silu mish hardswish hardsigmoid selu "
    "log_sigmoid floor ceil round trunc frac sign isnan isinf isfinite logical_not square negative absolute fix sgn arctan arcsinh "
    "special_expit special_exp2 special_expm1 special_erf special_erfc reciprocal relu6 positive isposinf isneginf signbit deg2rad "
    "rad2deg sinc special_sinc special_ndtr nan_to_num hardshrink softshrink softplus leaky_relu elu celu hardtanh rrelu"
).split():
    _f = getattr(A, _name)
    case(f"{_name}", _f, lambda: r(3, 37))
    if _name not in ("selu", "gelu"):
        case(f"{_name}_special", _f, lambda: sp(5, 41))
for _name in "log log2 log10 log1p sqrt rsqrt acosh special_log1p arccosh".split():
    case(f"{_name}", getattr(A, _name), lambda: pos(3, 37) + 1)
    case(f"{_name}_special", getattr(A, _name), lambda: sp(5, 41))
for _name in "asin acos atanh arcsin arccos arctanh logit special_logit".split():
    case(f"{_name}", getattr(A, _name), lambda: unit(3, 37).abs())
    case(f"{_name}_special", getattr(A, _name), lambda: sp(5, 41))
for (
    _name
) in "neg abs relu square floor ceil round trunc sign isnan isinf isfinite nan_to_num positive isposinf signbit sgn".split():
    case(f"{_name}_ints", lambda x, y, z, w, f=getattr(A, _name): (f(x), f(y), f(z), f(w)),
         lambda: ints(-9, 9, 3, 5), lambda: ints(-99, 99, 37, dtype=I32), lambda: ints(0, 255, 9, dtype=U8), lambda: ints(-100, 100, 9, dtype=I8))  # fmt: skip
for _name in "sigmoid tanh exp sin sqrt rsqrt erf reciprocal log1p".split():
    case(f"{_name}_ints_to_float", lambda x, y, f=getattr(A, _name): (f(x), f(y)), lambda: ints(0, 9, 3, 5), lambda: bools(7))
for _name in "sigmoid tanh exp gelu silu relu abs floor mish rsqrt".split():
    case(f"{_name}_f16", lambda x, y, z, f=getattr(A, _name): (f(x), f(y), f(z)), lambda: pos(37, dtype=F16), lambda: pos(5, 7, dtype=BF16), lambda: pos(9, dtype=F64))  # fmt: skip
case("bitwise_not", lambda x, y, z: (~x, ~y, ~z), lambda: ints(-9, 9, 7), lambda: bools(7), lambda: ints(0, 255, 7, dtype=U8))
case(
    "logical_not_dtypes",
    lambda x, y, z: (x.logical_not(), y.logical_not(), z.logical_not()),
    lambda: ints(-1, 2, 7),
    lambda: bools(7),
    lambda: r(3).round(),
)
case("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), lambda: r(3, 37) * 3)
case("gelu_range", F.gelu, lambda: torch.linspace(-8, 8, 133))
case("round_decimals", lambda x: (torch.round(x, decimals=2), torch.round(x * 1000, decimals=-1)), lambda: r(37))
case("leaky_relu_slope", lambda x: F.leaky_relu(x, 0.3), lambda: r(3, 7))
case("elu_alpha", lambda x: (F.elu(x, 0.3), F.celu(x, 1.7), A.elu(x, 0.5, 1.5, 2.0)), lambda: r(3, 7))
case("softplus_args", lambda x: F.softplus(x, 2.0, 3.0), lambda: r(3, 17) * 3)
case("shrink_args", lambda x: (F.hardshrink(x, 1.0), F.softshrink(x, 1.0), F.tanhshrink(x), F.softsign(x)), lambda: r(3, 17) * 2)
case("threshold", lambda x: F.threshold(x, 0.1, 20.0), lambda: r(3, 17))
case("rrelu_eval", lambda x: F.rrelu(x, 0.1, 0.3, training=False), lambda: r(3, 17))
case("prelu", lambda x, w: F.prelu(x, w), lambda: r(2, 5, 3), lambda: r(5))
case("prelu_one", lambda x, w: F.prelu(x, w), lambda: r(2, 5, 3), lambda: r(1))
case("glu", lambda x: (F.glu(x), F.glu(x, 1)), lambda: r(3, 4, 10))
case("logit_eps", lambda x: torch.logit(x, 0.1), lambda: torch.rand(4, 5))
case("nan_to_num_args", lambda x: torch.nan_to_num(x, 1.0, 2.0, -3.0), lambda: sp(5, 41))
case("nan_to_num_f16", torch.nan_to_num, lambda: sp(5, 41, dtype=F16))
case("empty", lambda x: (x + 1, x.relu(), x.exp() * x), lambda: r(0, 3))
case("zero_dim", lambda x, y: (x + y, x.exp(), x * 2, y - x.reshape(1)), lambda: r(), lambda: r())

# ---- clamp ---------------------------------------------------------------------------------------------------------------

case("clamp", lambda x: (x.clamp(-0.5, 0.5), x.clamp(min=0), x.clamp(max=0.25), x.clamp(1, -1), x.clip(-1, 1)), lambda: sp(5, 41))
case("clamp_int", lambda x: (x.clamp(-2, 3), x.clamp(min=1), x.clamp(-1.5, 2.5), x.clamp(max=2)), lambda: ints(-9, 9, 4, 5))
case(
    "clamp_tensor",
    lambda x, a, b: (torch.clamp(x, a, b), torch.clamp(x, min=a), torch.clamp(x, max=b), torch.clip(x, a, b)),
    lambda: sp(5, 41),
    lambda: r(41),
    lambda: r(5, 1),
)
case(
    "clamp_min_max",
    lambda x, a: (A.clamp_min(x, 0.5), A.clamp_max(x, 0.5), A.clamp_min.Tensor(x, a), A.clamp_max.Tensor(x, a)),
    lambda: sp(5, 41),
    lambda: r(41),
)
case("hardtanh_args", lambda x: F.hardtanh(x, -0.2, 0.7), lambda: r(37))

# ---- pointwise, two operands ---------------------------------------------------------------------------------------------

for _name in (
    "add sub subtract mul multiply div divide true_divide floor_divide remainder fmod atan2 arctan2 maximum minimum fmax fmin eq ne lt le gt ge not_equal "
    "less less_equal greater greater_equal logical_and logical_or logical_xor hypot logaddexp logaddexp2 heaviside copysign xlogy special_xlogy"
).split():
    _f = getattr(A, _name)
    case(_name, _f, lambda: r(3, 5, 7), lambda: r(5, 1))
    if _name not in ("floor_divide", "remainder", "fmod"):
        case(f"{_name}_special", _f, lambda: sp(5, 41), lambda: sp(41, 5).t())
for _name in "floor_divide remainder fmod".split():
    case(
        f"{_name}_ints",
        lambda x, y, z, f=getattr(A, _name): (f(x, y), f(x, z), f(x, -z), f(x, 3)),
        lambda: ints(-99, 99, 7, 9),
        lambda: ints(1, 9, 9),
        lambda: ints(1, 9, 9, dtype=I32),
    )
    case(f"{_name}_scalar", lambda x, f=getattr(A, _name): (f(x, 0.7), f(x, -3)), lambda: r(7, 9) * 10)
for _name in "add sub mul maximum minimum eq ne lt le gt ge".split():
    case(
        f"{_name}_ints",
        lambda x, y, z, f=getattr(A, _name): (f(x, y), f(x, z)),
        lambda: ints(-9, 9, 7, 9),
        lambda: ints(-9, 9, 9),
        lambda: ints(-9, 9, 7, 1, dtype=I32),
    )
    case(
        f"{_name}_mixed",
        lambda x, y, z, w, f=getattr(A, _name): (f(x, y), f(z, y), f(x, w), f(w, z)),
        lambda: r(3, 5),
        lambda: ints(-9, 9, 5),
        lambda: r(5, dtype=F16),
        lambda: r(5, dtype=BF16),
    )
for _name in "bitwise_and bitwise_or bitwise_xor __and__ __or__ __xor__".split():
    _f = getattr(A, _name)
    case(
        _name,
        lambda x, y, b, f=_f: (f(x, y), f(b, ~b), f(x, 5), f(b, True)),
        lambda: ints(-99, 99, 4, 5),
        lambda: ints(-99, 99, 5),
        lambda: bools(3, 3),
    )
for _name in "bitwise_left_shift bitwise_right_shift __lshift__ __rshift__".split():
    case(_name, lambda x, y, f=getattr(A, _name): (f(x, y), f(x, 3)), lambda: ints(-99, 99, 4, 5), lambda: ints(0, 9, 5))
case(
    "bitwise_scalar_tensor",
    lambda y: (
        A.bitwise_and.Scalar_Tensor(6, y),
        A.bitwise_or.Scalar_Tensor(6, y),
        A.bitwise_xor.Scalar_Tensor(6, y),
        A.bitwise_left_shift.Scalar_Tensor(6, y),
        A.bitwise_right_shift.Scalar_Tensor(600, y),
    ),
    lambda: ints(0, 9, 5),
)
case(
    "scalars", lambda x: (x + 1, x - 0.5, 2 * x, x / 3, 1 / x, 5 - x, x > 0, x <= 0.5, x == 0, x != 0, x + True), lambda: sp(5, 41)
)
case(
    "scalars_int",
    lambda x: (x + 1, x - 0.5, 2 * x, x / 3, 5 - x, x > 0, x <= 0.5, x == 0, x * 2.5, x // 2, x % 3, x // -2, x % -3),
    lambda: ints(-9, 9, 5, 4),
)
case("scalars_bool", lambda x: (x + 1, x * 2, x + 0.5, x & True, x | x, x == 1, x * 1.5, x + x, x * x), lambda: bools(5, 4))
case(
    "scalars_f16",
    lambda x, y: (x + 1, x * 0.1, x / 3, 1 - x, x > 0.5, y * 0.1 + 3, x + y),
    lambda: r(33, dtype=F16),
    lambda: r(33, dtype=BF16),
)
case(
    "zero_dim_tensor_weighs_less",
    lambda x, y, z: (x + y, x * z, y + z, x.half() + y),
    lambda: r(5),
    lambda: torch.tensor(2.0, dtype=F64),
    lambda: torch.tensor(3),
)
case(
    "alpha",
    lambda x, y: (
        torch.add(x, y, alpha=2),
        torch.sub(x, y, alpha=0.5),
        torch.rsub(x, y, alpha=3),
        torch.rsub(x, 2),
        A.add.Scalar(x, 2, 3),
        A.sub.Scalar(x, 2, 3),
        A.rsub.Scalar(x, 2, 2),
        torch.subtract(x, y, alpha=2),
    ),
    lambda: r(3, 5),
    lambda: r(5),
)
case(
    "alpha_int",
    lambda x, y: (torch.add(x, y, alpha=2), torch.sub(x, y, alpha=3), torch.rsub(x, 2)),
    lambda: ints(-9, 9, 3, 5),
    lambda: ints(-9, 9, 5),
)
case(
    "div_mode",
    lambda x, y: (
        torch.div(x, y, rounding_mode="floor"),
        torch.div(x, y, rounding_mode="trunc"),
        torch.div(x, y, rounding_mode=None),
        torch.div(x, 0.3, rounding_mode="floor"),
        torch.divide(x, 3, rounding_mode="trunc"),
    ),
    lambda: r(5, 41) * 10,
    lambda: pos(41),
)
case(
    "div_mode_int",
    lambda x, y: (
        torch.div(x, y, rounding_mode="floor"),
        torch.div(x, y, rounding_mode="trunc"),
        x / y,
        torch.div(x, -3, rounding_mode="floor"),
        torch.div(x, 3, rounding_mode="trunc"),
    ),
    lambda: ints(-99, 99, 5, 4),
    lambda: ints(1, 9, 4),
)
case("remainder_scalar_tensor", lambda y: A.remainder.Scalar_Tensor(7, y), lambda: ints(1, 9, 5))
case(
    "pow", lambda x, y: (x**y, x**2, x**3, x**0.5, x**-0.5, x**-1, x**1, x**1.7, 2**y, x**0, x**-2), lambda: pos(3, 5), lambda: r(5)
)
case("pow_negative_base", lambda x: (x**2, x**3, x**-1, x**4, x**0.5), lambda: sp(5, 41))
case("pow_int", lambda x, y: (x**y, x**2, x**3, 2**y, x**0.5, x**5), lambda: ints(-5, 5, 4, 5), lambda: ints(0, 5, 5))
case(
    "float_power",
    lambda x, y: (torch.float_power(x, y), torch.float_power(x, 2), torch.float_power(2, y)),
    lambda: pos(3, 5),
    lambda: r(5),
)
case("atan2_int", torch.atan2, lambda: ints(-5, 5, 4, 5), lambda: ints(1, 5, 5))
case(
    "isclose",
    lambda x, y: (torch.isclose(x, y), torch.isclose(x, x, equal_nan=True), torch.isclose(x, y, rtol=0.5, atol=0.1)),
    lambda: sp(5, 41),
    lambda: sp(5, 41),
)
case(
    "addcmul",
    lambda x, y, z: (
        torch.addcmul(x, y, z),
        torch.addcmul(x, y, z, value=0.5),
        torch.addcdiv(x, y, z),
        torch.addcdiv(x, y, z, value=2),
    ),
    lambda: r(3, 5),
    lambda: r(5),
    lambda: pos(3, 1),
)
case(
    "lerp",
    lambda x, y, w: (torch.lerp(x, y, 0.3), torch.lerp(x, y, w), torch.lerp(x, y, 0.9)),
    lambda: r(3, 5),
    lambda: r(3, 5),
    lambda: torch.rand(5),
)
case(
    "xlogy_scalar",
    lambda x: (torch.xlogy(x, 2), torch.xlogy(2, x), A.special_xlogy.self_scalar(2, x), A.special_xlogy.other_scalar(x, 3)),
    lambda: pos(3, 5),
)
case("max_min_other", lambda x, y: (torch.max(x, y), torch.min(x, y)), lambda: sp(5, 41), lambda: sp(41, 5).t())
case("comparison_chain", lambda x, y: (x > y) & (x < 1) | ~(y > 0), lambda: r(5, 41), lambda: r(41))
case("strided", lambda x, y: x.t() + y[:, ::2] * x[1:4, :2].t().sum(), lambda: r(5, 4), lambda: r(4, 10))
case("in_place", lambda x: x.clone().add_(1).mul_(2).clamp_(-1, 1).relu_(), lambda: r(5, 4))
case(
    "chain",
    lambda x, w, b: torch.sigmoid(x * w + b) * torch.tanh(x) - F.relu(x).sqrt(),
    lambda: r(4, 9, 17),
    lambda: r(17),
    lambda: r(9, 1),
)
case(
    "where",
    lambda c, x, y: (
        torch.where(c, x, y),
        torch.where(c, x, 2.0),
        torch.where(c, 1.5, y),
        torch.where(c, 1.0, 0.0),
        torch.where(c, 1, 0),
    ),
    lambda: bools(5, 1),
    lambda: sp(5, 41),
    lambda: r(41),
)
case(
    "where_mixed",
    lambda c, x, y: (torch.where(c, x, y), torch.where(c, x, 3), torch.where(c, y, 2.5)),
    lambda: bools(5, 4),
    lambda: r(5, 4),
    lambda: ints(0, 9, 4),
)
case(
    "masked_fill",
    lambda x, m, v: (x.masked_fill(m, -INF), x.masked_fill(m, 3), x.masked_fill(m, v)),
    lambda: r(5, 4),
    lambda: bools(4),
    lambda: r(),
)
case("masked_fill_int", lambda x, m: x.masked_fill(m, 3), lambda: ints(0, 9, 5, 4), lambda: bools(5, 1))

# ---- views ---------------------------------------------------------------------------------------------------------------

case("view", lambda x: (x.view(6, 4), x.view(-1), x.view(2, -1, 2), x.reshape(4, 6), x.view(24)), lambda: r(2, 3, 4))
case(
    "view_forms",
    lambda x, y: (
        A._unsafe_view(x, [6, 4]),
        A.view_copy(x, [6, 4]),
        x.view_as(y),
        x.reshape_as(y),
        A._reshape_alias(x, [6, 4], [4, 1]),
    ),
    lambda: r(2, 3, 4),
    lambda: r(4, 6),
)
case("reshape_copy", lambda x: (x.t().reshape(-1), x.transpose(0, 1).reshape(3, 2) * 2), lambda: r(2, 3))
case("flatten", lambda x: (x.flatten(), x.flatten(1), x.flatten(0, 1), x.ravel(), torch.flatten(x, 1, 2)), lambda: r(2, 3, 4))
case("flatten_scalar", lambda x: (x.flatten(), x.reshape(1, 1), x.view(1)), lambda: r())
case("unflatten", lambda x: (x.unflatten(1, (2, 3)), x.unflatten(-1, (-1, 2))), lambda: r(2, 6, 4))
case(
    "squeeze",
    lambda x: (
        x.squeeze(),
        x.squeeze(0),
        x.squeeze(1),
        x.squeeze(-1),
        x.squeeze((0, 2)),
        A.squeeze_copy(x),
        A.squeeze_copy.dim(x, 0),
        A.squeeze_copy.dims(x, [0, 2]),
    ),
    lambda: r(1, 3, 1),
)
case("unsqueeze", lambda x: (x.unsqueeze(0), x.unsqueeze(-1), x[:, None], A.unsqueeze_copy(x, 1)), lambda: r(2, 3))
case(
    "atleast",
    lambda x, y, z: (torch.atleast_1d(x), torch.atleast_2d(y), torch.atleast_3d(y), torch.atleast_3d(z), torch.atleast_3d(x)),
    lambda: r(),
    lambda: r(3),
    lambda: r(2, 3),
)
case(
    "transpose",
    lambda x: (
        x.transpose(0, 1),
        x.transpose(-1, 0),
        x.swapaxes(1, 2),
        x.swapdims(0, 2),
        A.transpose_copy.int(x, 0, 1),
        x.mT,
        A.adjoint(x),
    ),
    lambda: r(2, 3, 4),
)
case("t", lambda x, y: (x.t(), x.T, y.t(), A.t_copy(x), x.H, A.numpy_T(x)), lambda: r(2, 3), lambda: r(3))
case("permute", lambda x: (x.permute(2, 0, 1), x.permute(-1, 1, 0), A.permute_copy(x, [1, 0, 2])), lambda: r(2, 3, 4))
case(
    "movedim",
    lambda x: (x.movedim(0, 2), x.movedim((0, 1), (-1, 0)), torch.moveaxis(x, 1, 0), torch.moveaxis(x, (0, 2), (2, 1))),
    lambda: r(2, 3, 4),
)
case(
    "expand",
    lambda x, y: (x.expand(4, 2, 3), x.expand(-1, 3), x.expand_as(y), torch.broadcast_to(x, (4, 2, 3)), A.expand_copy(x, [2, 3])),
    lambda: r(2, 1),
    lambda: r(4, 2, 3),
)
case("broadcast_tensors", lambda x, y: torch.broadcast_tensors(x, y), lambda: r(2, 1), lambda: r(4, 1, 3))
case("select", lambda x: (x[1], x[-1], x[:, 2], x.select(2, -2), A.select_copy.int(x, 1, 0)), lambda: r(2, 3, 4))
case(
    "slice",
    lambda x: (x[1:], x[:-1], x[::2], x[3:2], x[-2:], x[:, 1:100], x[1:4:2, ::3], x[-100:2], A.slice_copy.Tensor(x, 0, 1, 3)),
    lambda: r(5, 7),
)
case("narrow", lambda x: (x.narrow(0, 1, 3), x.narrow(1, -3, 2)), lambda: r(5, 7))
case(
    "split",
    lambda x: (
        x.split(3),
        x.split(2, 1),
        x.split([1, 4]),
        A.unsafe_split.Tensor(x, 2, 0),
        A.split_copy.Tensor(x, 2, 1),
        A.split.sizes(x, [2, 5], 1),
    ),
    lambda: r(5, 7),
)
case(
    "split_with_sizes",
    lambda x: (A.split_with_sizes(x, [1, 0, 4], 0), A.split_with_sizes_copy(x, [3, 4], 1), A.unsafe_split_with_sizes(x, [3, 4], 1)),
    lambda: r(5, 7),
)
case("chunk", lambda x: (x.chunk(2), x.chunk(3, 1), x.chunk(7, 0), A.unsafe_chunk(x, 2, 1)), lambda: r(5, 7))
case("unbind", lambda x: (x.unbind(), x.unbind(1), A.unbind_copy.int(x, 0)), lambda: r(3, 4))
case(
    "tensor_split",
    lambda x: (x.tensor_split(3), x.tensor_split((1, 4), 1), x.tensor_split(2, -1), x.tensor_split((-3, 6), 1)),
    lambda: r(5, 7),
)
case(
    "hvd_split",
    lambda x: (x.hsplit(2), x.vsplit(2), x.dsplit(3), x.hsplit((1, 3)), x.vsplit((1,)), x.dsplit((2, 4))),
    lambda: r(2, 4, 6),
)
case(
    "diagonal",
    lambda x: (x.diagonal(), x.diagonal(1, 1, 2), x.diagonal(-1, 0, -1), A.diagonal_copy(x), torch.linalg.diagonal(x)),
    lambda: r(3, 4, 5),
)
case("as_strided", lambda x: (x.as_strided((2, 3), (3, 1), 2), x.as_strided((3, 3), (1, 2))), lambda: r(4, 5))
case("unfold", lambda x: (x.unfold(0, 3, 2), x.unfold(1, 2, 1), A.unfold_copy(x, 1, 4, 3), x.unfold(1, 7, 1)), lambda: r(6, 7))
case("pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), lambda: r(2, 12, 3, 5))
case("pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 3), lambda: r(2, 2, 6, 9))
case("channel_shuffle", lambda x: F.channel_shuffle(x, 3), lambda: r(2, 6, 4, 5))
case("view_chain", lambda x: (x.transpose(1, 2).reshape(2, -1)[:, ::2].unsqueeze(1) + 1).expand(2, 3, -1), lambda: r(2, 3, 4))
case("view_write", lambda x: (lambda y: (y[1:].mul_(2), y[:, 0].zero_(), y)[-1])(x.clone()), lambda: r(4, 5))
case("view_results_of_inputs", lambda x: (x, x.t(), x[1:]), lambda: r(4, 5))

# ---- movement ------------------------------------------------------------------------------------------------------------

case(
    "cat",
    lambda x, y: (torch.cat([x, y]), torch.cat([x, x, y], 0), torch.concat([y, x], -2), torch.concatenate([x])),
    lambda: r(2, 3),
    lambda: r(5, 3),
)
case("cat_axis", lambda x, y: torch.cat([x, y, x[:, :1]], 1), lambda: r(2, 3, 4), lambda: r(2, 5, 4))
case("cat_mixed", lambda x, y, z: (torch.cat([x, y]), torch.cat([y, z])), lambda: r(3), lambda: ints(0, 9, 2), lambda: bools(2))
case("cat_empty", lambda x, y: torch.cat([y, x, y]), lambda: r(2, 3), lambda: r(0))
case(
    "stack",
    lambda x, y: (torch.stack([x, y]), torch.stack([x, y], 1), torch.stack([x, y, x], -1)),
    lambda: r(2, 3),
    lambda: r(2, 3),
)
case(
    "hstack",
    lambda x, y: (
        torch.hstack([x, x]),
        torch.vstack([x, y]),
        torch.dstack([x, x]),
        torch.hstack([y, y]),
        torch.dstack([y, y]),
        torch.vstack([y, y]),
    ),
    lambda: r(2, 3),
    lambda: r(3),
)
case("column_stack", lambda x, y: torch.column_stack([y, x, y]), lambda: r(3, 2), lambda: r(3))
case(
    "meshgrid",
    lambda x, y: (torch.meshgrid(x, y, indexing="ij"), torch.meshgrid(x, y, indexing="xy"), A.meshgrid([x, y])),
    lambda: r(3),
    lambda: r(4),
)
case(
    "pad",
    lambda x: (
        F.pad(x, (1, 2)),
        F.pad(x, (1, 0, 2, 3), value=1.5),
        F.pad(x, (-1, 2)),
        F.pad(x, (0, 0, 1, 1)),
        F.pad(x, (0, 0)),
        A.constant_pad_nd(x, [1, 1], 2),
    ),
    lambda: r(2, 3, 5),
)
case(
    "pad_reflect",
    lambda x: (F.pad(x, (2, 1), mode="reflect"), F.pad(x, (2, 1), mode="replicate"), F.pad(x, (2, 5), mode="circular")),
    lambda: r(2, 3, 5),
)
case(
    "pad_reflect_2d",
    lambda x: (
        F.pad(x, (2, 1, 3, 1), mode="reflect"),
        F.pad(x, (2, 7, 0, 1), mode="replicate"),
        F.pad(x, (2, 1, 1, 0), mode="circular"),
    ),
    lambda: r(2, 3, 5, 4),
)
case(
    "pad_3d",
    lambda x: (F.pad(x, (1, 1, 1, 1, 1, 1), mode="reflect"), F.pad(x, (1, 2, 3, 1, 0, 1), mode="replicate")),
    lambda: r(1, 2, 3, 4, 5),
)
case(
    "pad_forms",
    lambda x: (
        A.reflection_pad1d(x, [2, 1]),
        A.replication_pad1d(x, [2, 1]),
        A.reflection_pad2d(x, [2, 1, 1, 0]),
        A.replication_pad2d(x, [2, 1, 1, 0]),
        A._pad_circular(x, [2, 1]),
    ),
    lambda: r(2, 3, 5),
)
case("pad_int", lambda x: F.pad(x, (1, 2), value=7), lambda: ints(0, 9, 2, 3))
case(
    "repeat",
    lambda x: (x.repeat(2, 3), x.repeat(4, 1, 2), x.repeat(1, 1), x.tile(2), x.tile((2, 1, 3)), torch.tile(x, (1, 2))),
    lambda: r(2, 3),
)
case(
    "repeat_interleave", lambda x: (x.repeat_interleave(2), x.repeat_interleave(3, 0), x.repeat_interleave(2, -1)), lambda: r(2, 3)
)
case("flip", lambda x: (x.flip(0), x.flip(0, -1), x.fliplr(), x.flipud(), x.flip(())), lambda: r(2, 3, 4))
case("rot90", lambda x: (x.rot90(), x.rot90(2), x.rot90(3), x.rot90(-1, (1, 0)), x.rot90(0)), lambda: r(2, 3))
case("roll", lambda x: (x.roll(1), x.roll(-2, 0), x.roll((1, -1), (0, 1)), x.roll(10, 1)), lambda: r(3, 4))
case("tril", lambda x: (x.tril(), x.triu(), x.tril(1), x.triu(-1), x.tril(-9)), lambda: r(2, 4, 5))
case("tril_bool", lambda x: (x.tril(), x.triu(1)), lambda: bools(4, 5))
case(
    "copies",
    lambda x: (
        x.clone(),
        x.contiguous(),
        x.detach(),
        x.t().contiguous(),
        A.alias(x),
        A.alias_copy(x),
        A.detach_copy(x),
        A.lift_fresh_copy(x),
    ),
    lambda: r(2, 3),
)

# ---- creation ------------------------------------------------------------------------------------------------------------

case(
    "zeros",
    lambda x: (
        x + torch.zeros(2, 3),
        torch.ones(3),
        torch.full((2,), 1.5),
        torch.full((2,), 3),
        torch.full((2,), True),
        torch.zeros(2, dtype=I32),
    ),
    lambda: r(2, 3),
)
case(
    "likes",
    lambda x: (
        torch.zeros_like(x),
        torch.ones_like(x),
        torch.full_like(x, 2),
        torch.zeros_like(x, dtype=I64),
        torch.full_like(x, 2.5, dtype=F64),
    ),
    lambda: r(2, 3),
)
case("news", lambda x: (x.new_zeros(2), x.new_ones(1, 2), x.new_full((2,), 3), x.new_zeros((2,), dtype=BOOL)), lambda: r(2, 3))
case(
    "empties",
    lambda x: (
        torch.empty_like(x).fill_(2),
        x.new_empty(3).zero_(),
        torch.empty(2, 2).fill_(1),
        A.new_empty_strided(x, [2, 3], [3, 1]).fill_(3),
        A.empty_strided([2, 3], [3, 1]).fill_(4),
        A.empty_permuted([2, 3], [1, 0]).fill_(5),
    ),
    lambda: r(2, 3),
)
case("fill", lambda x, y: (A.fill.Scalar(x, 2), A.fill.Tensor(x, y), A.zero(x)), lambda: r(2, 3), lambda: r())
case("full_extremes", lambda x: (torch.full((2,), torch.iinfo(I64).max), torch.full((2,), torch.finfo(F32).min), x), lambda: r(1))
case(
    "arange",
    lambda x: (
        torch.arange(5),
        torch.arange(2, 9),
        torch.arange(9, 2, -2),
        torch.arange(0, 1, 0.3),
        torch.arange(5, dtype=F32),
        torch.arange(3.5),
        torch.arange(0),
        x,
    ),
    lambda: r(1),
)
case(
    "linspace",
    lambda x: (
        torch.linspace(0, 1, 7),
        torch.linspace(-3, 5, 1),
        torch.linspace(0, 10, 5, dtype=F64),
        torch.linspace(0, 10, 4, dtype=I64),
        x,
    ),
    lambda: r(1),
)
case("eye", lambda x: (torch.eye(3), torch.eye(2, 4), torch.eye(3, dtype=I64), x), lambda: r(1))
case(
    "scalar_tensor",
    lambda x: (torch.scalar_tensor(3), torch.scalar_tensor(2.5, dtype=F64), torch.tensor(3.0), torch.tensor([1, 2]), x),
    lambda: r(1),
)
case(
    "tril_indices", lambda x: (torch.tril_indices(3, 4), torch.triu_indices(3, 4, 1), torch.tril_indices(3, 3, -1), x), lambda: r(1)
)

# ---- indexing ------------------------------------------------------------------------------------------------------------

case("embedding", lambda w, i: (F.embedding(i, w), F.embedding(i[0], w, padding_idx=1)), lambda: r(9, 5), lambda: ints(0, 9, 3, 4))
case("embedding_i32", lambda w, i: F.embedding(i, w), lambda: r(9, 5), lambda: ints(0, 9, 3, dtype=I32))
case(
    "index_select",
    lambda x, i: (x.index_select(0, i), x.index_select(-1, i), x.index_select(1, i[0])),
    lambda: r(4, 3, 5),
    lambda: ints(0, 3, 6),
)
case("gather", lambda x, i: (x.gather(1, i), x.gather(0, i[:3] % 4)), lambda: r(4, 5), lambda: ints(0, 5, 4, 3))
case(
    "take_along_dim",
    lambda x, i: (torch.take_along_dim(x, i, 1), torch.take_along_dim(x, i[:1], 1), torch.take_along_dim(x, i.flatten())),
    lambda: r(4, 5),
    lambda: ints(0, 5, 4, 3),
)
case(
    "index",
    lambda x, i, j: (x[i], x[i, j], x[:, i], x[:, i, j], x[i, :, j], x[i[:, None], j], x[None, i], x[..., j]),
    lambda: r(4, 5, 6),
    lambda: ints(-4, 4, 3),
    lambda: ints(-5, 5, 3),
)
case(
    "index_0d",
    lambda x, i: (A.index.Tensor(x, [i]), A.index.Tensor(x, [None, i]), A.index.Tensor(x, [i, i])),
    lambda: r(4, 5),
    lambda: torch.tensor(2),
)
case(
    "unsafe_index",
    lambda x, i: (A._unsafe_index.Tensor(x, [None, i]), A.index.Tensor(x, [i, None])),
    lambda: r(4, 5),
    lambda: ints(0, 4, 3),
)
case("index_constant_mask", lambda x: x[:, torch.tensor([True, False, True, True])], lambda: r(3, 4))
case(
    "unsafe_masked_index",
    lambda x, m, i, j: A._unsafe_masked_index(x, m, [i, j], 7),
    lambda: r(4, 5),
    lambda: torch.tensor([[True, False], [False, True]]),
    lambda: torch.tensor([[1], [3]]),
    lambda: torch.tensor([4, 2]),
)
case("take", lambda x, i: x.take(i), lambda: r(4, 5), lambda: ints(-20, 20, 3, 4))
case(
    "index_put",
    lambda x, i, v: (
        x.index_put((i,), v),
        x.index_put((i, i), v[:, 0]),
        x.index_put((i,), v, accumulate=True),
        x.index_put((i,), torch.tensor(2.0)),
    ),
    lambda: r(7, 5),
    lambda: torch.tensor([0, 3, 1]),
    lambda: r(3, 5),
)
case(
    "index_put_axis",
    lambda x, i, v: (A.index_put(x, [None, i], v), A._unsafe_index_put(x, [None, i], v)),
    lambda: r(7, 5),
    lambda: torch.tensor([0, 3, 1]),
    lambda: r(7, 3),
)
case(
    "index_put_mask",
    lambda x, m: (x.index_put((m,), torch.tensor(2.0)), x.index_put((m,), torch.tensor(2.0), accumulate=True)),
    lambda: r(4, 5),
    lambda: bools(4, 5),
)
case("index_put_row_mask", lambda x, m, v: x.index_put((m,), v), lambda: r(4, 5), lambda: bools(4), lambda: r(5))
case(
    "setitem",
    lambda x, i: (lambda y: (y.__setitem__(i, 1.0), y.__setitem__((slice(None), 0), 5.0), y)[-1])(x.clone()),
    lambda: r(4, 5),
    lambda: torch.tensor([0, 2]),
)
case("setitem_mask", lambda x: (lambda y: (y.__setitem__(y > 0, 0.0), y)[-1])(x.clone()), lambda: r(4, 5))
case(
    "scatter",
    lambda x, i, s: (
        x.scatter(1, i, s),
        x.scatter(1, i, 2.5),
        x.scatter(1, i, s, reduce="add"),
        x.scatter(1, i, s, reduce="multiply"),
        x.scatter(1, i, 3.0, reduce="add"),
    ),
    lambda: r(4, 5),
    lambda: torch.stack([torch.randperm(5)[:3] for _ in range(4)]),
    lambda: r(4, 4),
)
case(
    "scatter_add",
    lambda x, i, s: (x.scatter_add(0, i, s), x.scatter_add(1, i, s)),
    lambda: r(5, 5),
    lambda: ints(0, 5, 3, 4),
    lambda: r(3, 4),
)
for _mode in "sum prod mean amax amin".split():
    case(
        f"scatter_reduce_{_mode}",
        lambda x, i, s, m=_mode: (x.scatter_reduce(0, i, s, m), x.scatter_reduce(1, i, s, m, include_self=False)),
        lambda: r(5, 5),
        lambda: ints(0, 5, 3, 4),
        lambda: r(3, 4),
    )
case(
    "scatter_reduce_int",
    lambda x, i, s: (x.scatter_reduce(0, i, s, "sum"), x.scatter_reduce(0, i, s, "amax"), x.scatter_reduce(0, i, s, "mean")),
    lambda: ints(-9, 9, 5, 5),
    lambda: ints(0, 5, 3, 4),
    lambda: ints(-9, 9, 3, 4),
)
case(
    "slice_scatter",
    lambda x, s: (torch.slice_scatter(x, s, 0, 1, 3), torch.slice_scatter(x, s, 0, -2), torch.slice_scatter(x, s, 0, 0, 4, 2)),
    lambda: r(4, 5),
    lambda: r(2, 5),
)
case(
    "select_scatter",
    lambda x, s: (torch.select_scatter(x, s, 0, 1), torch.select_scatter(x, s, 0, -1)),
    lambda: r(4, 5),
    lambda: r(5),
)
case(
    "index_add",
    lambda x, i, s: (
        x.index_add(0, i, s),
        x.index_add(0, i, s, alpha=2),
        x.index_copy(0, torch.tensor([0, 2, 1, 4]), s),
        x.index_fill(0, i, 7.0),
        x.index_fill(1, i, torch.tensor(3.0)),
    ),
    lambda: r(5, 5),
    lambda: ints(0, 5, 4),
    lambda: r(4, 5),
)
for _mode in "prod mean amax amin".split():
    case(
        f"index_reduce_{_mode}",
        lambda x, i, s, m=_mode: (x.index_reduce(0, i, s, m), x.index_reduce(0, i, s, m, include_self=False)),
        lambda: r(5, 4),
        lambda: ints(0, 5, 7),
        lambda: r(7, 4),
    )
case("masked_scatter", lambda x, m, s: x.masked_scatter(m, s), lambda: r(4, 5), lambda: bools(4, 5), lambda: r(30))
case("one_hot", lambda x: F.one_hot(x, 6), lambda: ints(0, 6, 3, 4))
case("nonzero_constant", lambda x: x + torch.nonzero(torch.tensor([0, 3, 0, 1])).sum(), lambda: r(3))

# ---- reductions ----------------------------------------------------------------------------------------------------------

for _name in "sum mean amax amin std var nansum nanmean".split():
    _f = getattr(torch, _name)
    case(_name, lambda x, f=_f: (f(x, dim=1), f(x, dim=(0, 2)), f(x, dim=-1, keepdim=True)), lambda: r(3, 5, 65))
    case(f"{_name}_special", lambda x, f=_f: (f(x, dim=1), f(x, dim=0)), lambda: sp(5, 41))
for _name in "sum mean prod amax amin max min std var nansum nanmean".split():
    case(f"{_name}_all", getattr(torch, _name), lambda: r(4, 7))
case(
    "sum_dtypes",
    lambda x, y, z, w: (
        x.sum(),
        y.sum(1),
        z.sum(),
        w.sum(0),
        z.sum(dtype=F32),
        w.sum(dtype=I32),
        x.prod(1),
        y.prod(),
        z.mean(dtype=F32),
    ),
    lambda: ints(-4, 4, 3, 5),
    lambda: ints(-2, 3, 2, 3, dtype=I32),
    lambda: bools(5),
    lambda: ints(0, 255, 9, dtype=U8),
)
case("sum_empty_dims", lambda x: (x.sum(dim=()), x.mean(dim=()), torch.amax(x, ())), lambda: r(3, 4))
case(
    "sum_f16",
    lambda x, y: (x.sum(1), x.mean(0), y.sum(1), x.sum(1, dtype=F32)),
    lambda: r(3, 65, dtype=F16),
    lambda: r(3, 65, dtype=BF16),
)
case("sum_of_empty", lambda x: (x.sum(0), x.prod(0), x.mean(0), x.sum(1), x.any(0), x.all(0)), lambda: r(0, 3))
case("prod_forms", lambda x: (x.prod(1), x.prod(0, keepdim=True), x.prod(), x.prod(1, dtype=F64)), lambda: r(3, 7))
case(
    "any_all",
    lambda x, y, z, u: (
        x.any(),
        x.all(),
        x.any(1),
        x.all(0, keepdim=True),
        y.any(1),
        z.all(),
        u.any(),
        u.all(0),
        torch.any(x, (0, 1)),
        torch.all(x, (1,)),
    ),
    lambda: bools(3, 4),
    lambda: ints(0, 2, 3, 4),
    lambda: sp(3, 41),
    lambda: ints(0, 2, 5, dtype=U8),
)
case(
    "max_dim",
    lambda x: (
        tuple(x.max(1)),
        tuple(x.min(0)),
        tuple(x.max(-1, keepdim=True)),
        x.argmax(1),
        x.argmin(0),
        x.argmax(),
        x.argmin(),
        x.argmax(0, keepdim=True),
    ),
    lambda: r(5, 41),
)
case(
    "max_dim_special",
    lambda x: (
        tuple(x.max(1)),
        tuple(x.min(0)),
        x.argmax(1),
        x.argmin(0),
        x.argmax(),
        x.max(),
        x.min(),
        x.amax(0),
        tuple(x.aminmax()),
        tuple(torch.aminmax(x, dim=1)),
    ),
    lambda: sp(5, 41),
)
case("max_dim_ties", lambda x: (tuple(x.max(1)), tuple(x.min(0)), x.argmax(1), x.argmin(0), x.argmax()), lambda: ints(0, 3, 5, 41))
case("argmax_keepdim", lambda x: torch.argmax(x, keepdim=True), lambda: r(3, 4))
case("max_scalar", lambda x: (x.max(), x.argmax(), tuple(x.max(0)), x.sum(), x.mean(), x.sum(0)), lambda: r())
case(
    "var_forms",
    lambda x: (
        x.var(),
        x.var(unbiased=False),
        x.var(1, unbiased=False),
        x.var((0, 1), correction=2),
        x.std(1, correction=0, keepdim=True),
        torch.var_mean(x, 1),
        torch.std_mean(x, (0, 1)),
        torch.var_mean(x, correction=0),
        torch.std_mean(x),
        torch.var_mean(x),
        A.var_mean.dim(x, [0]),
        A.std_mean.dim(x, [0]),
        x.std(),
    ),
    lambda: r(5, 41),
)
case("var_one", lambda x: (x.var(1, unbiased=False), x.var(0)), lambda: r(5, 1))
case(
    "norm_forms",
    lambda x: (
        x.norm(),
        x.norm(1),
        x.norm(2, 1),
        x.norm(INF, 0, True),
        x.norm(3, (0, 1)),
        torch.norm(x, 2, 1, dtype=F64),
        A.norm.ScalarOpt_dtype(x, 2, dtype=F64),
        A.frobenius_norm.dim(x, [0, 1]),
    ),
    lambda: r(5, 41),
)
case(
    "vector_norm",
    lambda x: (
        torch.linalg.vector_norm(x),
        torch.linalg.vector_norm(x, 1, 1),
        torch.linalg.vector_norm(x, INF, 0),
        torch.linalg.vector_norm(x, -INF, 0),
        torch.linalg.vector_norm(x, 0, 1),
        torch.linalg.vector_norm(x, 3.5, (0, 1), True),
        torch.linalg.norm(x),
        torch.linalg.norm(x, 2, 1),
        torch.linalg.norm(x, "fro"),
        torch.linalg.matrix_norm(x),
    ),
    lambda: r(5, 41),
)
case("normalize", lambda x: (F.normalize(x), F.normalize(x, 1, 0)), lambda: r(5, 41))
case(
    "logsumexp",
    lambda x: (x.logsumexp(1), x.logsumexp((0, 1)), x.logsumexp(0, True), torch.special.logsumexp(x, 1)),
    lambda: r(5, 41) * 50,
)
case("logsumexp_special", lambda x: (x.logsumexp(1), torch.full_like(x, -INF).logsumexp(1)), lambda: sp(5, 41))
case(
    "count_nonzero",
    lambda x, y: (x.count_nonzero(), x.count_nonzero(1), y.count_nonzero((0, 1)), y.count_nonzero()),
    lambda: ints(0, 2, 3, 4),
    lambda: sp(5, 41),
)
case("trace", lambda x: (x.trace(), torch.trace(x.t())), lambda: r(4, 6))
case(
    "dot",
    lambda x, y: (x.dot(y), torch.vdot(x, y), torch.outer(x, y), torch.ger(x, y), torch.inner(x, y)),
    lambda: r(17),
    lambda: r(17),
)
case(
    "cosine_similarity", lambda x, y: (F.cosine_similarity(x, y), F.cosine_similarity(x, y, 0)), lambda: r(4, 17), lambda: r(4, 17)
)
case(
    "pairwise_distance",
    lambda x, y: (F.pairwise_distance(x, y), F.pairwise_distance(x, y, 1.0, keepdim=True)),
    lambda: r(4, 17),
    lambda: r(4, 17),
)
for _equation, _shapes in {
    "ij,jk->ik": [(3, 4), (4, 5)], "bij,bjk->bik": [(2, 3, 4), (2, 4, 5)], "bhqd,bhkd->bhqk": [(2, 2, 3, 4), (2, 2, 5, 4)], "bhqk,bkhd->bqhd": [(2, 2, 3, 5), (2, 5, 2, 4)],
    "ij->ji": [(3, 4)], "ii->i": [(4, 4)], "ii": [(4, 4)], "ij->": [(3, 4)], "i,j->ij": [(3,), (4,)], "i,i->": [(3,), (3,)], "...ij,...jk->...ik": [(2, 3, 4), (4, 5)],
    "ij,jk": [(3, 4), (4, 5)], "abc,cd,de->abe": [(2, 3, 4), (4, 5), (5, 2)], "bi,bi->b": [(3, 4), (3, 4)], "b...d,d->b...": [(2, 3, 4, 5), (5,)], "bijc,bcjk->bikc": [(2, 3, 4, 5), (2, 5, 4, 3)],
    "ij,kj->ikj": [(3, 4), (5, 4)], "abij,ab->aij": [(2, 3, 4, 5), (2, 3)],
}.items():  # fmt: skip
    case("einsum_" + _equation.replace(" ", ""), lambda *x, e=_equation: torch.einsum(e, *x), *[lambda s=s: r(*s) for s in _shapes])

# ---- scans, sorts, softmax -----------------------------------------------------------------------------------------------

case(
    "cumsum",
    lambda x, y, z: (x.cumsum(0), x.cumsum(-1), y.cumsum(1), z.cumsum(0), x.cumsum(1, dtype=F64), x.cumprod(1), y.cumprod(0)),
    lambda: r(5, 41),
    lambda: ints(-3, 4, 3, 5),
    lambda: bools(9),
)
case(
    "cummax",
    lambda x, y: (tuple(x.cummax(1)), tuple(x.cummin(0)), tuple(y.cummax(1)), tuple(y.cummin(1))),
    lambda: r(5, 41),
    lambda: ints(-3, 4, 3, 9),
)
case("cummax_special", lambda x: (tuple(x.cummax(1)), tuple(x.cummin(1)), x.cumsum(1)), lambda: sp(5, 41))
case("logcumsumexp", lambda x: x.logcumsumexp(1), lambda: r(5, 41))
case(
    "sort",
    lambda x, y: (
        tuple(x.sort()),
        tuple(x.sort(0, True)),
        tuple(y.sort(dim=1, stable=True)),
        tuple(y.sort(stable=True, dim=0, descending=True)),
        x.argsort(),
        torch.msort(x),
        torch.argsort(y, stable=True),
    ),
    lambda: r(5, 41),
    lambda: ints(0, 4, 5, 9),
)
case(
    "sort_special",
    lambda x: (tuple(x.sort(stable=True, dim=1)), tuple(x.sort(stable=True, dim=0, descending=True))),
    lambda: sp(5, 41),
)
case("topk", lambda x: (tuple(x.topk(5)), tuple(x.topk(3, 0)), tuple(x.topk(4, largest=False)), tuple(x.topk(1))), lambda: r(7, 41))
case("kthvalue", lambda x: (tuple(x.kthvalue(3)), tuple(x.kthvalue(1, 0, True))), lambda: r(5, 41))
case(
    "softmax",
    lambda x: (
        x.softmax(-1),
        x.softmax(0),
        x.log_softmax(1),
        F.softmin(x, 1),
        x.softmax(1, dtype=F64),
        torch.special.softmax(x, 1),
        torch.special.log_softmax(x, 0),
        A._softmax(x, 1, False),
        A._log_softmax(x, 0, False),
    ),
    lambda: r(5, 41) * 3,
)
case("softmax_special", lambda x: (x.softmax(-1), x.log_softmax(1)), lambda: sp(5, 41))
case(
    "softmax_f16",
    lambda x, y: (x.softmax(-1), y.softmax(-1), x.log_softmax(-1), x.softmax(-1, dtype=F32)),
    lambda: r(5, 41, dtype=F16),
    lambda: r(5, 41, dtype=BF16),
)
case("softmax_int", lambda x: x.softmax(-1, dtype=F32), lambda: ints(0, 9, 5, 7))

# Where single precision itself is that far from the exact result.
LOOSE = {"logcumsumexp": 1e-5, "pow": 5e-6, "log_softmax": 1e-5, "cumsum": 1e-5, "prod": 1e-5, "norm_forms": 1e-5}
LOOSE |= {name: 1e-5 for name in CASES if name.startswith(("einsum", "sum", "nansum", "mean", "std", "var"))}


def check(name, got, expected):
    if isinstance(expected, (tuple, list)):
        assert len(got) == len(expected)
        for i, (g, e) in enumerate(zip(got, expected)):
            try:
                check(name, g, e)
            except AssertionError as error:
                raise AssertionError(f"[{i}] {error}") from None
        return
    assert got.dtype == expected.dtype, f"dtype {got.dtype}, expected {expected.dtype}"
    assert got.shape == expected.shape, f"shape {tuple(got.shape)}, expected {tuple(expected.shape)}"
    if not expected.dtype.is_floating_point:
        assert torch.equal(got, expected), f"got {got.flatten()[:9].tolist()}, expected {expected.flatten()[:9].tolist()}"
        return
    tolerance = max(LOOSE.get(name, 0), TOLERANCE[expected.dtype])
    e, g = expected.double(), got.double()
    assert torch.equal(e.isnan(), g.isnan()), "NaN in other places"
    assert torch.equal(e[e.isinf()], g[e.isinf()]), "infinities differ"
    finite = e.isfinite()
    if finite.any():
        error = ((e - g)[finite].abs() / (1 + e[finite].abs())).max().item()
        assert error <= tolerance, f"largest error {error:.3g} relative to 1 + |expected|"


def compiled(program, args, target):
    return kiln.compile(program, target=target, threads=1)(*args)


def seeded_inputs(name):
    torch.manual_seed(sum(map(ord, name)))
    return tuple(make() for make in CASES[name][1])


@pytest.mark.parametrize("name", CASES)
def test_captured(name):
    torch.set_num_threads(1)
    args = seeded_inputs(name)
    model = Fn(CASES[name][0]).eval()
    failures = []
    with torch.no_grad():
        expected = model(*args)
        program = torch.export.export(model, args, strict=False)
        for target in ("reference", "cpu"):
            try:
                check(name, compiled(program, args, target), expected)
            except (AssertionError, kiln.KilnError) as error:
                failures.append(f"{target}: {error}")
    assert not failures, "\n".join(failures)


# run_decompositions() takes long whatever the model's size, so many cases share one model.
GROUP = 16
GROUPS = [list(CASES)[i : i + GROUP] for i in range(0, len(CASES), GROUP)]


@pytest.mark.parametrize("names", GROUPS, ids=[names[0] for names in GROUPS])
def test_decomposed(names):
    torch.set_num_threads(1)
    inputs = [seeded_inputs(name) for name in names]
    args = tuple(x for some in inputs for x in some)

    def all_cases(*flat):
        flat = iter(flat)
        return [CASES[name][0](*[next(flat) for _ in some]) for name, some in zip(names, inputs)]

    failures = []
    with torch.no_grad():
        model = Fn(all_cases).eval()
        expected = model(*args)
        program = torch.export.export(model, args, strict=False).run_decompositions()
        for target in ("reference", "cpu"):
            got = compiled(program, args, target)
            for name, g, e in zip(names, got, expected):
                try:
                    check(name, g, e)
                except AssertionError as error:
                    failures.append(f"{target}, {name}: {error}")
    assert not failures, "\n".join(failures)


# ---- symbolic sizes ------------------------------------------------------------------------------------------------------

DYNAMIC = (
    "relu add where chain clamp_tensor prelu glu view reshape_copy flatten unflatten squeeze unsqueeze transpose permute "
    "movedim expand select slice narrow split split_with_sizes tensor_split unbind diagonal unfold view_chain view_write cat "
    "cat_axis stack hstack column_stack meshgrid pad pad_reflect repeat repeat_interleave flip roll tril likes embedding index_select gather "
    "take_along_dim index unsafe_index index_put_axis setitem scatter_add select_scatter one_hot masked_scatter sum mean var_forms "
    "max_dim norm_forms logsumexp count_nonzero cumsum softmax einsum_bhqd,bhkd->bhqk einsum_...ij,...jk->...ik"
).split()


def symbol_value(size, grow):
    """A size of the exported program with every symbol at its example's value plus `grow`."""
    if isinstance(size, int):
        return size
    env = size.node.shape_env
    values = getattr(env, "backed_var_to_val", None) or env.var_to_val
    return int(size.node.expr.subs({s: int(values[s]) + grow for s in size.node.expr.free_symbols}))


@pytest.mark.parametrize("name", DYNAMIC)
def test_dynamic(name):
    """All sizes that torch.export can leave open are; one engine then runs at the example's sizes and at larger ones."""
    torch.set_num_threads(1)
    args = seeded_inputs(name)
    model = Fn(CASES[name][0]).eval()
    failures = []
    with torch.no_grad():
        shapes = tuple(dict.fromkeys(range(x.dim()), torch.export.Dim.AUTO) for x in args)
        program = torch.export.export(model, args, dynamic_shapes=(shapes,), strict=False)
        nodes = [n for n in program.graph.nodes if n.op == "placeholder" and n.name in program.graph_signature.user_inputs]
        larger = []
        for x, n in zip(args, nodes):
            shape = [symbol_value(size, 2) for size in n.meta["val"].shape]
            order = torch.arange(math.prod(shape)) * 7 % x.numel()  # elements of x again, so that indices stay in range
            larger.append(x.flatten()[order].reshape(shape))
        for target in ("reference", "cpu"):
            fast = kiln.compile(program, target=target, threads=1)
            for some in (args, larger):
                try:
                    check(name, fast(*some), model(*some))
                except (AssertionError, kiln.KilnError) as error:
                    failures.append(f"{target}, {[tuple(x.shape) for x in some]}: {error}")
    assert not failures, "\n".join(failures)
