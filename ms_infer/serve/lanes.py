"""Who has an engine for one more session: the lanes of this server, or whatever else stands behind this seam."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from ms_infer.config import StreamConfig
from ms_infer.serve.lane import Lane
from ms_infer.serve.place import Seats, best
from ms_infer.serve.settings import ServeConfig


class Lanes(Protocol):
    """Lends lanes to sessions. Event loop only."""

    config: StreamConfig
    """Of the streams, once they are warm."""

    async def warm_up(self) -> None:
        """Get ready to lend; raises what keeps it from that."""

    async def admit(self, *, first: bool) -> Lane | None:
        """A lane with a seat reserved on it; None when that would slow others below the rate that is promised.

        first: for a session that lost its server, which comes before new ones.
        """

    async def leave(self, lane: Lane) -> None:
        """Give a seat back."""

    @property
    def used(self) -> int:
        """Seats that are lent."""

    @property
    def capacity(self) -> float:
        """Seats in all."""

    async def close(self) -> None:
        """End what was begun."""


class OwnLanes:
    """Engines of this process, each with a thread of its own."""

    config: StreamConfig

    def __init__(self, lanes: Sequence[Lane], settings: ServeConfig) -> None:
        self._lanes, self._settings = lanes, settings

    def __getitem__(self, index: int) -> Lane:
        return self._lanes[index]

    async def warm_up(self) -> None:
        await asyncio.gather(*(lane.warm_up() for lane in self._lanes))
        self.config = self._lanes[0].config

    async def admit(self, *, first: bool) -> Lane | None:
        rate = self._settings.min_fps
        free = best([Seats(lane.used, lane.capacity(rate)) for lane in self._lanes])
        if free is None or self.used >= self._settings.max_sessions:
            return None
        self._lanes[free].used += 1
        return self._lanes[free]

    async def leave(self, lane: Lane) -> None:
        lane.used -= 1

    @property
    def used(self) -> int:
        return sum(lane.used for lane in self._lanes)

    @property
    def capacity(self) -> float:
        rate = self._settings.min_fps
        return min(sum(lane.capacity(rate) for lane in self._lanes), self._settings.max_sessions)

    async def close(self) -> None:
        await asyncio.gather(*(lane.close() for lane in self._lanes))
