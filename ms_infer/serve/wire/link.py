"""What a client's acknowledgements tell of its link: how long it is, how much it carries, whether a frame may leave."""

from __future__ import annotations

import math
import statistics
from collections import deque
from typing import NamedTuple

QUEUE_SECONDS = 0.1
"""Most that a frame may wait on the link behind what was sent before it."""
OVERDUE_SECONDS = 0.2
"""Time beyond the link's own after which an unanswered message stops what follows."""
FRAME_SECONDS = 0.08
"""What a frame should take on a slow link, so that enough of them come through."""
DRIFT = 0.001
"""Seconds per second by which the shortest time that was seen is forgotten: the way may have become longer."""
TOGETHER_SECONDS = 0.005
"""Answers that come so soon after another one were held up with it: they tell of the rate together."""
SAMPLES = 24
FEW, FEW_SECONDS = 6, 0.04
"""Of fewer samples, only longer times tell of the rate: the rest is chance."""
TELLING_BYTES = 300
"""Smaller messages tell of no rate, but of a client that is busy: what they take, the others take too."""
SMALL = 5
MOST_ON_THE_WAY = 64
"""Messages that may be unanswered."""


class _Message(NamedTuple):
    size: int
    sent: float


class Link:
    """Models a link as a line that carries `rate` bytes per second, one message after the other, and a `delay`.

    A message of a size that was sent at a time is answered at max(answer before it, time + delay) + size / rate, so
    what lies between that maximum and the answer is the time that the line took for it. That time grows when a busy
    machine answers late, and never shrinks: of the recent ones, those count in which the line was quick. Every method
    takes the time in seconds on one clock that never goes back.
    """

    def __init__(self) -> None:
        self.delay = math.inf
        """Seconds that a small message and its acknowledgement take; infinite before the first."""
        self.rate = math.inf
        """Bytes per second; infinite before anything tells."""
        self._way: deque[_Message] = deque()
        self._bytes = 0
        self._seen = 0
        self._known = 0  # bytes that were answered: it begins slowly, as long as little is known of the link
        self._answered = -math.inf
        self._small: deque[float] = deque(maxlen=SMALL)
        self._carried: deque[tuple[int, float]] = deque(maxlen=SAMPLES)  # bytes, and the time that they took

    def sent(self, size: int, now: float) -> None:
        """A message of `size` bytes leaves."""
        self._bytes += size
        self._way.append(_Message(size, now))

    def seen(self, count: int, now: float) -> None:
        """The client has `count` messages (modulo 2^32) since it connected."""
        fresh = (count - self._seen) & 0xFFFFFFFF
        if not 0 < fresh <= len(self._way):
            return
        answered = [self._way.popleft() for _ in range(fresh)]
        size = sum(message.size for message in answered)
        self._seen, self._known, self._bytes = count, self._known + size, self._bytes - size
        first = self._answered == -math.inf
        since = 0.0 if first else now - self._answered
        self.delay = min(self.delay + DRIFT * since, now - answered[-1].sent)
        if not first:
            self._note(size, max(now - max(self._answered, answered[0].sent + self.delay), 0.0), since)
        self._answered = now

    def may_send(self, size: int, now: float) -> bool:
        """Whether a frame of about `size` bytes may leave: one always may when nothing is on the way."""
        if not self._way:
            return True
        if self._bytes + size > self._known or len(self._way) > MOST_ON_THE_WAY:
            return False
        if now - self._way[0].sent > self.delay + OVERDUE_SECONDS:
            return False
        return self._bytes + size <= self.rate * (self.delay + QUEUE_SECONDS)

    @property
    def frame_bytes(self) -> float:
        """How large a frame should be."""
        return self.rate * FRAME_SECONDS

    def _note(self, size: int, took: float, since: float) -> None:
        """The line carried so many bytes in a time, `since` seconds after the answer before."""
        if since < TOGETHER_SECONDS and self._carried:
            before, seconds = self._carried.pop()
            size, took = size + before, took + seconds
        if size < TELLING_BYTES:
            self._small.append(took)
            return
        self._carried.append((size, took))
        few = len(self._carried) < FEW
        least = statistics.median(self._small) if len(self._small) == SMALL else 0.0
        telling = FEW_SECONDS if few else 0.0
        rates = sorted(size / (took - least) if took - least > telling else math.inf for size, took in self._carried)
        self.rate = rates[0 if few else len(rates) * 2 // 3]
