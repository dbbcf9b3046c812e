"""The loop: determinism, controls, pause, failure, snapshots, constant memory."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ms_infer import ConfigError, ContextConfig, DeviceError, StateError, Stream, Tracks, TrackShapeError
from ms_infer.checkpoint import Student
from tests.tiny import tiny_student, without_tracks

Frames = NDArray[np.uint8]


@pytest.fixture(scope="module")
def student() -> Student:
    return tiny_student()


@pytest.fixture
def picture() -> Frames:
    return np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)


def moved() -> Tracks:
    return Tracks.grid(4, 4).drag((0.4, 0.5), (0.8, 0.5), seconds=1.0, radius=0.3)


def chunks(stream: Stream, count: int) -> list[Frames]:
    return [stream.step().frames for _ in range(count)]


def assert_same(first: list[Frames], second: list[Frames]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_chunks_have_nine_frames_then_twelve(student: Student, picture: Frames) -> None:
    with Stream(student) as stream:
        stream.start(picture, "a cat", moved())
        made = [stream.step() for _ in range(3)]

    assert [c.frames.shape for c in made] == [(9, 32, 32, 3), (12, 32, 32, 3), (12, 32, 32, 3)]
    assert [c.first_rgb_frame for c in made] == [0, 9, 21]
    assert made[0].frames.dtype == np.uint8
    assert {"begin", "denoise", "decode", "write_cache", "chunk"} <= set(made[0].timings)


def test_same_seed_and_controls_give_the_same_bytes(student: Student, picture: Frames) -> None:
    runs = []
    for seed in (3, 3, 4):
        with Stream(student, seed=seed) as stream:
            stream.start(picture, "a cat", moved())
            runs.append(chunks(stream, 4))

    assert_same(runs[0], runs[1])
    assert any((a != b).any() for a, b in zip(runs[0], runs[2], strict=True))


def test_image_prompt_and_tracks_each_matter(student: Student, picture: Frames) -> None:
    def first_chunks(image: Frames, prompt: str, tracks: Tracks) -> Frames:
        with Stream(student) as stream:
            stream.start(image, prompt, tracks)
            return np.concatenate(chunks(stream, 2))

    base = first_chunks(picture, "a cat", moved())
    assert (base != first_chunks(255 - picture, "a cat", moved())).any()
    assert (base != first_chunks(picture, "night snow", moved())).any()
    assert (base != first_chunks(picture, "a cat", Tracks.grid(4, 4))).any()


def test_controls_take_effect_at_the_next_chunk(student: Student, picture: Frames) -> None:
    with Stream(student) as changed, Stream(student) as plain:
        for stream in (changed, plain):
            stream.start(picture, "a cat", Tracks.grid(4, 4))
        before = [chunks(stream, 2) for stream in (changed, plain)]
        first = changed.set_tracks(Tracks.grid(4, 4))
        second = changed.set_tracks(moved())
        chunk, other = changed.step(), plain.step()

    assert_same(*before)
    assert (first, second, chunk.control_id, other.control_id) == (1, 2, 2, 0)
    assert (chunk.frames != other.frames).any()


def test_a_prompt_can_change_with_and_without_recaching(student: Student, picture: Frames) -> None:
    results = []
    for options in (None, {}, {"recache": True}, {"replace_sink": True}):
        with Stream(student) as stream:
            stream.start(picture, "a cat", moved())
            chunks(stream, 5)
            if options is not None:
                stream.set_prompt("dog night", **options)
            results.append(np.concatenate(chunks(stream, 2)))

    assert all((a != b).any() for i, a in enumerate(results) for b in results[i + 1 :])


def test_pause_ends_iteration_and_refuses_steps(student: Student, picture: Frames) -> None:
    with Stream(student) as stream:
        stream.start(picture)
        seen = []
        for chunk in stream:
            seen.append(chunk.index)
            if chunk.index == 1:
                stream.pause()
        with pytest.raises(StateError, match="resume"):
            stream.step()
        stream.resume()
        assert stream.step().index == 2

    assert seen == [0, 1]


def test_take_cuts_the_last_chunk(student: Student, picture: Frames) -> None:
    with Stream(student) as stream:
        stream.start(picture)
        counts = [len(c.frames) for c in stream.take(seconds=1.0)]

    assert counts == [9, 7]


STAGES = ["_begin", "_denoise", "generate", "_decode", "frames", "_clean_pass", "commit"]
"""Parts of a chunk in the torch engine, and the engine's own verbs."""


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("index", [0, 1, 4])
def test_a_failed_step_changes_nothing(
    student: Student, picture: Frames, stage: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(fail: bool) -> list[Frames]:
        with Stream(student) as stream:
            stream.start(picture, "a cat", Tracks.grid(4, 4))
            made = chunks(stream, index)
            stream.set_tracks(moved())
            stream.set_prompt("dog", recache=True)
            if fail:
                with monkeypatch.context() as patch:
                    patch.setattr(stream._engine, stage, _failing(getattr(stream._engine, stage), stage))
                    with pytest.raises(OSError, match="injected"):
                        stream.step()
            return made + chunks(stream, 4)

    assert_same(run(fail=True), run(fail=False))


def _failing(original: Callable[..., object], stage: str) -> Callable[..., object]:
    """Does the stage's work, then fails: the worst moment. `commit` fails before it adopts anything."""

    def stage_that_fails(*args: object) -> object:
        if stage != "commit":
            original(*args)
        raise OSError("injected")

    return stage_that_fails


@pytest.mark.parametrize("after", [1, 4])
def test_a_restored_stream_goes_on_bit_for_bit(student: Student, picture: Frames, after: int, tmp_path: Path) -> None:
    with Stream(student, seed=5) as stream:
        stream.start(picture, "a cat", moved())
        chunks(stream, after)
        stream.snapshot(tmp_path / "stream.safetensors")
        undisturbed = chunks(stream, 3)
    with Stream(student, seed=99) as resumed:
        resumed.restore(tmp_path / "stream.safetensors")
        assert_same(undisturbed, chunks(resumed, 3))


def test_a_snapshot_keeps_a_replaced_sink_and_later_tracks(student: Student, picture: Frames, tmp_path: Path) -> None:
    with Stream(student) as stream:
        stream.start(picture, "a cat", Tracks.grid(4, 4))
        chunks(stream, 4)
        stream.set_prompt("snow", replace_sink=True)
        stream.set_tracks(moved())
        chunks(stream, 1)
        stream.snapshot(tmp_path / "s.safetensors")
        undisturbed = chunks(stream, 3)
        stream.restore(tmp_path / "s.safetensors")
        assert_same(undisturbed, chunks(stream, 3))


def test_snapshots_of_other_settings_are_refused(student: Student, picture: Frames, tmp_path: Path) -> None:
    other = tiny_student(context=ContextConfig(window_frames=6))
    with Stream(student) as stream, Stream(other) as wider:
        stream.start(picture)
        chunks(stream, 1)
        stream.snapshot(tmp_path / "s.safetensors")
        with pytest.raises(ConfigError, match="other settings"):
            wider.restore(tmp_path / "s.safetensors")
        (tmp_path / "torn").write_bytes((tmp_path / "s.safetensors").read_bytes()[:999])
        with pytest.raises(ConfigError, match="not a readable snapshot"):
            stream.restore(tmp_path / "torn")
        assert stream.step().index == 1


def test_reset_starts_the_same_stream_again(student: Student, picture: Frames) -> None:
    with Stream(student) as stream:
        stream.start(picture, "a cat", moved())
        first = chunks(stream, 3)
        stream.reset()
        assert_same(first, chunks(stream, 3))


@pytest.mark.parametrize("at", ["start", "later", "never"])
def test_reset_after_restore_starts_what_the_snapshot_holds(
    student: Student, picture: Frames, at: str, tmp_path: Path
) -> None:
    """Tracks in other units and at another rate, an image and a prompt, in a stream that had others."""
    told = Tracks.grid(4, 4, size=(64, 48), fps=10).drag((20, 30), (40, 30), seconds=1.0, radius=20)
    with Stream(student, seed=5) as stream, Stream(student, seed=99) as other:
        stream.start(picture, "a cat", told if at == "start" else None)
        chunks(stream, 2)
        stream.set_prompt("dog night")
        if at == "later":
            stream.set_tracks(told)
        chunks(stream, 1)
        stream.snapshot(tmp_path / "s.safetensors")
        other.start(255 - picture, "snow", moved())
        other.restore(tmp_path / "s.safetensors")
        chunks(other, 1)
        for one in (stream, other):
            one.reset()
        assert_same(chunks(stream, 4), chunks(other, 4))


def test_reset_after_restore_needs_no_tracks(picture: Frames, tmp_path: Path) -> None:
    with Stream(without_tracks()) as stream:
        stream.start(picture, "a cat")
        first = chunks(stream, 2)
        stream.snapshot(tmp_path / "s.safetensors")
        stream.restore(tmp_path / "s.safetensors")
        stream.reset()
        assert_same(first, chunks(stream, 2))


@pytest.mark.parametrize("first", [1, 3])
@pytest.mark.parametrize("rope", ["relative", "absolute"])
def test_other_contexts_stream_too(picture: Frames, first: int, rope: str) -> None:
    context = ContextConfig(sink_frames=1, window_frames=2, first_chunk_frames=first, rope=rope)
    with Stream(tiny_student(context=context)) as stream:
        stream.start(picture, "a cat", moved())
        counts = [len(c.frames) for c in (stream.step() for _ in range(4))]

    assert counts == [4 * first - 3, 12, 12, 12]


def test_a_student_without_image_slot_gets_the_image_as_given_frame(picture: Frames) -> None:
    with Stream(without_tracks()) as stream:
        stream.start(picture, "a cat")
        with_image = [stream.step() for _ in range(2)]
        assert [c.first_rgb_frame for c in with_image] == [1, 13]
        assert [len(c.frames) for c in with_image] == [12, 12]
        first = with_image[0].frames * 1
        stream.start(255 - picture, "a cat")
        assert (stream.step().frames != first).any()


def test_a_pinned_image_stays_in_the_first_chunk(picture: Frames) -> None:
    with Stream(without_tracks(image_input="pin")) as stream:
        stream.start(picture)
        stream.step()
        pinned = stream._engine._x[:, 0]  # type: ignore[attr-defined]
        assert torch.equal(pinned, stream._engine._image_latent[:, 0])  # type: ignore[attr-defined]


def test_a_student_without_track_head_refuses_tracks(picture: Frames) -> None:
    with Stream(without_tracks()) as stream, pytest.raises(ConfigError, match="no track head"):
        stream.start(picture, tracks=moved())


def test_bad_tracks_are_refused_when_set_and_change_nothing(student: Student, picture: Frames) -> None:
    with Stream(student) as stream:
        stream.start(picture, tracks=moved())
        with pytest.raises(TrackShapeError, match="at most 24"):
            stream.set_tracks(Tracks.grid(6, 6))
        with pytest.raises(ConfigError, match="embedding"):
            stream.set_prompt(np.zeros((3, 3), np.float32))
        assert stream.step().control_id == 0


def test_a_closed_stream_says_so(student: Student) -> None:
    stream = Stream(student)
    stream.close()
    stream.close()
    with pytest.raises(StateError, match="closed"):
        stream.step()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_an_absent_device_is_named(student: Student) -> None:
    with pytest.raises(DeviceError, match="cuda"):
        Stream(student, device="cuda")


@pytest.mark.parametrize(("option", "value"), [("engine", "magic"), ("precision", "int3")])
def test_unknown_choices_list_the_known_ones(student: Student, option: str, value: str) -> None:
    with pytest.raises(ConfigError, match="one of"):
        Stream(student, **{option: value})


def test_controls_from_many_threads_never_break_a_step(student: Student, picture: Frames) -> None:
    with Stream(student) as stream:
        stream.start(picture, "a cat", moved())
        stop = threading.Event()

        def wish(number: int) -> None:
            turn = 0
            while not stop.is_set():
                turn += 1
                stream.set_tracks(Tracks.grid(2 + (turn + number) % 3, 4).drag((0.3, 0.3), (0.7, 0.6)))
                stream.set_prompt(["dog", "night", "snow", "cat"][turn % 4])

        threads = [threading.Thread(target=wish, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        try:
            ids = [stream.step().control_id for _ in range(8)]
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    assert ids == sorted(ids)
    assert ids[-1] > 0


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def live_tensor_bytes() -> int:
    gc.collect()
    return sum(o.nbytes for o in gc.get_objects() if issubclass(type(o), torch.Tensor))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads /proc")
def test_memory_stays_constant_over_three_hundred_chunks(picture: Frames) -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:  # what other tests left does not count
        alone.submit(stream_three_hundred_chunks, picture).result()


def stream_three_hundred_chunks(picture: Frames) -> None:
    with Stream(tiny_student()) as stream:
        stream.start(picture, "a cat", moved())
        chunks(stream, 10)
        resident, tensors = resident_bytes(), live_tensor_bytes()
        pointers = stream._engine.cache.k.data_ptr()  # type: ignore[attr-defined]
        for _ in range(290):
            stream.step()

        assert live_tensor_bytes() == tensors
        assert resident_bytes() <= resident * 1.01
        assert stream._engine.cache.k.data_ptr() == pointers  # type: ignore[attr-defined]
