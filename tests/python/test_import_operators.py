"""What PyTorch functions mean: each is exported, imported, run, and compared with PyTorch, as it is and decomposed.

A case is a function and its arguments; the functions return tuples so that one export covers many variants.
"""

from __future__ import annotations

from typing import Any, Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kiln
from compare import relative_errors

CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}


def case(name: str, function: Callable[..., Any], *args: Any) -> None:
    assert name not in CASES
    CASES[name] = (function, args)


G = torch.Generator().manual_seed(3)


def r(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=G)


def ri(*shape: int, high: int = 5) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=G)


X, Y, IMAGE, INDEX = r(3, 4, 5), r(3, 4, 5), r(2, 3, 8, 8), ri(3, 4)
P = X.abs() + 0.1
SMALL = P / 10

# ---- Pointwise -----------------------------------------------------------------------------------------------------------

DOMAINS = {
    "acosh": P + 1,
    **dict.fromkeys(["asin", "acos", "atanh"], SMALL),
    **dict.fromkeys(["log", "log2", "log10", "log1p", "sqrt", "rsqrt"], P),
}
UNARY = (
    "abs neg exp exp2 expm1 log log2 log10 log1p sqrt rsqrt reciprocal square sin cos tan asin acos atan sinh cosh tanh asinh acosh "
    "atanh erf erfc sigmoid floor ceil round trunc frac sign sgn relu isnan isinf isfinite logical_not deg2rad rad2deg signbit sinc"
)
UNARY_FUNCTIONS = [getattr(torch, name) for name in UNARY.split()]
case("unary", lambda *xs: tuple(f(x) for f, x in zip(UNARY_FUNCTIONS, xs)), *(DOMAINS.get(name, X) for name in UNARY.split()))

BINARY = [
    getattr(torch, n) for n in "add sub mul maximum minimum atan2 eq ne lt le gt ge hypot copysign heaviside logaddexp".split()
]
POSITIVE = [getattr(torch, n) for n in "pow xlogy fmod remainder div".split()]
case("binary", lambda x, y: tuple(f(x, v) for f in BINARY for v in (y, y[:, :1])), X, Y)
case("binary_positive", lambda x, y: tuple(f(x, v) for f in POSITIVE for v in (y, y[:, :1])), P, P + 0.5)

NUMBERS = [getattr(torch, n) for n in "add sub mul div fmod remainder eq ne lt le gt ge pow".split()]
case("numbers", lambda x, i: tuple(f(v, k) for f in NUMBERS for v in (x, i) for k in (2, 1.5)), P, ri(3, 4, high=9))

ACTIVATIONS = [
    getattr(F, name)
    for name in (
        "gelu silu mish hardswish hardsigmoid hardtanh relu6 elu selu celu softplus softsign tanhshrink hardshrink softshrink leaky_relu "
        "logsigmoid"
    ).split()
]
case("activations", lambda x: tuple(f(x) for f in ACTIVATIONS), X)

case(
    "activation_options",
    lambda x: (F.gelu(x, approximate="tanh"), F.glu(x[..., :4], -1), F.threshold(x, 0.1, 20), F.softplus(x, 2, 1)),
    X,
)
case("prelu", F.prelu, r(2, 3, 4), r(3))
case("reverse_operands", lambda x: (1 - x, 2**x, 3 / x), P)
case("integer_division", lambda i, x: (i // 2, i % 3, i / 2, x // 0.3, x % 0.3), ri(9, high=9) - 4, P)
case("rounding_modes", lambda x, y: (torch.div(x, y, rounding_mode="floor"), torch.div(x, y, rounding_mode="trunc")), X, P)
case("round_decimals", lambda x: torch.round(x, decimals=2), X)
case("bits", lambda i: (i << 2, i >> 1, ~i, i ^ 3, i & 6, i | 1), ri(8))
case("bools", lambda x: ((x > 0) & (x < 1), (x > 0) | (x < -1), ~(x > 0), (x > 0) ^ (x < 1), torch.logical_and(x, x > 0)), X)
case("clamp", lambda x: (x.clamp(-1, 1), x.clamp(min=0), x.clamp_max(0.3), torch.clamp(x, torch.zeros(5), torch.ones(5))), X)
case("where", lambda x, y: (torch.where(x > 0, x, y), torch.where(x > 0, x, 0.0), torch.where(x > 0, 1, 0)), X, Y)
case("lerp", lambda x, y: (torch.lerp(x, y, 0.3), torch.lerp(x, y, x)), X, Y)
case("addcmul", lambda x, y: (torch.addcmul(x, x, y, value=2), torch.addcdiv(x, x, y.abs() + 1)), X, Y)
case("nan_to_num", torch.nan_to_num, torch.tensor([1.0, float("nan"), float("inf"), -float("inf")]))
case("isclose", lambda x: torch.isclose(x, x + 1e-9), X)
case("float_power", lambda x: torch.float_power(x, 2), P)
case("ldexp", lambda x: torch.ldexp(x, torch.tensor([1, 2, 0, 1, 3])), X)

# ---- Dtypes --------------------------------------------------------------------------------------------------------------

case(
    "promotion",
    lambda x, i, b: (
        x + i,
        x * b,
        i + b,
        i / 2,
        b + 1.5,
        x.half() + 1.0,
        x.double() + x,
        i + 1.5,
        i.to(torch.uint8) + i.to(torch.int8),
    ),
    X[0],
    ri(4, 5),
    X[0] > 0,
)
case("promotion_rank0", lambda x, z: (x.half() + z, z + 1, z * torch.tensor(3), x.double() * z), X, torch.tensor(2.5))
case("casts", lambda x: (x.long(), x.bool(), x.double(), x.half(), x.to(torch.int32), x.bfloat16().float(), x.short()), X * 3)

# ---- Reductions ------------------------------------------------------------------------------------------------------------

REDUCTIONS = [getattr(torch, name) for name in "sum mean prod amax amin logsumexp".split()]
case("reductions", lambda x: tuple(y for f in REDUCTIONS for y in (f(x, 1), f(x, -1, keepdim=True))), X)
case("reduce_all", lambda x: (x.sum(), x.mean(), x.prod(), x.amax(), x.amin(), x.max(), x.min(), x.logsumexp((0, 2))), X)
case("reduce_axes", lambda x: (x.sum((0, 2)), x.mean((-1, -2), keepdim=True), x.sum(dtype=torch.float64), x.amax((0, 1))), X)
case(
    "reduce_integers",
    lambda i: (i.sum(), i.sum(0), (i > 2).sum(), (i > 2).sum(1), i.float().mean(), i.prod(1), i.amax(0)),
    ri(3, 4),
)
case("extremes", lambda x: (*x.max(1), *x.min(-1, keepdim=True), x.argmax(), x.argmin(1), x.argmax(1, keepdim=True)), X)
case("any_all", lambda x: ((x > 0).any(), (x > 0).all(), (x > 0).any(1), (x > 5).all(-1, keepdim=True)), X)
case(
    "variance",
    lambda x: (x.var(), x.std(), x.var(1), x.std(-1, keepdim=True), x.var((0, 1), unbiased=False), *torch.var_mean(x, 1)),
    X,
)
case(
    "norms_of_vectors",
    lambda x: (x.norm(), x.norm(dim=1), x.norm(p=1, dim=-1), torch.linalg.vector_norm(x, 2, (0, 1)), F.normalize(x, dim=-1)),
    X,
)
case("cumulative", lambda x: (x.cumsum(1), x.cumprod(-1), *x.cummax(1), *x.cummin(0), x.logcumsumexp(1), x.diff(), x.diff(2, 1)), X)
case("sorting", lambda x: (*x.sort(), *x.sort(1, descending=True), x.argsort(-1), *x.topk(2), *x.topk(2, dim=1, largest=False)), X)
case("mode", lambda x: (*x.round().mode(1), *x.round().mode(0, keepdim=True)), X)
case("bincount", lambda x: (x * 3).abs().long().flatten().bincount(minlength=2), X)
case("nonzero_static", lambda x: (torch.nonzero_static(x > 0, size=5), torch.nonzero_static(x.relu(), size=40, fill_value=-2)), X)
case("pdist", lambda x: (torch.pdist(x), torch.pdist(x, p=1), torch.pdist(x, p=float("inf"))), r(6, 5))
case("linspace_between", lambda x: torch.linspace(x.min(), x.max(), 7), X)
case("sorted_elsewhere", lambda x: torch.searchsorted(x, x + 0.1, sorter=x.argsort(-1)), X)
case(
    "smoothed",
    lambda x: torch.nn.functional.cross_entropy(
        x, torch.arange(len(x)) % x.shape[1], weight=torch.arange(x.shape[1]) + 1.0, label_smoothing=0.1
    ),
    r(4, 5),
)
NAN = torch.where(r(3, 4, 5) > 0.8, float("nan"), r(3, 4, 5))
case(
    "nan_middle", lambda x: (x.median(), x.nanmedian(), x.median(1).values.nan_to_num(9), x.nanmedian(-1, keepdim=True).values), NAN
)
case("histogram", lambda x, w: (*x.histogram(7), *x.histogram(5, range=(-1.0, 2.0), weight=w, density=True)), X, P)
MATRICES = r(3, 5, 5) - torch.tensor([0.0, 30.0, 300.0]).view(3, 1, 1) * torch.eye(5)
case("matrix_exp", lambda x: (torch.matrix_exp(x),), MATRICES)
case("middle", lambda x: (x.median(), *x.median(1), *torch.aminmax(x, dim=1), *x.kthvalue(2), *torch.std_mean(x)), X)
case("softmax", lambda x: (x.softmax(-1), x.log_softmax(1), F.softmin(x, 1), x.softmax(0, dtype=torch.float64)), X)
case("counts", lambda x: (torch.count_nonzero(x > 0, 1), torch.nansum(x)), X)
case(
    "distances",
    lambda x, y: (torch.cdist(x, y), F.cosine_similarity(x, x * 2 + 1, dim=-1), F.pairwise_distance(x, x + 1)),
    X,
    r(3, 6, 5),
)
case("dist", lambda x, y: (torch.dist(x, y), torch.dist(x, y, 1)), X, Y)
case(
    "search",
    lambda x: (torch.bucketize(x, torch.tensor([-0.5, 0, 0.5])), torch.searchsorted(torch.tensor([-0.5, 0.5]), x, right=True)),
    X,
)
case("isin", lambda i: (torch.isin(i, torch.tensor([1, 3])), torch.isin(i, 2, invert=True)), INDEX)

# ---- Shapes ----------------------------------------------------------------------------------------------------------------

case(
    "views",
    lambda x: (
        x.reshape(12, 5),
        x.view(-1),
        x.permute(2, 0, 1),
        x.transpose(0, 2),
        x.unsqueeze(1),
        x[None, :, 0],
        x[1:, ::2, -2:],
        x.flatten(1),
        x.unflatten(1, (2, 2)),
        x.expand(2, 3, 4, 5),
        x.movedim(0, -1),
        x.swapaxes(0, 1),
        x.narrow(0, 1, 2),
        x.select(1, -1),
        x.mT,
        x[:1].squeeze(0),
        x.diagonal(1, 1, 2),
        x.unfold(2, 3, 1),
        x.as_strided((2, 3), (1, 2), 1),
    ),
    X,
)
case(
    "joins", lambda x, y: (torch.cat([x, y], 1), torch.stack([x, y], -1), torch.hstack([x, y]), torch.cat([x, y.half()], -1)), X, Y
)
case("splits", lambda x: (*x.split(2, 1), *x.chunk(3, -1), *x.unbind(0), *torch.tensor_split(x, 2, 1), *x.split([1, 3], 1)), X)
case(
    "repeats",
    lambda x: (x.repeat(1, 2, 1), x.repeat(2, 1, 1, 1), x.tile(2), x.repeat_interleave(2, 1), x[:1].broadcast_to(3, 4, 5)),
    X,
)
case("turns", lambda x: (x.flip(0), x.flip((1, 2)), x.roll(1, 1), x.roll((1, 2), (0, 2)), x.rot90(1, (1, 2)), x.roll(3)), X)
case("triangles", lambda x: (x.tril(), x.triu(1), torch.tril(torch.ones(3, 3)), torch.trace(x[0, :4, :4])), X)
case(
    "diagonals",
    lambda x: (
        torch.diag(x[0, 0]),
        torch.diag(x[0, 0], 1),
        torch.diag(x[0], -1),
        torch.diag_embed(x),
        torch.diag_embed(x[0], -1, 0, 2),
        torch.diag_embed(x[0], 1, 2, 0),
        torch.diagonal_scatter(x[0], torch.ones(4), 0),
        torch.diagonal_scatter(x, torch.ones(4, 2), 1, 2, 0),
        torch.zeros(3, 3).fill_diagonal_(2.0),
    ),
    X,
)
case(
    "creation",
    lambda x: (
        torch.zeros(2, 3),
        torch.ones_like(x),
        torch.full((2,), 3),
        torch.arange(5),
        torch.arange(1, 2, 0.25),
        torch.linspace(0, 1, 5),
        torch.eye(3),
        torch.tensor([1, 2]),
        x.new_zeros(3),
        torch.zeros_like(x, dtype=torch.int64),
        torch.full_like(x, 2.5),
        x.new_full((2,), 1),
        torch.tril_indices(3, 3),
    ),
    X,
)
case(
    "windows",
    lambda x: (torch.hann_window(6), torch.hann_window(6, periodic=False), torch.hamming_window(5), torch.blackman_window(7)),
    X,
)
case(
    "padding",
    lambda x, y: (
        F.pad(x, (1, 2)),
        F.pad(x, (1, 1, 2, 0), value=3.0),
        F.pad(x, (-1, 1)),
        F.pad(x, (1, 1), mode="reflect"),
        F.pad(x, (2, 1), mode="replicate"),
        F.pad(x, (1, 1), mode="circular"),
        F.pad(y, (1, 1, 2, 2), mode="reflect"),
        F.pad(y, (1, 1, 2, 2), mode="replicate"),
        F.pad(y, (1, 1, 2, 2), mode="circular"),
    ),
    X,
    IMAGE,
)
case(
    "meshgrid",
    lambda x: (*torch.meshgrid(x[0, 0], x[0, :, 0], indexing="ij"), *torch.meshgrid(x[0, 0], x[0, :, 0], indexing="xy")),
    X,
)
case(
    "patches",
    lambda x: (F.unfold(x, 3, padding=1, stride=2), F.pixel_unshuffle(x, 2), F.channel_shuffle(x.repeat(1, 2, 1, 1), 2)),
    IMAGE,
)
case("fold", lambda x: (F.fold(x, (4, 4), 2, stride=2), F.pixel_shuffle(x[:, :, None], 2)), r(2, 12, 4))

# ---- Indexing --------------------------------------------------------------------------------------------------------------

case(
    "index",
    lambda x, i: (
        x[i[0] % 3],
        x[:, i[0] % 4],
        x[i[0] % 3, i[1] % 4],
        x[..., i % 5],
        x[i[0] % 3, :, i[1] % 5],
        x[torch.tensor([True, False, True])],
        x[:, -1, [0, 2]],
    ),
    X,
    INDEX,
)
case(
    "gather",
    lambda x, i: (x[0].gather(1, i % 5), x[0].gather(0, i % 4), x.index_select(1, i[0] % 4), torch.take(x, i)),
    X,
    ri(4, 4),
)
case(
    "scatter",
    lambda x, i: (
        torch.zeros(4, 5).scatter(1, i, x[0, :, :4]),
        torch.zeros(4, 5).scatter_add(1, i, x[0, :, :4]),
        torch.zeros(4, 5).scatter(1, i, 2.0),
        x[0].scatter_reduce(1, i, x[1, :, :4], "amax"),
        torch.zeros(4, 5).index_add(1, i[0], x[0, :, :4]),
        torch.zeros(4, 5).index_copy(0, torch.tensor([1, 3]), x[0, :2]),
        torch.index_put(x, (torch.tensor([0, 1]),), torch.ones(4, 5), accumulate=True),
        torch.slice_scatter(x, x[:, :2] * 2, 1, 1, 3),
        torch.select_scatter(x, x[0] * 2, 0, 1),
        x.masked_fill(x > 0, 0.0),
    ),
    X,
    torch.stack([torch.randperm(5, generator=G)[:4] for _ in range(4)]),
)
case(
    "embedding",
    lambda w, i: (F.embedding(i, w), F.embedding(i, w, padding_idx=0), F.one_hot(i, 6), F.embedding_bag(i, w)),
    r(5, 3),
    INDEX,
)

# ---- Products --------------------------------------------------------------------------------------------------------------

case(
    "products",
    lambda x, y: (
        x @ y.mT,
        torch.bmm(x, y.mT),
        x[0] @ y[0].T,
        torch.mv(x[0], y[0, 0]),
        torch.dot(x[0, 0], y[0, 0]),
        torch.outer(x[0, 0], y[0, 0]),
        torch.addmm(x[0, :, :4], x[0], y[0].T, beta=0.5, alpha=2),
        torch.baddbmm(x[:, :, :4], x, y.mT),
        torch.inner(x[0], y[0]),
        torch.kron(x[0, :2], y[0, :, :2]),
        torch.linalg.multi_dot([x[0], x[1].T, x[2]]),
        torch.linalg.cross(x[..., :3], y[..., :3]),
        torch.tensordot(x, y, dims=([2], [2])),
        x[0, 0] @ y.mT,
    ),
    X,
    Y,
)
case(
    "einsum",
    lambda x, y: (
        torch.einsum("bij,bkj->bik", x, y),
        torch.einsum("bij->bj", x),
        torch.einsum("bii->bi", x[:, :, :4]),
        torch.einsum("i,j->ij", x[0, 0], y[0, 0]),
        torch.einsum("...ij,...jk", x, y.mT),
        torch.einsum("bij,bij,bij->b", x, y, x),
    ),
    X,
    Y,
)
case("linear", lambda x, w, b: (F.linear(x, w, b), F.linear(x, w), F.bilinear(x[0], x[1], torch.ones(2, 5, 5))), X, r(6, 5), r(6))
case(
    "conv2d",
    lambda x, w, b: (
        F.conv2d(x, w, b),
        F.conv2d(x, w, b, stride=2, padding=1),
        F.conv2d(x, w, padding="same"),
        F.conv2d(x, w, dilation=2),
        F.conv2d(x, w[:3, :1], groups=3),
        F.conv2d(x[0], w),
        F.conv2d(x, w, b, stride=(1, 2), padding=(2, 0)),
    ),
    IMAGE,
    r(6, 3, 3, 3),
    r(6),
)
case(
    "conv1d",
    lambda x, w: (F.conv1d(x, w), F.conv1d(x, w, padding=2, dilation=2), F.conv_transpose1d(x, w.mT.permute(2, 0, 1)[:3, :, :2])),
    r(2, 3, 9),
    r(4, 3, 3),
)
case(
    "conv3d", lambda x, w: (F.conv3d(x, w, padding=1), F.conv_transpose3d(x, w.transpose(0, 1))), r(1, 2, 4, 4, 4), r(3, 2, 2, 2, 2)
)
case(
    "conv_transpose2d",
    lambda x, w: (F.conv_transpose2d(x, w, stride=2, padding=1, output_padding=1), F.conv_transpose2d(x, w, dilation=2)),
    IMAGE,
    r(3, 4, 3, 3),
)
case(
    "pooling",
    lambda x: (
        F.max_pool2d(x, 2),
        F.max_pool2d(x, 3, 2, 1),
        F.max_pool2d(x, 3, 2, ceil_mode=True),
        F.max_pool2d(x, 2, dilation=2, stride=1),
        F.avg_pool2d(x, 2),
        F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        F.avg_pool2d(x, 3, 2, 1, ceil_mode=True),
        F.avg_pool2d(x, 2, divisor_override=3),
        F.adaptive_avg_pool2d(x, (3, 5)),
        F.adaptive_max_pool2d(x, 3),
        *F.max_pool2d(x, 2, return_indices=True),
        F.lp_pool2d(x, 2, 2),
        F.max_pool1d(x[0], 2),
        F.avg_pool1d(x[0], 3, 1, 1),
        F.adaptive_avg_pool1d(x[0], 3),
        F.max_pool3d(x, 2),
        F.avg_pool3d(x, 2),
        F.adaptive_avg_pool3d(x, 1),
    ),
    IMAGE,
)
case(
    "norms",
    lambda x, w, b: (
        F.batch_norm(x, w, w.abs(), w, b),
        F.group_norm(x, 3, w, b),
        F.instance_norm(x),
        F.instance_norm(x, weight=w, bias=b),
        F.layer_norm(x, (8,)),
        F.layer_norm(x, (8, 8)),
        F.local_response_norm(x, 3),
        F.rms_norm(x, (8,)),
    ),
    IMAGE,
    P[0, 0, :3],
    r(3),
)
case(
    "resizing",
    lambda x: (
        F.interpolate(x, scale_factor=2),
        F.interpolate(x, size=(5, 7), mode="bilinear"),
        F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
        F.interpolate(x, scale_factor=1.5, mode="bicubic"),
        F.interpolate(x, size=5, mode="nearest-exact"),
        F.interpolate(x, size=(4, 4), mode="area"),
        F.interpolate(x[0], size=6, mode="linear"),
        F.interpolate(x, size=(4, 4), mode="bilinear", antialias=True),
        F.interpolate(x[None], scale_factor=2, mode="trilinear"),
    ),
    IMAGE,
)
case(
    "sampling",
    lambda x, g: (
        F.grid_sample(x, g, align_corners=False),
        F.grid_sample(x, g, mode="nearest", padding_mode="border", align_corners=True),
        F.affine_grid(torch.eye(2, 3)[None].expand(2, 2, 3), [2, 3, 4, 4], align_corners=False),
    ),
    IMAGE,
    torch.rand(2, 4, 4, 2, generator=G) * 2 - 1,
)
case(
    "attention",
    lambda q, k: (
        F.scaled_dot_product_attention(q, k, k),
        F.scaled_dot_product_attention(q, k, k, is_causal=True),
        F.scaled_dot_product_attention(q, k, k, attn_mask=torch.ones(6, 6).tril().bool()),
        F.scaled_dot_product_attention(q, k, k, attn_mask=torch.ones(6, 6) * 0.3, scale=0.2),
        F.scaled_dot_product_attention(q, k[:, :2], k[:, :2], enable_gqa=True),
    ),
    r(2, 4, 6, 8),
    r(2, 4, 6, 8),
)

# ---- Losses ----------------------------------------------------------------------------------------------------------------

case(
    "regression_losses",
    lambda x, y: (
        F.mse_loss(x, y),
        F.mse_loss(x, y, reduction="none"),
        F.l1_loss(x, y, reduction="sum"),
        F.smooth_l1_loss(x, y),
        F.smooth_l1_loss(x, y, beta=0.3),
        F.huber_loss(x, y, delta=0.7),
    ),
    X,
    Y,
)
case(
    "class_losses",
    lambda x, t, u: (
        F.cross_entropy(x[0], t),
        F.cross_entropy(x[0], t, reduction="sum"),
        F.cross_entropy(x[0], t, ignore_index=1, weight=torch.arange(5.0) + 1),
        F.cross_entropy(x[0], x[1].softmax(1)),
        F.cross_entropy(x, u, reduction="none"),
        F.nll_loss(x[0].log_softmax(1), t),
    ),
    X,
    ri(4),
    ri(3, 5, high=4),
)
case(
    "probability_losses",
    lambda x, y: (
        F.binary_cross_entropy(x.sigmoid(), y.sigmoid()),
        F.binary_cross_entropy_with_logits(x, y.sigmoid()),
        F.binary_cross_entropy_with_logits(x, y.sigmoid(), pos_weight=torch.ones(5) * 2),
        F.kl_div(x.log_softmax(-1), y.softmax(-1), reduction="batchmean"),
        F.kl_div(x, y, log_target=True),
    ),
    X,
    Y,
)

# ---- Modules ---------------------------------------------------------------------------------------------------------------

torch.manual_seed(1)
MODULES: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {
    "mha": (nn.MultiheadAttention(8, 2, batch_first=True), (r(2, 5, 8),) * 3),
    "encoder": (nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2), (r(2, 5, 8),)),
    "decoder": (nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), (r(2, 5, 8), r(2, 4, 8))),
    "transformer": (nn.Transformer(8, 2, 1, 1, 16, batch_first=True), (r(2, 5, 8), r(2, 4, 8))),
    "lstm": (nn.LSTM(4, 6, 2, bidirectional=True), (r(5, 2, 4),)),
    "lstm_unbatched": (nn.LSTM(4, 6), (r(5, 4),)),
    "gru": (nn.GRU(4, 6, 2, batch_first=True), (r(2, 5, 4),)),
    "rnn": (nn.RNN(4, 6, nonlinearity="relu", bidirectional=True), (r(5, 2, 4),)),
    "lstm_cell": (nn.LSTMCell(4, 6), (r(2, 4),)),
    "gru_cell": (nn.GRUCell(4, 6), (r(2, 4),)),
    "batch_norm1d": (nn.BatchNorm1d(4), (r(3, 4),)),
    "batch_norm3d": (nn.BatchNorm3d(2), (r(1, 2, 3, 3, 3),)),
    "weight_norm": (nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3), dim=2), (r(2, 4, 9),)),
    "embedding_bag": (nn.EmbeddingBag(10, 4, mode="sum"), (ri(2, 3, high=10),)),
}


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def compare(got: Any, want: Any) -> None:
    got, want = (got, want) if isinstance(want, tuple) else ((got,), (want,))
    for i, (a, b) in enumerate(zip(got, want)):
        narrow = isinstance(b, torch.Tensor) and b.dtype in (torch.float16, torch.bfloat16)
        error = max(relative_errors(a, b), default=0)
        assert error < (2e-3 if narrow else 2e-5), f"output {i}: {error}"


def check(model: nn.Module, args: tuple[Any, ...]) -> None:
    program = torch.export.export(model.eval(), args, strict=False)
    want = model(*args)
    for target in ("reference", "cpu"):
        compare(kiln.compile(program, target=target)(*args), want)
    compare(kiln.compile(program.run_decompositions(), target="cpu")(*args), want)


@pytest.mark.parametrize("name", CASES)
def test_function(name: str) -> None:
    function, args = CASES[name]
    check(Function(function), args)


@pytest.mark.parametrize("name", MODULES)
def test_module(name: str) -> None:
    model, args = MODULES[name]
    check(model, args)
