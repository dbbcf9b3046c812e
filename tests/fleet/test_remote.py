"""Streams whose engine is elsewhere, over engines of this process: whatever dies, no frame changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ms_infer.errors import ConfigError, DeviceError
from ms_infer.fleet.config import SMALL_BYTES, Keep
from ms_infer.fleet.remote import RemoteStream
from ms_infer.fleet.seats import EngineSeats
from ms_infer.state import StreamState
from ms_infer.tracks import Tracks
from tests.fleet.here import Here
from tests.fleet.stand_in import StandIn

Frames = NDArray[np.uint8]


@pytest.fixture
def fleet() -> Iterator[Here]:
    here = Here()
    yield here
    here.close()


def asked(stream: Any, chunk: int) -> None:
    """What a session asks before a chunk: tracks each time, sometimes a prompt."""
    points = np.full((1, stream.next_rgb_frames, 2), chunk, np.float32)
    stream.set_tracks(Tracks(points, np.ones(points.shape[:2], np.bool_), np.arange(1)))
    if chunk % 3 == 1:
        stream.set_prompt(f"prompt {chunk}", over=1 + chunk % 3, way="slerp")


def play(stream: Any, chunks: range, before: Callable[[int], None] = lambda chunk: None) -> list[Frames]:
    made = []
    for chunk in chunks:
        asked(stream, chunk)
        before(chunk)
        made.append(stream.step().frames)
    return made


def alone(chunks: int, seed: int = 7) -> list[Frames]:
    """The same on one engine that nothing happens to."""
    stream = StandIn(seconds=0.0, size=1000)
    stream.start(None, "a", seed=seed)
    return play(stream, range(chunks))


def same(made: list[Frames], expected: list[Frames]) -> bool:
    return len(made) == len(expected) and all((a == b).all() for a, b in zip(made, expected, strict=True))


@pytest.mark.parametrize("when", range(7))
def test_engine_that_dies_between_chunks_changes_no_frame(fleet: Here, when: int) -> None:
    stream = fleet.stream()
    stream.start(None, "a", seed=7)

    def kill(chunk: int) -> None:
        fleet.engines["e0"].alive &= chunk != when

    assert same(play(stream, range(9), kill), alone(9))
    assert stream.moved == 1
    assert stream.replayed == when % 4  # since the newest kept state


@pytest.mark.parametrize("when", range(1, 6))
def test_engine_that_dies_in_the_middle_of_a_chunk_changes_no_frame(fleet: Here, when: int) -> None:
    stream = fleet.stream()
    stream.start(None, "a", seed=7)
    fleet.engines["e0"].dies_in = when
    assert same(play(stream, range(9)), alone(9))
    assert stream.moved == 1


def test_state_of_an_earlier_start_is_never_taken(fleet: Here) -> None:
    stream = fleet.stream()
    stream.start(None, "a", seed=1)
    play(stream, range(6))
    stream.start(None, "a", seed=7)
    first = play(stream, range(2))
    fleet.engines["e0"].alive = False
    assert same(first + play(stream, range(2, 9)), alone(9))


def test_what_an_engine_hands_over_is_not_made_again(fleet: Here) -> None:
    stream = fleet.stream()
    stream.start(None, "a", seed=7)
    made = play(stream, range(6))
    fleet.leave("e0")
    stream.relocate()
    assert stream.engine_id == "e1"
    assert same(made + play(stream, range(6, 9)), alone(9))
    assert stream.replayed == 0


def test_several_engines_may_die_one_after_the_other() -> None:
    fleet = Here(engines=6)
    stream = fleet.stream()
    stream.start(None, "a", seed=7)

    def kill(chunk: int) -> None:
        if chunk and chunk % 2 == 0:
            fleet.engines[stream.engine_id].alive = False

    assert same(play(stream, range(11), kill), alone(11))
    assert stream.moved == 5
    fleet.close()


def test_keeper_that_dies_costs_nothing_until_an_engine_dies_too(fleet: Here) -> None:
    stream = fleet.stream()
    stream.start(None, "a", seed=7)
    made = play(stream, range(5))
    before = fleet.keeper.life
    assert stream.kept_by == before
    fleet.begin_keeper()
    fleet.report()
    assert stream.needs_state
    assert stream.kept_by != fleet.keeper.life  # unprotected, and known to be
    made += play(stream, range(5, 8))
    assert stream.kept_by == fleet.keeper.life
    fleet.engines["e0"].alive = False
    assert same(made + play(stream, range(8, 11)), alone(11))


def test_without_keeper_and_engine_the_stream_says_that_it_is_lost(fleet: Here) -> None:
    stream = fleet.stream()
    stream.start(None, "a", seed=7)
    play(stream, range(6))
    fleet.begin_keeper()
    fleet.report()
    fleet.engines["e0"].alive = False
    with pytest.raises(DeviceError, match="together with the newest state"):
        stream.step()
    stream.start(None, "a", seed=7)
    assert same(play(stream, range(2)), alone(2))


def test_state_of_other_weights_is_refused(fleet: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = fleet.stream()
    stream.start(None, "a", seed=7)
    play(stream, range(5))
    other = fleet.engines["e1"].seats._ahead()
    monkeypatch.setattr(other, "digest", "1" * 64)
    fleet.engines["e0"].alive = False
    with pytest.raises(ConfigError, match="other weights"):
        stream.step()


def test_chunk_that_failed_is_asked_for_again(fleet: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = fleet.stream()
    stream.start(None, "a", seed=7)
    made = play(stream, range(2))
    broken = fleet.engines["e0"].seats._streams["s"][0]
    with monkeypatch.context() as patch:
        patch.setattr(broken, "step", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stream.step()
    assert stream.place == (2, 2)
    assert same(made + play(stream, range(2, 3)), alone(3))


def test_fork_stands_where_the_stream_stands(fleet: Here) -> None:
    stream, fork = fleet.stream("s"), fleet.stream("t")
    stream.start(None, "a", seed=7)
    play(stream, range(5))
    fork.load_state(stream.state())
    assert fork.next_rgb_frames == stream.next_rgb_frames
    fleet.engines[fork.engine_id].alive = False
    fork_made = play(fork, range(5, 10))
    assert same(fork_made, alone(10)[5:])


def test_stream_without_its_engine_waits_for_a_seat_and_comes_first(fleet: Here) -> None:
    streams = [fleet.stream(name) for name in "abcd"]
    for stream in streams:
        stream.start(None, "a", seed=7)
        play(stream, range(5))
    with pytest.raises(AssertionError, match="full"):
        fleet.stream("e")
    lost = next(one for one in streams if one.engine_id == "e0")
    other = next(one for one in streams if one.engine_id == "e1")
    fleet.engines["e0"].alive = False
    done: list[list[Frames]] = []
    waiting = in_thread(lambda: done.append(play(lost, range(5, 7))))
    while "e0" in fleet.keeper.places.engines:
        time.sleep(0.01)
    with pytest.raises(AssertionError, match="full"):
        fleet.stream("f")
    fleet.run(fleet.keeper.free(other.seat))
    waiting.join(30)
    assert same(done[0], alone(7)[5:])


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_seats_of_one_engine_are_apart(fleet: Here) -> None:
    streams = [fleet.stream(name) for name in "abcd"]
    for number, stream in enumerate(streams):
        stream.start(None, "a", seed=number)
    made: list[list[Frames]] = [[] for _ in streams]
    for chunk in range(6):
        for number, stream in enumerate(streams):
            made[number] += play(stream, range(chunk, chunk + 1))
    assert all(same(made[number], alone(6, seed=number)) for number in range(4))


def test_embedding_comes_from_any_engine(fleet: Here) -> None:
    stream: RemoteStream = fleet.stream()
    assert stream.embed("a").shape == (16, 128)


def small(keep: Keep, nbytes: int, near: Callable[[Any], StreamState] | None) -> str:
    """Which state is kept of a stream whose state has so many bytes."""

    class Kind(StandIn):
        pass

    if near is not None:
        Kind.near_state = near  # type: ignore[attr-defined]
    seats = EngineSeats(lambda: Kind(seconds=0.0, size=nbytes), keep)
    seats.warm()
    return "near" if seats._near else "exact"


def without_latents(stream: Any) -> StreamState:
    raise ConfigError("the openvino engine does not keep the latents of its sink; save the exact state()")


def test_small_states_are_kept_exactly_and_large_ones_near_where_the_engine_can() -> None:
    assert small("auto", 1000, StandIn.state) == "exact"
    assert small("auto", SMALL_BYTES, StandIn.state) == "near"
    assert small("auto", SMALL_BYTES, without_latents) == "exact"
    assert small("auto", SMALL_BYTES, None) == "exact"
    assert small("near", 1000, StandIn.state) == "near"
    assert small("exact", SMALL_BYTES, StandIn.state) == "exact"


@pytest.mark.parametrize("near", [without_latents, None])
def test_near_states_that_an_engine_does_not_have_are_refused_before_anybody_sits(near: Any) -> None:
    with pytest.raises(ConfigError, match=r"--keep near: .*; start the fleet with --keep exact"):
        small("near", 1000, near)
