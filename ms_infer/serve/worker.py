"""The one thread that runs engines: sessions take turns, the one that runs dry first goes first."""

from __future__ import annotations

import statistics
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ms_infer.serve.session import Session

MARGIN = 0.015  # seconds between a chunk's being ready and its being due
MEMORY = 16  # chunk times that the estimate is made from


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

    def turn_seconds(self) -> float:
        """Time from one chunk of a session to its next when all that run take turns."""
        running = sum(session.state == "running" and bool(session.clients) for session in list(self._sessions))
        return self.chunk_seconds * max(running, 1)

    def stop(self) -> None:
        """End the thread after the current chunk."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _lead(self) -> float:
        times = list(self._times)
        if not times:
            return 1.0
        slow = sorted(times)[-1 - len(times) // 8]
        return slow + self.turn_seconds() - self.chunk_seconds + MARGIN

    def _run(self) -> None:
        while True:
            with self._ready:
                session = self._next()
                while session is None and not self._stopping:
                    self._ready.wait(self._pause)
                    session = self._next()
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

    def _next(self) -> Session | None:
        """The session whose next chunk is to be begun now; sets how long to wait when there is none."""
        lead, now = self._lead(), time.monotonic()
        wanted = [(at, session) for session in self._sessions if (at := session.start_at(lead)) is not None]
        self._pause: float | None = None
        if not wanted:
            return None
        at, session = min(wanted, key=lambda one: one[0])
        if at <= now:
            self._sessions.remove(session)  # equally urgent sessions take turns
            self._sessions.append(session)
            return session
        self._pause = at - now
        return None
