"""What the importer makes of whole programs: aliasing and in-place writes, control flow, sizes as numbers, tied weights, states."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any, Callable

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.export import Dim

import kiln
from compare import relative_errors


class Function(nn.Module):
    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: Any) -> Any:
        return self.function(*args)


def programs(model: nn.Module, args: tuple[Any, ...], **options: Any) -> list[torch.export.ExportedProgram]:
    """The export as it is, and decomposed into core operators."""
    program = torch.export.export(model, args, strict=False, **options)
    return [program, program.run_decompositions()]


def check(model: nn.Module, args: tuple[Any, ...], others: tuple[tuple[Any, ...], ...] = (), **options: Any) -> None:
    for program in programs(model.eval(), args, **options):
        compiled = kiln.compile(program, target="reference")
        for given in (args, *others):
            errors = relative_errors(compiled(*given), model(*given))
            assert max(errors, default=0) < 1e-5


# ---- Views and writes ----------------------------------------------------------------------------------------------------


def write_slices(x: torch.Tensor) -> Any:
    x = x.clone()
    x[0] = 1
    x[:, 1:3] += 2
    x[..., -1].mul_(3)
    x[::2, :, 1:4:2] = x[0, 0, 0]
    return x


def write_through_transpose(x: torch.Tensor) -> Any:
    a = x.clone()
    b = a.transpose(0, 1)
    b[0].fill_(7)
    a.add_(1)
    return a, b


def views_of_views(x: torch.Tensor) -> Any:
    a = torch.zeros(4, 6)
    b = a.view(2, 2, 6)
    b[1, 0] = x[0, 0, 0]
    c = a.permute(1, 0)
    c[2:4, ::2] = 5
    return a, b, c


def write_chunks(x: torch.Tensor) -> Any:
    a = x.clone()
    first, second = a.chunk(2, dim=1)
    first.zero_()
    second.add_(1)
    one, rest = a.split([1, 3], 1)
    rest.relu_()
    return a, first, one


def write_diagonals(x: torch.Tensor) -> Any:
    a = torch.zeros(4, 4)
    a.diagonal().copy_(x[0, :, 0])
    a.diagonal(1).fill_(2)
    b = torch.zeros(3, 5, 4)
    b.diagonal(0, 0, 2).copy_(x[0, :3, :5].T)
    return a, b


def write_unbound(x: torch.Tensor) -> Any:
    a = x.clone()
    rows = a.unbind(0)
    rows[1].copy_(rows[0])
    return a, rows[1]


def write_masked(x: torch.Tensor) -> Any:
    a = x.clone()
    a.masked_fill_(a > 0, -1.0)
    a[a < -1] = 0.5
    a[:, [0, 2]] = 9.0
    return a


def read_after_write(x: torch.Tensor) -> Any:
    a = x.clone()
    b = a.expand(2, 3, 4, 5)
    c = a.narrow(1, 1, 2)
    d = c.select(1, 0)
    a += 1
    c.exp_()
    d.sub_(10)
    return a, b, c, d


def write_flattened(x: torch.Tensor) -> Any:
    a = x.clone()
    b = a.flatten()
    b[3] = 100
    c = a.detach()
    c.mul_(2)
    return a, b, c


def shape_in_place(x: torch.Tensor) -> Any:
    a = x.clone()
    a.unsqueeze_(0)
    a.transpose_(1, 2)
    return a.squeeze_(0)


def bools_in_place(x: torch.Tensor) -> Any:
    a = x > 0
    a |= x < -1
    a &= x < 2
    return a, ~a


def write_converts(x: torch.Tensor) -> Any:
    a = torch.zeros(5, dtype=torch.int64)
    a[2:] = torch.arange(3)
    a[0] = 7.9
    h = x.half()
    h[0] = x[1]
    return a, h


WRITES = [
    write_slices,
    write_through_transpose,
    views_of_views,
    write_chunks,
    write_diagonals,
    write_unbound,
    write_masked,
    read_after_write,
    write_flattened,
    shape_in_place,
    bools_in_place,
    write_converts,
]


@pytest.mark.parametrize("function", WRITES, ids=lambda f: f.__name__)
def test_writes(function: Callable[..., Any]) -> None:
    check(Function(function), (torch.randn(3, 4, 5),))


def test_write_to_expanded_tensor_is_refused() -> None:
    def overlap(x: torch.Tensor) -> torch.Tensor:
        wide = x.clone().expand(3, 4)
        return torch.ops.aten.add_.Tensor(wide, wide)

    program = torch.export.export(Function(lambda x: x * 2), (torch.randn(1, 4),), strict=False)
    try:
        program = torch.export.export(Function(overlap), (torch.randn(1, 4),), strict=False)
    except Exception:
        pytest.skip("this PyTorch refuses it at export")
    with pytest.raises(kiln.KilnError, match="single memory location"):
        kiln.compile(program, target="reference")


def test_written_input() -> None:
    class Accumulate(nn.Module):
        def forward(self, x: torch.Tensor, total: torch.Tensor) -> torch.Tensor:
            total.add_(x)
            total[0] = 0
            return total * 2

    for program in programs(Accumulate(), (torch.randn(3), torch.zeros(3))):
        compiled = kiln.compile(program, target="reference")
        x, ours, theirs = torch.randn(3), torch.ones(3), torch.ones(3)
        got, want = compiled(x, ours), Accumulate()(x, theirs)
        assert torch.allclose(got, want)
        assert torch.allclose(ours, theirs)


def test_states() -> None:
    class Filter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("last", torch.zeros(4))
            self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
            self.register_buffer("gain", torch.full((4,), 0.5))

        def forward(self, x: torch.Tensor) -> Any:
            self.last.mul_(self.gain).add_(x)
            self.steps += 1
            return self.last + 1, self.steps, self.last

    x = torch.randn(4)
    for program in programs(Filter(), (x,)):
        compiled = kiln.compile(program, target="reference")
        model = Filter()
        for _ in range(3):
            assert max(relative_errors(compiled(x), model(x))) < 1e-6


# ---- Sizes ---------------------------------------------------------------------------------------------------------------


def test_arithmetic_on_sizes() -> None:
    class Sizes(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            b, t, c = x.shape
            half = x[:, : t - 3]
            means = x.sum(1) / t
            scaled = x * (t**-0.5)
            mask = torch.arange(t)[None] < (t - 2)
            grid = torch.zeros(b, max(t, 4)).fill_(t)
            return half, means, scaled, mask.repeat(b, 1), grid, b * 2 + t, x.view(b * t, -1).reshape(-1, c * 2 // 2), x.numel()

    batch, length = Dim("batch", min=2, max=8), Dim("length", min=6, max=40)
    args = (torch.randn(3, 8, 4),)
    others = ((torch.randn(2, 6, 4),), (torch.randn(8, 33, 4),))
    check(Sizes(), args, others, dynamic_shapes={"x": {0: batch, 1: length}})


def test_derived_dimensions() -> None:
    class Both(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return torch.cat([x.repeat_interleave(2, 0), y], 1)

    n = Dim("n", min=2, max=16)
    args = (torch.randn(3, 2), torch.randn(6, 2))
    check(Both(), args, ((torch.randn(5, 2), torch.randn(10, 2)),), dynamic_shapes={"x": {0: n}, "y": {0: 2 * n}})


def test_attention_with_dynamic_length() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            b, t, c = x.shape
            q, k, v = self.qkv(x).view(b, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.out(y.transpose(1, 2).reshape(b, t, c))

    shapes = {"x": {0: Dim("batch", min=2, max=4), 1: Dim("length", min=2, max=64)}}
    check(Attention(), (torch.randn(2, 10, 16),), ((torch.randn(3, 17, 16),),), dynamic_shapes=shapes)


# ---- Structure -----------------------------------------------------------------------------------------------------------


def test_tied_and_viewed_weights() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(10, 8), nn.Linear(8, 10, bias=False)
            self.head.weight = self.embed.weight
            self.turned = nn.Parameter(torch.randn(4, 8).t())
            self.part = nn.Parameter(torch.randn(20, 8)[3:14:2, 1:])

        def forward(self, i: torch.Tensor) -> Any:
            x = self.embed(i)
            return self.head(x), x @ self.turned, x[..., 1:] @ self.part.t()

    model, args = Tied(), (torch.randint(0, 10, (2, 3)),)
    check(model, args)
    text = kiln.compile(torch.export.export(model, args, strict=False), target="reference").engine.report("graph")
    assert text.count(": f32[10,8]") == 1, "the tied weight must be stored once"


def test_constants() -> None:
    class Constants(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("hidden", torch.randn(4), persistent=False)
            self.plain = torch.randn(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.hidden + self.plain - torch.tensor([1.0, 2.0, 3.0, 4.0])

    check(Constants(), (torch.randn(2, 4),))


def test_wrapped_regions() -> None:
    class Regions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                y = self.linear(x)
            with torch.autocast("cpu", enabled=False):
                y = y * 2
            return y + x

    with torch.enable_grad():
        exported = programs(Regions().eval(), (torch.randn(2, 4),))
    model = Regions().eval()
    del model
    for program in exported:
        x = torch.randn(2, 4)
        assert max(relative_errors(kiln.compile(program, target="reference")(x), program.module()(x))) < 1e-6


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_cond(sign: float) -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> Any:
            return torch.cond(x.sum() > 0, lambda v: (self.linear(v), v.sum()), lambda v: (v - 1, v.max()), (x,))

    check(Branch(), (sign * torch.ones(2, 3),), ((-sign * torch.ones(2, 3),),))


def test_outputs_that_are_not_tensors() -> None:
    class Mixed(nn.Module):
        def forward(self, x: torch.Tensor, flag: bool, scale: float, name: str, nothing: Any) -> Any:
            return {"y": x * scale if flag else x, "rest": [None, 3, 1.5, name, (x.sum(), True)]}

    args = (torch.randn(2), True, 0.5, "a", None)
    check(Mixed(), args)


# ---- Errors --------------------------------------------------------------------------------------------------------------


def test_unsupported_operators_name_their_lines() -> None:
    class Strange(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.nextafter(x, x) + torch.nextafter(x + 1, x) + torch.linalg.ldl_factor_ex(x).LD

    with pytest.raises(kiln.KilnError) as error:
        kiln.compile(torch.export.export(Strange(), (torch.randn(3, 3),), strict=False))
    text = str(error.value)
    assert "2 operators" in text
    assert "nextafter.default, used 2 times" in text
    assert "linalg_ldl_factor_ex.default, used 1 time" in text
    assert "test_import.py:" in text


def test_refused_calls_are_all_listed() -> None:
    class Refused(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            b = F.dropout(x, 0.5, training=True)
            c = F.dropout(b + 1, 0.5, training=True)
            return torch.nextafter(b, b), torch.relu(c)

    with pytest.raises(kiln.KilnError) as error:
        kiln.compile(torch.export.export(Refused(), (torch.randn(5),), strict=False))
    text = str(error.value)
    assert "2 uses of operators in this model are not supported" in text
    assert "nextafter.default, used 1 time" in text
    assert "2 times" in text


def edited(program: torch.export.ExportedProgram, edit: Callable[[dict[str, Any]], None]) -> bytes:
    """The .pt2 file of `program` with its model.json changed."""
    saved, out = io.BytesIO(), io.BytesIO()
    torch.export.save(program, saved)
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            data = old.read(name)
            if name.endswith("models/model.json"):
                model = json.loads(data)
                edit(model)
                data = json.dumps(model).encode()
            new.writestr(name, data)
    return out.getvalue()


def test_other_schema_versions() -> None:
    from kiln.engine import Engine

    program = torch.export.export(Function(lambda x: x + 1), (torch.randn(3),), strict=False)

    def version(major: int, minor: int) -> Callable[[dict[str, Any]], None]:
        return lambda model: model.update(schema_version={"major": major, "minor": minor})

    for minor in (17, 18, 19, 20):
        Engine.build(edited(program, version(8, minor)), target="reference")
    for major, minor in ((7, 1), (9, 1), (8, 3)):
        with pytest.raises(kiln.KilnError, match=rf"schema {major}\.{minor}"):
            Engine.build(edited(program, version(major, minor)), target="reference")


def test_optional_keys_may_be_absent() -> None:
    """Older minor versions lack what newer ones added."""
    from kiln.engine import Engine

    program = torch.export.export(Function(lambda x: x + 1), (torch.randn(3),), strict=False)

    def strip(model: dict[str, Any]) -> None:
        for key in ("guards_code", "verifiers", "torch_version", "opset_version"):
            model.pop(key, None)
        graph = model["graph_module"]["graph"]
        for key in ("sym_float_values", "custom_obj_values", "is_single_tensor_return"):
            graph.pop(key, None)
        for node in graph["nodes"]:
            node.pop("name", None)
            node.pop("is_hop_single_tensor_return", None)
            for argument in node["inputs"]:
                argument.pop("kind", None)

    Engine.build(edited(program, strip), target="reference")
