"""A client that reads 20 KB a second from a real socket: it sees fewer and smaller frames, and no old ones."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Iterator

from ms_infer.serve.protocol import FRAME_HEAD, SEEN, Type
from tests.serve.live import Page, Running, running
from tests.serve.moving_picture import MovingPicture

RATE, SECONDS = 20_000, 8.0


class Fast:
    """A watcher in a thread of its own: when each RGB frame was there."""

    def __init__(self, server: Running, session: str) -> None:
        self.arrivals: dict[int, float] = {}
        self._page = Page(server, join=False)
        self._page.join(watch=True, session=session)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._read)

    def __enter__(self) -> Fast:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._page.socket.close()

    def _read(self) -> None:
        while not self._done.is_set():
            if self._page.read() and self._page.frames:
                self.arrivals.setdefault(self._page.frames[-1].index, time.monotonic())


class SlowClient:
    """A WebSocket of its own making that reads at `RATE` bytes a second and acknowledges what it has read."""

    def __init__(self, server: Running) -> None:
        self.raw = socket.create_connection(("127.0.0.1", server.port))
        self.raw.sendall(
            f"GET /ws HTTP/1.1\r\nHost: {server.host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            self.data += self.raw.recv(1)
        self.data, self.count = b"", 0

    def send(self, message: bytes) -> None:
        self.raw.sendall(bytes([0x82, 0x80 | len(message)]) + bytes(4) + message)

    def control(self, **content: object) -> None:
        self.send(bytes([Type.CONTROL]) + json.dumps({"id": 0, "t": 0, **content}, separators=(",", ":")).encode())

    def messages(self, seconds: float) -> Iterator[bytes]:
        """What comes within a time, each message when its last byte is read."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            self.raw.settimeout(end - now)
            with contextlib.suppress(TimeoutError):
                self.data += self.raw.recv(RATE // 50)
            time.sleep(1 / 50)
            while (message := self._message()) is not None:
                self.count += 1
                self.send(SEEN.pack(Type.SEEN, self.count))
                yield message

    def _message(self) -> bytes | None:
        if len(self.data) < 4:
            return None
        size, at = self.data[1], 2
        if size == 126:
            size, at = struct.unpack_from(">H", self.data, 2)[0], 4
        if len(self.data) < at + size:
            return None
        message, self.data = self.data[at : at + size], self.data[at + size :]
        return message


def test_slow_client_is_hardly_behind_a_fast_one() -> None:
    with running(lambda: MovingPicture(size=128), fps=16.0) as made:
        client = SlowClient(made)
        client.control(do="join", version=2, codecs=["jpeg", "webp"])
        hello = json.loads(next(one for one in client.messages(30) if one[0] == Type.HELLO)[1:])
        client.control(do="start", example="kite")
        slow: dict[int, float] = {}
        sizes = []
        with Fast(made, hello["session"]) as fast:
            for message in client.messages(SECONDS):
                if message[0] == Type.FRAME:
                    slow[FRAME_HEAD.unpack_from(message)[5]] = time.monotonic()
                    sizes.append(len(message))
        client.raw.close()
    behind = [at - fast.arrivals[index] for index, at in slow.items() if index in fast.arrivals]
    assert len(behind) >= 5
    assert max(behind) < 0.3 + 1.7  # what a busy machine may add; without acknowledgements it is 6 seconds
    assert min(sizes) < 3000  # it is sent what its link carries: the best are 9 KB
    assert list(slow) == sorted(slow)
