"""What a slow client keeps, and how often it may speak."""

from __future__ import annotations

import asyncio
import time

import pytest

from ms_infer.serve.clients import Client, RateLimit
from ms_infer.serve.protocol import Codec


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
