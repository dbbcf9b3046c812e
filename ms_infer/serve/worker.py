"""The one thread that runs engines: each chunk is begun as late as is safe, the one that is due first goes first."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ms_infer.serve.session import Session

MEMORY = 16  # chunk times that the median is made from
RECENT = 6  # of them, those that tell how long the next one may take: a machine's speed changes in stretches


def latest_start(dues: Iterable[float], seconds: float) -> float:
    """When to begin the first of several chunks, made one by one in `seconds` each, so that all are ready when due."""
    start = math.inf
    for due in sorted(dues, reverse=True):
        start = min(start, due) - seconds
    return start


class Worker:
    """Makes the sessions' chunks. Chunks are begun just in time, so that they know the newest controls."""

    def __init__(self) -> None:
        self._sessions: list[Session] = []
        self._ready = threading.Condition()
        self._times: deque[float] = deque(maxlen=MEMORY)
        self._busy: Session | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="ms-serve-engine", daemon=True)

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, session: Session) -> None:
        """Take turns with this session too."""
        with self._ready:
            self._sessions.append(session)
            self._ready.notify_all()

    def remove(self, session: Session) -> None:
        """Forget a session; returns when no chunk of it is being made. Call it outside of the event loop."""
        with self._ready:
            if session in self._sessions:
                self._sessions.remove(session)
            while self._busy is session:
                self._ready.wait()

    def wake(self) -> None:
        """Something changed: look again."""
        with self._ready:
            self._ready.notify_all()

    def measure(self, make: Callable[[], object]) -> None:
        """Run a chunk that is not a session's, to know how long one takes."""
        begun = time.monotonic()
        make()
        self._times.append(time.monotonic() - begun)

    @property
    def chunk_seconds(self) -> float:
        """Median time of the latest chunks; 0 before the first."""
        times = list(self._times)
        return statistics.median(times) if times else 0.0

    @property
    def slowest_seconds(self) -> float:
        """Longest of the most recent chunk times; 0 before the first."""
        return max(list(self._times)[-RECENT:], default=0.0)

    def turn_seconds(self) -> float:
        """Time from one chunk of a session to its next when all that run take turns."""
        running = sum(session.state == "running" and bool(session.clients) for session in list(self._sessions))
        return self.chunk_seconds * max(running, 1)

    def next(self, now: float) -> tuple[Session | None, float | None]:
        """The session whose chunk is to be begun now, or else how long to wait (None: until something changes)."""
        wanted = [(due, session) for session in self._sessions if (due := session.due()) is not None]
        if not wanted:
            return None, None
        wait = latest_start((due for due, _ in wanted), self.slowest_seconds) - now
        if wait > 0:
            return None, wait
        _, session = min(wanted, key=lambda one: one[0])
        self._sessions.remove(session)  # equally urgent sessions take turns
        self._sessions.append(session)
        return session, None

    def stop(self) -> None:
        """End the thread after the current chunk."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._ready:
                session, wait = self.next(time.monotonic())
                while session is None and not self._stopping:
                    self._ready.wait(wait)
                    session, wait = self.next(time.monotonic())
                if self._stopping or session is None:
                    return
                self._busy = session
            try:
                self._times.append(session.make())
            except Exception as error:  # one session's trouble must not end the thread
                session.fail(error)
            finally:
                with self._ready:
                    self._busy = None
                    self._ready.notify_all()
