"""What a link's acknowledgements tell of it, on a clock of the tests' own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from ms_infer.serve.wire.grades import BEST, Coder, Grade, Sizes, grades
from ms_infer.serve.wire.link import Link

FPS, CHUNK_SECONDS = 16.0, 0.75
AGE = CHUNK_SECONDS + 0.3
"""Most that a frame may be old when it arrives, apart from the time that light and routers take."""


@dataclass
class Wire:
    """A link of `rate` bytes per second and `delay` seconds each way, and the server's side of it."""

    rate: float
    delay: float
    shows: tuple[str, ...] = ("jpeg", "webp")
    best: float = 20_000.0
    link: Link = field(default_factory=Link)
    now: float = 0.0
    free: float = 0.0
    """When the link has carried what was sent."""
    answers: list[tuple[float, int]] = field(default_factory=list)
    count: int = 0
    ages: list[float] = field(default_factory=list)
    dropped: int = 0
    used: list[Grade] = field(default_factory=list)

    def send(self, size: int) -> float:
        """When it arrives."""
        self.link.sent(size, self.now)
        self.free = max(self.free, self.now) + size / self.rate
        self.count += 1
        self.answers.append((self.free + 2 * self.delay, self.count))
        return self.free + self.delay

    def until(self, now: float) -> None:
        """Time passes, and acknowledgements come."""
        while self.answers and self.answers[0][0] <= now:
            self.now, count = self.answers.pop(0)
            self.link.seen(count, self.now)
            if self.waiting is not None:
                self.offer(self.waiting)
        self.now = now

    waiting: tuple[float, int] | None = None

    def offer(self, frame: tuple[float, int]) -> None:
        """Send the newest frame (when it was shown, and its place in the chunk), or keep it."""
        size = self.coder.fit(self.link.frame_bytes, self.sizes)
        if not self.link.may_send(round(size), self.now):
            self.waiting = frame
            return
        self.waiting = None
        shown, place = frame
        arrives = self.send(round(self.best * self.coder.grade.share))
        self.used.append(self.coder.grade)
        self.ages.append(arrives - shown + place / FPS - self.delay)

    def run(self, seconds: float) -> None:
        self.sizes = Sizes(self.best)
        self.coder = Coder(grades("auto", self.shows, 256 * 256), FPS)
        self.send(1)  # what times the way alone
        self.send(900)  # the hello
        start = self.now
        for index in range(round(seconds * FPS)):
            self.until(start + 1 + index / FPS)
            if index % FPS == 0:
                self.send(150)  # what is told once a second
            self.dropped += self.waiting is not None
            self.offer((self.now, index % 12))


@pytest.mark.parametrize("rate", [10e3, 20e3, 50e3, 200e3])
@pytest.mark.parametrize("delay", [0.001, 0.03, 0.15])
@pytest.mark.parametrize("shows", [("jpeg",), ("jpeg", "webp"), ("jpeg", "webp", "h264")])
def test_frame_is_never_older_than_a_chunk_and_a_little(rate: float, delay: float, shows: tuple[str, ...]) -> None:
    wire = Wire(rate, delay, shows)
    wire.run(30.0)
    assert max(wire.ages) <= AGE
    assert len(wire.ages) + wire.dropped >= 30 * FPS - 1


@pytest.mark.parametrize("rate", [20e3, 50e3])
def test_slow_link_gets_smaller_frames_rather_than_few(rate: float) -> None:
    wire = Wire(rate, 0.03)
    wire.run(30.0)
    assert wire.used[-1] != BEST
    assert len(wire.ages) / 30 >= 5


def test_video_keeps_its_pace_on_a_slow_link() -> None:
    wire = Wire(30e3, 0.03, ("jpeg", "webp", "h264"))
    wire.run(30.0)
    assert wire.used[-1].codec == "h264"
    assert len(wire.ages) / 30 >= 0.9 * FPS


@pytest.mark.parametrize("delay", [0.0005, 0.05, 0.2])
def test_fast_link_gets_every_frame_at_its_best(delay: float) -> None:
    wire = Wire(20e6, delay)
    wire.run(30.0)
    assert set(wire.used) == {BEST}
    assert wire.dropped <= 2 * FPS  # at first, while nothing is known of the link


def draws(wire: Wire, seconds: Callable[[int], float]) -> None:
    """Let the page draw each frame, counted from 0, for so long; it answers nothing meanwhile."""
    send, free, drawn = wire.send, [0.0], itertools.count()

    def answered_late(size: int) -> float:
        arrives = send(size)
        _, number = wire.answers[-1]
        answer = max(arrives, free[0])
        free[0] = answer + (seconds(next(drawn)) if size > 1000 else 0.0)
        wire.answers[-1] = (answer, number)
        return arrives

    wire.send = answered_late  # type: ignore[method-assign]


def test_busy_page_on_a_fast_link_is_sent_fewer_frames_and_no_worse_ones() -> None:
    wire = Wire(20e6, 0.001, best=9000.0)
    draws(wire, lambda _: 0.12)
    wire.run(60.0)
    late = wire.used[len(wire.used) // 3 :]
    assert late.count(BEST) > 0.9 * len(late)
    assert wire.dropped > 0


def test_one_slow_first_frame_does_not_make_the_link_slow() -> None:
    wire = Wire(20e6, 0.001, best=9000.0)
    draws(wire, lambda number: 0.0 if number else 1.5)
    wire.run(30.0)
    assert set(wire.used[12:]) == {BEST}  # as soon as there is more than a few answers to judge by


def test_silent_client_gets_no_frame() -> None:
    link = Link()
    link.sent(900, 0.0)
    assert not link.may_send(100, 1000.0)
    link.seen(1, 1000.0)
    assert link.may_send(100, 1000.0)


def test_claims_that_cannot_be_true_change_nothing() -> None:
    link = Link()
    link.sent(900, 0.0)
    for count in (0, 2, 1 << 31, 0xFFFFFFFF):
        link.seen(count, 0.5)
    assert not link.may_send(100, 1.0)
    assert (link.rate, link.delay) == (math.inf, math.inf)


def test_count_goes_on_beyond_32_bits() -> None:
    link = Link()
    link._seen = 0xFFFFFFFF
    link.sent(900, 0.0)
    link.seen(0, 0.1)
    assert link.may_send(100, 0.2)
    assert link.delay == pytest.approx(0.1)


def test_stalled_link_stops_what_follows() -> None:
    wire = Wire(20e6, 0.01)
    wire.run(5.0)
    wire.until(wire.now + 1)
    for index in range(100):
        now = wire.now + index / FPS
        if wire.link.may_send(1000, now):
            wire.link.sent(1000, now)
    assert len(wire.link._way) <= 5  # what left within the first 0.2 seconds
