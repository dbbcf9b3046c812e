"""Controls from other threads: none is lost, their ids only grow, and set_tracks never fails beside a step."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ms_infer import ConfigError, Stream, Tracks
from ms_infer.chunk import Chunk
from ms_infer.tracks.player import TrackPlayer
from tests.quick import HEIGHT, WIDTH, QuickEngine

START = 960
"""Number of the point that a start plays."""


def point(number: int) -> Tracks:
    """One still point whose place tells the number (0..960)."""
    place = (number % 31 + 0.0, number // 31 % 31 + 0.0)
    return Tracks(np.array([[place]]), ids=[number], size=(HEIGHT, WIDTH))


def played(chunk: Chunk) -> tuple[int, ...]:
    """Place of the point that the chunk plays, (0, 0) without one."""
    return tuple(int(n) for n in chunk.frames[0, 0, 0, :2])


def place_of(number: int) -> tuple[int, ...]:
    return number % 31, number // 31 % 31


@contextmanager
def beside(work: Callable[[threading.Event], object]) -> Iterator[None]:
    """Runs work(stop) in another thread that takes turns very often; its errors are raised here."""
    stop, errors, interval = threading.Event(), [], sys.getswitchinterval()

    def run() -> None:
        try:
            work(stop)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    sys.setswitchinterval(1e-5)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    if errors:
        raise errors[0]


def numbers() -> Iterator[int]:
    """For ever those of all points that are neither at (0, 0) nor a start's."""
    while True:
        yield from range(1, START)


def test_no_control_is_lost_beside_starts_and_steps() -> None:
    """A chunk plays what its control_id says: a control of the other thread, or else the start's."""
    given: dict[int, int] = {}
    made: list[tuple[int, tuple[int, ...]]] = []
    with Stream(QuickEngine()) as stream:

        def wish(stop: threading.Event) -> None:
            for number in numbers():
                given[stream.set_tracks(point(number))] = number
                if stop.is_set():
                    return

        with beside(wish):
            for _ in range(600):
                stream.start(tracks=point(START))
                made += [(chunk.control_id, played(chunk)) for chunk in (stream.step(), stream.step())]

    wrong = [(control, seen) for control, seen in made if seen != place_of(given.get(control, START))]
    assert not wrong, f"{len(wrong)} of {len(made)} chunks play something else, first {wrong[0]}"
    assert {control for control, _ in made} & given.keys(), "the threads took turns"


def test_set_tracks_beside_starts_and_steps_never_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Players are slow to make here, so that the other thread often comes between any two looks at the stream."""
    quickly = TrackPlayer.__init__

    def slowly(self: TrackPlayer, *arguments: Any, **options: Any) -> None:
        time.sleep(1e-4)
        quickly(self, *arguments, **options)

    monkeypatch.setattr(TrackPlayer, "__init__", slowly)
    count, errors = 0, []
    with Stream(QuickEngine()) as stream:

        def wish(stop: threading.Event) -> None:
            nonlocal count
            for number in numbers():
                count += 1
                try:
                    stream.set_tracks(point(number))
                except ConfigError as error:
                    errors.append(error)
                if stop.is_set():
                    return

        with beside(wish):
            for _ in range(300):
                stream.start()
                ids = [stream.step().control_id for _ in range(3)]
                assert ids == sorted(ids)

    assert not errors, f"{len(errors)} of {count} calls failed, first: {errors[0]}"
    assert count


@pytest.mark.parametrize("again", ["start", "reset", "restore"])
def test_whoever_waits_for_a_control_never_waits_in_vain(again: str, tmp_path: Path) -> None:
    """Another thread waits for a chunk with each of its controls while the stream begins again and again."""
    changed, newest = threading.Condition(), 0
    with Stream(QuickEngine()) as stream:
        stream.start()
        stream.snapshot(tmp_path / "s.safetensors")
        begin: Callable[[], object] = {
            "start": stream.start,
            "reset": stream.reset,
            "restore": partial(stream.restore, tmp_path / "s.safetensors"),
        }[again]
        done = threading.Event()

        def wait(stop: threading.Event) -> None:
            try:
                for number in range(1, 100):
                    wanted = stream.set_tracks(point(number))
                    with changed:
                        assert changed.wait_for(lambda wanted=wanted: newest >= wanted, timeout=10), wanted
            finally:
                done.set()

        with beside(wait):
            while not done.is_set():
                begin()
                for _ in range(2):
                    with changed:
                        newest = stream.step().control_id
                        changed.notify_all()


def test_a_control_set_before_the_first_step_is_played() -> None:
    with Stream(QuickEngine()) as stream:
        number = stream.set_tracks(point(40))
        prompt = stream.set_prompt("7")
        chunk = stream.step()

    assert played(chunk) == place_of(40)
    assert chunk.frames[0, 0, 0, 2] == 7
    assert (number, prompt, chunk.control_id) == (1, 2, 2)


def test_a_control_set_while_the_stream_starts_is_played() -> None:
    engine = QuickEngine()
    with Stream(engine) as stream:
        stream.start()
        engine.when_text_is_set = lambda: stream.set_tracks(point(40))
        stream.start(tracks=point(50))
        engine.when_text_is_set = lambda: None
        chunk = stream.step()

    assert played(chunk) == place_of(40)


def test_a_start_replaces_what_was_set_before_it() -> None:
    with Stream(QuickEngine()) as stream:
        before = stream.set_tracks(point(40))
        stream.start(tracks=point(50))
        chunk = stream.step()

    assert played(chunk) == place_of(50)
    assert chunk.control_id > before


@pytest.mark.parametrize("again", ["start", "reset", "restore"])
def test_ids_only_grow(again: str, tmp_path: Path) -> None:
    with Stream(QuickEngine()) as stream:
        stream.start()
        stream.snapshot(tmp_path / "s.safetensors")
        ids = [stream.set_tracks(point(n)) for n in (1, 2, 3)]
        ids.append(stream.step().control_id)
        restore = partial(stream.restore, tmp_path / "s.safetensors")
        {"start": stream.start, "reset": stream.reset, "restore": restore}[again]()
        ids.append(stream.step().control_id)
        ids.append(stream.set_tracks(None))

    assert ids == sorted(ids)
    assert ids[3] < ids[4] < ids[5]
