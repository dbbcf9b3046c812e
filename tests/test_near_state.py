"""A state without keys and values: small, made anew from latents, close to the stream that went on undisturbed."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ms_infer import ConfigError, ContextConfig, StateError, Stream, Tracks
from ms_infer.engines.near import rebuilding_runs
from ms_infer.snapshot import load_snapshot, save_snapshot
from tests.quick import QuickEngine
from tests.test_state import CONTEXTS as STATE_CONTEXTS
from tests.tiny import tiny_student, without_tracks

Frames = NDArray[np.uint8]
CONTEXTS = {**STATE_CONTEXTS, "no window": ContextConfig(sink_frames=3, window_frames=0)}


@pytest.fixture
def picture() -> Frames:
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


def moved() -> Tracks:
    return Tracks.grid(4, 4).drag((0.4, 0.5), (0.8, 0.5), seconds=1.0, radius=0.3)


def psnr(first: Frames, second: Frames) -> float:
    error = np.square(first.astype(np.float64) - second).mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS)
def test_runs_write_all_that_the_next_chunk_reads_from_frames_that_are_kept(context: ContextConfig) -> None:
    opening = context.sink_frames + context.chunk_frames - 1 if context.sink_frames else 0
    for made in (context.span(index).start for index in range(1, 12)):
        slots: dict[int, int] = {}
        for run in rebuilding_runs(context, made, 0):
            assert run.start >= made - context.cache_frames or run.stop <= opening
            slots |= dict(zip(context.place(run.start, len(run)).slots[::-1], reversed(run), strict=False))
            valid = context.place(run.start, len(run)).valid_frames
            assert set(range(valid)) <= slots.keys()
        for frame in [*range(min(made, context.sink_frames)), *range(max(0, made - context.window_frames), made)]:
            assert slots[context.slot(frame)] == frame


@pytest.mark.parametrize("context", ["the paper's", "wide", "short first chunk", "no sink"])
def test_while_every_frame_is_remembered_a_near_state_is_exact(context: str, picture: Frames) -> None:
    student = tiny_student(context=CONTEXTS[context])
    with Stream(student) as one, Stream(student) as other:
        one.start(picture, "a cat", moved())
        for _ in range(2):
            one.step()
            other.load_state(one.near_state())
        np.testing.assert_array_equal(one.step().frames, other.step().frames)


def test_a_given_image_is_made_anew_too(picture: Frames) -> None:
    with Stream(without_tracks()) as one, Stream(without_tracks()) as other:
        one.start(picture, "a cat")
        one.step()
        other.load_state(one.near_state())
        np.testing.assert_array_equal(one.step().frames, other.step().frames)


def test_demo_goes_on_close_to_the_undisturbed_stream(tmp_path: Path) -> None:
    """Much closer than its own chunks are to each other, from a state that is a fraction of the exact one."""
    with Stream("demo", engine="torch", seed=3) as one, Stream("demo", engine="torch") as other:
        one.start(tracks=Tracks.grid(8, 8).grab((0.3, 0.5), (0.7, 0.5), radius=0.2, seconds=6.0))
        made = [one.step().frames for _ in range(7)]
        near, exact = one.near_state(), one.state()
        assert near.nbytes < exact.nbytes / 2
        save_snapshot(tmp_path / "near", near)
        other.load_state(load_snapshot(tmp_path / "near", other.config))
        went_on, restored = ([stream.step() for _ in range(3)] for stream in (one, other))
    assert [chunk.index for chunk in restored] == [7, 8, 9]
    made += [chunk.frames for chunk in went_on]
    neighbours = np.mean([psnr(a, b) for a, b in pairwise(made[1:])])
    away = [psnr(a.frames, b.frames) for a, b in zip(went_on, restored, strict=True)]
    assert min(away) > neighbours + 8, (away, neighbours)


def test_exact_state_of_a_restored_stream_holds_its_sink(picture: Frames) -> None:
    student = tiny_student()
    with Stream(student) as one, Stream(student) as two, Stream(student) as three:
        one.start(picture, "a cat", moved())
        for _ in range(6):
            one.step()
        two.load_state(one.state())
        near = two.near_state()
        assert {k: v.tobytes() for k, v in near.engine.items()} == {
            k: v.tobytes() for k, v in one.near_state().engine.items()
        }
        three.load_state(near)
        assert psnr(one.step().frames, three.step().frames) > 30


@pytest.mark.parametrize("replaced", [False, True])
def test_a_context_that_was_encoded_again_is_made_anew_as_well(replaced: bool, picture: Frames) -> None:
    student = tiny_student()
    with Stream(student) as one, Stream(student) as other:
        one.start(picture, "a cat", moved())
        for _ in range(6):
            one.step()
        one.set_prompt("dog night", recache=True, replace_sink=replaced)
        for _ in range(5):
            one.step()
        other.load_state(one.near_state())
        assert psnr(one.step().frames, other.step().frames) > 30


def test_a_near_state_of_other_weights_is_refused(picture: Frames) -> None:
    other = tiny_student()
    with torch.no_grad():
        weight = next(other.transformer.parameters()).view(-1)[:1]
        weight.copy_(torch.nextafter(weight, torch.ones(1)))
    with Stream(tiny_student()) as one, Stream(other) as two:
        one.start(picture)
        one.step()
        with pytest.raises(ConfigError, match="weights"):
            two.load_state(one.near_state())


def test_a_damaged_near_state_is_refused(picture: Frames) -> None:
    with Stream(tiny_student()) as one, Stream(tiny_student()) as two:
        one.start(picture)
        one.step()
        near = one.near_state()
        for name in near.engine:
            rest = {k: v for k, v in near.engine.items() if k != name}
            with pytest.raises(ConfigError):
                two.load_state(replace(near, engine=rest))
            with pytest.raises(ConfigError):
                two.load_state(replace(near, engine={**rest, name: np.tile(near.engine[name], 2)}))


def test_engine_without_near_states_says_so() -> None:
    with Stream(QuickEngine()) as stream:
        with pytest.raises(StateError, match="start"):
            stream.near_state()
        stream.start()
        with pytest.raises(ConfigError, match=r"save the exact state\(\)"):
            stream.near_state()
