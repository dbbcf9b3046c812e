"""At which rate the pictures of a video keep their times, and which of them each RGB frame shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple, TypeVar

FASTEST = Fraction(60)  # rate given to pictures at uneven times, at most: their times are then rounded to 1/60 s
USUAL = Fraction(24)  # of files that say nothing about time
UNLIKELY = 1000  # a stated rate above says nothing about time
NEAR = Fraction(1, 50)  # of an RGB frame: a time as close to a multiple as that is one

Picture = TypeVar("Picture")


class Pace(NamedTuple):
    """Which pictures become RGB frames."""

    fps: float
    early: float
    """Seconds by which a picture may begin after the time of the RGB frame that shows it."""
    most: int
    """Most RGB frames."""
    begin: float | None = None
    """Time of the first RGB frame; None: that of the first picture."""


def steady_rate(
    ticks: Sequence[int], time_base: Fraction, stated: Sequence[Fraction | None]
) -> tuple[Fraction, Fraction]:
    """RGB frames per second at which pictures at `ticks` * `time_base` seconds keep their times, and when they begin.

    `stated` is what the file says, its mean rate first. In this order: the mean when pictures come at its steps, one at
    each; a stated rate of whose steps all times are multiples; the greatest common step; the mean when each step has
    one picture all the same; the shortest step. Rates other than the mean are at most 60.
    """
    known = [rate for rate in stated if rate and rate <= UNLIKELY]
    mean = known[0] if known else USUAL
    times = [tick * time_base for tick in sorted(set(ticks))]
    begin = times[0] if times else Fraction(0)
    late = [(time - begin) * mean - index for index, time in enumerate(times)]
    if len(times) < 2 or max(map(abs, late)) <= _near(mean, time_base):
        return mean, begin
    for rate in known:
        if rate <= FASTEST and all(abs(at - round(at)) <= _near(rate, time_base) for at in _in_steps(times, rate)):
            return rate, begin
    steps = [round((after - before) / time_base) for before, after in pairwise(times)]
    common = 1 / (math.gcd(*steps) * time_base)
    if common <= FASTEST:
        return common, begin
    if max(late) - min(late) < 1:
        return mean, begin + (max(late) + min(late)) / 2 / mean
    return min(1 / (min(steps) * time_base), FASTEST), begin


def paced(timed: Iterable[tuple[float, float, Picture]], pace: Pace) -> Iterator[Picture]:
    """For k = 0, 1, ... the picture on show at begin + k / fps; `timed` gives begin, duration (s) and the picture."""
    shown, index, end, origin = None, 0, 0.0, pace.begin
    for begin, duration, picture in timed:
        origin = begin if origin is None else origin
        while shown is not None and index < pace.most and index / pace.fps < begin - origin - pace.early:
            yield shown
            index += 1
        if index >= pace.most:
            return
        shown, end = picture, begin - origin + duration
    while shown is not None and index < pace.most and (index == 0 or index / pace.fps < end - pace.early):
        yield shown
        index += 1


def _in_steps(times: Sequence[Fraction], rate: Fraction) -> Iterator[Fraction]:
    return ((time - times[0]) * rate for time in times)


def _near(rate: Fraction, time_base: Fraction) -> Fraction:
    """In steps of `rate`: what still counts as a multiple, given times rounded to ticks; none for ticks too coarse."""
    rounding = time_base * rate * Fraction(51, 100)
    return max(NEAR, rounding) if rounding < Fraction(1, 4) else NEAR
