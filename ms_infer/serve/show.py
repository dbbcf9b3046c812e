"""Frames out: a chunk's frames leave at an even pace, slower when the engine cannot keep up."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms_infer.serve.recording import Recording
from ms_infer.serve.shared import Context
from ms_infer.serve.wire.clients import Client
from ms_infer.serve.wire.grades import Shown, Sizes
from ms_infer.serve.worker import Worker

LATE = 0.005  # seconds: a frame that is later counts as late and moves the pace


@dataclass(frozen=True)
class Made:
    """A chunk on its way to the clients."""

    epoch: int
    chunk: int
    first_frame: int
    frames: NDArray[np.uint8]
    """`[T, H, W, 3]`."""
    ack: bytes
    slim: bytes
    """The ack without resting points."""
    control: int
    received: float
    """When the newest control it was made with came in, 0 when it is not the first chunk with it."""
    made_ms: float


class Show:
    """Plays chunks to clients. Event loop only; the engine thread reads `ends` and `waits`.

    `clients` is the session's own set; `failed` is told what stopped a chunk, `ended` that its recording must end.
    """

    def __init__(
        self,
        context: Context,
        worker: Worker,
        recording: Recording,
        clients: set[Client],
        pace: tuple[float, int],
        failed: Callable[[Exception], None],
        ended: Callable[[], None],
    ) -> None:
        self.context, self.worker, self.recording, self.clients = context, worker, recording, clients
        self.fps, self.chunk_frames = pace
        self.misses = 0
        self.newest: Shown | None = None
        self.ends = 0.0
        """When the chunk that is shown ends, 0 when none is."""
        self.epoch = 0
        self.paused = False
        self._failed, self._ended = failed, ended
        self._ready: deque[Made] = deque()
        self._wake = asyncio.Event()
        self._due = 0.0  # when the next frame is to leave
        self._sizes: Sizes | None = None
        self._player = asyncio.create_task(self._play())

    @property
    def waits(self) -> bool:
        """Whether a chunk waits to be shown."""
        return bool(self._ready)

    def put(self, made: Made) -> None:
        """Show a chunk next, from any thread; one of an earlier start is dropped."""
        if made.epoch == self.epoch:
            self._ready.append(made)
        self.context.call_soon(self._wake.set)

    def start_over(self, epoch: int) -> None:
        """Drop what waits to be shown."""
        self.epoch = epoch
        self._ready.clear()
        self._wake.set()

    def turn(self, *, paused: bool) -> None:
        """Pause or go on, at a pace that begins anew."""
        self.paused = paused
        self._due = self.ends = 0.0
        self._wake.set()

    async def finish(self, seconds: float) -> None:
        """Wait until all that was put is shown, unless it is paused or takes longer."""
        end = time.monotonic() + seconds
        while (self._ready or self.ends) and not self.paused and time.monotonic() < end:
            await asyncio.sleep(LATE)

    async def close(self) -> None:
        self._player.cancel()
        await asyncio.gather(self._player, return_exceptions=True)

    async def _play(self) -> None:
        while True:
            try:
                await self._play_chunk()
            except Exception as error:  # whatever stops a chunk must not end the session
                self._failed(error)

    async def _play_chunk(self) -> None:
        if not self._ready:
            self.ends = 0.0
            self.worker.wake()
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        made = self._ready.popleft()
        self.ends = (self._due or time.monotonic()) + self._seconds(len(made.frames))
        self.worker.wake()
        for client in self.clients:
            client.put_ack(made.ack, made.slim)
        for index in range(len(made.frames)):
            if not await self._wait_for_turn(made):
                break
            self.ends = self._due + self._seconds(len(made.frames) - index - 1)
            await self._show(made, index)
            if made.received and index == 0:
                self.context.metrics.control_seconds.observe(time.monotonic() - made.received)

    async def _wait_for_turn(self, made: Made) -> bool:
        """Sleep until the next frame is due; False when its stream was started over."""
        while made.epoch == self.epoch:
            now = time.monotonic()
            if self.paused:
                self._wake.clear()
                await self._wake.wait()
            elif now < self._due:
                await asyncio.sleep(self._due - now)
            else:
                if self._due and now - self._due > LATE + 1 / self.fps:
                    self.misses += 1
                    self.context.metrics.misses.inc()
                    self._due = 0.0  # a new pace from here on: no hurrying to catch up
                self._due = (self._due or now) + self._seconds(1)
                return True
        return False

    def _seconds(self, frames: int) -> float:
        """How long frames are shown at the present pace."""
        return frames * max(1 / self.fps, self.worker.turn_seconds() / self.chunk_frames)

    async def _show(self, made: Made, index: int) -> None:
        frame = made.frames[index]
        if self.recording.on and not await self.context.encode(self.recording.write, frame):
            self._ended()
        self._sizes = self._sizes or Sizes.of(frame.shape[0] * frame.shape[1])
        number = made.first_frame + index
        self.newest = Shown(frame, made.chunk, number, made.control, made.made_ms, self._sizes)
        for client in self.clients:
            client.put_frame(self.newest)
        self.context.metrics.frames.inc()
