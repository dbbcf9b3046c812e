"""How far an opening is, told to whoever waits for it."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], object]
"""Called with what is being done and how much of the opening is done, 0..1. What it raises ends the opening."""


def silent(_doing: str, _done: float) -> None:
    """Tells nobody."""


def part_of(progress: Progress, begin: float, end: float) -> Progress:
    """For one part of the work, whose 0..1 is begin..end of the whole."""
    return lambda doing, done: progress(doing, begin + (end - begin) * done)
