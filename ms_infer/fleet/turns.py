"""Work in turns, in one thread: what is most urgent first."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
RESIDENT, GUEST = 0, 1  # chunks that are shown now come before restores, replays and states


class Turns:
    """One thread of work, the most urgent first, in the order of its coming. Event loop only."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "ms-fleet-engine")
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._number, self._busy = itertools.count(), False

    async def run(self, rank: int, work: Callable[[], Result]) -> Result:
        """Wait for its turn, and do it in the thread."""
        loop = asyncio.get_running_loop()
        if self._busy:
            turn = loop.create_future()
            heapq.heappush(self._waiting, (rank, next(self._number), turn))
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._next()
                raise
        self._busy = True
        doing = loop.run_in_executor(self._thread, work)
        doing.add_done_callback(lambda _: self._next())  # whoever asked may have gone; the thread works on
        return await asyncio.shield(doing)

    def at_once(self, work: Callable[[], Result]) -> Result:
        """Do it in the thread, and wait for it: before anything else runs there."""
        return self._thread.submit(work).result()

    def _next(self) -> None:
        self._busy = False
        while self._waiting and not self._busy:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                self._busy = True
                turn.set_result(None)
