"""The paper's model at its true widths and picture size, two layers of it: all layers are alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from ms_infer import Stream, Tracks
from ms_infer.checkpoint import Student, random_student
from ms_infer.config import preset
from ms_infer.engines.torch import TorchEngine
from ms_infer.engines.torch.captured import FusedEngine
from ms_infer.engines.torch.needs import fp8_fault

CHUNKS = 5


@pytest.fixture(scope="module")
def student() -> Student:
    config = preset("motionstream-1.3b")
    config = replace(config, model=replace(config.model, layers=2))
    return random_student(config, device="cuda", dtype=torch.bfloat16)


def rollout(engine: TorchEngine) -> tuple[Any, torch.Tensor]:
    with Stream(engine, seed=3) as stream:
        stream.start(None, np.zeros((1, engine.config.model.text.dim), np.float32), Tracks.grid(12, 12))
        made = [stream.step().frames for _ in range(CHUNKS)]
        return np.concatenate(made), engine._x.float().clone()


def supported(precision: str) -> None:
    from ms_infer.engines.torch.fused import load_kernels

    device = torch.device("cuda", torch.cuda.current_device())
    reason = fp8_fault(device, load_kernels(device)) if precision == "fp8" else None
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_replayed_chunks_equal_eager_ones(student: Student, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    supported(precision)
    frames, latents = rollout(FusedEngine(student, device="cuda", precision=precision, attention="cudnn"))
    monkeypatch.setenv("MS_INFER_NO_CUDA_GRAPH", "1")
    eager, eager_latents = rollout(FusedEngine(student, device="cuda", precision=precision, attention="cudnn"))

    assert torch.equal(latents, eager_latents)
    np.testing.assert_array_equal(frames, eager)


@pytest.mark.parametrize(("precision", "worst"), [("bf16", 0.1), ("fp8", 0.3)])
def test_the_fused_engine_follows_the_plain_one(student: Student, precision: str, worst: float) -> None:
    supported(precision)
    plain = rollout(TorchEngine(student, device="cuda", precision="bf16"))[1]
    fused = rollout(FusedEngine(student, device="cuda", precision=precision))[1]

    assert float((fused - plain).norm() / plain.norm()) < worst


def test_a_second_engine_adds_no_weights(student: Student) -> None:
    first = FusedEngine(student, device="cuda", precision="bf16", attention="cudnn")
    second = FusedEngine(student, device="cuda", precision="bf16", attention="cudnn")
    weights = [[p.data_ptr() for p in engine.transformer.parameters()] for engine in (first, second)]
    assert weights[0] == weights[1]
    assert first.cache.k.data_ptr() != second.cache.k.data_ptr()
