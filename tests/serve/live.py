"""A running server in a thread, and a client that speaks the protocol, for tests."""

from __future__ import annotations

import json
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from ms_infer.serve.app import create_app
from ms_infer.serve.lane import OpenStream
from ms_infer.serve.protocol import ACK_HEAD, FRAME_HEAD, SEEN, UNITS, Type
from ms_infer.serve.settings import ServeConfig
from ms_infer.serve.web.transport import make_server
from ms_infer.serve.wire.grades import BEST, Grade, grades
from tests.serve.moving_picture import MovingPicture


@dataclass
class Running:
    """A server that accepts connections."""

    port: int
    app: Any
    streams: list[MovingPicture] = field(default_factory=list)

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    def http(self, **options: Any) -> httpx.Client:
        return httpx.Client(base_url=f"http://{self.host}", **options)

    def until_ready(self, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        with self.http(timeout=seconds) as http:
            while http.get("/readyz").status_code != 200:
                assert time.monotonic() < end, "the server did not become ready"
                time.sleep(0.05)


@contextmanager
def running(
    make: OpenStream = MovingPicture,
    *,
    lanes: int = 1,
    wait: bool = True,
    rest: bool = False,
    port: int = 0,
    **settings: Any,
) -> Iterator[Running]:
    """Serve on a free port unless one is given; frames come all the time unless it may `rest`."""
    config = ServeConfig(port=port, rest=rest, **settings)
    listening = threading.Event()
    ports: list[int] = []
    streams: list[Any] = []

    def opened() -> Any:
        streams.append(make())
        return streams[-1]

    app = create_app(config, *[opened] * lanes)
    server = make_server(app, config, lambda port: (ports.append(port), listening.set()))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert listening.wait(30)
    server_running = Running(ports[0], app, streams)
    try:
        if wait:
            server_running.until_ready()
        yield server_running
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"


@contextmanager
def best_pictures() -> Iterator[None]:
    """Send the best pictures to who is shown no video, also where a busy machine looks like a slow link."""

    def ladder(*given: Any) -> tuple[Grade, ...]:
        usual = grades(*given)
        return usual if any(grade.codec == "h264" for grade in usual) else (BEST,)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ms_infer.serve.socket.grades", ladder)
        yield


@dataclass
class Frame:
    codec: int
    size: tuple[int, int]
    chunk: int
    index: int
    control: int
    made_ms: float
    picture: bytes


@dataclass
class Ack:
    chunk: int
    first: int
    control: int
    prompt: int
    kinds: NDArray[np.uint8]
    points: NDArray[np.float64]
    """[N, frames, 2], NaN where hidden."""


class Page:
    """What the page does, without a browser."""

    def __init__(
        self,
        server: Running,
        *,
        token: str = "",
        join: bool = True,
        path: str = "/ws",
        codecs: tuple[str, ...] = ("jpeg",),
        **options: Any,
    ) -> None:
        self.server = server
        address = f"ws://{server.host}{path}" + (f"?token={token}" if token else "")
        self._stack = ExitStack()
        usual = {"max_size": None, "max_queue": None, "compression": None, "open_timeout": 20}
        self.socket: ClientConnection = self._stack.enter_context(connect(address, **{**usual, **options}))
        self.control = 0
        self.hello: dict[str, Any] = {}
        self.frames: list[Frame] = []
        self.acks: list[Ack] = []
        self.stats: dict[str, Any] = {}
        self.errors: list[dict[str, Any]] = []
        self.byes: list[dict[str, Any]] = []
        self.received = 0
        self.codecs = codecs
        if join:
            self.join()

    def __enter__(self) -> Page:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def join(self, **content: Any) -> None:
        self.send("join", version=2, codecs=self.codecs, **content)
        self.until(lambda: self.hello or self.errors or self.byes)

    def send(self, do: str, **content: Any) -> int:
        if do != "join":
            self.control += 1
        message = {"do": do, "id": self.control, "t": time.monotonic() * 1e3, **content}
        self.socket.send(bytes([Type.CONTROL]) + json.dumps(message).encode())
        return self.control

    def drag(self, *places: tuple[float, float], up: bool = True, number: int = 1, radius: float = 0.2) -> int:
        now = time.monotonic() * 1e3
        events = [[number, "move", now - 10 * (len(places) - i), x, y] for i, (x, y) in enumerate(places)]
        events[0][1] = "down"
        if up:
            events.append([number, "up", now, *places[-1]])
        return self.send("pointers", events=events, radius=radius)

    def read(self, seconds: float = 0.05) -> bool:
        """Take in one message; False when none came in time."""
        try:
            data = self.socket.recv(timeout=seconds)
        except TimeoutError:
            return False
        assert isinstance(data, bytes)
        self.received += 1
        with suppress(ConnectionClosed):  # after a goodbye
            self.socket.send(SEEN.pack(Type.SEEN, self.received))
        self._take(data)
        return True

    def until(self, wanted: Callable[[], Any], seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while not wanted():
            assert time.monotonic() < end, "it did not happen in time"
            self.read()

    def lost(self) -> int:
        """RGB frames before the newest one that did not come; for one start that was seen from its first frame on."""
        return self.frames[-1].index + 1 - len(self.frames)

    def shown_whole(self) -> bool:
        """Whether the last frame that the server told of has come."""
        told = self.acks[-1] if self.acks else None
        return bool(told and self.frames) and self.frames[-1].index == told.first + told.points.shape[1] - 1

    def quiet(self, seconds: float) -> int:
        """Frames that come within a time."""
        before, end = len(self.frames), time.monotonic() + seconds
        while time.monotonic() < end:
            self.read()
        return len(self.frames) - before

    def _take(self, data: bytes) -> None:
        kind = data[0]
        if kind == Type.FRAME:
            _, codec, width, height, chunk, index, control, made = FRAME_HEAD.unpack_from(data)
            self.frames.append(Frame(codec, (height, width), chunk, index, control, made, data[FRAME_HEAD.size :]))
        elif kind == Type.ACK:
            self.acks.append(read_ack(data))
        elif kind == Type.HELLO:
            self.hello = json.loads(data[1:])
            self.control = self.hello["last_control"]
        elif kind == Type.STATS:
            self.stats |= json.loads(data[1:])
        elif kind == Type.ERROR:
            self.errors.append(json.loads(data[1:]))
        elif kind == Type.BYE:
            self.byes.append(json.loads(data[1:]))


def read_ack(data: bytes) -> Ack:
    """The ack in a message."""
    _, _, count, chunk, first, control, prompt, frames = ACK_HEAD.unpack_from(data)
    at = ACK_HEAD.size
    kinds = np.frombuffer(data, np.uint8, count, at)
    raw = np.array(struct.unpack_from(f"<{count * frames * 2}h", data, at + count), np.float64)
    points = raw.reshape(count, frames, 2) / UNITS
    points[points[..., 0] == -32768 / UNITS] = np.nan
    return Ack(chunk, first, control, prompt, kinds, points)
