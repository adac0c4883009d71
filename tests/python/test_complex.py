"""Complex tensors in models, and as their inputs and outputs: Fourier transforms, spectrograms, rotations."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any, Callable

import pytest

torch = pytest.importorskip("torch")

import kiln  # noqa: E402

fft = torch.fft


def module_of(function: Callable[..., Any]) -> Any:
    class Module(torch.nn.Module):
        def forward(self, *inputs: Any) -> Any:
            return function(*inputs)

    return Module().eval()


def assert_same(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def rotated(x: Any, angles: Any) -> Any:
    turns = torch.polar(torch.ones_like(angles), angles)
    pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns[None, :, None, :]).flatten(3)


def global_filter(x: Any, weight: Any) -> Any:
    z = fft.rfft2(x, norm="ortho") * torch.view_as_complex(weight)
    return fft.irfft2(z, s=(14, 14), norm="ortho")


def fourier_operator(x: Any, weight: Any) -> Any:
    z = fft.rfft2(x)
    out = torch.zeros(2, 5, 16, 9, dtype=torch.cfloat)
    out[:, :, :4, :4] = torch.einsum("bixy,ioxy->boxy", z[:, :, :4, :4], torch.view_as_complex(weight))
    return fft.irfft2(out, s=(16, 16))


def log_mel(x: Any, window: Any) -> Any:
    power = torch.stft(x, 400, 160, window=window, return_complex=True)[..., :-1].abs() ** 2
    return power.clamp(min=1e-10).log10()


def there_and_back(x: Any, window: Any) -> Any:
    z = torch.stft(x, 512, 128, window=window, return_complex=True, normalized=True)
    return torch.istft(torch.polar(z.abs(), z.angle()), 512, 128, window=window, normalized=True, length=x.shape[-1])


def written(x: Any) -> Any:
    z = fft.fft(x)
    z[..., 3:] *= 0
    z[..., 0] += z[..., 1].conj()
    z.imag.add_(1)
    return torch.cat([z.real, z.imag], -1)


CASES: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "odd": (lambda x: torch.view_as_real(fft.rfft(x)), [(3, 45)]),
    "longer": (lambda x: torch.view_as_real(fft.rfft(x, n=64, dim=0)), [(3, 45)]),
    "split": (lambda x: torch.view_as_real(fft.rfft(x)), [(2, 4096)]),
    "split2": (lambda x: torch.view_as_real(fft.ifft(x, norm="forward").resolve_conj()), [(2, 2310)]),
    "back": (lambda x: fft.irfft(fft.rfft(x) * 2, n=400), [(3, 400)]),
    "back_split": (lambda x: fft.irfft(fft.rfft(x), n=2187), [(3, 2187)]),
    "mixing": (lambda x: fft.fftn(x, dim=(1, 2)).real, [(2, 33, 64)]),
    "shift": (lambda x: fft.fftshift(fft.ifft2(x)).abs(), [(3, 8, 10)]),
    "quotient": (lambda x, y: torch.view_as_real(fft.rfft(x) / (fft.rfft(y) + 3)), [(3, 63), (3, 63)]),
    "product": (lambda x, y: torch.view_as_real(torch.matmul(fft.fft(x), fft.fft(y))), [(3, 8, 16), (3, 16, 8)]),
    "rotation": (rotated, [(2, 7, 4, 16), (7, 8)]),
    "filter": (global_filter, [(2, 5, 14, 14), (5, 14, 8, 2)]),
    "operator": (fourier_operator, [(2, 3, 16, 16), (3, 5, 4, 4, 2)]),
    "log_mel": (log_mel, [(2, 4000), torch.hann_window(400)]),
    "there_and_back": (there_and_back, [(2, 4000), torch.hann_window(512)]),
    "written": (written, [(2, 8)]),
}


@pytest.mark.parametrize("name", CASES)
def test_complex(name: str) -> None:
    function, given = CASES[name]
    torch.manual_seed(0)
    inputs = [torch.randn(x) if isinstance(x, tuple) else x for x in given]
    module = module_of(function)
    assert_same(kiln.compile(module, inputs, threads=1)(*inputs), module(*inputs), 1e-4 if name == "log_mel" else 2e-5)


def test_float64() -> None:
    x = torch.randn(3, 50, dtype=torch.float64)
    module = module_of(lambda x: torch.view_as_real(fft.fft(x)))
    assert_same(kiln.compile(module, [x], threads=1)(x), module(x), 1e-13)


def test_dynamic_length() -> None:
    window = torch.hann_window(64)
    module = module_of(lambda x: torch.stft(x, 64, 16, window=window, return_complex=True).real)
    length = torch.export.Dim("length", min=16, max=512)
    program = torch.export.export(module, (torch.randn(3, 1000),), dynamic_shapes=(({1: 8 * length},),), strict=False)
    compiled = kiln.compile(program, threads=1)
    for n in (1000, 336, 2048):
        x = torch.randn(3, n)
        assert_same(compiled(x), module(x))


class Rotary(torch.nn.Module):
    """As the reference code of Llama rotates queries: a buffer of complex numbers."""

    def __init__(self, persistent: bool = True) -> None:
        super().__init__()
        angles = torch.outer(torch.arange(7.0), 0.5 ** torch.arange(8))
        self.register_buffer("turns", torch.polar(torch.ones_like(angles), angles), persistent=persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2))
        return torch.view_as_real(pairs * self.turns[: x.shape[1]].unsqueeze(0).unsqueeze(2)).flatten(3)


@pytest.mark.parametrize("persistent", [True, False])
def test_buffer(persistent: bool) -> None:
    module, x = Rotary(persistent).eval(), torch.randn(2, 5, 4, 16)
    assert_same(kiln.compile(module, [x], threads=1)(x), module(x))


def test_written_buffer() -> None:
    class Module(Rotary):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.turns.mul_(x[0] + 1j)
            return x + self.turns.real.sum()

    module, x = Module().eval(), torch.randn(3)
    compiled = kiln.compile(module, [x], threads=1)
    for _ in range(3):
        assert_same(compiled(x), module(x))


class Scripted(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.fft.rfft(x, n=40)
        z.unsqueeze_(0)
        return torch.fft.irfft(z * z.conj(), n=40) + z.abs().sum()


def test_script(tmp_path: Any) -> None:
    x = torch.randn(3, 37)
    script = torch.jit.script(Scripted().eval())
    assert_same(kiln.compile(script, [x], threads=1)(x), script(x))


FUNCTIONS = (
    "acos acosh asin asinh atan atanh cos cosh exp exp2 expm1 log log10 log1p log2 reciprocal rsqrt sigmoid sin sinc sinh sqrt square tan "
    "tanh"
).split()
POINTS = [0.5, -0.5, 2, -2, 0.5j, -0.5j, 2j, -2j, 1e-3, -1e-3j, 3 + 4j, -3 + 4j, -3 - 4j, 1e-4 + 1e-4j, 20 + 1j, 0.3 + 15j]
POINTS += [complex(-2, -0.0), complex(2, -0.0), complex(-0.5, -0.0), complex(-0.0, 2), complex(-0.0, -2)]  # the cuts from below


def test_functions() -> None:
    def all_of(z: Any) -> list[Any]:
        return [getattr(torch, name)(z) for name in FUNCTIONS] + [z**3, z**2.5, 2**z, z**z, z.abs(), z.prod(), z.std()]

    z = torch.cat([torch.tensor(POINTS, dtype=torch.complex128), torch.randn(40, dtype=torch.complex128)])
    found = kiln.compile(module_of(all_of), [z], threads=1)(z)
    for name, f, e in zip([*FUNCTIONS, *[""] * 7], found, all_of(z)):
        error = (f - e).abs() / (e.abs() + 1e-3)
        assert f.dtype == e.dtype and float(error[e.isfinite()].max()) < 1e-10, name


def test_masks() -> None:
    """The number of elements that are picked is known at run time only, and one number for both parts."""

    def picks(z: Any) -> Any:
        return z[z.real > 0] * 2j, torch.masked_select(z, z.imag > 0), torch.where(z.real > 0, z, 1.0)

    z = torch.randn(5, 6, dtype=torch.complex64)
    compiled = kiln.compile(module_of(picks), [z], threads=1)
    for x in (z, z.conj().resolve_conj()):
        for f, e in zip(compiled(x), picks(x)):
            assert_same(f, e)


def test_layers() -> None:
    """Complex convolutions, linear layers and solvers."""

    def layers(x: Any, w: Any, b: Any, a: Any) -> Any:
        y = torch.nn.functional.conv1d(x, w, b, padding=1)
        return (
            y,
            torch.nn.functional.linear(x, a, b.repeat(2)),
            torch.linalg.solve(a, x[0].mH),
            torch.linalg.inv(a),
            torch.addmm(y[0], y[1], a),
        )

    inputs = [torch.randn(s, dtype=torch.complex64) for s in [(2, 4, 8), (4, 4, 3), (4,), (8, 8)]]
    for f, e in zip(kiln.compile(module_of(layers), inputs, threads=1)(*inputs), layers(*inputs)):
        assert_same(f, e, 2e-4)


class Branch(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        def one(a: torch.Tensor, b: torch.Tensor) -> Any:
            return a * b, b.real + 0

        def two(a: torch.Tensor, b: torch.Tensor) -> Any:
            return a.conj().resolve_conj() + 1j, b.imag * 2

        return torch.cond(x.abs().sum() > 10, one, two, (x, y))


class Loop(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        from torch._higher_order_ops.while_loop import while_loop

        return while_loop(lambda i, z: i < 4, lambda i, z: (i + 1, z * y + 1j), (torch.tensor(0), x))[1:]


@pytest.mark.parametrize("kind", [Branch, Loop])
def test_branches_and_loops(kind: type) -> None:
    module = kind().eval()
    x, y = pair()
    compiled = kiln.compile(module, [x, y], threads=1)
    for scale in (0.1, 3.0):
        for found, expected in zip(compiled(x * scale, y), module(x * scale, y)):
            assert_same(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128], ids=str)
def test_eigenvalues(dtype: torch.dtype) -> None:
    """In any order, and vectors of any phase: what the matrix makes of them tells."""
    module = module_of(lambda x: (*torch.linalg.eig(x), torch.linalg.eigvals(x)))
    tolerance = 1e-5 if dtype in (torch.float32, torch.complex64) else 1e-12
    general = torch.randn(2, 7, 7, dtype=dtype)
    rotation = torch.roll(torch.eye(7, dtype=dtype), 1, 0)
    x = torch.cat([general, general.triu(), general + general.mH, rotation.expand(1, 7, 7), torch.zeros(1, 7, 7, dtype=dtype)])
    values, vectors, alone = kiln.compile(module, [x], threads=1)(x)
    wanted = torch.linalg.eigvals(x)
    assert values.dtype == wanted.dtype and torch.equal(values, alone)
    distances = (values.unsqueeze(-1) - wanted.unsqueeze(-2)).abs()
    for axis in (-1, -2):
        assert float(distances.min(axis).values.max()) < 30 * tolerance
    assert float((x.to(vectors.dtype) @ vectors - vectors * values.unsqueeze(-2)).abs().max()) < 10 * tolerance
    assert float((vectors.abs().square().sum(-2) - 1).abs().max()) < 10 * tolerance
    if dtype is torch.float64:
        symmetric = values[4:6]
        assert torch.equal(symmetric.imag, torch.zeros(2, 7, dtype=dtype))


def test_large_eigenvalues() -> None:
    x = torch.randn(5, 5, dtype=torch.float64)
    compiled = kiln.compile(module_of(torch.linalg.eigvals), [x], threads=1)
    assert_same(compiled(x * 2.0**500).abs(), compiled(x).abs() * 2.0**500, 1e-12)
    assert bool(compiled(x * float("nan")).real.isnan().all())


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: fft.rfft(x).logsumexp(0).abs(), "aten::logsumexp: complex tensors are not supported here"),
        (lambda x: torch.linalg.qr(fft.rfft(x)).R.abs(), "aten::linalg_qr: complex tensors are not supported here"),
        (lambda x: torch.linalg.norm(fft.rfft(x), ord=2), "singular values"),
    ],
    ids=["logsumexp", "qr", "norm"],
)
def test_refused(function: Callable[..., Any], reason: str) -> None:
    with pytest.raises(kiln.KilnError, match=reason):
        kiln.compile(module_of(function), [torch.randn(3, 8)], threads=1)


def test_long_prime() -> None:
    with pytest.raises(kiln.KilnError, match="prime factor 2203"):
        kiln.compile(module_of(lambda x: fft.fft(x).abs()), [torch.randn(2203)], threads=1)


def test_stale_view() -> None:
    def function(x: Any) -> Any:
        z = fft.fft(x)
        pairs = torch.view_as_real(z)
        pairs.add_(1)
        return z.abs()

    with pytest.raises(kiln.KilnError, match="in-place write"):
        kiln.compile(module_of(function), [torch.randn(2, 8)], threads=1)


# ---- Inputs and outputs --------------------------------------------------------------------------------------------------------


class Mixer(torch.nn.Module):
    """Complex numbers in and out, beside real ones."""

    def __init__(self, dtype: torch.dtype = torch.complex64) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8, 8, dtype=dtype))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"product": (x @ self.weight) * y, "spectrum": fft.fft(x.real), "length": y.abs(), "given": x}


def pair(dtype: torch.dtype = torch.complex64) -> tuple[Any, Any]:
    return torch.randn(4, 8, dtype=dtype), torch.randn(4, 8, dtype=dtype)


def assert_all_same(found: Any, expected: Any, tolerance: float = 2e-5) -> None:
    assert list(found) == list(expected)
    for key in expected:
        assert_same(found[key], expected[key], tolerance)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_border(dtype: torch.dtype, tmp_path: Any) -> None:
    module = Mixer(dtype).eval()
    x, y = pair(dtype)
    compiled = kiln.compile(module, [x, y], threads=1)
    name = {torch.complex64: "c64", torch.complex128: "c128"}[dtype]
    assert [(info.name, info.dtype, info.max_shape) for info in compiled.inputs] == [("x", name, (4, 8)), ("y", name, (4, 8))]
    assert [info.dtype for info in compiled.outputs] == [name, name, {"c64": "f32", "c128": "f64"}[name], name]
    for a, b in [(x, y), (x.conj(), y.t().contiguous().t()), (x.flip(0)[:, ::1], y.mT.conj().mT)]:
        assert_all_same(compiled(a, b), module(a, b))
    kiln.save(compiled, tmp_path / "model.kiln")
    for again in (kiln.load(tmp_path / "model.kiln"), pickle.loads(pickle.dumps(compiled))):
        assert_all_same(again(x, y), module(x, y))


def test_refit() -> None:
    module, other = Mixer().eval(), Mixer().eval()
    x, y = pair()
    compiled = kiln.compile(module, [x, y], threads=1)
    compiled.refit(other)
    assert_all_same(compiled(x, y), other(x, y))
    compiled.engine.refit({"weight": module.weight.detach().numpy().T.copy().T})
    assert_all_same(compiled(x, y), module(x, y))
    with pytest.raises(kiln.KilnError, match="weight"):
        compiled.refit({"weight": torch.randn(8, 8)})


def test_border_arrays_and_own_outputs() -> None:
    numpy = pytest.importorskip("numpy")
    module = module_of(lambda x: (fft.fft(x), x.imag))
    x = torch.randn(3, 8, dtype=torch.complex64)
    engine = kiln.compile(module, [x], threads=1).engine
    found = engine(x.numpy())
    expected = module(x)
    assert [type(array) for array in found] == [numpy.ndarray] * 2 and found[0].dtype == numpy.complex64
    for array, tensor in zip(found, expected):
        assert_same(torch.from_numpy(array), tensor)
    room = [torch.empty(8, 3, dtype=torch.complex64).t(), torch.empty(3, 8)]
    engine.run_into([x], room)
    assert_same(room[0], expected[0])
    array = numpy.empty((3, 8), dtype=numpy.complex64)
    engine.run_into([x], [array, room[1]])
    assert_same(torch.from_numpy(array), expected[0])
    with pytest.raises(kiln.KilnError, match="output 0 is complex"):
        engine.run_into([x], [torch.empty(3, 8, 2), room[1]])


def test_border_dynamic_and_scalar() -> None:
    module = module_of(lambda x: (fft.fft(x).sum(), x * 2j))
    inputs = [kiln.Input(min_shape=(1, 6), opt_shape=(4, 6), max_shape=(9, 6), dtype=torch.complex64)]
    compiled = kiln.compile(module, inputs, threads=1)
    assert compiled.inputs[0].max_shape == (9, 6) and compiled.outputs[0].max_shape == ()
    for n in (1, 4, 9):
        x = torch.randn(n, 6, dtype=torch.complex64)
        for found, expected in zip(compiled(x), module(x)):
            assert_same(found, expected)
    with pytest.raises(kiln.KilnError, match="dimension 0"):
        compiled(torch.randn(10, 6, dtype=torch.complex64))


def test_border_written_input() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x.mul_(1j)
            return x.sum(-1)

    module, x = Module().eval(), torch.randn(3, 5, dtype=torch.complex64)
    compiled = kiln.compile(module, [x.clone()], threads=1)
    one, two = x.clone(), x.clone()
    assert_same(compiled(one), module(two))
    assert_same(one, two)


def test_accuracy() -> None:
    """Of both parts."""
    x = torch.randn(4, 8, dtype=torch.complex64)
    compiled = kiln.compile(module_of(lambda x: fft.fft(x)), [x], threads=1)
    assert kiln.accuracy(module_of(lambda x: fft.fft(x)), compiled, [x])[0].relative_l2 < 1e-5
    assert kiln.accuracy(module_of(lambda x: fft.fft(x).conj()), compiled, [x])[0].relative_l2 > 0.1


def test_border_bad_arguments() -> None:
    x, y = pair()
    compiled = kiln.compile(Mixer().eval(), [x, y], threads=1)
    for bad, text in [
        (x.real, "is real, but the model takes complex numbers"),
        (torch.view_as_real(x), "view_as_complex"),
        (x.to(torch.complex128), "expected f32"),
        (x[:2], "dimension 0|\\[4,8"),
    ]:
        with pytest.raises(kiln.KilnError, match=text):
            compiled(bad, y)
    real = kiln.compile(module_of(lambda x: x * 2), [torch.randn(4)], threads=1)
    with pytest.raises(kiln.KilnError, match="view_as_real"):
        real(torch.randn(4, dtype=torch.complex64))


def test_border_of_torch_compile() -> None:
    module = Mixer().eval()
    x, y = pair()
    compiled = torch.compile(module, backend="kiln", options={"require_full_compilation": True})
    assert_all_same(compiled(x, y), module(x, y))


def test_border_of_pieces() -> None:
    """Complex tensors between engines and PyTorch; what Kiln does not do with complex numbers stays there."""
    from kiln.partition import partition

    module = module_of(lambda x: fft.fft(torch.logaddexp(fft.fft(x), x) * x).abs())
    x = torch.randn(3, 8, dtype=torch.complex64) * 0.1
    program = torch.export.export(module, (x,), strict=False)
    compiled, report = partition(program)
    assert list(report.left) == ["aten::logaddexp"] and len(report.engines) == 2
    assert_same(compiled(x), module(x))


def test_border_of_torch_tensorrt_and_torch2trt(tmp_path: Any) -> None:
    from kiln import torch_tensorrt
    from kiln.torch2trt import TRTModule, torch2trt

    module = Mixer().eval()
    x, y = pair()
    compiled = torch_tensorrt.compile(module, inputs=[x, y])
    assert_all_same(compiled(x, y), module(x, y))
    torch_tensorrt.save(compiled, str(tmp_path / "model.ep"), inputs=[x, y])
    assert_all_same(torch_tensorrt.load(str(tmp_path / "model.ep")).module()(x, y), module(x, y))
    single = module_of(lambda x: fft.ifft(x) * 2)
    converted = torch2trt(single.eval(), [x])
    assert_same(converted(x), single(x))
    torch.save(converted.state_dict(), tmp_path / "model.pth")
    again = TRTModule()
    again.load_state_dict(torch.load(tmp_path / "model.pth"))
    assert_same(again(x), single(x))


def test_border_of_scripts(tmp_path: Any) -> None:
    """Saved as TorchScript and as an exported program, loaded in a new process."""
    from kiln.script import embed_engine

    module = Mixer().eval()
    x, y = pair()
    compiled = kiln.compile(module, [x, y], threads=1)
    script = embed_engine(compiled)
    torch.jit.save(script, tmp_path / "model.ts")
    torch.save([x.conj(), y, module(x.conj(), y)], tmp_path / "data.pt")
    assert_all_same(script(x, y), module(x, y))
    program = """
import sys, torch, kiln
x, y, expected = torch.load(sys.argv[2])
found = torch.jit.load(sys.argv[1])(x, y)
assert all(torch.allclose(found[k], expected[k], atol=1e-4) for k in expected), found
"""
    subprocess.run([sys.executable, "-c", program, tmp_path / "model.ts", tmp_path / "data.pt"], check=True)
    exported = torch.export.export(embed_engine(compiled, script=False), (x, y), strict=False)
    assert_all_same(exported.module()(x, y), module(x, y))


class Scriptable(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn(8, 8, dtype=torch.complex64))
        self.register_buffer("seen", torch.zeros(8, dtype=torch.complex64))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return (x @ self.weight) * y, x.abs(), y.conj()

    @torch.jit.export
    def count(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.add_(x[0])
        x.mul_(2)
        return self.seen * 1


@pytest.mark.parametrize("kind", ["script", "trace", "freeze"])
def test_border_of_torchscript(kind: str) -> None:
    module = Scriptable().eval()
    x, y = pair()
    script = torch.jit.trace(module, (x, y)) if kind == "trace" else torch.jit.script(module)
    script = torch.jit.freeze(script) if kind == "freeze" else script
    compiled = kiln.compile(script, [x, y], threads=1)
    for found, expected in zip(compiled(x, y.conj()), module(x, y.conj())):
        assert_same(found, expected)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128], ids=str)
def test_numbers_of_torchscript(dtype: torch.dtype) -> None:
    module = Numbers().eval()
    x = torch.randn(3, 4, dtype=dtype)
    for script in (torch.jit.script(module), torch.jit.trace(module, x)):
        for found, expected in zip(kiln.compile(script, [x], threads=1)(x), module(x)):
            assert_same(found, expected)


class Numbers(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        return x * 2j + (1.5 - 0.25j), torch.complex(x.real, x.imag) * 1j, x - (-1.5 - 0.25j), x / (-0.5j) + 0.1j


def test_states_of_torchscript() -> None:
    module = Scriptable().eval()
    compiled = kiln.compile(torch.jit.script(Scriptable().eval()), [torch.ones(4, 8, dtype=torch.complex64)], method="count")
    for _ in range(3):
        one = torch.randn(4, 8, dtype=torch.complex64)
        two = one.clone()
        assert_same(compiled(one), module.count(two))
        assert_same(one, two)


def test_program(build_folder: Any, tmp_path: Any) -> None:
    """kiln build, inspect and run: complex64 in .npy files, and c64 as a dtype."""
    numpy = pytest.importorskip("numpy")
    module = Scriptable().eval()
    x, y = pair()
    torch.jit.save(torch.jit.script(module), tmp_path / "model.ts")
    numpy.save(tmp_path / "x.npy", numpy.asfortranarray(x.numpy()))
    numpy.save(tmp_path / "y.npy", y.numpy())

    def kiln_program(*arguments: Any) -> str:
        call = [str(build_folder / "kiln"), *map(str, arguments)]
        return subprocess.run(call, check=True, capture_output=True, text=True).stdout

    engine = tmp_path / "model.kiln"
    kiln_program("build", tmp_path / "model.ts", "--input", "x=4x8:c64", "--input", "y=4x8:c64", "-o", engine)
    assert "x  f32[4,8,2], complex: c64[4,8]" in kiln_program("inspect", engine)
    inputs = ["--input", f"x={tmp_path}/x.npy", "--input", f"y={tmp_path}/y.npy"]
    kiln_program("run", engine, *inputs, "--output", tmp_path / "out")
    for i, expected in enumerate(module(x, y)):
        assert_same(torch.from_numpy(numpy.load(tmp_path / "out" / f"output{i}.npy")), expected.resolve_conj())


def test_precision(build_folder: Any, tmp_path: Any) -> None:
    """In 16-bit engines, transforms stay in f32."""
    window = torch.hann_window(64)
    module = torch.nn.Sequential(
        module_of(lambda x: torch.stft(x, 64, 16, window=window, return_complex=True).abs()), torch.nn.Conv1d(33, 8, 3)
    )
    engine, out = tmp_path / "model.kiln", tmp_path / "model.pt2"
    torch.export.save(torch.export.export(module.eval(), (torch.randn(1, 800),), strict=False), out)
    kiln_program = str(build_folder / "kiln")
    subprocess.run(
        [kiln_program, "build", str(out), "--target", "cuda:sm_90", "--precision", "fp16", "-o", str(engine)], check=True
    )
    graph = subprocess.run([kiln_program, "inspect", "--graph", str(engine)], check=True, capture_output=True, text=True).stdout
    lines = [line for line in graph.splitlines() if "= linear(" in line or "= conv(" in line]
    assert len(lines) == 2 and " : f32[" in lines[0] and " : f16[" in lines[1]
