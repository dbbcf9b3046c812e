"""A model, opened once: its streams share weights, each goes its own way, and each can be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ms_infer import Cancelled, ConfigError, Model, StateError, Stream, Tracks
from ms_infer.checkpoint import Student
from ms_infer.engines.torch import TorchEngine
from ms_infer.engines.torch.captured import FusedEngine
from tests.quick import QuickEngine
from tests.tiny import refined_student, tiny_student

Frames = NDArray[np.uint8]
MOVED = Tracks.grid(4, 4).grab((0.4, 0.5), (0.8, 0.5), seconds=1.0, radius=0.3)


def picture() -> Frames:
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


def started(stream: Stream, prompt: str = "a cat") -> Stream:
    stream.start(picture(), prompt, MOVED)
    return stream


def chunks(stream: Stream, count: int = 3) -> list[Frames]:
    return [stream.step().frames for _ in range(count)]


def engine_of(stream: Stream) -> Any:
    return stream._engine


def places(engine: TorchEngine) -> dict[str, int]:
    """Where each weight lies."""
    modules = (engine.transformer, engine.vae, engine.track_head, engine.refiner, engine.layer_network)
    named = [(f"{i} {name}", p) for i, m in enumerate(modules) if m is not None for name, p in m.named_parameters()]
    return {name: parameter.data_ptr() for name, parameter in named}


@pytest.mark.parametrize("student", [tiny_student, refined_student])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_streams_share_every_weight_and_nothing_else(student: Callable[[], Student], precision: str) -> None:
    made = student()
    with Stream(made, engine="torch", precision=precision) as alone:
        expected = chunks(started(alone))
    with Model(made, engine="torch", precision=precision) as model:
        one, two, three = model.stream(), model.stream(seed=1), model.stream()
        assert places(engine_of(one)) == places(engine_of(two)) == places(engine_of(three))
        assert len(places(engine_of(one))) > 20
        for stream, prompt in ((one, "a cat"), (two, "dog"), (three, "a cat")):
            started(stream, prompt)
        for frames in expected:
            np.testing.assert_array_equal(one.step().frames, frames)
            assert (two.step().frames != frames).any()
            np.testing.assert_array_equal(three.step().frames, frames)
        assert engine_of(one).cache.k.data_ptr() != engine_of(two).cache.k.data_ptr()


def test_a_stream_is_the_short_form_of_a_model_with_one() -> None:
    made = tiny_student()
    with Model(made, engine="torch") as model, model.stream(seed=3) as one, Stream(made, engine="torch", seed=3) as two:
        assert (model.engine, model.config, model.notes) == (two.engine, two.config, two.notes)
        for left, right in zip(chunks(started(one)), chunks(started(two)), strict=True):
            np.testing.assert_array_equal(left, right)


def test_a_closed_model_makes_no_streams_and_its_open_ones_go_on() -> None:
    model = Model(tiny_student(), engine="torch")
    stream, other = started(model.stream()), model.stream()
    model.close()
    model.close()
    with pytest.raises(StateError, match="the model is closed"):
        model.stream()
    assert len(stream.step().frames) == 9
    stream.close()
    assert len(started(other).step().frames) == 9


def test_an_engine_that_came_back_is_as_new() -> None:
    with Model(tiny_student(), engine="torch") as model:
        with model.stream() as first:
            expected, engine = chunks(started(first)), engine_of(first)
            first.set_tracks(None)
            first.step()
        with model.stream() as second:
            assert engine_of(second) is engine
            with pytest.raises(StateError, match="nothing to snapshot"):
                second.state()
            for made, frames in zip(chunks(started(second)), expected, strict=True):
                np.testing.assert_array_equal(made, frames)


def test_an_engine_of_ones_own_serves_one_stream_at_a_time() -> None:
    with Model(QuickEngine()) as model:
        with model.stream(), pytest.raises(ConfigError, match=r"computes one stream at a time: .* twin\(\)"):
            model.stream()
        with model.stream() as again:
            again.step()


def test_streams_are_made_by_many_threads() -> None:
    with Model(tiny_student(), engine="torch") as model:
        made: list[list[Frames]] = []

        def play() -> None:
            with model.stream() as stream:
                made.append(chunks(started(stream)))

        threads = [threading.Thread(target=play) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(made) == 4
    for frames in made[1:]:
        np.testing.assert_array_equal(np.concatenate(frames), np.concatenate(made[0]))


def test_opening_tells_how_far_it_is_and_ends_when_told() -> None:
    told: list[tuple[str, float]] = []
    with Model(tiny_student(), engine="torch", progress=lambda doing, done: told.append((doing, done))):
        pass
    shares = [done for _, done in told]
    assert shares[0] == 0
    assert shares[-1] == 1
    assert shares == sorted(shares)
    assert all(doing for doing, _ in told)

    def stop(_doing: str, _done: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Model(tiny_student(), engine="torch", progress=stop)


def test_threads_are_torchs_and_at_least_one() -> None:
    before = torch.get_num_threads()
    try:
        with Stream(tiny_student(), engine="torch", threads=2):
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    with pytest.raises(ConfigError, match="threads must be at least 1, not 0"):
        Stream(tiny_student(), engine="torch", threads=0)


@pytest.mark.parametrize("kind", [TorchEngine, FusedEngine])
def test_a_cancelled_step_changes_nothing(kind: type[TorchEngine]) -> None:
    made = tiny_student()
    undisturbed = chunks(started(Stream(kind(made, device="cpu"))), 4)
    stream = started(Stream(kind(made, device="cpu")))
    np.testing.assert_array_equal(stream.step().frames, undisturbed[0])
    engine = engine_of(stream)
    generate, passes = engine.generate, []

    def cancelled(plan: Any) -> None:
        passes.append(plan.index)
        stream.cancel()
        generate(plan)

    engine.generate = cancelled
    with pytest.raises(Cancelled, match="nothing changed"):
        stream.step()
    engine.generate = generate
    assert passes == [1]
    for frames in undisturbed[1:]:
        np.testing.assert_array_equal(stream.step().frames, frames)


def test_cancelling_without_a_step_under_way_cancels_none() -> None:
    with Stream(QuickEngine()) as stream:
        stream.cancel()
        stream.step()


@pytest.mark.parametrize("kind", [TorchEngine, FusedEngine])
def test_warm_up_leaves_the_stream_as_new(kind: type[TorchEngine]) -> None:
    made = tiny_student()
    with Stream(kind(made, device="cpu")) as fresh, Stream(kind(made, device="cpu")) as warm:
        warm.warm_up()
        for left, right in zip(chunks(started(fresh)), chunks(started(warm)), strict=True):
            np.testing.assert_array_equal(left, right)
        with pytest.raises(StateError, match="belongs before start"):
            warm.warm_up()


def test_a_twin_copies_no_module_to_find_out_what_it_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    with Model(tiny_student(), engine="torch", precision="bf16") as model, model.stream() as one:
        copies: list[object] = []
        monkeypatch.setattr("ms_infer.engines.torch.shared.changed", lambda part, _change: copies.append(part) or part)
        with model.stream() as two:
            assert places(engine_of(one)) == places(engine_of(two))
        assert not copies
