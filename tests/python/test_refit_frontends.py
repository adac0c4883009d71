"""Other weights through torch.compile and the names of Torch-TensorRT: refits, the engine cache, modules that follow their original."""

from __future__ import annotations

import copy
import importlib
import io
from pathlib import Path
from typing import Any, Optional

import pytest
import torch
from torch import nn

import kiln
from kiln import torch_tensorrt
from kiln.partition import EngineCall
from kiln.torch_tensorrt._engine_cache import BaseEngineCache
from kiln.torch_tensorrt.dynamo import refit_module_weights
from test_refit import assert_same, differs, other_weights

X = torch.linspace(-2, 2, 4 * 20).reshape(4, 20)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(20, 30)
        self.norm = nn.BatchNorm1d(30)
        self.last = nn.Linear(30, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm(self.first(x)))
        return torch.sinc(self.last(torch.tanh(y)))


@pytest.fixture
def model() -> nn.Module:
    return Model().eval()


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows with each engine that is built."""
    calls: list[Any] = []
    build = kiln.Engine.build.__func__  # type: ignore[attr-defined]

    def count(cls: type, *args: Any, **kwargs: Any) -> Any:
        calls.append(kwargs)
        return build(cls, *args, **kwargs)

    monkeypatch.setattr(kiln.Engine, "build", classmethod(count))
    return calls


def program(module: nn.Module) -> torch.export.ExportedProgram:
    return torch.export.export(module, (X,), strict=False)


# In one engine, and with an operator left to PyTorch between two engines.
@pytest.mark.parametrize("settings", [{}, {"torch_executed_ops": ["aten::tanh"], "min_block_size": 1}], ids=["whole", "pieces"])
@pytest.mark.parametrize("in_place", [False, True])
def test_refit_module_weights(model: nn.Module, settings: dict[str, Any], in_place: bool, built: list[Any]) -> None:
    compiled = torch_tensorrt.dynamo.compile(program(model), inputs=[X], **settings)
    engines = len(built)
    assert engines == (2 if settings else 1)
    other = other_weights(model)
    refitted = refit_module_weights(compiled, program(other), arg_inputs=[X], verify_output=True, in_place=in_place)
    assert (refitted is compiled) == in_place
    assert_same(refitted, other, X)
    assert_same(compiled, other if in_place else model, X)
    assert len(built) == engines


def test_refit_module_weights_refuses(model: nn.Module) -> None:
    compiled = torch_tensorrt.dynamo.compile(program(model), inputs=[X])
    wrong = Model().eval()
    wrong.last = nn.Linear(7, 10).eval()
    with pytest.raises(kiln.KilnError, match=r"(?s)`last\.weight`: expected f32\[10,30\], got f32\[10,7\]"):
        refit_module_weights(compiled, wrong, in_place=True)
    with pytest.raises(TypeError, match="new_weight_module must be an ExportedProgram, got OrderedDict"):
        refit_module_weights(compiled, model.state_dict())
    with pytest.raises(TypeError, match=r"what torch_tensorrt\.compile returned, got Model"):
        refit_module_weights(model, program(model))
    with pytest.raises(ValueError, match="verify_output needs arg_inputs"):
        refit_module_weights(compiled, program(model), verify_output=True)
    assert_same(compiled, model, X)


class MyCache(BaseEngineCache):
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hits = 0

    def save(self, hash: str, blob: bytes, prefix: str = "blob") -> None:
        (self.folder / f"{prefix}_{hash}.bin").write_bytes(blob)

    def load(self, hash: str, prefix: str = "blob") -> Optional[bytes]:
        path = self.folder / f"{prefix}_{hash}.bin"
        if not path.exists():
            return None
        self.hits += 1
        return path.read_bytes()


def test_engine_cache_of_ones_own(model: nn.Module, tmp_path: Path, built: list[Any]) -> None:
    cache = MyCache(tmp_path)
    settings: dict[str, Any] = {"cache_built_engines": True, "reuse_cached_engines": True, "custom_engine_cache": cache}
    assert_same(torch_tensorrt.compile(model, inputs=[X], **settings), model, X)
    other = other_weights(model)
    assert_same(torch_tensorrt.compile(other, inputs=[X], **settings), other, X)
    assert cache.hits == 1 and len(built) == 1
    settings["reuse_cached_engines"] = False
    torch_tensorrt.compile(model, inputs=[X], **settings)
    assert cache.hits == 1 and len(built) == 2
    with pytest.raises(TypeError, match="custom_engine_cache must have save and load"):
        torch_tensorrt.compile(model, inputs=[X], cache_built_engines=True, custom_engine_cache=object())


def test_engine_cache_by_the_name_that_users_import() -> None:
    module = importlib.import_module("kiln.torch_tensorrt.dynamo._engine_cache")
    assert module.BaseEngineCache is BaseEngineCache and issubclass(module.DiskEngineCache, BaseEngineCache)


def test_engine_cache_in_a_folder(model: nn.Module, tmp_path: Path, built: list[Any]) -> None:
    settings: dict[str, Any] = {
        "cache_built_engines": True,
        "reuse_cached_engines": True,
        "engine_cache_dir": str(tmp_path / "engines"),
        "engine_cache_size": 1 << 20,
        "torch_executed_ops": ["aten::tanh"],
        "min_block_size": 1,
    }
    for module in (model, other_weights(model)):
        assert_same(torch_tensorrt.compile(module, inputs=[X], **settings), module, X)
    assert len(built) == 2 and len(list((tmp_path / "engines").iterdir())) == 2


def test_stripped_by_setting(model: nn.Module) -> None:
    compiled = torch_tensorrt.compile(model, inputs=[X], strip_engine_weights=True)
    with pytest.raises(kiln.KilnError, match="stripped of its weights"):
        compiled(X)
    assert_same(refit_module_weights(compiled, program(model), in_place=True), model, X)


@pytest.mark.parametrize("settings", [{}, {"torch_executed_ops": ["aten::tanh"], "min_block_size": 1}], ids=["whole", "pieces"])
def test_mutable_module_follows(model: nn.Module, settings: dict[str, Any], built: list[Any]) -> None:
    mutable = torch_tensorrt.MutableTorchTensorRTModule(model, **settings)
    assert_same(mutable, model, X)
    engines, before = len(built), mutable(X)
    model.last.weight.mul_(-1.5)
    assert_same(mutable, model, X)
    assert differs(mutable(X), before)
    mutable.load_state_dict(other_weights(model).state_dict())
    assert_same(mutable, model, X)
    model.first.weight = nn.Parameter(torch.randn(30, 20))
    assert_same(mutable, model, X)
    mutable.refit_gm()
    assert len(built) == engines
    model.last = nn.Linear(30, 5).eval()  # another model
    assert_same(mutable, model, X)
    assert len(built) == 2 * engines


def test_torch_compile_follows(model: nn.Module, built: list[Any]) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="kiln")
    assert_same(compiled, model, X)
    engines = len(built)
    assert engines >= 1
    model.last.weight.mul_(-1.5)
    model.norm.running_mean.add_(1)
    assert_same(compiled, model, X)
    assert len(built) == engines


def test_an_engine_call_builds_again_where_a_refit_cannot_do(built: list[Any]) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.arange(20) % 2 > 0)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:, self.mask] * 2

    masked = Masked().eval()
    compiled = torch_tensorrt.dynamo.compile(program(masked), inputs=[X], torch_executed_ops=["aten::tanh"], min_block_size=1)
    call = next(child.call for child in compiled.modules() if isinstance(getattr(child, "call", None), EngineCall))
    assert_same(compiled, masked, X)
    for tensor in call.watched:
        tensor.copy_(torch.arange(20) % 4 == 0 if tensor.dtype == torch.bool else tensor)
    masked.mask.copy_(torch.arange(20) % 4 == 0)
    assert_same(compiled, masked, X)


# ---- ScriptModules -------------------------------------------------------------------------------------------------------


class Named(Model):
    def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"y": self.last(torch.relu(self.norm(self.first(inputs["x"]))))}


class Total(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.register_buffer("total", torch.zeros(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += x * self.weight
        return self.total.clone()


def saved_and_loaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, X)], ids=["script", "trace"])
def test_script_module(model: nn.Module, make: Any) -> None:
    compiled = kiln.compile(make(model), inputs=[X])
    loaded, other = saved_and_loaded(compiled), other_weights(model)
    assert kiln.refit(compiled, other) is compiled
    assert_same(compiled, other, X)
    assert_same(loaded, model, X)
    kiln.refit(loaded, {name: tensor for name, tensor in other.state_dict().items() if name.startswith("last")})
    model.last = other.last
    assert_same(loaded, model, X)
    assert_same(saved_and_loaded(loaded), model, X)
    assert_same(torch.jit.freeze(loaded), model, X)


def test_script_module_with_nested_arguments() -> None:
    model = Named().eval()
    compiled, other = kiln.compile(torch.jit.script(model), inputs=[{"x": X}]), other_weights(model)
    kiln.refit(compiled, other)
    assert torch.allclose(compiled({"x": X})["y"], other({"x": X})["y"], atol=1e-4)


@pytest.mark.parametrize("script", [False, True])
def test_compiled_parts_of_a_module(model: nn.Module, script: bool) -> None:
    whole = nn.Sequential(model, nn.Sequential(nn.Linear(10, 20), nn.Tanh()), Model()).eval()
    parts = [kiln.embed_engine(kiln.compile(part, inputs=[X]), script=script) for part in (whole[0], whole[2])]
    mixed = nn.Sequential(parts[0], copy.deepcopy(whole[1]), parts[1])
    assert_same(mixed, whole, X)
    other = other_weights(whole)
    kiln.refit(mixed, other)
    assert_same(mixed, other, X)
    if script:
        assert_same(kiln.refit(torch.jit.script(mixed), whole), whole, X)
        kiln.refit(mixed, other)
    for weights, text in [
        ({"2.last.bias": torch.zeros(3), "0.last.bias": torch.zeros(10)}, r"`last\.bias`: expected f32\[10\], got f32\[3\]"),
        ({"1.0.bias": torch.zeros(3), "0.last.bias": torch.zeros(10)}, r"`1\.0\.bias`: expected \[20\], got \[3\]"),
        ({"3.bias": torch.zeros(3)}, r"`3\.bias`: the engine has no such weight"),
    ]:
        with pytest.raises(kiln.KilnError, match=text):
            kiln.refit(mixed, weights)
        assert_same(mixed, other, X)
    kiln.refit(mixed, {"3.bias": torch.zeros(3)}, strict=False)


def test_script_module_with_state() -> None:
    x, compiled = torch.ones(4), kiln.compile(torch.jit.script(Total().eval()), inputs=[torch.ones(4)])
    assert compiled(x).tolist() == [1, 1, 1, 1]
    kiln.refit(compiled, {"weight": torch.full((4,), 3.0)})
    assert compiled(x).tolist() == [3, 3, 3, 3]
    assert compiled(x).tolist() == [6, 6, 6, 6]


def test_modules_that_cannot_be_refitted(model: nn.Module) -> None:
    compiled = kiln.compile(torch.jit.script(model), inputs=[X])
    frozen = torch.jit.freeze(compiled)
    with pytest.raises(kiln.KilnError, match=r"is frozen.*Refit the module that torch\.jit\.freeze was given"):
        kiln.refit(frozen, model)
    with pytest.raises(kiln.KilnError, match="0 is frozen"):
        kiln.refit(nn.Sequential(frozen), model)
    with pytest.raises(kiln.KilnError, match="the module has no engine"):
        kiln.refit(model, model)
    with pytest.raises(TypeError, match="must be a compiled module, got int"):
        kiln.refit(3, model)
    with pytest.raises(TypeError, match="must be a state dict"):
        kiln.refit(compiled, [1])
    of_frozen = kiln.compile(torch.jit.freeze(torch.jit.script(model)), inputs=[X])
    with pytest.raises(kiln.KilnError, match="frozen TorchScript module, which forgets"):
        kiln.refit(of_frozen, model)


@pytest.mark.parametrize("in_place", [False, True])
def test_refit_module_weights_of_a_script_module(model: nn.Module, in_place: bool) -> None:
    compiled = torch_tensorrt.compile(torch.jit.script(model), ir="ts", inputs=[X])
    other = other_weights(model)
    refitted = refit_module_weights(compiled, other, arg_inputs=[X], verify_output=True, in_place=in_place)
    assert (refitted is compiled) == in_place
    assert_same(refitted, other, X)
    assert_same(compiled, other if in_place else model, X)
