"""The fused engine on the device: graphs, noise, attention, precision, memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ms_infer import Stream, Tracks
from ms_infer.bench.run import device_allocated
from ms_infer.checkpoint import Student
from ms_infer.config import TrackHeadConfig
from ms_infer.engines.open import open_torch_engine
from ms_infer.engines.torch import TorchEngine, attention
from ms_infer.engines.torch import noise as device_noise
from ms_infer.engines.torch.captured import FusedEngine
from ms_infer.engines.torch.fused import load_kernels
from ms_infer.numerics import noise
from tests.tiny import tiny_student, without_tracks

PAPER = TrackHeadConfig(max_tracks=64, id_dim=16)


def student(**overrides: Any) -> Student:
    """Head size 64, widths that FP8 takes, the paper's track head."""
    fields = {"dim": 128, "ffn_dim": 256, "layers": 3, "size": 64, "track_head": PAPER}
    return tiny_student(**{**fields, **overrides})


def rollout(engine: TorchEngine, chunks: int = 7) -> tuple[NDArray[np.uint8], torch.Tensor]:
    with Stream(engine, seed=3) as stream:
        start(stream)
        made = [stream.step().frames for _ in range(chunks)]
        stream.set_prompt("dog night", recache=True)
        made += [stream.step().frames for _ in range(2)]
        return np.concatenate(made), engine._x.float().clone()


def start(stream: Stream) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    moved = Tracks.grid(4, 4).drag((0.4, 0.5), (0.8, 0.5))
    stream.start(picture, "a cat", moved if stream.config.model.track_head else None)


HOW = ["triton", "triton-tma", "cudnn", "flash"]


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_graph_replay_equals_eager_bit_for_bit(how: str, precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "triton-tma" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("TMA runs from sm_90 on")
    captured = FusedEngine(student(), device="cuda", precision=precision, attention=how)
    frames, latents = rollout(captured)
    assert all(graph.captured for graph in captured._graphs.values())
    monkeypatch.setenv("MS_INFER_NO_CUDA_GRAPH", "1")
    eager = FusedEngine(student(), device="cuda", precision=precision, attention=how)
    eager_frames, eager_latents = rollout(eager)
    assert not any(graph.captured for graph in eager._graphs.values())

    assert torch.equal(latents, eager_latents)
    np.testing.assert_array_equal(frames, eager_frames)


@pytest.mark.parametrize("make", [student, tiny_student, without_tracks])
@pytest.mark.parametrize(("precision", "worst"), [("fp32", 2e-3), ("bf16", 0.1)])
def test_fused_equals_plain(make: Any, precision: str, worst: float) -> None:
    sizes = {"dim": 128, "ffn_dim": 256, "size": 64}
    plain = rollout(TorchEngine(make(**sizes), device="cuda", precision=precision))[1]
    fused = rollout(FusedEngine(make(**sizes), device="cuda", precision=precision))[1]

    assert float((fused - plain).norm() / plain.norm()) < worst


def test_fp8_stays_near_bf16() -> None:
    latents = [rollout(FusedEngine(student(), device="cuda", precision=p), chunks=1)[1] for p in ("bf16", "fp8")]
    assert 0 < float((latents[1] - latents[0]).norm() / latents[0].norm()) < 0.3


def test_noise_equals_the_host() -> None:
    expected = np.stack([noise.normal(11, 2**33 + 5, p, 100_003) for p in range(3)])
    numbers = torch.from_numpy(device_noise.counters(11, 2**33 + 5)).cuda()
    got = device_noise.normal(numbers, 3, 100_003).cpu().numpy()

    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)
    assert (got == expected).mean() > 0.9999


def test_attention_is_chosen_among_what_runs_and_is_right() -> None:
    config = student().config
    candidates = attention.implementations(torch.device("cuda"), load_kernels(torch.device("cuda")))
    chosen, measured = attention.choose(candidates, config, torch.zeros(1, device="cuda", dtype=torch.bfloat16))

    usable = {m.name: m.ms for m in measured if m.error < attention.TOLERANCE[torch.bfloat16]}
    assert {"triton", "sdpa"} <= set(usable)
    assert usable[chosen.name] == min(usable.values())


def test_the_loop_allocates_nothing_and_keeps_its_graphs() -> None:
    engine = open_torch_engine(student(), device="cuda")
    assert isinstance(engine, FusedEngine)
    with Stream(engine) as stream:
        start(stream)
        for _ in range(6):
            stream.step()
        before, graphs, live = device_allocated(), len(engine._graphs), torch.cuda.memory_allocated()
        for _ in range(50):
            stream.step()

        assert device_allocated() == before
        assert (len(engine._graphs), torch.cuda.memory_allocated()) == (graphs, live)


def test_warm_up_has_captured_everything_that_a_stream_needs() -> None:
    engine = open_torch_engine(student(), device="cuda")
    assert isinstance(engine, FusedEngine)
    graphs = set(engine._graphs)
    with Stream(engine) as stream:
        start(stream)
        for _ in range(8):
            stream.step()

        assert set(engine._graphs) == graphs


def test_device_times_of_stages_are_there_and_plausible() -> None:
    with Stream(open_torch_engine(student(), device="cuda")) as stream:
        start(stream)
        timings = [stream.step().timings for _ in range(5)][-1]

    assert 0 < timings["denoise"] < timings["chunk"] * 1.5
    assert timings["decode"] > 0
    assert timings["write_cache"] > 0


def test_snapshots_and_failed_steps_are_bit_equal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = open_torch_engine(student(), device="cuda")
    with Stream(engine) as stream:
        start(stream)
        for _ in range(4):
            stream.step()
        stream.snapshot(tmp_path / "s.safetensors")
        undisturbed = [stream.step().frames for _ in range(3)]
        stream.restore(tmp_path / "s.safetensors")
        with monkeypatch.context() as patch:
            patch.setattr(engine, "commit", lambda: (_ for _ in ()).throw(OSError("injected")))
            with pytest.raises(OSError, match="injected"):
                stream.step()
        for expected in undisturbed:
            np.testing.assert_array_equal(expected, stream.step().frames)


def test_frames_of_two_streams_do_not_mix() -> None:
    first, second = (Stream(open_torch_engine(student(), device="cuda"), seed=seed) for seed in (1, 2))
    with first, second:
        for stream in (first, second):
            start(stream)
        turns = [(first.step().frames, second.step().frames) for _ in range(4)]
    with Stream(open_torch_engine(student(), device="cuda"), seed=1) as alone:
        start(alone)
        for expected, _ in turns:
            np.testing.assert_array_equal(expected, alone.step().frames)
