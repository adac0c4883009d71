"""silero-vad as its package ships it: a scripted file with branches on data, and a state that stays between calls.

The file holds a model for 16 kHz and one for 8 kHz behind a common wrapper; both are compared on 200 chunks of a signal like speech.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import kiln
from torchscript_build import build, saved
from trained import package_path

pytestmark = pytest.mark.weights

CHUNKS = 200
TOLERANCE = 1e-5


def speech(rate: int, samples: int) -> torch.Tensor:
    """Bursts of a voice (harmonics of a gliding pitch through two formants) between pauses with faint noise."""
    generator = torch.Generator().manual_seed(0)
    t = torch.arange(samples, dtype=torch.float64) / rate
    pitch = 120 + 30 * torch.sin(2 * math.pi * 0.7 * t)
    phase = 2 * math.pi * torch.cumsum(pitch, 0) / rate
    voice = torch.zeros_like(t)
    for k in range(1, 25):
        f = k * 120
        gain = sum(math.exp(-(((f - formant) / 250) ** 2)) for formant in (600, 1400)) + 0.02
        if f < rate / 2.2:
            voice += gain / k**0.5 * torch.sin(k * phase)
    syllables = (torch.sin(2 * math.pi * 3.3 * t) > -0.2) * (torch.sin(2 * math.pi * 0.4 * t) > -0.3)
    envelope = torch.nn.functional.avg_pool1d(syllables[None].double(), 401, 1, 200)[0][:samples]
    noise = torch.randn(samples, generator=generator, dtype=torch.float64)
    return (0.2 * voice * envelope + 0.003 * noise).float()


def wrapper() -> torch.jit.ScriptModule:
    return torch.jit.load(Path(package_path("silero_vad")) / "data" / "silero_vad.jit", map_location="cpu").eval()


def probabilities(call: Any, chunks: torch.Tensor) -> torch.Tensor:
    return torch.cat([call(chunk[None]).reshape(1) for chunk in chunks])


@pytest.mark.parametrize("rate", [16000, 8000])
def test_silero(rate: int) -> None:
    """The whole file: forward(x, sr), whose state and context are attributes."""
    size = 512 if rate == 16000 else 256
    chunks = speech(rate, CHUNKS * size).reshape(CHUNKS, size)
    script = wrapper()
    expected = probabilities(lambda x: script(x, rate), chunks)
    assert expected.max() > 0.5 > expected.min()  # the signal has both
    specs = [("x", "f32", *[(1, size)] * 3), ("sr", str(rate))]
    compiled = kiln.CompiledModule(kiln.Engine.build(saved(wrapper()), inputs=specs))
    for _ in range(2):  # the second time after a reset
        actual = probabilities(lambda x: compiled(x), chunks)
        assert (actual - expected).abs().max() <= TOLERANCE
        compiled.reset()


@pytest.mark.parametrize("rate", [16000, 8000])
def test_inner_model(rate: int) -> None:
    """The model inside, whose state is an argument and a result."""
    size, context = (512, 64) if rate == 16000 else (256, 32)
    chunks = torch.nn.functional.pad(speech(rate, CHUNKS * size), [context, 0]).unfold(0, context + size, size)
    script = getattr(wrapper(), "_model" if rate == 16000 else "_model_8k")
    state = torch.zeros(2, 1, 128)
    theirs, ours = state, state
    compiled = build(script, (chunks[:1], state))
    for chunk in chunks:
        expected, theirs = script(chunk[None], theirs)
        actual, ours = compiled(chunk[None], ours)
        assert (actual - expected).abs().max() <= TOLERANCE
    assert (ours - theirs).abs().max() <= 1e-4
