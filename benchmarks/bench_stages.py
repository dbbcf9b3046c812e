"""The stages of a chunk one by one: noise, transformer pass, decoder, condition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.conftest import DEVICE, Timed
from ms_infer.checkpoint import Student
from ms_infer.engines.base import ChunkPlan
from ms_infer.engines.torch import TorchEngine
from ms_infer.engines.torch import noise as device_noise
from ms_infer.numerics import noise


@pytest.fixture
def engine(benchmark: Any, request: pytest.FixtureRequest) -> TorchEngine:
    """A torch engine in the steady state, in the middle of a chunk."""
    chosen: Student = request.getfixturevalue("small" if benchmark.disabled else "student")
    made = TorchEngine(chosen, device=DEVICE)
    text = made.config.model.text
    made.set_text(np.zeros((text.tokens, text.dim), np.float32))
    made.set_image(None)
    place = made.config.context.place(30, made.config.context.chunk_frames)
    made.generate(ChunkPlan(10, False, place, None, 0))
    return made


def test_pass(engine: TorchEngine, timed: Timed) -> None:
    timed(torch.no_grad()(lambda: engine._denoise(0)))
    assert torch.isfinite(engine._x).all()


def test_clean_pass(engine: TorchEngine, timed: Timed) -> None:
    timed(torch.no_grad()(engine._clean_pass))


def test_decode(engine: TorchEngine, timed: Timed) -> None:
    timed(torch.no_grad()(engine._decode))


def test_condition(engine: TorchEngine, timed: Timed) -> None:
    text = engine.config.model.text
    timed(lambda: engine.set_text(np.zeros((text.tokens, text.dim), np.float32)))


@pytest.mark.parametrize("where", ["host", "device"])
def test_noise(where: str, timed: Timed) -> None:
    count = 3 * 16 * 60 * 104
    numbers = torch.from_numpy(device_noise.counters(1, 2)).to(DEVICE)
    timed(
        (lambda: noise.normal(1, 2, 0, count)) if where == "host" else (lambda: device_noise.normal(numbers, 1, count))
    )
