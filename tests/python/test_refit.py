"""Other weights for engines that exist: results are those of PyTorch with the new weights, and of an engine built with them."""

from __future__ import annotations

import copy
import subprocess
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import kiln
from compare import relative_errors
from models import MODELS

TOLERANCE = 1e-4


def other_weights(model: nn.Module, seed: int = 5) -> nn.Module:
    """The same model as another training might have left it: everything that a state dict has and that is no integer differs."""
    changed = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in changed.state_dict().items():
        if not tensor.is_floating_point():
            continue
        noise = torch.rand(tensor.shape, generator=generator, dtype=torch.float32).to(tensor.dtype)
        if name.endswith("running_var"):
            tensor.copy_(0.5 + noise)
        else:
            scale = tensor.std() if tensor.numel() > 1 else torch.tensor(1.0)
            tensor.copy_(tensor.flip(0) if tensor.ndim else tensor).add_((noise - 0.5) * torch.maximum(scale, torch.tensor(0.05)))
    return changed


def assert_same(compiled: Any, module: nn.Module, *args: Any) -> None:
    assert max(relative_errors(compiled(*args), module(*args))) < TOLERANCE


def differs(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (a - b).abs().max() > 1e-3


class Small(nn.Module):
    """Convolution with a norm that is folded into it, a constant subgraph, tied weights, an unused one, and a mask that is an index."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = nn.BatchNorm2d(16)
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        self.left = nn.Linear(16, 24)
        self.right = nn.Linear(24, 24, bias=False)
        self.again = nn.Linear(24, 24, bias=False)
        self.again.weight = self.right.weight
        self.table = nn.Parameter(torch.randn(6, 24))
        self.unused = nn.Parameter(torch.randn(5))
        self.register_buffer("places", torch.tensor([0, 2, 4]))
        self.register_buffer("mask", torch.arange(24) % 3 > 0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.conv(x))).mean((2, 3))
        y = self.right(torch.tanh(self.left(y)))
        y = self.again(y) + (self.table[self.places] * 2).sum(0).exp()
        return y[:, self.mask]


@pytest.fixture
def small() -> nn.Module:
    return Small().eval()


X = torch.linspace(-1, 1, 2 * 3 * 12 * 12).reshape(2, 3, 12, 12)


# ---- Results -------------------------------------------------------------------------------------------------------------


def test_folded_tied_and_constant(small: nn.Module) -> None:
    compiled = kiln.compile(small, inputs=[X])
    other = other_weights(small)
    assert differs(small(X), other(X))
    assert compiled.refit(other.state_dict()) is compiled
    assert_same(compiled, other, X)
    compiled.refit(small)  # a module's own state dict
    assert_same(compiled, small, X)


def test_as_if_built_with_them(small: nn.Module) -> None:
    other = other_weights(small)
    compiled = kiln.compile(small, inputs=[X]).refit(other)
    assert torch.equal(compiled(X), kiln.compile(other, inputs=[X])(X))


# Of fresh norms and biases many are equal, and some do nothing: what a build makes of that must not stay.
def test_weights_that_were_equal_or_neutral() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8), nn.LayerNorm(8)).eval()
    for name, tensor in model.named_parameters():
        tensor.copy_(torch.eye(8) if tensor.ndim == 2 else torch.full((8,), float("weight" in name)))
    x = torch.randn(3, 8)
    compiled = kiln.compile(model, inputs=[x])
    other = other_weights(model)
    assert_same(compiled.refit(other), other, x)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "densenet121", "bert_base", "gpt2", "swin_tiny", "lstm"])
def test_models(name: str) -> None:
    model = MODELS[name]
    module, args = model.module("tiny"), model.example("tiny", 2)
    compiled = kiln.compile(module, inputs=list(args))
    other = other_weights(module)
    compiled.refit(other)
    assert max(relative_errors(compiled(*args), other(*args))) < model.tolerance


# Winograd's transformed weights are made by the first context, which holds them; 64 channels at 28 x 28 take it.
def test_winograd() -> None:
    model = nn.Sequential(nn.Conv2d(32, 32, 3, padding=1), nn.ReLU()).eval()
    x = torch.randn(1, 32, 28, 28)
    compiled = kiln.compile(model, inputs=[x])
    assert_same(compiled, model, x)
    other = other_weights(model)
    assert_same(compiled.refit(other), other, x)


def test_dynamic_shapes_and_other_shapes_after_it(small: nn.Module) -> None:
    compiled = kiln.compile(small, inputs=[kiln.Input(min_shape=(1, 3, 8, 8), opt_shape=(2, 3, 12, 12), max_shape=(8, 3, 16, 16))])
    other = other_weights(small)
    assert_same(compiled, small, X)
    compiled.refit(other)
    for shape in [(2, 3, 12, 12), (5, 3, 9, 16), (1, 3, 8, 8)]:
        assert_same(compiled, other, torch.randn(shape))


def test_script_module_file(small: nn.Module, tmp_path: Path) -> None:
    torch.jit.script(small).save(tmp_path / "small.pt")
    engine = kiln.Engine.build(tmp_path / "small.pt", inputs=[(None, None, (2, 3, 12, 12), (2, 3, 12, 12), (2, 3, 12, 12))])
    other = other_weights(small)
    engine.refit(other.state_dict())
    assert max(relative_errors(engine(X)[0], other(X))) < TOLERANCE


class Scaled(nn.Module):
    """Numbers as weights: one is multiplied with, the other decides a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(6, 6)
        self.scale = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("limit", torch.tensor(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.inner(x)
        if bool(self.limit > 0.1):
            y = y * self.scale
        return y + self.limit


def test_numbers_as_weights_of_a_script_module(tmp_path: Path) -> None:
    model, x = Scaled().eval(), torch.randn(3, 6)
    torch.jit.script(model).save(tmp_path / "scaled.pt")
    engine = kiln.Engine.build(tmp_path / "scaled.pt", inputs=[(None, None, (3, 6), (3, 6), (3, 6))])
    assert [info.name for info in engine.weights if info.fixed] == ["limit"]
    state = other_weights(model).state_dict()
    with pytest.raises(kiln.KilnError, match="`limit`: the engine was built for its old values"):
        engine.refit(state)
    state["limit"] = model.limit
    engine.refit(state)
    model.load_state_dict(state)
    assert max(relative_errors(engine(x)[0], model(x))) < TOLERANCE

    torch.jit.freeze(torch.jit.script(model)).save(tmp_path / "frozen.pt")
    frozen = kiln.Engine.build(tmp_path / "frozen.pt", inputs=[(None, None, (3, 6), (3, 6), (3, 6))])
    with pytest.raises(kiln.KilnError, match="frozen TorchScript module"):
        frozen.refit(state)


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(4))
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += x * self.weight
        return self.total.clone()


def test_states_stay_until_reset() -> None:
    compiled = kiln.compile(Counter().eval(), inputs=[torch.ones(4)])
    assert compiled(torch.ones(4)).tolist() == [1, 1, 1, 1]
    compiled.refit({"weight": torch.full((4,), 2.0), "total": torch.full((4,), 10.0)})
    assert compiled(torch.ones(4)).tolist() == [3, 3, 3, 3]
    compiled.reset()
    assert compiled(torch.ones(4)).tolist() == [12, 12, 12, 12]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_for_a_gpu_that_is_not_here(small: nn.Module, precision: str) -> None:
    engine = kiln.compile(small, inputs=[X], target="cuda:sm_90", precision=precision).engine
    other = other_weights(small)
    fresh = kiln.compile(other, inputs=[X], target="cuda:sm_90", precision=precision).engine
    engine.refit(other.state_dict())
    assert engine.target == fresh.target
    engine.verify()
    assert engine.report("graph").count("weight") == fresh.report("graph").count("weight")


# ---- Some of them --------------------------------------------------------------------------------------------------------


def test_some_weights() -> None:
    model = nn.Sequential(nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 40)).eval()
    x = torch.randn(3, 40)
    compiled = kiln.compile(model, inputs=[x])
    other = copy.deepcopy(model)
    other[2].weight.mul_(-2)
    assert_same(compiled.refit({"2.weight": other[2].weight}), other, x)
    other[0].bias.add_(1)
    assert_same(compiled.refit({"0.bias": other[0].bias}), other, x)


# One way to switch a LoRA adapter: the weights it changes are merged outside, and refitted alone.
def test_lora_on_and_off() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64)).eval()
    adapters = {name: (torch.randn(4, 64), torch.randn(64, 4)) for name in ("0.weight", "2.weight")}
    scale = 0.5
    x = torch.randn(3, 64)
    compiled = kiln.compile(model, inputs=[x])
    plain = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = {name: plain[name] + scale * (up @ down) for name, (down, up) in adapters.items()}
    off = compiled(x)

    compiled.refit(merged)
    model.load_state_dict({**plain, **merged})
    assert_same(compiled, model, x)
    assert differs(compiled(x), off)

    compiled.refit({name: plain[name] for name in adapters})
    assert torch.equal(compiled(x), off)


def test_list_of_weights(small: nn.Module) -> None:
    weights = {info.name: info for info in kiln.compile(small, inputs=[X]).engine.weights}
    assert set(weights) == set(small.state_dict())
    assert weights["conv.weight"].shape == (16, 3, 3, 3) and weights["conv.weight"].dtype == "f32"
    assert not weights["unused"].used and not weights["norm.num_batches_tracked"].used
    assert weights["mask"].fixed and not weights["conv.weight"].fixed
    assert weights["right.weight"].used and not weights["right.weight"].required


def test_numpy_strides_and_other_layouts(small: nn.Module) -> None:
    other = other_weights(small)
    state: dict[str, Any] = {name: tensor.numpy() for name, tensor in other.state_dict().items()}
    state["left.weight"] = np.asfortranarray(state["left.weight"])
    state["conv.weight"] = other.conv.weight.to(memory_format=torch.channels_last)
    state["table"] = torch.stack([other.table, other.table], 2)[:, :, 0]
    assert_same(kiln.compile(small, inputs=[X]).refit(state), other, X)


class Folded(nn.Module):
    """Large weights that engines have folded only: convolutions with norms, a product with a constant; and a plain one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 64, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(64)
        self.second = nn.Conv2d(64, 64, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(64)
        self.left = nn.Linear(64, 320)
        self.right = nn.Linear(320, 320)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(self.first(x)))
        y = torch.relu(self.norm2(self.second(y))).mean((2, 3))
        return nn.functional.linear(torch.tanh(self.left(y)), self.right.weight * 0.5, self.right.bias)


PARTS = [
    ["left.weight"],
    ["right.weight"],
    ["second.weight"],
    ["second.weight", "norm2"],
    ["first", "norm1"],
    ["right.bias", "left"],
]


@pytest.mark.parametrize("trained", [False, True], ids=["fresh", "trained"])
@pytest.mark.parametrize(
    ("target", "precision"), [("cpu", "fp32"), ("cuda:sm_90", "fp32"), ("cuda:sm_90", "fp16"), ("cuda:sm_90", "bf16")]
)
def test_some_weights_where_others_are_folded_or_rounded(trained: bool, target: str, precision: str) -> None:
    torch.manual_seed(3)
    model = Folded().eval()  # all values of fresh norms are equal, and engines have them once
    model = other_weights(model) if trained else model
    engine = kiln.compile(model, inputs=[X], target=target, precision=precision).engine
    whole = kiln.Engine.load(engine.serialize())
    assert not any(info.required for info in engine.weights)
    for i, part in enumerate(PARTS):
        other = other_weights(model, seed=i).state_dict()
        given = {name: tensor for name, tensor in other.items() if name.startswith(tuple(part)) and tensor.is_floating_point()}
        model.load_state_dict(given, strict=False)
        engine.refit(given)
        whole.refit(model)
        assert engine.serialize() == whole.serialize()
        if target == "cpu":
            assert max(relative_errors(engine(X)[0], model(X))) < TOLERANCE
    engine.verify()


def test_what_must_come_together() -> None:
    model = other_weights(Folded().eval())
    engine = kiln.compile(model, inputs=[X], target="cuda:sm_90", precision="fp16").engine
    engine.refit(model)
    before = engine.serialize()
    with pytest.raises(kiln.KilnError) as caught:
        engine.refit({"norm2.weight": torch.full((64,), 2.0), "left.weight": model.left.weight})
    assert "1 of those given do not fit or are missing" in str(caught.value)
    assert "`second.weight`: missing: the engine has only what was made of it and of `norm2.weight`" in str(caught.value)
    assert engine.serialize() == before
    whole = kiln.Engine.load(before)
    whole.refit(model)
    engine.refit(
        {name: model.state_dict()[name] for name in ("norm2.weight", "left.weight")}
    )  # with its old values it needs no other
    assert engine.serialize() == whole.serialize()


def test_some_weights_after_tuning_and_loading() -> None:
    model = other_weights(Folded().eval())
    engine = kiln.compile(model, inputs=[X]).engine
    engine.tune(0.05)
    engine = kiln.Engine.load(engine.serialize())
    other = other_weights(model)
    model.second, model.norm2 = other.second, other.norm2
    engine.refit({name: tensor for name, tensor in other.state_dict().items() if name.startswith(("second", "norm2"))})
    assert max(relative_errors(engine(X)[0], model(X))) < TOLERANCE
    with pytest.raises(kiln.KilnError, match=r"`second.weight`: missing"):
        engine.strip().refit({"left.bias": model.left.bias})
    assert [info.name for info in engine.strip().weights if info.required]


@pytest.mark.parametrize(
    ("name", "precision"), [("resnet18", "fp32"), ("resnet18", "fp16"), ("bert_base", "fp16"), ("gpt2", "fp16")]
)
def test_each_matrix_of_models_alone(name: str, precision: str) -> None:
    """Refits of one matrix each either give what a whole refit gives, or say what is missing."""
    model = MODELS[name]
    module, args = model.module("tiny"), model.example("tiny", 2)
    engine = kiln.compile(module, inputs=list(args), target="cuda:sm_90", precision=precision).engine
    whole = kiln.Engine.load(engine.serialize())
    other = other_weights(module).state_dict()
    refusals = []
    keys = [key for key, tensor in other.items() if tensor.ndim > 1][::9]
    for key in keys:
        module.load_state_dict({**module.state_dict(), key: other[key]})
        try:
            engine.refit({key: other[key]})
        except kiln.KilnError as error:
            refusals.append(str(error))
            engine.refit(module)
        whole.refit(module)
        assert engine.serialize() == whole.serialize(), key
    assert len(refusals) < len(keys) and all("so both must be given" in text for text in refusals)


# ---- Wrong ones ----------------------------------------------------------------------------------------------------------


def test_everything_wrong_at_once_and_nothing_changes(small: nn.Module) -> None:
    compiled = kiln.compile(small, inputs=[X])
    before = compiled(X)
    state = other_weights(small).state_dict()
    state["left.bias"] = torch.zeros(23)
    state["table"] = state["table"].half()
    state["nobody"] = torch.zeros(1)
    state["mask"] = ~state["mask"]
    state["again.weight"] = state["again.weight"] + 1
    with pytest.raises(kiln.KilnError) as caught:
        compiled.refit(state)
    text = str(caught.value)
    assert caught.value.status == "KILN_INVALID_ARGUMENT"
    assert "`left.bias`: expected f32[24], got f32[23]" in text
    assert "`table`: expected f32[6,24], got f16[6,24]" in text
    assert "`nobody`: the engine has no such weight" in text
    assert "`mask`: the engine was built for its old values" in text
    assert "weight`: given under two names with different contents" in text
    assert "5 of those given" in text
    assert torch.equal(compiled(X), before)


def test_missing_weights_are_listed() -> None:
    model = nn.Sequential(nn.Conv2d(64, 64, 3, bias=False), nn.BatchNorm2d(64)).eval()
    model[1].running_var.uniform_(0.5, 2)
    engine = kiln.compile(model, inputs=[torch.randn(1, 64, 8, 8)]).engine
    with pytest.raises(
        kiln.KilnError, match=r"`0\.weight`: missing: .*what was made of it and of `1\.weight`, so both must be given"
    ):
        engine.refit({"1.weight": torch.full((64,), 2.0)})
    engine.refit({"0.weight": torch.ones(64, 64, 3, 3)})  # the norm's are small: the engine has kept them


def test_names_it_lacks(small: nn.Module) -> None:
    compiled = kiln.compile(small, inputs=[X])
    state = {**small.state_dict(), "another.head": torch.zeros(3)}
    with pytest.raises(kiln.KilnError, match=r"another\.head"):
        compiled.refit(state)
    compiled.refit(state, strict=False)
    assert_same(compiled, small, X)


def test_wrong_arguments(small: nn.Module) -> None:
    engine = kiln.compile(small, inputs=[X]).engine
    with pytest.raises(TypeError, match="state dict"):
        engine.refit([1, 2])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"'left\.bias' must be a torch\.Tensor or a numpy\.ndarray, got list"):
        engine.refit({"left.bias": [0.0] * 24})
    with pytest.raises(TypeError, match="names of weights must be strings"):
        engine.refit({3: torch.zeros(1)})
    with pytest.raises(TypeError, match="sparse"):
        engine.refit({"table": torch.zeros(6, 24).to_sparse()})
    with pytest.raises(kiln.KilnError, match=r"[Nn]o such file"):
        engine.refit("/nowhere/weights.safetensors")
    with pytest.raises(kiln.KilnError, match=r"got f32\[24,2\]"):
        engine.refit({"left.bias": torch.zeros(24, dtype=torch.complex64)})


# ---- While it runs -------------------------------------------------------------------------------------------------------


def test_calls_in_flight_see_old_or_new_weights() -> None:
    model = nn.Sequential(*(layer for _ in range(6) for layer in (nn.Linear(96, 96), nn.Tanh()))).eval()
    other = other_weights(model)
    x = torch.randn(4, 96)
    compiled = kiln.compile(model, inputs=[x], threads=1)
    old = compiled(x)
    new = kiln.compile(other, inputs=[x], threads=1)(x)
    assert differs(old, new)
    stop, seen, wrong = threading.Event(), set(), []

    def call() -> None:
        while not stop.is_set():
            y = compiled(x)
            kind = "old" if torch.equal(y, old) else "new" if torch.equal(y, new) else "mixed"
            seen.add(kind)
            if kind == "mixed":
                wrong.append(y)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(10):
        compiled.refit(model if i % 2 else other)
        compiled(x)
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong and seen == {"old", "new"}


# ---- Files ---------------------------------------------------------------------------------------------------------------


def test_saved_with_the_new_weights(small: nn.Module, tmp_path: Path) -> None:
    compiled = kiln.compile(small, inputs=[X])
    other, third = other_weights(small), other_weights(small, seed=6)
    compiled.refit(other)
    kiln.save(compiled, tmp_path / "other.kiln")
    again = kiln.load(tmp_path / "other.kiln")
    again.engine.verify()
    assert torch.equal(again(X), compiled(X))
    assert_same(again.refit(third), third, X)
    assert_same(kiln.load(compiled.engine.serialize()), other, X)


def test_stripped(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256)).eval()
    x = torch.randn(2, 256)
    engine = kiln.compile(model, inputs=[x]).engine
    stripped = engine.strip()
    assert engine.has_weights and not stripped.has_weights
    assert len(stripped.serialize()) < 32768 < len(engine.serialize())
    kiln.save(stripped, tmp_path / "stripped.kiln")
    opened = kiln.load(tmp_path / "stripped.kiln")
    assert opened.inputs == engine.inputs
    with pytest.raises(kiln.KilnError, match="stripped of its weights: give it the model's with `kiln refit`"):
        opened(x)
    with pytest.raises(kiln.KilnError, match=r"`2.weight`: missing"):
        opened.refit({name: tensor for name, tensor in model.state_dict().items() if name != "2.weight"})
    opened.refit(model)
    assert opened.engine.has_weights
    assert torch.equal(opened(x), engine(x)[0])
    kiln.save(opened, tmp_path / "whole.kiln")
    assert torch.equal(kiln.load(tmp_path / "whole.kiln")(x), engine(x)[0])


@pytest.mark.parametrize("name", ["resnet18", "swin_tiny", "gpt2"])
def test_stripped_models(name: str) -> None:
    model = MODELS[name]
    module, args = model.module("tiny"), model.example("tiny", 2)
    engine = kiln.compile(module, inputs=list(args)).engine
    data = engine.strip().serialize()
    other = other_weights(module)
    compiled = kiln.load(data).refit(other)
    assert max(relative_errors(compiled(*args), other(*args))) < model.tolerance


def run(build_folder: Path, *args: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(build_folder / "kiln"), *map(str, args)], capture_output=True, text=True, timeout=120, check=False)


def test_command_line(small: nn.Module, build_folder: Path, tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.torch")
    other = other_weights(small)
    torch.export.save(torch.export.export(small, (X,), strict=False), tmp_path / "small.pt2")
    state = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    safetensors.save_file(state, tmp_path / "other.safetensors")

    done = run(build_folder, "build", tmp_path / "small.pt2", "--strip-weights", "-o", tmp_path / "small.kiln")
    assert done.returncode == 0, done.stderr
    done = run(build_folder, "bench", tmp_path / "small.kiln", "--seconds", "0.01")
    assert done.returncode == 1 and "kiln refit" in done.stderr
    done = run(build_folder, "refit", "--list", tmp_path / "small.kiln")
    assert done.returncode == 0 and "conv.weight f32 [16,3,3,3] required\n" in done.stdout
    done = run(build_folder, "refit", tmp_path / "small.kiln", tmp_path / "other.safetensors", "-o", tmp_path / "whole.kiln")
    assert done.returncode == 0, done.stderr
    assert_same(kiln.load(tmp_path / "whole.kiln"), other, X)

    state["conv.weight"] = torch.zeros(1)
    safetensors.save_file(state, tmp_path / "wrong.safetensors")
    before = (tmp_path / "whole.kiln").read_bytes()
    done = run(build_folder, "refit", tmp_path / "whole.kiln", tmp_path / "wrong.safetensors")
    assert done.returncode == 1 and "`conv.weight`: expected f32[16,3,3,3], got f32[1]" in done.stderr
    assert (tmp_path / "whole.kiln").read_bytes() == before
    done = run(build_folder, "refit", "--strip-weights", tmp_path / "whole.kiln", "-o", tmp_path / "bare.kiln")
    assert done.returncode == 0 and not kiln.Engine.open(tmp_path / "bare.kiln").has_weights
    assert run(build_folder, "refit", tmp_path / "whole.kiln").returncode == 2


# ---- Cache of engines ------------------------------------------------------------------------------------------------------


class Recorder(kiln.EngineCache):
    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.asked: list[bool] = []

    def save(self, key: str, blob: bytes) -> None:
        self.blobs[key] = blob

    def load(self, key: str) -> bytes | None:
        self.asked.append(key in self.blobs)
        return self.blobs.get(key)


def test_cache_of_engines(small: nn.Module) -> None:
    cache = Recorder()
    assert_same(kiln.compile(small, inputs=[X], engine_cache=cache), small, X)
    other = other_weights(small)
    assert_same(kiln.compile(other, inputs=[X], engine_cache=cache), other, X)
    assert cache.asked == [False, True] and len(cache.blobs) == 1

    kiln.compile(small, inputs=[X[:1]], engine_cache=cache)  # another shape
    kiln.compile(small, inputs=[X], engine_cache=cache, target="cpu:scalar")
    small.left = nn.Linear(16, 24, bias=False).eval()
    assert_same(kiln.compile(small, inputs=[X], engine_cache=cache), small, X)
    assert cache.asked == [False, True, False, False, False]

    small.mask[0] = True  # decides more than its contents: built anew
    assert_same(kiln.compile(small, inputs=[X], engine_cache=cache), small, X)
    for key in cache.blobs:
        cache.blobs[key] = b"damaged"
    assert_same(kiln.compile(small, inputs=[X], engine_cache=cache), small, X)


def test_folder_of_engines(small: nn.Module, tmp_path: Path) -> None:
    folder = tmp_path / "engines"
    kiln.compile(small, inputs=[X], engine_cache=folder)
    files = list(folder.iterdir())
    assert len(files) == 1
    size = files[0].stat().st_size
    cache = kiln.DiskEngineCache(folder, size=2 * size)
    for i in range(3):
        cache.save(f"{i}" * 64, bytes(size))
    assert sorted(path.stem[0] for path in folder.iterdir()) == ["1", "2"]
    assert cache.load("1" * 64) == bytes(size)
    cache.save("3" * 64, bytes(size))
    assert sorted(path.stem[0] for path in folder.iterdir()) == ["1", "3"]
    assert cache.load("2" * 64) is None
    (tmp_path / "file").write_text("")
    assert_same(kiln.compile(small, inputs=[X], engine_cache=tmp_path / "file"), small, X)  # no folder: no cache
    with pytest.raises(TypeError, match="engine_cache must be a path"):
        kiln.compile(small, inputs=[X], engine_cache=3)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="size must be 0 or more"):
        kiln.DiskEngineCache(folder, size=-1)
