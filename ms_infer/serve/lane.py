"""One engine with the thread that runs it: the streams that it opens, how many it can feed, and one that is spare."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from ms_infer.config import StreamConfig
from ms_infer.serve.making import StreamLike
from ms_infer.serve.place import capacity
from ms_infer.serve.worker import Worker

P = ParamSpec("P")
R = TypeVar("R")
OpenStream = Callable[[], StreamLike]
WARM_UP_CHUNKS = 3


class Lane:
    """Sessions of one lane take turns; lanes do not wait for each other. Event loop only."""

    def __init__(self, open_stream: OpenStream) -> None:
        self.open_stream, self.worker = open_stream, Worker()
        self.ready = False
        self.used = 0
        """Sessions that have a stream of it, or wait for one that is being opened."""
        self.config: StreamConfig
        """Of its streams, once it is ready."""
        self._spare: StreamLike | None = None
        self._returns: set[asyncio.Future[None]] = set()

    async def warm_up(self) -> None:
        """Open a stream and make a few chunks: the first user waits for nothing, and admission knows a time."""
        self.worker.begin()
        self._spare = await self.call(self._warm_stream)
        self.config = self._spare.config
        self.ready = True

    def _warm_stream(self) -> StreamLike:
        stream = self.open_stream()
        stream.start()
        stream.step()
        for _ in range(WARM_UP_CHUNKS):
            self.worker.measure(stream.step)
        return stream

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of its pictures."""
        return self.config.height, self.config.width

    def capacity(self, min_fps: float) -> float:
        """Sessions that it can feed with so many RGB frames per second; one always."""
        return capacity(self.worker.chunk_seconds, self.config.context.span(1).rgb_frames, min_fps)

    async def take(self) -> StreamLike:
        """A stream for one more session; `used` is the caller's to count."""
        stream, self._spare = self._spare, None
        if stream is not None:
            return stream
        opening = asyncio.ensure_future(self.call(self.open_stream))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:  # whoever wanted it has gone; the thread opens it all the same
            opening.add_done_callback(self._opened_for_nobody)
            raise

    def _opened_for_nobody(self, opening: asyncio.Future[StreamLike]) -> None:
        if not opening.cancelled() and opening.exception() is None:
            self._returns.add(task := asyncio.ensure_future(self.give(opening.result())))
            task.add_done_callback(self._returns.discard)

    async def give(self, stream: StreamLike) -> None:
        """A session's stream comes back: kept for the next one when there is no spare."""
        if self._spare is None and self.ready:
            self._spare = stream
        else:
            await self.call(stream.close)

    async def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run between two chunks, in the engine's thread."""
        return await asyncio.to_thread(self.worker.call, lambda: function(*args, **kwargs))

    async def close(self) -> None:
        """End the thread and free the spare stream."""
        self.ready = False
        await asyncio.to_thread(self.worker.stop)
        if self._spare is not None:
            self._spare.close()
