"""Where one more session goes: pure, so that a server with several engines and a simulation share it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple


class Seats(NamedTuple):
    """One engine."""

    used: int
    """Sessions on it, those counted whose stream is still being opened: a seat is reserved before it is taken."""
    capacity: float
    """Sessions that it feeds at the rate that is promised; 0 while it takes none."""


def capacity(chunk_seconds: float, chunk_frames: int, min_fps: float) -> float:
    """Sessions that an engine feeds with `min_fps` RGB frames per second, by the time of a chunk; one always."""
    return max(1, chunk_frames // (chunk_seconds * min_fps)) if chunk_seconds else math.inf


def admits(engines: Sequence[Seats], *, waiting: int, spare: float) -> bool:
    """Whether a new session may sit down: nobody waits who lost an engine, and a share of all seats stays free."""
    free = sum(max(engine.capacity - engine.used, 0) for engine in engines)
    return not waiting and (math.isinf(free) or free > spare * sum(engine.capacity for engine in engines))


def best(engines: Sequence[Seats]) -> int | None:
    """The engine with the smallest share of its seats used; None when no seat is free."""
    free = [index for index, engine in enumerate(engines) if engine.used < engine.capacity]
    return min(
        free, key=lambda index: (engines[index].used / engines[index].capacity, engines[index].used), default=None
    )
