"""Calls that go straight to C: nested arguments and results, keywords, hooks of nn.Module, and what must not go there."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterator
from typing import Any, Optional

import pytest
import torch
from torch import nn

import kiln


class Decoder(nn.Module):
    """Arguments as a decoder has them: a token, a cache of pairs, and a mask by name."""

    def forward(
        self, x: torch.Tensor, cache: list[tuple[torch.Tensor, torch.Tensor]], extra: Optional[Any] = None, *, mask: torch.Tensor
    ) -> Any:
        new = [(k + x, v * mask) for k, v in cache]
        return {"y": x * mask, "cache": new}, [x + 1, None]


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def decoder_inputs() -> tuple[tuple[Any, ...], dict[str, torch.Tensor]]:
    return (torch.randn(4), [(torch.randn(4), torch.randn(4)) for _ in range(3)], None), {"mask": torch.randn(4)}


@pytest.fixture(scope="module")
def decoder() -> kiln.CompiledModule:
    args, kwargs = decoder_inputs()
    with torch.no_grad():
        return kiln.compile(Decoder().eval(), inputs=list(args), kwargs=kwargs)


def refuse(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("went through Python")


def direct(module: kiln.CompiledModule) -> Any:
    """The module's runner, but it cannot ask Python."""
    return module.engine.runner(fallback=refuse, form=module._interface.form())


def same(a: Any, b: Any) -> None:
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        torch.testing.assert_close(a, b)
    elif isinstance(a, dict):
        assert list(a) == list(b)
        same(list(a.values()), list(b.values()))
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b):
            same(x, y)
    else:
        assert a == b


def test_nested_without_python(decoder: kiln.CompiledModule) -> None:
    args, kwargs = decoder_inputs()
    runner, expected = direct(decoder), Decoder()(*args, **kwargs)
    same(runner(*args, **kwargs), expected)
    same(runner(args[0], args[1], extra=None, **kwargs), expected)
    same(runner(mask=kwargs["mask"], extra=None, cache=args[1], x=args[0]), expected)
    same(decoder(*args, **kwargs), expected)
    same(runner(args[0], args[1], **kwargs), expected)  # None need not be given


@pytest.mark.parametrize("change", ["list", "shorter", "tensor", "missing", "twice", "unknown", "constant"])
def test_other_nesting_goes_to_python(decoder: kiln.CompiledModule, change: str) -> None:
    (x, cache, extra), kwargs = decoder_inputs()
    args: list[Any] = [x, cache, extra]
    if change == "list":
        args[1] = [list(pair) for pair in cache]
    elif change == "shorter":
        args[1] = cache[:2]
    elif change == "tensor":
        args[1] = x
    elif change == "missing":
        kwargs = {}
    elif change == "twice":
        kwargs["x"] = x
    elif change == "unknown":
        kwargs = {"musk": x}
    else:
        args[2] = 3
    with pytest.raises(AssertionError, match="went through Python"):
        direct(decoder)(*args, **kwargs)
    with pytest.raises(kiln.KilnError, match=r"nested differently|missing|given twice|was not given|baked in"):
        decoder(*args, **kwargs)


def test_no_reference_is_kept_or_lost(decoder: kiln.CompiledModule) -> None:
    args, kwargs = decoder_inputs()
    tensors = [args[0], *[t for pair in args[1] for t in pair], kwargs["mask"]]
    bad = [args[0], [*args[1][:2], (args[1][0][0], 5)], None]
    for _ in range(3):
        decoder(*args, **kwargs)
    before = [sys.getrefcount(t) for t in tensors]
    for _ in range(20):
        decoder(*args, **kwargs)
        with pytest.raises(kiln.KilnError):
            decoder(*bad, **kwargs)
    gc.collect()
    assert [sys.getrefcount(t) for t in tensors] == before


class Options(nn.Module):
    def forward(
        self, x: torch.Tensor, scale: float = 2.0, *, count: int = 3, mode: str = "plus", flag: bool = True
    ) -> torch.Tensor:
        return x * scale + count if flag and mode == "plus" else x


def test_constants_without_python() -> None:
    x = torch.randn(3)
    module = kiln.compile(Options().eval(), inputs=[x, 2.0], kwargs={"count": 3, "mode": "plus", "flag": True})
    runner = direct(module)
    for args, kwargs in (
        ((x, 2.0), {"count": 3, "mode": "plus", "flag": True}),
        ((x, 2), {"count": 3.0, "flag": 1}),
        ((x,), {}),
        ((), {"flag": True, "x": x}),
    ):
        torch.testing.assert_close(runner(*args, **kwargs), x * 2 + 3)
        torch.testing.assert_close(module(*args, **kwargs), x * 2 + 3)
    for args, kwargs in (
        ((x, 2.5), {}),
        ((x,), {"count": 4}),
        ((x,), {"mode": "minus"}),
        ((x,), {"mode": None}),
        ((x,), {"flag": False}),
        ((x,), {"other": 1}),
        ((x, 2.0), {"scale": 2.0}),
        ((x, x), {}),
        ((x, 2.0, 3, "plus", True, 1), {}),
    ):
        with pytest.raises(AssertionError, match="went through Python"):
            runner(*args, **kwargs)
        with pytest.raises((kiln.KilnError, RuntimeError)):
            module(*args, **kwargs)


def test_dicts_by_order_and_key() -> None:
    class Dicts(nn.Module):
        def forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"sum": inputs["a"] + 2 * inputs["b"]}

    a, b = torch.randn(3), torch.randn(3)
    module = kiln.compile(Dicts().eval(), inputs=[{"a": a, "b": b}])
    runner = direct(module)
    same(runner({"a": a, "b": b}), {"sum": a + 2 * b})
    for other in ({"b": b, "a": a}, {"a": a}, {"a": a, "c": b}, {"a": a, 1: b}, [a, b]):
        with pytest.raises(AssertionError, match="went through Python"):
            runner(other)


def test_classes_are_finished_in_python() -> None:
    modeling = pytest.importorskip("transformers.modeling_outputs")

    class Output(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            return modeling.BaseModelOutput(last_hidden_state=x + 1)

    x = torch.randn(3)
    result = kiln.compile(Output().eval(), inputs=[x])(x)
    assert isinstance(result, modeling.BaseModelOutput)
    torch.testing.assert_close(result.last_hidden_state, x + 1)


class Plus(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


@pytest.fixture
def plus() -> kiln.CompiledModule:
    return kiln.compile(Plus().eval(), inputs=[torch.randn(3)])


def test_hooks_are_called(plus: kiln.CompiledModule) -> None:
    x = torch.zeros(3)
    handles = [
        plus.register_forward_pre_hook(lambda _module, args: (args[0] + 10,)),
        plus.register_forward_hook(lambda _module, _args, result: result * 2),
        nn.modules.module.register_module_forward_hook(lambda _module, _args, result: result + 0.5),
    ]
    assert plus(x).tolist() == [23.0] * 3  # global ones come first: (10 + 1 + 0.5) * 2
    for handle in handles:
        handle.remove()
    assert plus(x).tolist() == [1.0] * 3


def test_call_and_forward_can_be_replaced(plus: kiln.CompiledModule, monkeypatch: pytest.MonkeyPatch) -> None:
    x, seen, original = torch.zeros(3), [], nn.Module.__call__

    def spy(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        seen.append(module)
        return original(module, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(nn.Module, "__call__", spy)
        assert plus(x).tolist() == [1.0] * 3
    assert seen == [plus]
    assert plus(x).tolist() == [1.0] * 3  # and the same after tools are done
    forward = plus.forward
    plus.forward = lambda x, scale=1: forward(x) * scale
    assert plus(x, scale=3).tolist() == [3.0] * 3
    assert plus(x).tolist() == [1.0] * 3


def test_traces_and_compiles_see_it(plus: kiln.CompiledModule) -> None:
    x = torch.randn(3)
    traced = torch.jit.trace(nn.Sequential(plus, nn.ReLU()), (x,))
    assert "kiln::execute" in str(traced.inlined_graph)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Dynamo warns of calls that it cannot look into
        torch.testing.assert_close(torch.compile(nn.Sequential(plus, nn.ReLU()), backend="eager")(x), (x + 1).relu())


def test_one_state_for_all_ways_of_calling() -> None:
    class Counter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.count.add_(x)
            return self.count.clone()

    x = torch.ones(3)
    module = kiln.compile(Counter().eval(), inputs=[x])
    assert module(x).tolist() == [1.0] * 3
    assert module(x=x).tolist() == [2.0] * 3
    assert module(torch.nn.Parameter(x)).tolist() == [3.0] * 3
    module.reset()
    assert module(x).tolist() == [1.0] * 3


@pytest.mark.parametrize(
    "form",
    [
        ((), (0,), None, None),
        (("x",), (1,), None, None),
        (("x",), (-1,), None, None),
        (("x", "y"), (0, 0), None, None),
        (("x",), (None,), None, None),
        (("x",), ({1: 0},), None, None),
        (("x",), (0,), 1, None),
        (("x",), (0,), {"a": "b"}, None),
        (("x",), (0,), None, 3),
        ((1,), (0,), None, None),
        (["x"], [0], None, None),
    ],
)
def test_forms_that_are_none(plus: kiln.CompiledModule, form: Any) -> None:
    with pytest.raises(ValueError, match="form"):
        plus.engine.runner(fallback=refuse, form=form)


def test_form_needs_a_fallback(plus: kiln.CompiledModule) -> None:
    with pytest.raises(ValueError, match="fallback"):
        plus.engine.runner(form=(("x",), (0,), None, None))
    deep: Any = 0
    for _ in range(100):
        deep = [deep]
    with pytest.raises(ValueError, match="form"):
        plus.engine.runner(fallback=refuse, form=(("x",), (deep,), None, None))


def test_only_modules_are_called_directly() -> None:
    from kiln import _kiln

    for wrong in (int, nn.Module(), 3):
        with pytest.raises(TypeError, match=r"torch\.nn\.Module"):
            _kiln.call_directly(wrong)

    class Other(nn.Module):
        def forward(self, x: int) -> int:
            return x + 1

    _kiln.call_directly(Other)
    assert Other()(1) == 2 and Other()(x=1) == 2
    with pytest.raises(TypeError):
        Other()()
