"""Tensors in scripted code: views and writes with PyTorch's aliasing, shapes and dtypes, functions of torch.

torch.jit.script reads this file's source, so annotations are the types that TorchScript knows (no `from __future__` here).
"""

# Python that would be written otherwise is here on purpose: it is what the compiled code must understand.
# ruff: noqa: UP006, UP035, RUF005

from typing import List, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from torchscript_case import INTEGERS, X, case

# ---- Tensor views: PyTorch's list of view operators, written through --------------------------------------------------------------------


@case(X(4, 6))
def write_through_slices(x: Tensor) -> Tensor:
    y = x.clone()
    y[1:3] = 5.0
    y[:, ::2] *= 2
    y[0, 1:4] = torch.arange(3.0)
    y[-1] = y[0]
    y[..., 5] = 0.25
    y[2:, 1:2] = y[:2, 2:3]
    y[None, 3, 3] = 9
    return y


@case(X(4, 6))
def write_through_select_narrow_unbind(x: Tensor) -> Tuple[Tensor, Tensor]:
    y = x.clone()
    y.select(0, 1).fill_(1.0)
    y.narrow(1, 2, 3).mul_(-1)
    rows = y.unbind(0)
    rows[3].add_(10)
    rows[0][2] = 77
    return y, rows[0]


@case(X(4, 6))
def write_through_split_chunk(x: Tensor) -> Tensor:
    y = x.clone()
    a, b = y.split(3, dim=1)
    a.add_(1)
    c = y.chunk(2, dim=0)
    c[1].zero_()
    d = y.split([1, 3], 0)
    d[1].sub_(0.5)
    e = y.tensor_split(3, dim=1)
    e[2].mul_(3)
    f = torch.vsplit(y, 2)
    f[0].add_(b[:2].sum())
    g = torch.hsplit(y, [2, 4])
    g[1].neg_()
    return y


@case(X(4, 6))
def write_through_shapes(x: Tensor) -> Tuple[Tensor, Tensor]:
    y = x.clone()
    y.view(24)[5] = 1.0
    y.reshape(2, 12)[1, :3] += 100
    y.flatten()[0] = -1
    y.view(2, 2, 6)[1, 0].zero_()
    y.unflatten(1, [2, 3])[:, 1, 0].fill_(8)
    y.view_as(torch.zeros(6, 4))[2].mul_(2)
    z = y.ravel()
    z[7] = 3
    return y, z


@case(X(4, 6))
def write_through_transposes(x: Tensor) -> Tensor:
    y = x.clone()
    y.t()[0] = 4
    y.transpose(0, 1)[1].add_(1)
    y.permute(1, 0)[2, 1:3] = 6
    y.T[3].neg_()
    y.mT[4] = 2
    y.swapaxes(0, 1)[5].mul_(3)
    y.movedim(0, 1)[5, 0] = -5
    y.swapdims(0, 1)[5, 1] = -6
    y.adjoint()[5, 2] = -7
    y.view(2, 2, 6).moveaxis(0, -1)[0, 0, 1] = 50
    return y


@case(X(4, 6))
def write_through_squeeze_unsqueeze(x: Tensor) -> Tensor:
    y = x.clone()
    y.unsqueeze(1)[2, 0, 3] = 1
    y.unsqueeze(0).squeeze(0)[1].fill_(2)
    y.view(4, 1, 6).squeeze()[3, 0:2] += 3
    z = y.view(1, 4, 6)
    z.squeeze_(0)
    z[0].unsqueeze_(0).add_(1)
    y[:, :1].squeeze(1).mul_(2)
    return y


@case(X(4, 4))
def write_through_diagonals(x: Tensor) -> Tensor:
    y = x.clone()
    y.diagonal().fill_(1)
    y.diagonal(1)[0] = 9
    torch.diagonal(y, -1).add_(5)
    y.view(2, 2, 4).diagonal(0, 0, 1).mul_(2)
    return y


@case(X(4, 6))
def write_through_expand(x: Tensor) -> Tensor:
    y = x.clone()
    e = y[:, :1].expand(4, 3)
    z = y.unsqueeze(0).expand(2, 4, 6)
    y.add_(1)
    y[0] = 2
    w = y.expand_as(torch.zeros(3, 4, 6))
    y[1, 0] = 50
    return z.sum(0) + e.sum() + w[2] + y.broadcast_to([2, 4, 6])[1]


@case(X(4, 6))
def write_through_unfold_and_strides(x: Tensor) -> Tuple[Tensor, Tensor]:
    y = x.clone()
    u = y.unfold(1, 2, 2)
    u[0, 1, 0] = 40
    y[3, 3] = 7
    s = torch.as_strided(y, [3, 2], [6, 1], 1)
    s[1].fill_(2)
    return y, u * 1


@case(X(4, 6))
def write_through_detach_and_friends(x: Tensor) -> Tensor:
    y = x.clone()
    y.detach()[0].fill_(3)
    y.contiguous()[2, 2] = 5  # the same tensor
    y.to(torch.float32)[3, 3] = 6  # likewise
    y.float()[3, 4] = 7
    y.to(torch.float64)[0, 1] = 99  # a copy
    y.data[1, 5] = 8
    return y


@case(X(4, 6))
def bases_change_under_views(x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    y = x.clone()
    row, column = y[1], y[:, 2]
    corner = row[2:4]
    y.mul_(3)
    column.fill_(-1)
    row += 1
    corner *= 2
    return y, row, corner


@case(X(2, 3, 4))
def views_of_views(x: Tensor) -> Tuple[Tensor, Tensor]:
    y = x * 1
    v = y.permute(2, 0, 1)[1:3].transpose(1, 2).reshape(2, 3, 2)[:, 1:]
    v.fill_(0.5) if v.is_contiguous() else v.add_(1)
    w = y.transpose(0, 1)[..., ::2].select(1, 1)
    w.copy_(torch.ones(3, 2))
    y.view(6, 4)[1:3].view(-1)[2:6].mul_(10)
    return y, w


@case(X(4, 3))
def writes_to_inputs(x: Tensor) -> Tensor:
    x.add_(1)
    x[0] = 0
    x[:, 1] *= 2
    return x.sum(0)


@case(X(4, 3), X(3))
def writes_to_one_input_of_two(x: Tensor, y: Tensor) -> None:
    z = x.t()
    z[1].copy_(torch.ones(4) * y[0])


@case([X(2, 3), X(3)])
def writes_to_inputs_in_a_list(xs: List[Tensor]) -> Tensor:
    for x in xs:
        x.mul_(2)
    return xs[0] + xs[1]


# ---- Other in-place operators --------------------------------------------------------------------------------------------------------


@case(X(4, 6))
def in_place_arithmetic(x: Tensor) -> Tensor:
    y = x.clone()
    y += 1
    y -= x * 0.5
    y *= y
    y /= 3
    z = y
    z.pow_(2).sqrt_().clamp_(0.1, 2.0)
    y.add_(x, alpha=0.5).mul_(x > 0).relu_()
    y.addcmul_(x, x, value=0.1).addcdiv_(x, x.abs() + 1).lerp_(x, 0.25)
    return z


@case(X(4, 6))
def in_place_activations(x: Tensor) -> Tensor:
    y = F.relu(x.clone(), inplace=True) + F.leaky_relu(x.clone(), 0.1, True)
    z = F.hardswish(x.clone(), inplace=True) + F.silu(x.clone(), inplace=True) + F.elu(x.clone(), inplace=True)
    w = x.clone().sigmoid_().tanh_().exp_().floor_().neg_().abs_()
    return y + z + w + F.hardtanh(x.clone(), -0.5, 0.5, inplace=True) + F.dropout(x, 0.5, training=False, inplace=True)


@case(X(4, 6))
def masked_writes(x: Tensor) -> Tensor:
    y = x.clone()
    y[y > 1] = 1.0
    y.masked_fill_(y < -1, -1.0)
    y[1].masked_fill_(x[0] > 0, 4)
    return y.masked_fill(x == 0, 5) + torch.where(x > 0, y, 0.0)


@case(X(4, 6), INTEGERS(3, high=4))
def indexed_writes(x: Tensor, i: Tensor) -> Tensor:
    y = x.clone()
    y[i] = 1.5
    y[:, i] = x[:, i] * 2
    y[i, 1] += 3
    y.index_put_([i, torch.tensor([0, 1, 2])], torch.tensor([1.0, 2.0, 3.0]), accumulate=True)
    y.index_fill_(0, i[:1], -2)
    y.index_add_(0, torch.tensor([0, 2]), x[:2])
    y.index_copy_(1, torch.tensor([5, 4]), x[:, :2])
    return y + y[i].sum() + y[1][i[0]]


@case(X(4, 6), INTEGERS(2, 6, high=4))
def scatters(x: Tensor, i: Tensor) -> Tensor:
    y = x.clone()
    y.scatter_(0, i[:1], 5.0)
    y.scatter_add_(0, i, x[:2])
    z = torch.zeros_like(x).scatter(0, i[1:], x[:1])
    return y + z + torch.gather(x, 0, i).sum()


@case(X(4, 6))
def copy_and_fill(x: Tensor) -> Tensor:
    y = torch.empty(4, 6)
    y.copy_(x[0])
    y[1:].fill_(0.5)
    y[2].zero_()
    y[:, 3].copy_(torch.tensor([1, 2, 3, 4]))
    y.fill_diagonal_(7)
    y.triu_(-2)
    return y


@case(X(4, 6))
def writes_with_other_dtypes(x: Tensor) -> Tuple[Tensor, Tensor]:
    n = torch.zeros(4, 6, dtype=torch.int64)
    n[x > 0] = 3
    n[1] = torch.tensor(2.7)
    n += 1
    b = torch.zeros(4, dtype=torch.bool)
    b[1:3] = True
    b |= n[:, 0] > 2
    return n, b


@case(X(4, 6))
def outputs_given_as_arguments(x: Tensor) -> Tuple[Tensor, Tensor]:
    y = torch.empty(4, 6)
    torch.add(x, 1, out=y)
    z = torch.empty(4)
    torch.sum(x, dim=1, out=z)
    return y, z


# ---- Shapes, dtypes, devices -------------------------------------------------------------------------------------------------------------


@case(X(2, 3, 4))
def shape_code(x: Tensor) -> Tuple[Tensor, List[int], int]:
    b, c, w = x.shape
    size = x.size()
    y = x.view(b, -1).reshape([b * c, w]).view(list(size[:2]) + [w])
    shape = list(y.shape)
    shape[-1] *= 1
    shape.insert(0, 1)
    return y.view(shape), y.stride() if y.dim() == 9 else list(y.size()), y.numel() + x.numel() + x.ndim + len(x.shape)


@case(X(2, 3, 4))
def dtype_code(x: Tensor) -> Tuple[Tensor, Tensor, bool, bool]:
    y = x.to(torch.float64)
    if y.dtype == torch.float64 and x.dtype != y.dtype:
        y = y * 2
    z = torch.ones([2], dtype=x.dtype, device=x.device).to(y.dtype).type_as(x)
    return y, z.to(y) + x.double()[0, 0, 0], x.is_floating_point(), x.is_cuda


@case(X(2, 3))
def device_code(x: Tensor) -> Tensor:
    d = torch.device("cpu")
    y = torch.zeros(2, 3, device=d) if x.device == d else x
    if x.device.type == "cpu":
        y = y + 1
    return y.to(x.device).cpu() + x.to("cpu")


@case(INTEGERS(2, 3), X(2, 3))
def type_promotion(n: Tensor, x: Tensor) -> List[Tensor]:
    return [n + 1, n + 1.5, n / 2, n // 2, n * x, n > 1, (n > 1) + n, n + torch.tensor(0.5), x.half().float() + n, -n % 3]


@case(X(2, 3))
def creation(x: Tensor) -> List[Tensor]:
    return [
        torch.zeros([2, 2]), torch.ones(3), torch.full([2], 7), torch.arange(5), torch.arange(1.0, 2.0, 0.25), torch.linspace(0, 1, 5),
        torch.eye(3), torch.tensor([[1, 2], [3, 4]]), torch.tensor([0.5, float(x.size(0))]), torch.zeros_like(x), torch.full_like(x, 2),
        x.new_zeros([2]), x.new_ones([1, 2]), x.new_full([2], 3.0), torch.empty(0), torch.tensor(True), torch.tril_indices(2, 3),
    ]  # fmt: skip


@case(X(2, 3, 4))
def indexing(x: Tensor) -> List[Tensor]:
    i = torch.tensor([1, 0])
    return [
        x[0],
        x[:, 1],
        x[..., -1],
        x[:, None],
        x[1, 2, 3],
        x[:, :, 1:3],
        x[i],
        x[:, i],
        x[0, i, 1],
        x[i, i],
        x[None, ..., None],
        x[:, [0, 2]],
    ]


@case(X(2, 3, 4), X(2, 3, 4))
def many_results(x: Tensor, y: Tensor) -> List[Tensor]:
    a, i = x.max(dim=1)
    b, j = torch.sort(y, dim=2, descending=True)
    c = torch.topk(x, 2, dim=-1)
    m = torch.var_mean(x, dim=0)
    return [a, i, b, j, c[0], c.indices, m[0], m[1], torch.stack(torch.meshgrid([x[0, 0], y[0, 0]], indexing="ij"))]


@case(X(2, 6, 5))
def split_and_concatenate(x: Tensor) -> Tensor:
    a, b, c = torch.chunk(x, 3, dim=1)
    parts = x.split([1, 2, 3], dim=1)
    y = torch.cat([a, b * 2, c], dim=1) + torch.cat(parts, 1)
    return torch.stack([y, y.flip([1]), y.roll(1, 2)], dim=0).sum(0)


@case(X(2, 6, 5))
def pad_and_interpolate(x: Tensor) -> Tensor:
    y = F.pad(x, [1, 2]) + F.pad(x, (1, 2), mode="reflect") + F.pad(x, [2, 1], mode="replicate")
    return F.interpolate(y, scale_factor=2.0, mode="linear", align_corners=False) + F.interpolate(y, size=16)


@case(X(2, 6, 5))
def functional(x: Tensor) -> Tensor:
    y = F.softmax(x, dim=-1) + F.layer_norm(x, [5]) + F.gelu(x) + F.normalize(x, dim=1) + F.log_softmax(x, 1, dtype=torch.float32)
    w = torch.ones(4, 6, 3) * 0.1
    z = F.conv1d(x, w, padding=1) + F.conv1d(x, w, torch.ones(4), padding="same")
    p = F.max_pool1d(x, 2) + F.avg_pool1d(x, 2) + F.adaptive_avg_pool1d(x, 2)
    return (
        y + z.sum() + p.sum() + F.cosine_similarity(x, y, dim=1).mean() + F.mse_loss(x, y) + F.one_hot(torch.tensor([1]), 3).sum()
    )


@case(X(4, 4), X(4, 4))
def einsum_and_matmul(x: Tensor, y: Tensor) -> Tensor:
    a = torch.einsum("ij,kj->ik", x, y) + x @ y + torch.matmul(x, y[0]) + torch.bmm(x[None], y[None])[0]
    return a + torch.addmm(x, x, y, beta=0.5, alpha=2.0) + torch.baddbmm(x[None], x[None], y[None])[0] + torch.outer(x[0], y[0])


@case(X(4, 4))
def no_gradients(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x * 2
    return y.detach()


@case(X(4, 4))
def prints_and_warnings(x: Tensor) -> Tensor:
    if x.size(0) == 5:
        print("five rows", x.size(0))
    return x + 1
