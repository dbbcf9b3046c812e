"""The one thread that runs engines: each chunk is begun as late as is safe, the one that is due first goes first."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Protocol, TypeVar

Result = TypeVar("Result")

MEMORY = 16  # chunk times that the median is made from
RECENT = 6  # of them, those that tell how long the next one may take: a machine's speed changes in stretches


def latest_start(dues: Iterable[float], seconds: float) -> float:
    """When to begin the first of several chunks, made one by one in `seconds` each, so that all are ready when due."""
    start = math.inf
    for due in sorted(dues, reverse=True):
        start = min(start, due) - seconds
    return start


class Job(Protocol):
    """Something whose chunks the worker makes, one by one, in its thread."""

    @property
    def running(self) -> bool:
        """Whether chunks are wanted of it all the time."""

    def due(self) -> float | None:
        """When the next chunk must be ready, 0 for at once; None when none is wanted."""

    def make(self) -> float:
        """Make the next chunk; returns the seconds it took."""

    def fail(self, error: Exception) -> None:
        """`make` raised this."""


class Worker:
    """Makes the jobs' chunks. Chunks are begun just in time, so that they know the newest controls."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []
        self._ready = threading.Condition()
        self._times: deque[float] = deque(maxlen=MEMORY)
        self._calls: deque[tuple[Callable[[], object], Future[object]]] = deque()
        self._busy: Job | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="ms-serve-engine", daemon=True)

    def begin(self) -> None:
        """Start the thread."""
        self._thread.start()

    def add(self, job: Job) -> None:
        """Take turns with this job too."""
        with self._ready:
            self._jobs.append(job)
            self._ready.notify_all()

    def remove(self, job: Job) -> None:
        """Forget a job; returns when no chunk of it is being made. Call it outside of the event loop."""
        with self._ready:
            if job in self._jobs:
                self._jobs.remove(job)
            while self._busy is job:
                self._ready.wait()

    def wake(self) -> None:
        """Something changed: look again."""
        with self._ready:
            self._ready.notify_all()

    def call(self, work: Callable[[], Result]) -> Result:
        """Run work in the engine thread, before the next chunk, and wait for what it gives.

        On a GPU an engine is opened with captures, which no other thread may disturb. Call it outside of the event
        loop. RuntimeError once the worker has stopped.
        """
        future: Future[object] = Future()
        with self._ready:
            if self._stopping:
                raise RuntimeError("the engine thread has stopped")
            self._calls.append((work, future))
            self._ready.notify_all()
        return future.result()  # type: ignore[return-value]

    def measure(self, make: Callable[[], object]) -> None:
        """Run a chunk that is no job's, to know how long one takes."""
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
        """Time from one chunk of a job to its next when all that run take turns."""
        running = sum(job.running for job in list(self._jobs))
        return self.chunk_seconds * max(running, 1)

    def next(self, now: float) -> tuple[Job | None, float | None]:
        """The job whose chunk is to be begun now, or else how long to wait (None: until something changes)."""
        wanted = [(due, job) for job in self._jobs if (due := job.due()) is not None]
        if not wanted:
            return None, None
        wait = latest_start((due for due, _ in wanted), self.slowest_seconds) - now
        if wait > 0:
            return None, wait
        _, job = min(wanted, key=lambda one: one[0])
        self._jobs.remove(job)  # equally urgent jobs take turns
        self._jobs.append(job)
        return job, None

    def stop(self) -> None:
        """End the thread after the current chunk."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while True:
            self._answer_calls()
            with self._ready:
                job, wait = self.next(time.monotonic())
                while job is None and not self._stopping and not self._calls:
                    self._ready.wait(wait)
                    job, wait = self.next(time.monotonic())
                if self._stopping:
                    break
                if job is None:
                    continue
                self._busy = job
            try:
                self._times.append(job.make())
            except Exception as error:  # one job's trouble must not end the thread
                job.fail(error)
            finally:
                with self._ready:
                    self._busy = None
                    self._ready.notify_all()
        for _, future in self._calls:
            future.set_exception(RuntimeError("the engine thread has stopped"))

    def _answer_calls(self) -> None:
        while self._calls:
            work, future = self._calls.popleft()
            try:
                future.set_result(work())
            except BaseException as error:  # it is the caller's
                future.set_exception(error)
