"""What waits to be sent to one client: the newest frame only, and a few small messages."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from ms_infer.serve.protocol import Type, pack_json
from ms_infer.serve.wire.grades import JPEG, Coder, Shown
from ms_infer.serve.wire.link import Link

SMALL_MESSAGES, ACKS = 32, 2  # the oldest is lost first


class Client:
    """One WebSocket's outbox and counters. A slow client loses frames; nothing grows. Event loop only."""

    def __init__(self, *, owner: bool) -> None:
        self.owner = owner
        """Whether it controls its session; the others watch."""
        self.sent = self.dropped = 0
        self.closing = False
        self.code = 1000
        """With which the WebSocket ends."""
        self.link = Link()
        self.coder = Coder(JPEG, 1.0)
        self._small: deque[bytes] = deque(maxlen=SMALL_MESSAGES)
        self._acks: deque[bytes] = deque(maxlen=ACKS)
        self._frame: Shown | None = None
        self._wake = asyncio.Event()

    def put(self, message: bytes) -> None:
        """Queue a small message."""
        self._small.append(message)
        self._wake.set()

    def put_ack(self, message: bytes, slim: bytes) -> None:
        """Queue an ack, or on a link that is too slow for it the one without resting points."""
        self._acks.append(message if len(message) <= self.link.frame_bytes else slim)

    def put_frame(self, frame: Shown) -> None:
        """Offer a frame; it replaces one that has not left yet."""
        self.dropped += self._frame is not None
        self._frame = frame
        self._wake.set()

    def seen(self, count: int) -> None:
        """The client has so many messages."""
        self.link.seen(count, time.monotonic())
        self._wake.set()

    def bye(self, reason: str, text: str, code: int = 1000) -> None:
        """Send what is small, then how many frames were lost in all, then a goodbye, then end."""
        self.code = code
        self.dropped += self._frame is not None
        self._frame = None
        self._acks.clear()
        self.put(pack_json(Type.STATS, {"dropped": self.dropped}))
        self.put(pack_json(Type.BYE, {"reason": reason, "text": text}))
        self.closing = True

    async def take(self) -> bytes | Shown | None:
        """The next message or frame to send, once its link takes it; None at the end."""
        while not self._small and not self._may_send():
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

    def _may_send(self) -> bool:
        if self._frame is None:
            return False
        size = self.coder.fit(self.link.frame_bytes, self._frame.sizes)
        return self.link.may_send(round(size), time.monotonic())


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
