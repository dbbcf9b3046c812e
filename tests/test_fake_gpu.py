"""The captured engine on a CUDA device that computes nothing, at true widths and picture sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from ms_infer import ConfigError
from ms_infer.bench.project import layer_bytes
from ms_infer.checkpoint import Student, random_student
from ms_infer.config import StreamConfig, preset
from ms_infer.engines.base import plan_chunk
from ms_infer.engines.torch import graphs
from ms_infer.engines.torch.captured import FusedEngine
from ms_infer.model.transformer import Residual
from ms_infer.tracks.player import TrackPlayer
from tests.fake_gpu import FakeGpu, Launch, Seen, fake_gpu
from tests.tiny import tiny_student

DEVICE = "cuda:1"  # not the current one: what forgets to name its device shows


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGpu]:
    with fake_gpu(monkeypatch) as device:
        yield device


def settings(name: str) -> StreamConfig:
    """Two layers of a model: all layers are alike."""
    config = preset(name)
    return replace(config, model=replace(config.model, layers=2))


def opened(student: Student, precision: str = "bf16", attention: str = "cudnn") -> FusedEngine:
    engine = FusedEngine(student, device=DEVICE, precision=precision, attention=attention)
    engine.frames = lambda: np.zeros((1, 1, 1, 3), np.uint8)  # type: ignore[method-assign]
    return engine


def run(engine: FusedEngine, chunks: int, image: Any = None) -> None:
    """The chunks of a stream from its start on."""
    config = engine.config
    engine.reset()
    engine.set_text(np.ones((config.model.text.tokens, config.model.text.dim), np.float32))
    engine.set_image(image)
    player, given = TrackPlayer.of(config), engine.given_frames()
    for index in range(chunks):
        engine.generate(plan_chunk(config, index, player, 0, given=given))
        engine.commit()


def picture(config: StreamConfig) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.zeros((config.height, config.width, 3), np.uint8)


@pytest.mark.parametrize("name", ["motionstream-1.3b", "wan2.2-5b", "track-v0", "demo"])
@pytest.mark.parametrize(("precision", "attention"), [("bf16", "cudnn"), ("fp8", "triton-tma")])
def test_nothing_in_a_capture_would_fail_on_a_device(gpu: FakeGpu, name: str, precision: str, attention: str) -> None:
    engine = opened(random_student(settings(name)), precision, attention)
    engine.warm_up()
    captured = set(engine._graphs)
    for image in (None, picture(engine.config)):
        run(engine, 3, image)
    engine.recache(replace_sink=True)
    run(engine, 1)

    assert gpu.faults == []
    assert set(engine._graphs) == captured, "a graph is captured in the middle of a stream"
    assert {one.stage for one in gpu.launches} >= {"denoise", "decode", "write_cache"}
    assert all(graph.captured for graph in engine._graphs.values())


def small() -> Student:
    """Sizes that every kernel takes."""
    return tiny_student(dim=64, ffn_dim=128, heads=2, size=64)


MISTAKES: dict[str, tuple[Callable[[FusedEngine], Any], str]] = {
    "a tensor of the host": (lambda e: e._x.add_(torch.ones(1).expand(e._x.shape)), "cpu"),
    "a copy from the host": (lambda e: e._x.add_(torch.tensor([1.0], device=DEVICE)), "host"),
    "a wait for a stream": (lambda e: e._main.synchronize(), "waited for while"),
    "a wait for the device": (lambda e: torch.cuda.synchronize(), "whole device"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_a_mistake_in_captured_work_is_found(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    mistake, words = MISTAKES[what]
    works = FusedEngine._denoise_chunk
    monkeypatch.setattr(FusedEngine, "_denoise_chunk", lambda engine: (works(engine), mistake(engine)))
    engine = opened(small())
    try:
        run(engine, 1)
    except RuntimeError as error:  # fake tensors see some of them first
        gpu.faults.append(str(error))

    assert any(words in fault for fault in gpu.faults), gpu.faults


def test_a_value_that_the_host_reads_is_refused(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    works = FusedEngine._denoise_chunk
    monkeypatch.setattr(FusedEngine, "_denoise_chunk", lambda engine: (works(engine), engine._x.sum().item()))
    with pytest.raises((DataDependentOutputException, RuntimeError), match="local_scalar_dense"):
        run(opened(small()), 1)


def test_memory_that_a_graph_reads_and_nobody_keeps_is_found(gpu: FakeGpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """What warm-up runs make for later is fine; what is gone by the first replay is not."""
    works, held = FusedEngine._denoise_chunk, []

    def reads_a_loan(engine: FusedEngine) -> None:
        works(engine)
        if not held:
            held.append(torch.zeros(1, device=DEVICE))
        engine._x.add_(held[0])

    monkeypatch.setattr(FusedEngine, "_denoise_chunk", reads_a_loan)
    engine = opened(small())
    run(engine, 1)
    assert gpu.faults == []
    held.clear()
    run(engine, 1)
    assert any("given back" in fault for fault in gpu.faults)


def test_a_static_tensor_that_moved_is_refused(gpu: FakeGpu) -> None:
    engine = opened(small(), attention="triton")
    run(engine, 2)
    engine._decoder = [tensor.clone() for tensor in engine._decoder]
    config = engine.config
    with pytest.raises(ConfigError, match=r"decoder 0.*write new values into the static"):
        engine.generate(plan_chunk(config, 2, TrackPlayer.of(config), 0))


@pytest.mark.parametrize("precision", ["bf16", "fp8"])
def test_engines_of_one_student_share_every_weight(gpu: FakeGpu, precision: str) -> None:
    student = small()
    one, other = (opened(student, precision) for _ in range(2))

    def weights(engine: FusedEngine) -> list[int]:
        parts: list[Any] = [engine.transformer, engine.vae, engine.track_head]
        return [tensor.data_ptr() for part in parts for tensor in (*part.parameters(), *part.buffers())]

    assert weights(one) == weights(other)
    assert all(tensor.device == torch.device(DEVICE) for tensor in one.transformer.parameters())
    assert one.operations is other.operations, "what is joined or quantised is made once"
    apart = [tensor.data_ptr() for engine in (one, other) for tensor in engine._graph_tensors().values()]
    assert len(set(apart)) == len(apart)


def test_decoding_goes_before_other_work(gpu: FakeGpu) -> None:
    engine = opened(small())
    assert engine._side.priority < engine._main.priority


def channels_last(tensor: Seen) -> bool | None:
    """Whether a picture `[N, C, H, W]` is channels-last; None where both layouts are one."""
    _, channels, height, width = tensor.shape
    if channels == 1 or height * width == 1:
        return None
    return tensor.stride[1] == 1


def test_the_decoder_stays_channels_last(gpu: FakeGpu) -> None:
    """Of 18 joins of two layouts and 13 conversions, those of the latents and the frames are left."""
    engine = opened(random_student(settings("motionstream-1.3b")))
    run(engine, 2)
    decodes = [one for one in gpu.launches if one.stage == "decode"][-200:]
    joins = [one for one in decodes if one.name.startswith("aten.cat")]
    mixed = [one for one in joins if len({channels_last(t) for t in one.inputs if len(t.shape) == 4} - {None}) > 1]
    convolutions = [one for one in decodes if one.name.startswith("aten.convolution")]
    converted = [one for one in convolutions if channels_last(one.inputs[0]) is False]

    assert len(joins) >= 9
    assert mixed == []
    assert len(converted) <= 1


PRODUCTS = ("addmm", "_scaled_mm", "aten.mm", "bmm", "scaled_dot_product", "convolution", "sink_window")
VIEWS = ("view", "expand", "transpose", "permute", "slice", "select", "unbind", "split", "squeeze", "alias", "detach")
VIEWS += ("empty", "as_strided", ".t.default", "reshape")


def traffic(one: Launch, written_rows: int) -> int:
    """Bytes that an operation between products reads and writes; of caches, the rows of the chunk."""
    if any(word in one.name for word in (*PRODUCTS, *VIEWS)):
        return 0
    whole = [t for t in (*one.inputs, *one.outputs) if len(t.shape) != 4 or not one.name.startswith("write_kv")]
    total = sum(t.nbytes for t in whole)
    if one.name.startswith("write_kv"):  # its 4-D arguments: the two caches, the sink, the queries
        return total + 3 * written_rows
    if one.name.startswith("residual_modulate"):  # x is read and written
        total += max(t.nbytes for t in one.inputs)
    return total


def test_traffic_between_the_products_of_a_pass(gpu: FakeGpu) -> None:
    """1.3B at 480x832: 16.3 GB before GELU, residuals and the layout of queries went into kernels and epilogues."""
    config = settings("motionstream-1.3b")
    engine = opened(random_student(config))
    run(engine, 1)
    model, frames = config.model, config.context.chunk_frames
    shape = (1, frames, config.tokens_per_frame, model.dim)
    x, y, gate, modulation = (
        torch.zeros(size, device=DEVICE, dtype=torch.bfloat16)
        for size in (shape, (1, config.chunk_tokens, model.dim), (1, frames, model.dim), (1, frames, 6, model.dim))
    )
    engine._plan = plan_chunk(config, 3, TrackPlayer.of(config), 0)
    gpu.launches.clear()
    with torch.no_grad():
        rest = Residual(x, y, gate)
        engine.transformer.blocks[1](rest, modulation, engine._keys[1], 1, engine.attend, engine.operations)
    rows = config.chunk_tokens * model.dim * 2
    total = sum(traffic(one, rows) for one in gpu.launches) * preset("motionstream-1.3b").model.layers

    assert total <= 8e9
    assert total == pytest.approx(layer_bytes(config, "bf16") * 15, rel=0.05), "what --project takes for it"
    copies = ("aten.clone", "aten.copy_", "aten._to_copy")
    copied = [one for one in gpu.launches if one.name.startswith(copies) and one.inputs[0].nbytes >= rows]
    assert copied == [], "an output of attention is copied"


@pytest.fixture(autouse=True)
def _one_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "WARM_UPS", 1)
