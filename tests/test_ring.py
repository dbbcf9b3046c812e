"""Slots in a row for every context: what a chunk sees is what the rule of sink and ring says, whatever has moved."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_infer.config import ContextConfig
from ms_infer.engines.ring import Ring

CHUNKS = 40


def context_of(chunk: int, sink: int, window: int, first: int) -> ContextConfig:
    return ContextConfig(
        chunk_frames=chunk, sink_frames=sink, window_frames=window, first_chunk_frames=min(first, chunk)
    )


contexts = st.builds(context_of, st.integers(1, 5), st.integers(0, 6), st.integers(0, 11), st.integers(1, 5))


class Cache:
    """Slots and the latent frames in them, written by a ring as an engine would."""

    def __init__(self, context: ContextConfig, *, in_a_row: bool) -> None:
        self.context, self.ring = context, Ring(context, in_a_row=in_a_row)
        self.slots: list[int | None] = [None] * context.cache_frames
        self.moves = 0

    def write(self, start: int, frames: int, *, room: bool = True) -> list[int]:
        move = self.ring.make_room(start) if room else None
        if move is not None:
            assert move.target < move.source, "rows go down, so copies in order are safe"
            self.slots[move.target : move.target + move.slots] = self.slots[move.source : move.source + move.slots]
            self.moves += 1
        slots = self.ring.slots(start)
        for frame, slot in enumerate(slots, start):
            self.slots[slot] = frame if frame < start + frames else None
        return slots

    def seen(self, end: int) -> list[int | None]:
        place = self.context.place(end, 0, sink_start=self.ring.sink_start)
        return self.slots[: place.valid_frames]


def expected(context: ContextConfig, end: int, sink_start: int = 0) -> set[int]:
    sink = range(sink_start, min(end, sink_start + context.sink_frames))
    return {*sink, *range(max(sink_start, end - context.ring_frames), end)}


def play(cache: Cache, before: int) -> Iterator[int]:
    """Write chunk after chunk; gives the latent frames made so far."""
    if before:
        cache.write(0, 1)
    for index in range(CHUNKS):
        span = cache.context.span(index, before)
        slots = cache.write(span.start, span.frames)
        assert len(set(slots)) == len(slots)
        yield span.start + span.frames


@settings(max_examples=300, deadline=None)
@given(contexts, st.integers(0, 1))
def test_every_chunk_lies_in_a_row_and_sees_its_sink_and_window(context: ContextConfig, before: int) -> None:
    cache = Cache(context, in_a_row=True)
    for end in play(cache, before):
        first = cache.ring.slots(max(0, end - context.chunk_frames))
        assert first == list(range(first[0], first[0] + context.chunk_frames)) or end < context.chunk_frames
        assert sorted(cache.seen(end)) == sorted(expected(context, end))  # type: ignore[type-var]


@settings(max_examples=200, deadline=None)
@given(contexts, st.integers(0, 1))
def test_slots_of_single_frames_never_move(context: ContextConfig, before: int) -> None:
    cache = Cache(context, in_a_row=False)
    for end in play(cache, before):
        assert sorted(cache.seen(end)) == sorted(expected(context, end))  # type: ignore[type-var]
    assert cache.moves == 0


@pytest.mark.parametrize(
    ("context", "before", "moves"),
    [
        (ContextConfig(), 0, 0),
        (ContextConfig(), 1, 1),  # an image before the first chunk shifts the ring by one, once
        (ContextConfig(sink_frames=3, window_frames=6), 1, 1),
        (ContextConfig(sink_frames=1, window_frames=2), 0, 19),  # every second chunk
    ],
)
def test_the_window_moves_as_rarely_as_it_can(context: ContextConfig, before: int, moves: int) -> None:
    cache = Cache(context, in_a_row=True)
    for _ in play(cache, before):
        pass
    assert cache.moves == moves


@settings(max_examples=200, deadline=None)
@given(contexts, st.integers(0, 1), st.integers(0, CHUNKS - 1), st.booleans())
def test_an_unrolled_ring_goes_on(context: ContextConfig, before: int, switch: int, replaced: bool) -> None:
    """Every slot is written again in the order of time, as a re-encoding does, and the stream goes on behind it."""
    cache, sink_start = Cache(context, in_a_row=True), 0
    for index, end in enumerate(play(cache, before)):
        if index == switch:
            start = max(0, end - context.cache_frames)
            if replaced and start:
                cache.ring.reset(start)
                sink_start = start
            cache.ring.unroll(end)
            for frame in expected(context, end, sink_start):
                cache.slots[cache.ring.slots(frame)[0]] = frame
        assert sorted(cache.seen(end)) == sorted(expected(context, end, sink_start))  # type: ignore[type-var]


@settings(max_examples=200, deadline=None)
@given(contexts, st.integers(0, 1))
def test_a_chunk_that_is_made_again_moves_nothing(context: ContextConfig, before: int) -> None:
    cache = Cache(context, in_a_row=True)
    for index in range(CHUNKS):
        span = context.span(index, before)
        cache.write(span.start, span.frames)
        assert cache.ring.make_room(span.start) is None


@settings(max_examples=200, deadline=None)
@given(contexts, st.integers(0, 1))
def test_what_is_kept_is_what_the_next_chunk_does_not_write(context: ContextConfig, before: int) -> None:
    cache = Cache(context, in_a_row=True)
    for end in play(cache, before):
        sink, window = context.kept_slots(end, 0, cache.ring.start)
        kept = [cache.slots[slot] for slot in (*sink, *window)]
        sink_end = min(end, context.sink_frames)
        assert kept == [*range(sink_end), *range(max(sink_end, end - context.window_frames), end)]
