"""Whose chunk is begun when, on a clock that stands still unless it is moved; and the thread that does it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from ms_infer.serve import worker
from ms_infer.serve.worker import RECENT, Worker, latest_start


class Clock:
    """Stands in for the `time` module."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now

    def passes(self, seconds: float) -> Callable[[], None]:
        """A chunk that takes so long."""

        def make() -> None:
            self.now += seconds

        return make


class Waiting:
    """A session whose next chunk is due at a time (0 is at once, None never), until `left` chunks are made."""

    def __init__(self, due: float | None, *, left: int = 20, broken: bool = False) -> None:
        self.at, self.left, self.broken = due, left, broken
        self.state, self.clients, self.made, self.failures = "running", {1}, 0, 0
        self.finished = threading.Event()

    @property
    def running(self) -> bool:
        return self.state == "running" and bool(self.clients)

    def due(self) -> float | None:
        return self.at if self.made < self.left else None

    def make(self) -> float:
        self.made += 1
        if self.made == self.left:
            self.finished.set()
        if self.broken:
            raise RuntimeError("broken")
        return 0.001

    def fail(self, error: Exception) -> None:
        self.failures += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(worker, "time", clock)
    return clock


def serving(clock: Clock, *dues: float | None, chunk_seconds: float = 0.25) -> tuple[Worker, list[Any]]:
    made = Worker()
    made.measure(clock.passes(chunk_seconds))
    sessions: list[Any] = [Waiting(due) for due in dues]
    for session in sessions:
        made.add(session)
    return made, sessions


def test_chunk_is_begun_its_own_time_before_it_is_due(clock: Clock) -> None:
    made, (session,) = serving(clock, 110.0)
    assert made.next(109.5) == (None, 0.25)
    assert made.next(109.75) == (session, None)


def test_slowest_recent_chunk_tells_how_long_the_next_may_take(clock: Clock) -> None:
    made, _ = serving(clock, 110.0)
    made.measure(clock.passes(0.5))
    made.measure(clock.passes(0.125))
    assert made.next(109.0) == (None, 0.5)


def test_slow_chunk_is_forgotten(clock: Clock) -> None:
    made, _ = serving(clock, 110.0, chunk_seconds=4.0)
    for _ in range(RECENT):
        made.measure(clock.passes(0.25))
    assert made.next(109.0) == (None, 0.75)


def test_sessions_that_are_due_apart_do_not_wait_for_each_other(clock: Clock) -> None:
    made, (_, soon) = serving(clock, 111.0, 110.0)
    assert made.next(109.5) == (None, 0.25)
    assert made.next(109.75) == (soon, None)


def test_sessions_that_are_due_together_are_begun_one_after_the_other(clock: Clock) -> None:
    made, (first, second) = serving(clock, 110.0, 110.125)
    assert made.next(109.5) == (None, 0.125)
    assert made.next(109.625) == (first, None)
    first.at = None
    assert made.next(109.875) == (second, None)


def test_session_that_runs_dry_goes_first(clock: Clock) -> None:
    made, (_, dry) = serving(clock, 100.5, 0.0)
    assert made.next(100.0) == (dry, None)


def test_equally_urgent_sessions_take_turns(clock: Clock) -> None:
    made, sessions = serving(clock, 0.0, 0.0, 0.0)
    assert [made.next(100.0)[0] for _ in range(6)] == sessions * 2


def test_nothing_is_begun_when_no_chunk_is_wanted(clock: Clock) -> None:
    made, _ = serving(clock, None, None)
    assert made.next(100.0) == (None, None)


def test_every_chunk_of_a_chain_is_ready_when_due() -> None:
    dues, seconds = [5.0, 2.0, 2.5, 9.0], 1.0
    now = latest_start(dues, seconds)
    slack = []
    for due in sorted(dues):
        now += seconds
        slack.append(due - now)
    assert min(slack) == 0  # as late as is safe


def test_turn_time_counts_the_sessions_that_run(clock: Clock) -> None:
    made, sessions = serving(clock, 0.0, 0.0, 0.0, chunk_seconds=0.125)
    assert made.turn_seconds() == 0.375
    sessions[0].state = "paused"
    assert made.turn_seconds() == 0.25


def working(*sessions: Any) -> Worker:
    made = Worker()
    for session in sessions:
        made.add(session)
    made.begin()
    return made


def test_broken_session_does_not_stop_the_others() -> None:
    good, broken = Waiting(0.0), Waiting(0.0, broken=True)
    made = working(broken, good)
    assert good.finished.wait(20)
    assert broken.finished.wait(20)
    made.stop()
    assert broken.failures == broken.left


def test_session_that_comes_late_is_noticed() -> None:
    made, late = working(Waiting(None)), Waiting(0.0)
    made.add(late)
    assert late.finished.wait(20)
    made.stop()


def test_removed_session_is_finished_with() -> None:
    session, entered, finish = Waiting(0.0, left=10**9), threading.Event(), threading.Event()
    make = session.make
    session.make = lambda: (entered.set(), finish.wait(20), make())[2]  # type: ignore[method-assign]
    made = working(session)
    assert entered.wait(20)
    removing = threading.Thread(target=made.remove, args=(session,))
    removing.start()
    finish.set()
    removing.join(20)
    count = session.made
    assert count >= 1
    made.stop()
    assert session.made == count


def test_work_of_other_threads_is_done_in_the_engine_thread() -> None:
    """Opening an engine captures graphs, which nothing in another thread may disturb."""
    engine = Worker()
    engine.begin()
    busy = Waiting(0.0, left=50)
    engine.add(busy)

    assert engine.call(lambda: threading.current_thread().name) == "ms-serve-engine"
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 // 0)
    assert busy.finished.wait(10), "chunks go on after work that failed"
    engine.stop()
    with pytest.raises(RuntimeError, match="has stopped"):
        engine.call(lambda: None)
