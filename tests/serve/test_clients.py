"""What a slow client keeps, and who may make the next chunk."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from ms_infer.serve.clients import Client, RateLimit
from ms_infer.serve.protocol import Codec
from ms_infer.serve.worker import Worker


def drained(client: Client) -> list[bytes]:
    """Everything that waits, in order."""

    async def take_all() -> list[bytes]:
        client.closing = True
        taken = []
        while (message := await client.take()) is not None:
            taken.append(message)
        return taken

    return asyncio.run(take_all())


def test_slow_client_gets_the_newest_frame_only() -> None:
    client = Client(owner=True)
    for index in range(1000):
        client.put_frame(b"%d" % index, Codec.JPEG)
    assert drained(client) == [b"999"]
    assert (client.sent, client.dropped) == (1, 999)


def test_ack_leaves_before_its_frames_and_few_are_kept() -> None:
    client = Client(owner=True)
    for index in range(1000):
        client.put_ack(b"ack %d" % index)
        client.put(b"small %d" % index)
    client.put_frame(b"frame", Codec.JPEG)
    messages = drained(client)
    assert messages[-3:] == [b"ack 998", b"ack 999", b"frame"]
    assert len(messages) == 32 + 3


def test_lost_h264_frame_waits_for_a_key() -> None:
    client = Client(owner=True)
    client.put_frame(b"delta before any key", Codec.H264_DELTA)
    assert client.needs_key
    client.put_frame(b"key", Codec.H264_KEY)
    client.put_frame(b"delta that comes too early", Codec.H264_DELTA)
    assert client.needs_key
    client.put_frame(b"delta without its past", Codec.H264_DELTA)
    client.put_frame(b"new key", Codec.H264_KEY)
    assert drained(client) == [b"new key"]
    assert client.dropped == 4


def test_goodbye_is_the_last_word() -> None:
    client = Client(owner=True)
    client.put_frame(b"frame", Codec.JPEG)
    client.put(b"stats")
    client.close(b"bye")
    assert drained(client) == [b"stats", b"bye"]


def test_rate_limit_allows_a_burst_and_then_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limit = RateLimit(10.0, 5)
    assert [limit.allow() for _ in range(7)] == [True] * 5 + [False] * 2
    now[0] += 0.2
    assert [limit.allow() for _ in range(3)] == [True, True, False]


class Turn:
    """A session that only notes when it is its turn."""

    def __init__(self, name: str, log: list[str], due: float | None = 0.0, *, broken: bool = False) -> None:
        self.name, self.log, self.due, self.broken = name, log, due, broken
        self.state, self.clients, self.failures = "running", {1}, 0

    def start_at(self, lead: float) -> float | None:
        return self.due

    def make(self) -> float:
        self.log.append(self.name)
        if self.broken:
            raise RuntimeError("broken")
        return 0.001

    def fail(self, error: Exception) -> None:
        self.failures += 1


def worked(*turns: Any, count: int = 40) -> Worker:
    worker = Worker()
    for turn in turns:
        worker.add(turn)
    worker.begin()
    end = time.monotonic() + 20
    while len(turns[0].log) < count and time.monotonic() < end:
        time.sleep(0.001)
    worker.stop()
    return worker


def test_equally_urgent_sessions_take_turns() -> None:
    log: list[str] = []
    worked(Turn("a", log), Turn("b", log), Turn("c", log))
    shares = [log.count(name) for name in "abc"]
    assert max(shares) - min(shares) <= 1


def test_the_most_urgent_goes_first_and_the_idle_never() -> None:
    log: list[str] = []
    worked(Turn("late", log, 1.0), Turn("urgent", log, 0.5), Turn("idle", log, None))
    assert set(log) == {"urgent"}


def test_chunk_is_not_begun_before_its_time() -> None:
    log: list[str] = []
    turn = Turn("later", log, time.monotonic() + 0.3)
    begin = time.monotonic()
    worked(turn, count=1)
    assert time.monotonic() - begin >= 0.29


def test_broken_session_does_not_stop_the_others() -> None:
    log: list[str] = []
    broken = Turn("broken", log, broken=True)
    worked(broken, Turn("good", log))
    assert log.count("good") >= 15
    assert broken.failures == log.count("broken")


def test_removed_session_is_finished_with() -> None:
    log: list[str] = []
    turn, entered = Turn("slow", log), threading.Event()
    make = turn.make
    turn.make = lambda: (entered.set(), time.sleep(0.2), make())[2]  # type: ignore[method-assign]
    worker = Worker()
    worker.add(turn)  # type: ignore[arg-type]
    worker.begin()
    assert entered.wait(10)
    worker.remove(turn)  # type: ignore[arg-type]
    count = len(log)
    assert count >= 1
    time.sleep(0.3)
    assert len(log) == count
    worker.stop()


def test_turn_time_counts_the_sessions_that_run() -> None:
    worker = Worker()
    worker._times.extend([0.1, 0.1, 0.5])
    log: list[str] = []
    for name in "abc":
        worker.add(Turn(name, log))  # type: ignore[arg-type]
    assert worker.turn_seconds() == pytest.approx(0.3)
    worker._sessions[0].state = "paused"
    assert worker.turn_seconds() == pytest.approx(0.2)
