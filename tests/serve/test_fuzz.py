"""10,000 messages that no page would send, and requests that no browser would make."""

from __future__ import annotations

import json
import resource
import socket
import threading
import time
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ms_infer.serve.protocol import KNOWN, Type
from ms_infer.serve.settings import Limits
from tests.serve.live import Page, Running, running

SEQUENCES, DRAWN, MUTATIONS = 210, 6, 7  # 48 messages a connection: 50 unreadable ones would end it
LIMITS = Limits(messages_per_second=1e6, message_burst=1 << 30, image_bytes=1 << 16, video_bytes=1 << 16)
LOOSE = settings(
    max_examples=SEQUENCES,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)

numbers = st.one_of(st.integers(-3, 300), st.floats(), st.integers(), st.just(1e308), st.booleans())
places = st.tuples(st.floats(-2, 3), st.floats(-2, 3))
anything = st.recursive(
    st.one_of(st.none(), numbers, st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=6), inner, max_size=4)),
    max_leaves=6,
)
events = st.tuples(
    st.integers(-1, 5), st.sampled_from(["down", "move", "up", "over"]), st.floats(-10, 1e13), st.floats(-2, 3), numbers
)
fields = st.fixed_dictionaries(
    {"do": st.one_of(st.sampled_from(sorted(KNOWN - {"join", "leave"})), st.text(max_size=8))},
    optional={
        "id": numbers,
        "t": numbers,
        "text": st.text(max_size=600),
        "events": st.lists(events, max_size=70),
        "points": st.lists(places, max_size=70),
        "radius": numbers,
        "seconds": numbers,
        "rows": st.integers(-1, 60),
        "cols": st.integers(-1, 60),
        "x": numbers,
        "y": numbers,
        "zoom": st.floats(-2, 2),
        "roll": st.floats(-2, 2),
        "on": st.one_of(st.booleans(), anything),
        "hold_rest": anything,
        "example": st.sampled_from(["balloon", "owl", "../../etc", ""]),
        "seed": numbers,
        "prompt": st.one_of(st.none(), st.text(max_size=30)),
        "version": anything,
    },
)
controls = fields.map(lambda content: bytes([Type.CONTROL]) + json.dumps(content).encode())
cut = st.tuples(controls, st.integers(0, 40)).map(lambda pair: pair[0][: -pair[1] or None])
webcam = st.binary(max_size=300).map(lambda data: bytes([Type.WEBCAM]) + b"\xff\xd8\xff" + data)
seen = st.binary(max_size=6).map(lambda data: bytes([Type.SEEN]) + data)
messages = st.one_of(controls, controls, cut, st.binary(max_size=200), webcam, seen, st.text(max_size=50))


HEADERS = [
    b"Content-Length: -5",
    b"Content-Length: 99999999999",
    b"Transfer-Encoding: chunked",
    b"Upgrade: websocket",
    b"Connection: Upgrade",
    b"Sec-WebSocket-Key: x",
    b"Origin: null",
    b"Expect: 100-continue",
]


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(fps=16.0, max_sessions=8, min_fps=0.01, limits=LIMITS) as made:
        yield made


@pytest.fixture(scope="module")
def healthy(server: Running) -> Iterator[Page]:
    """A session that must not be disturbed."""
    with Page(server) as page:
        page.send("start", example="balloon")
        page.until(lambda: len(page.frames) > 10)
        done = threading.Event()
        reader = threading.Thread(target=lambda: [page.read() for _ in iter(done.is_set, True)], daemon=True)
        reader.start()
        yield page
        done.set()
        reader.join()


def mutated(message: bytes | str, rng: Random) -> bytes:
    """The message with a few bytes changed, lost, doubled or added."""
    data = bytearray(message.encode() if isinstance(message, str) else message)
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data) + 1)
        kind = rng.randrange(4)
        if kind == 0 and at < len(data):
            data[at] = rng.randrange(256)
        elif kind == 1:
            del data[at : at + rng.randrange(1, 9)]
        elif kind == 2:
            data[at:at] = data[at : at + rng.randrange(1, 40)]
        else:
            data[at:at] = bytes([rng.choice(b'{}[]",:0-.e')])
    return bytes(data)


def goes_on(page: Page) -> bool:
    """Whether another frame comes."""
    seen, end = len(page.frames), time.monotonic() + 30
    while len(page.frames) == seen and time.monotonic() < end:
        time.sleep(0.005)
    return len(page.frames) > seen


def test_messages_of_any_kind_disturb_nobody(server: Running, healthy: Page) -> None:
    first = Page(server)
    known = {"session": first.hello["session"], "key": first.hello["key"]}
    first.socket.close()
    sent = 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    @LOOSE
    @given(st.lists(messages, min_size=DRAWN, max_size=DRAWN), st.randoms(use_true_random=False))
    def fuzz(drawn: list[Any], rng: Random) -> None:
        nonlocal sent
        with Page(server, join=False) as page:
            page.join(**known)
            for message in drawn:
                for round_ in range(1 + MUTATIONS):
                    page.socket.send(mutated(message, rng) if round_ else message)
                    sent += 1
            assert goes_on(healthy)
            while page.read(0.0):
                pass
            assert not any("Traceback" in str(error) for error in page.errors)

    fuzz()
    assert sent >= 10_000
    indices = [frame.index for frame in healthy.frames]
    assert indices == sorted(indices)
    assert not healthy.errors
    assert not healthy.byes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 250_000  # KiB
    with server.http() as http:
        assert http.get("/readyz").status_code == 200
    with Page(server, join=False) as page:  # the session that was fuzzed works as well
        page.join(**known)
        page.send("reset")
        page.until(lambda: page.frames)


@settings(LOOSE, max_examples=120)
@given(
    method=st.sampled_from([b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"BREW", b"\x00"]),
    path=st.one_of(
        st.sampled_from([b"/", b"/ws", b"/api/sessions", b"/api/sessions/x/image", b"/metrics", b"*", b"http://evil/"]),
        st.binary(min_size=1, max_size=40).map(lambda raw: b"/" + raw.replace(b"\n", b"").replace(b"\r", b"")),
    ),
    extra=st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.sampled_from(HEADERS),
        ),
        max_size=4,
    ),
    body=st.binary(max_size=200),
)
def test_requests_of_any_kind_are_answered_or_closed(
    server: Running, healthy: Page, method: bytes, path: bytes, extra: list[bytes], body: bytes
) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=0.2) as raw:
        head = b" ".join([method, path, b"HTTP/1.1"])
        raw.sendall(b"\r\n".join([head, f"Host: {server.host}".encode(), *extra, b"", body]))
        try:
            answer = raw.recv(4096)
        except (TimeoutError, ConnectionResetError):  # it waits for the rest of the body, or hung up
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert b"Traceback" not in answer
    assert goes_on(healthy)
