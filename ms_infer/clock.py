"""Where the time of a chunk goes."""

from __future__ import annotations

import time


class Clock:
    """Wall-clock milliseconds between laps."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name] = (now - self._last) * 1e3
        self._last = now

    def total(self) -> dict[str, float]:
        return {**self._laps, "chunk": (time.perf_counter() - self._start) * 1e3}
