"""States of engines of exported stages: they go on bit for bit, re-encode alike, and hold no more than is needed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ms_infer import ConfigError, Stream, Tracks
from ms_infer.engines.openvino import OpenVinoModels
from ms_infer.engines.staged import StagedEngine
from tests.engines.conftest import Made, newly_opened, opened

pytest.importorskip("openvino", reason="no OpenVINO")

Make = Callable[..., Made]


def picture() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


def twin_of(engine: StagedEngine) -> StagedEngine:
    twin = engine.twin()
    assert twin is not None
    return twin


def started(engine: StagedEngine) -> Stream:
    stream, model = Stream(engine), engine.config.model
    tracks = Tracks.grid(4, 4).drag((0.4, 0.5), (0.8, 0.5)) if model.track_head else None
    stream.start(picture(), "a cat", tracks)
    return stream


@pytest.mark.parametrize(
    ("name", "precision"), [("tracks", "fp32"), ("tracks", "bf16"), ("prefill", "fp32"), ("short_first_chunk", "fp32")]
)
def test_every_chunk_may_be_the_last_before_a_state(made: Make, name: str, precision: str) -> None:
    """With re-encodings between, which read more than a chunk does."""
    engine = opened(made(name)[1], f"openvino {precision}")
    whole, one, other = started(engine), started(twin_of(engine)), Stream(twin_of(engine))
    for turn in range(9):
        np.testing.assert_array_equal(whole.step().frames, one.step().frames)
        other.load_state(one.state())
        one, other = other, one
        if turn in (2, 4, 5, 7):
            for stream in (whole, one):
                stream.set_prompt("dog", recache=True, replace_sink=turn == 7)


def test_a_bf16_state_holds_bf16(made: Make) -> None:
    """OpenVINO keeps its caches as float32; where it computes in bfloat16 they hold no more than that."""
    manifest = made("tracks")[1]
    sizes = {}
    for precision in ("fp32", "bf16"):
        stream = started(opened(manifest, f"openvino {precision}"))
        for _ in range(4):
            stream.step()
        state = stream.state().engine
        sizes[precision] = sum(array.nbytes for name, array in state.items() if name.startswith("cache."))
        kinds = {array.dtype for name, array in state.items() if name.startswith("cache.")}
        assert kinds == {np.dtype(np.float32 if precision == "fp32" else np.uint16)}
    config = manifest.config
    tokens = (config.context.sink_frames + config.context.window_frames) * config.tokens_per_frame
    assert sizes["fp32"] == 2 * sizes["bf16"] == 2 * 4 * config.model.layers * tokens * config.model.dim


def test_a_state_of_another_checkpoint_is_refused(made: Make) -> None:
    manifest = made("tracks")[1]
    other = replace(manifest, checkpoint={**manifest.checkpoint, "sha256": "0" * 64})
    state = started(opened(manifest, "openvino fp32")).state()
    with pytest.raises(ConfigError, match="weights"):
        Stream(newly_opened(other, "openvino fp32")).load_state(state)


def test_a_stage_is_compiled_once_for_all_threads_and_twins(made: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: Counter[str] = Counter()
    quickly = OpenVinoModels._compile

    def slowly(self: OpenVinoModels, stage: str) -> Any:
        compiled[stage] += 1
        time.sleep(0.05)
        return quickly(self, stage)

    monkeypatch.setattr(OpenVinoModels, "_compile", slowly)
    engine = newly_opened(made("tracks")[1], "openvino fp32")
    streams = [Stream(engine), *(Stream(twin_of(engine)) for _ in range(3))]
    errors: list[Exception] = []

    def work(stream: Stream) -> None:
        try:
            stream.set_prompt("a cat")
            stream.start(picture(), "a dog")
            stream.step()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(stream,)) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert set(compiled.values()) == {1}, compiled
