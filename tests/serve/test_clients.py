"""What a slow client keeps, and how often it may speak."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from ms_infer.serve.protocol import Type, pack_json
from ms_infer.serve.wire.clients import Client, RateLimit
from ms_infer.serve.wire.grades import Shown, Sizes


def shown(index: int) -> Shown:
    return Shown(np.zeros((16, 16, 3), np.uint8), 0, index, 0, 0.0, Sizes.of(256))


def drained(client: Client) -> list[bytes | int]:
    """Everything that waits, in order; a frame is its index."""

    async def take_all() -> list[bytes | int]:
        client.closing = True
        taken: list[bytes | int] = []
        while (message := await client.take()) is not None:
            taken.append(message.index if isinstance(message, Shown) else message)
        return taken

    return asyncio.run(take_all())


def test_slow_client_gets_the_newest_frame_only() -> None:
    client = Client(owner=True)
    for index in range(1000):
        client.put_frame(shown(index))
    assert drained(client) == [999]
    assert (client.sent, client.dropped) == (1, 999)


def test_ack_leaves_before_its_frames_and_few_are_kept() -> None:
    client = Client(owner=True)
    for index in range(1000):
        client.put_ack(b"ack %d" % index, b"slim")
        client.put(b"small %d" % index)
    client.put_frame(shown(5))
    messages = drained(client)
    assert messages[-3:] == [b"ack 998", b"ack 999", 5]
    assert len(messages) == 32 + 3


def test_client_that_answers_nothing_gets_no_frame() -> None:
    client = Client(owner=False)
    client.link.sent(900, time.monotonic())
    client.put_frame(shown(1))
    client.put_ack(b"ack", b"slim")
    assert drained(client) == []
    client.seen(1)
    assert drained(client) == [b"ack", 1]


def test_ack_on_a_slow_link_leaves_the_resting_points_out() -> None:
    client = Client(owner=True)
    client.link.rate = 20_000.0
    client.put_ack(bytes(5000), b"slim")
    client.put_frame(shown(1))
    assert drained(client) == [b"slim", 1]


def test_goodbye_is_the_last_word() -> None:
    client = Client(owner=True)
    client.put_frame(shown(1))
    client.put(b"stats")
    client.bye("idle", "nothing happened")
    dropped = pack_json(Type.STATS, {"dropped": 1})  # the frame that does not leave any more
    assert drained(client) == [b"stats", dropped, b'\x07{"reason":"idle","text":"nothing happened"}']


def test_rate_limit_allows_a_burst_and_then_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    limit = RateLimit(10.0, 5)
    assert [limit.allow() for _ in range(7)] == [True] * 5 + [False] * 2
    now[0] += 0.2
    assert [limit.allow() for _ in range(3)] == [True, True, False]
