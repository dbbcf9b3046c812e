"""What waits to be sent to one client: the newest frame only, and a few small messages."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from ms_infer.serve.protocol import Codec

SMALL_MESSAGES, ACKS = 32, 2  # the oldest is lost first


class Client:
    """One WebSocket's outbox and counters. A slow client loses frames; nothing grows. Event loop only."""

    def __init__(self, *, owner: bool) -> None:
        self.owner = owner
        """Whether it controls its session; the others watch."""
        self.sent = self.dropped = 0
        self.needs_key = True
        """Whether the next H.264 frame it gets must stand alone."""
        self.closing = False
        self._small: deque[bytes] = deque(maxlen=SMALL_MESSAGES)
        self._acks: deque[bytes] = deque(maxlen=ACKS)
        self._frame: bytes | None = None
        self._wake = asyncio.Event()

    def put(self, message: bytes) -> None:
        """Queue a small message."""
        self._small.append(message)
        self._wake.set()

    def put_ack(self, message: bytes) -> None:
        """Queue an ack; it leaves before the frames that follow."""
        self._acks.append(message)
        self._wake.set()

    def put_frame(self, message: bytes, codec: Codec) -> None:
        """Offer a frame; it replaces one that has not left yet."""
        waits = self._frame is not None
        if codec == Codec.H264_DELTA and (self.needs_key or waits):  # it builds upon one that is lost, or would be
            self.needs_key = True
            self.dropped += 1
            return
        self.dropped += waits
        self.needs_key = False
        self._frame = message
        self._wake.set()

    def close(self, bye: bytes) -> None:
        """Send what is small, then this, then end."""
        self._frame = None
        self._acks.clear()
        self.put(bye)
        self.closing = True

    async def take(self) -> bytes | None:
        """The next message to send; None at the end."""
        while not (self._small or self._acks) and self._frame is None:
            if self.closing:
                return None
            self._wake.clear()
            await self._wake.wait()
        if self._small:
            return self._small.popleft()
        if self._acks:
            return self._acks.popleft()
        frame, self._frame = self._frame, None
        self.sent += 1
        return frame


class RateLimit:
    """A token bucket: `per_second` on average, `burst` at once."""

    def __init__(self, per_second: float, burst: int) -> None:
        self.per_second, self.burst = per_second, burst
        self._tokens, self._last = float(burst), time.monotonic()

    def allow(self) -> bool:
        """Count one event; False when there are too many."""
        now = time.monotonic()
        self._tokens = min(self.burst, self._tokens + (now - self._last) * self.per_second)
        self._last = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
