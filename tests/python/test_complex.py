"""Complex tensors inside of models: Fourier transforms, spectrograms, rotations."""

from __future__ import annotations

import subprocess
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
            self.turns.mul_(2)
            return x + self.turns.real.sum()

    with pytest.raises(kiln.KilnError, match="turns"):
        kiln.compile(Module().eval(), [torch.randn(3)], threads=1)


class Scripted(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        z = torch.fft.rfft(x, n=40)
        z.unsqueeze_(0)
        return torch.fft.irfft(z * z.conj(), n=40) + z.abs().sum()


def test_script(tmp_path: Any) -> None:
    x = torch.randn(3, 37)
    script = torch.jit.script(Scripted().eval())
    assert_same(kiln.compile(script, [x], threads=1)(x), script(x))


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: fft.rfft(x), "view_as_real"),
        (lambda x: fft.rfft(x).tan().abs(), "aten::tan: complex tensors are not supported here"),
        (lambda x: fft.rfft(x).prod().abs(), "aten::prod: complex tensors are not supported here"),
        (lambda x: (fft.rfft(x) ** 3).abs(), "only power 2"),
    ],
    ids=["output", "tan", "prod", "power"],
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
