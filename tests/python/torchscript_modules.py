"""Scripted modules: children, attributes, methods, state between calls, layers of torch.nn.

torch.jit.script reads this file's source, so annotations are the types that TorchScript knows (no `from __future__` here).
"""

# Python that would be written otherwise is here on purpose: it is what the compiled code must understand.
# ruff: noqa: UP006, UP035, F811

from typing import Any, Final, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchscript_case import INTEGERS, NUMBERS, X, case
from torchscript_language import Color, Mode

# ---- Modules ----------------------------------------------------------------------------------------------------------------------------


@case(X(2, 8))
class Mlp(nn.Module):
    scale: Final[float]
    layers: Final[int] = 2

    def __init__(self) -> None:
        super().__init__()
        self.scale = 0.5
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8, bias=False)
        self.offset = nn.Parameter(torch.ones(8))
        self.register_buffer("mask", torch.arange(8) % 2)
        self.name = "mlp"
        self.sizes = [1, 2]
        self.table = {"a": 3}

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.layers):
            x = torch.tanh(self.first(x)) * self.scale
        return self.second(x) * self.mask + self.offset + len(self.name) + self.sizes[1] * self.table["a"]


class Block(nn.Module):
    def __init__(self, width: int, wide: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2 * width if wide else width)
        self.wide = wide

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if self.wide:
            a, b = y.chunk(2, -1)
            return a * b.sigmoid() + x
        return y + x


@case(X(2, 8))
class ModuleLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(8, i % 2 == 0) for i in range(4)])
        self.tail = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4), nn.Identity()))
        self.branches = nn.ModuleDict({"left": nn.Linear(8, 4), "right": Block(8, False)})

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        for i, block in enumerate(self.blocks[1:3]):
            x = block(x) * (i + 1)
        x = self.blocks[-1](x)
        y = self.branches["left"](x)
        for name, branch in self.branches.items():
            if name == "right":
                x = branch(x)
        z = self.tail(x) + y + len(self.blocks) + self.tail[0](x)
        return z


@case(X(2, 4))
class ParameterLists(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.full((4,), float(i))) for i in range(3)])
        self.shared = nn.Linear(4, 4)
        self.again = self.shared  # one parameter under two names
        self.tied = nn.Linear(4, 4)
        self.tied.weight = self.shared.weight

    def forward(self, x: Tensor) -> Tensor:
        for w in self.weights:
            x = x * w + 1
        return self.shared(x) + self.again(x) + self.tied(x)


@case(X(2, 4))
class Methods(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.factor = 3

    def encode(self, x: Tensor, twice: bool = False) -> Tensor:
        x = self.linear(x)
        return self.linear(x) if twice else x

    @torch.jit.export
    def decode(self, x: Tensor) -> Tensor:
        return x * self.factor

    @torch.jit.ignore
    def in_python(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.unused
    def never(self, x: Tensor) -> Tensor:
        return self.in_python(x)

    @property
    def doubled(self) -> int:
        return self.factor * 2

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 7:
            return self.never(x)
        if self.training:
            return x
        if not torch.jit.is_scripting():
            x = x * 1
        return self.decode(self.encode(x, twice=True)) + self.encode(x) + self.doubled


@case(X(2, 4))
class OptionalChildren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = None
        self.drop = nn.Dropout(0.5)
        self.act = F.relu
        self.bias: Optional[Tensor] = None
        self.register_parameter("gain", None)

    def forward(self, x: Tensor, residual: Optional[Tensor] = None) -> Tensor:
        if self.norm is not None:
            x = self.norm(x)
        if self.bias is not None:
            x = x + self.bias
        if self.gain is None:
            x = x * 2
        if hasattr(self, "missing"):
            x = x + 100
        x = self.act(self.drop(x))
        return x if residual is None else x + residual


class Scale(nn.Module):
    def __init__(self, k: float) -> None:
        super().__init__()
        self.k = k

    def forward(self, x: Tensor) -> Tensor:
        return x * self.k


@torch.jit.interface
class Transform(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pass


@case(X(2, 4))
class Interfaces(nn.Module):
    chosen: Transform

    def __init__(self) -> None:
        super().__init__()
        self.items = nn.ModuleList([Scale(2.0), Scale(3.0)])
        self.chosen = Scale(5.0)

    def forward(self, x: Tensor) -> Tensor:
        for i in range(2):
            item: Transform = self.items[i]
            x = item.forward(x) + 1
        return self.chosen.forward(x)


@case(X(3, 4))
class EnumAttributes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mode = Mode.MEAN
        self.colors = [Color.RED, Color.GREEN]

    def forward(self, x: Tensor) -> Tensor:
        n = 0
        for c in self.colors:
            n += c.value
        if self.mode == Mode.SUM:
            return x.sum(0) + n
        return x.mean(0) * n


@case(X(2, 4), calls=True)
class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean.mul_(0.9).add_(x.mean(0), alpha=0.1)
        return x - self.mean + self.calls


@case(X(1, 4), calls=True)
class AssignedState(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 3)
        self.register_buffer("h", torch.zeros(1, 3))
        self.c = torch.zeros(1, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, c = self.cell(x, (self.h, self.c))
        self.h = h
        self.c = c
        return h


@case(X(1, 4), NUMBERS(1, 0, 1), calls=True)
class StateInABranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: Tensor, update: Tensor) -> Tensor:
        if bool(update):
            self.total = self.total + x[0]
        else:
            self.total[1] = 5.0
        return self.total * 2


@case(X(3), calls=True)
class StateInAList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = [torch.zeros(3), torch.ones(3)]

    def forward(self, x: Tensor) -> Tensor:
        old = self.last[0]
        self.last[0] = self.last[1]
        self.last[1] = x
        return old + x


@case(X(3), calls=True)
class StateInADict(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sums = {"all": torch.zeros(3)}

    def forward(self, x: Tensor) -> Tensor:
        self.sums["all"] = self.sums["all"] + x
        return self.sums["all"] * 2


@case(X(3), calls=True)
class OptionalState(nn.Module):
    h: Optional[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.h = None

    def forward(self, x: Tensor) -> Tensor:
        h = self.h
        if h is not None:
            x = x + h
        self.h = x
        return x


@case(X(3), calls=True)
class CallsDiffer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.flip = False

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.flip = not self.flip
        if self.calls == 1:
            return x
        return x * self.calls if self.flip else -x


@case(X(3), calls=True)
class ShiftRegister(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        self.rows = torch.cat([self.rows[1:], x[None]])
        return self.rows.mean(0)


@case(X(3), calls=True)
class Cache(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rows", torch.zeros(8, 3))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.at = 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows.index_copy_(0, self.count.reshape(1), x[None])
        self.rows[self.at + 4] = x * 2
        self.count.add_(1)
        self.at += 1
        return self.rows.sum(0) * self.count


@case(X(3), calls=True)
class StatesOfChildren(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.sums, self.calls = StateInADict(), CallsDiffer()

    def forward(self, x: Tensor) -> Tensor:
        return self.sums(x) + self.calls(x)


@case(X(2, 5, 8))
class Lstm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(8, 6, num_layers=2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor) -> Tuple[Tensor, Tuple[Tensor, Tensor]]:
        return self.rnn(x)


@case(X(5, 2, 8), X(1, 2, 6))
class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.GRU(8, 6)
        self.cell = nn.GRUCell(8, 6)

    def forward(self, x: Tensor, h: Tensor) -> Tuple[Tensor, Tensor]:
        y, last = self.rnn(x, h)
        return y + self.cell(x[0], last[0]), last


@case(X(4, 2, 8))
class RnnByHand(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(8, 5)

    def forward(self, x: Tensor, state: Optional[Tuple[Tensor, Tensor]] = None) -> Tensor:
        if state is None:
            state = (torch.zeros(x.size(1), 5), torch.zeros(x.size(1), 5))
        h, c = state
        outputs: List[Tensor] = []
        for step in x.unbind(0):
            h, c = self.cell(step, (h, c))
            outputs.append(h)
        return torch.stack(outputs)


@case(X(2, 5, 8))
class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:
        return self.attention(x, x, x)


@case(X(2, 5, 8))
class TransformerEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder(x)


@case(X(2, 4, 8), X(2, 3, 8))
class TransformerDecoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 1)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        return self.decoder(x, memory)


@case(X(1, 3, 16, 16))
class ConvNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 3, padding="same", groups=2), nn.GroupNorm(2, 8), nn.SiLU(inplace=True), nn.AvgPool2d(2),
            nn.ConvTranspose2d(8, 4, 2, stride=2), nn.InstanceNorm2d(4, affine=True), nn.Hardswish(), nn.Upsample(scale_factor=2.0),
            nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.AdaptiveAvgPool2d((2, 1)),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(), nn.Linear(8, 3), nn.Softmax(dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


@case(INTEGERS(2, 5, high=10))
class Embeddings(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 8, padding_idx=0)
        self.positions = nn.Embedding(16, 8)
        self.norm = nn.LayerNorm(8)
        self.bag = nn.EmbeddingBag(10, 4, mode="sum")

    def forward(self, ids: Tensor) -> Tuple[Tensor, Tensor]:
        positions = torch.arange(ids.size(1), device=ids.device).unsqueeze(0).expand_as(ids)
        x = self.words(ids) + self.positions(positions)
        mask = (ids != 0).unsqueeze(-1)
        return self.norm(x).masked_fill(~mask, 0.0), x.sum(1)


class Recursive(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.child = Recursive(depth - 1) if depth else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.child(torch.relu(self.linear(x))) + x


@case(X(2, 4))
class NestedModules(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tree = Recursive(3)
        self.traced = torch.jit.trace(nn.Linear(4, 4).eval(), torch.zeros(1, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.traced(self.tree(x))


@case(X(2, 4))
class Overloads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.ones(4))

    @torch.jit._overload_method
    def pick(self, x: Tensor) -> Tensor:
        pass

    @torch.jit._overload_method
    def pick(self, x: List[Tensor]) -> Tensor:
        pass

    def pick(self, x: Any) -> Tensor:
        if isinstance(x, Tensor):
            return x + self.bias
        return x[0] + x[1]

    def forward(self, x: Tensor) -> Tensor:
        return self.pick(x) * self.pick([x, x])
