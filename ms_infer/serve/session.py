"""One session: a stream, its points, its clients; chunks come from the engine thread, frames leave at an even pace."""

from __future__ import annotations

import asyncio
import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ms_infer.chunk import Chunk
from ms_infer.config import StreamConfig
from ms_infer.errors import MotionStreamError
from ms_infer.hand import Hand
from ms_infer.serve import protocol
from ms_infer.serve.clients import Client
from ms_infer.serve.encode import make_encoder
from ms_infer.serve.protocol import Codec, Type
from ms_infer.serve.recording import Recording
from ms_infer.serve.shared import Context
from ms_infer.serve.uploads import WebcamMotion
from ms_infer.tracks import Tracks

logger = logging.getLogger(__name__)
MAX_POINTS = 1024
LATE = 0.005  # seconds: a frame that is later counts as late and moves the pace


class StreamLike(Protocol):
    """What a session needs of `ms_infer.Stream`."""

    config: StreamConfig

    @property
    def next_rgb_frames(self) -> int: ...
    def start(
        self, image: Any = None, prompt: Any = "", tracks: Tracks | None = None, *, seed: int | None = None
    ) -> None: ...
    def step(self) -> Chunk: ...
    def set_tracks(self, tracks: Tracks | None) -> int: ...
    def set_prompt(self, prompt: Any) -> int: ...
    def embed(self, prompt: Any) -> NDArray[np.float32]: ...
    def close(self) -> None: ...


@dataclass(frozen=True)
class Wishes:
    """What changed since the last chunk; the newest of each wins."""

    restart: bool = False
    prompt: tuple[Any, int] | None = None
    """Prompt or its embedding, and the control that set it."""


@dataclass(frozen=True)
class Made:
    """A chunk on its way to the clients."""

    epoch: int
    chunk: int
    first_frame: int
    frames: NDArray[np.uint8]
    ack: bytes
    control: int
    received: float
    """When the newest control it was made with came in, 0 when it is not the first chunk with it."""
    made_ms: float


class Session:
    """See the module. Methods belong to the event loop, except `make`, `due` and `fail` (engine thread)."""

    def __init__(self, stream: StreamLike, context: Context, name: str) -> None:
        self.id, self.key = name, secrets.token_urlsafe(24)
        self.stream, self.context = stream, context
        config = stream.config
        self.fps = context.config.fps or config.fps
        self.chunk_frames = config.context.span(1).rgb_frames
        head = config.model.track_head
        self.follows_tracks = head is not None
        capacity = min(head.max_tracks if head else 1, MAX_POINTS)
        self.hand = Hand(aspect=config.width / config.height, fps=self.fps, capacity=capacity)
        self.clients: set[Client] = set()
        self.image: NDArray[np.uint8] | None = None
        self.prompt: Any = ""
        self.seed = 0
        self.state = "waiting"  # waiting, running, paused, stopped
        self.chunk = 0
        """Chunks made since the start."""
        self.born = self.touched = time.monotonic()
        self.left: float | None = self.born
        """When the owner left, None while it is there."""
        self.misses = 0
        self.last_control = self.prompt_wanted = 0
        self.recording = Recording(context, name, config, self.fps)
        self.webcam: WebcamMotion | None = None
        self._encoder = make_encoder(context.config.codec, config.height, config.width, self.fps)
        self._lock = threading.Lock()
        self._wishes = Wishes()
        self._prompt_control = 0
        self._received = 0.0
        self._epoch = 0
        self._ready: deque[Made] = deque()
        self._wake = asyncio.Event()
        self._due = 0.0  # when the next frame is to leave
        self._ends = 0.0  # when the chunk that is shown ends, 0 when none is
        self._clock: float | None = None  # server minus client, seconds
        self._player = asyncio.create_task(self._play())

    # ---- clients

    @property
    def owner(self) -> Client | None:
        return next((client for client in self.clients if client.owner), None)

    def attach(self, client: Client) -> None:
        """A client joins; a new owner replaces the old one."""
        if client.owner and (old := self.owner) is not None:
            self.clients.discard(old)
            old.owner = False
            old.close(protocol.pack_json(Type.BYE, {"reason": "replaced", "text": "opened in another window"}))
        self.clients.add(client)
        if client.owner:
            self.left, self._clock = None, None
        self.touched = time.monotonic()
        self.context.wake()

    def detach(self, client: Client) -> None:
        """A client has gone."""
        if client not in self.clients:
            return
        self.clients.discard(client)
        self.context.metrics.dropped.inc(client.dropped)
        if client.owner:
            self.left = time.monotonic()
            with self._lock:
                self.hand.release()

    def describe(self) -> dict[str, Any]:
        """What anybody may know about the session."""
        return {
            "id": self.id,
            "state": self.state,
            "chunk": self.chunk,
            "seconds": round(time.monotonic() - self.born, 1),
            "fps": self.fps,
            "watchers": sum(not client.owner for client in self.clients),
            "owner_connected": self.owner is not None,
        }

    def say(self, kind: Type, content: dict[str, Any]) -> None:
        """A JSON message to every client."""
        message = protocol.pack_json(kind, content)
        for client in self.clients:
            client.put(message)

    # ---- controls

    def note(self, control: protocol.Message) -> None:
        """Remember that a control came in: it belongs to the next chunk."""
        with self._lock:
            self.last_control = max(self.last_control, control.id)
            self._received = self._received or time.monotonic()
        self.touched = time.monotonic()

    def begin(self, *, keep_points: bool = False) -> None:
        """Start over from the picture at the next chunk; what waits to be shown is dropped."""
        with self._lock:
            self._epoch += 1
            self._wishes = replace(self._wishes, restart=True)
            if not keep_points:
                self.hand.reset()
        self._ready.clear()
        self._wake.set()
        self.set_state("running")

    def set_state(self, state: str) -> None:
        """waiting, running, paused or stopped."""
        self.state = state
        self._due = self._ends = 0.0
        self._wake.set()
        self.say(Type.STATS, {"state": state})
        self.context.wake()

    def halt(self) -> None:
        """Stop, and drop what waits to be shown."""
        with self._lock:
            self._epoch += 1
        self._ready.clear()
        self.set_state("stopped")

    def set_prompt(self, prompt: Any, control: int) -> None:
        """Text or embedding for the next chunk."""
        self.prompt = prompt
        with self._lock:
            self._wishes = replace(self._wishes, prompt=(prompt, control))

    def pointers(self, control: protocol.Pointers) -> None:
        """Pointer events, put on the server's clock (the least delayed message sets the difference)."""
        now = time.monotonic()
        offset = now - control.t / 1e3
        self._clock = offset if self._clock is None or offset < self._clock else self._clock
        for number, phase, sent, x, y in control.events:
            at = min(max(sent / 1e3 + self._clock, now - 1), now)
            if phase == "down":
                self.hand.press(number, x, y, at=at, reach=control.radius)
            else:
                self.hand.move(number, x, y, at=at)
            if phase == "up":
                self.hand.release(number)

    # ---- the engine thread

    @property
    def running(self) -> bool:
        """Whether it plays, and to somebody."""
        return self.state == "running" and bool(self.clients)

    def due(self) -> float | None:
        """When the next chunk is to be shown, 0 for at once; None when none is wanted."""
        if not self.running or self._ready:
            return None
        return self._ends

    def make(self) -> float:
        """Make the next chunk; returns the seconds it took, a start before it not included."""
        with self._lock:
            wishes, self._wishes = self._wishes, Wishes()
            epoch, control = self._epoch, self.last_control
            received, self._received = self._received, 0.0
        if wishes.restart:
            self.stream.start(self.image, self.prompt, seed=self.seed)
            self.chunk = 0
        elif wishes.prompt is not None:
            self.stream.set_prompt(wishes.prompt[0])
        if wishes.prompt is not None:
            self._prompt_control = wishes.prompt[1]
        begun = time.monotonic()
        tracks = self.hand.tracks(frames=self.stream.next_rgb_frames)
        kinds = self.hand.kinds
        if self.follows_tracks:  # they are at the pace that is shown; the stream plays one position per frame
            self.stream.set_tracks(Tracks(tracks.points, tracks.visible, tracks.ids, fps=self.stream.config.fps))
        chunk = self.stream.step()
        self._hand_over(chunk, tracks, kinds, epoch, control, received)
        taken = time.monotonic() - begun
        self._count(chunk, taken)
        return taken

    def _hand_over(
        self, chunk: Chunk, tracks: Tracks, kinds: NDArray[np.uint8], epoch: int, control: int, received: float
    ) -> None:
        ack = protocol.pack_ack(
            chunk.index,
            chunk.first_rgb_frame,
            control,
            self._prompt_control,
            kinds,
            tracks.points,
            tracks.visible,
        )
        made_ms = time.monotonic() * 1e3
        made = Made(epoch, chunk.index, chunk.first_rgb_frame, chunk.numpy(), ack, control, received, made_ms)
        with self._lock:
            if epoch == self._epoch:
                self._ready.append(made)
                self.chunk = chunk.index + 1
        self.context.call_soon(self._wake.set)

    def _count(self, chunk: Chunk, taken: float) -> None:
        histogram = self.context.metrics.chunk_seconds
        for stage, milliseconds in chunk.timings.items():
            histogram.labels("step" if stage == "chunk" else stage).observe(milliseconds / 1e3)
        histogram.labels("chunk").observe(taken)

    def fail(self, error: Exception) -> None:
        """The engine could not make a chunk: stop, and tell the clients in words that reveal nothing."""
        self.context.metrics.failures.inc()
        logger.error("session %s: chunk %d failed", self.id, self.chunk, exc_info=error)
        known = isinstance(error, MotionStreamError)
        text = str(error) if known else "the engine failed; press Enter to start again"
        self.context.call_soon(self._failed, text)

    def _failed(self, text: str) -> None:
        self.halt()
        self.say(Type.ERROR, {"code": "engine", "text": text})

    # ---- frames out

    async def _play(self) -> None:
        while True:
            try:
                await self._play_chunk()
            except Exception as error:  # a frame that cannot be coded must not end the session
                self.fail(error)

    async def _play_chunk(self) -> None:
        while not self._ready:
            self._ends = 0.0
            self._wake.clear()
            await self._wake.wait()
        made = self._ready.popleft()
        self._ends = (self._due or time.monotonic()) + self._seconds(len(made.frames))
        self.context.wake()
        for client in self.clients:
            client.put_ack(made.ack)
        for index in range(len(made.frames)):
            if not await self._wait_for_turn(made):
                break
            self._ends = self._due + self._seconds(len(made.frames) - index - 1)
            await self._show(made, index)
            if made.received and index == 0:
                self.context.metrics.control_seconds.observe(time.monotonic() - made.received)

    async def _wait_for_turn(self, made: Made) -> bool:
        """Sleep until the next frame is due; False when its stream was started over."""
        while made.epoch == self._epoch:
            now = time.monotonic()
            if self.state == "paused":
                self._wake.clear()
                await self._wake.wait()
            elif now < self._due:
                await asyncio.sleep(self._due - now)
            else:
                if self._due and now - self._due > LATE + 1 / self.fps:
                    self.misses += 1
                    self.context.metrics.misses.inc()
                    self._due = 0.0  # a new pace from here on: no hurrying to catch up
                self._due = (self._due or now) + self._seconds(1)
                return True
        return False

    def _seconds(self, frames: int) -> float:
        """How long frames are shown at the present pace."""
        return frames * self.context.frame_seconds(self.fps, self.chunk_frames)

    async def _show(self, made: Made, index: int) -> None:
        frame = made.frames[index]
        key = any(client.needs_key for client in self.clients)
        coded, codec = await self.context.encode(self._encode, frame, key)
        size = (frame.shape[0], frame.shape[1])
        message = protocol.pack_frame(
            coded, codec, size, made.chunk, made.first_frame + index, made.control, made.made_ms
        )
        for client in self.clients:
            client.put_frame(message, codec)
        self.context.metrics.frames.inc()

    def _encode(self, frame: NDArray[np.uint8], key: bool) -> tuple[bytes, Codec]:
        """In the encoder's thread: code for the clients and, when recording, for the file."""
        if not self.recording.write(frame):
            self.context.call_soon(self._stop_recording)
        return self._encoder.encode(frame, key=key)

    # ---- recording

    async def record(self, on: bool) -> None:
        """Begin or end a recording."""
        await self.recording.switch(on)
        self.say(Type.STATS, {"recording": self.recording.on, "recorded": self.recording.file is not None})

    def _stop_recording(self) -> None:
        """End the recording because it is as long as it may be, or cannot go on."""
        self.spawn(self.record(False))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something for the clients beside everything else; they are told when it cannot be done."""

        async def told() -> None:
            try:
                await work
            except MotionStreamError as error:
                self.say(Type.ERROR, {"code": "message", "text": str(error)})

        self.context.spawn(told())

    async def close(self, reason: str, text: str) -> None:
        """Say goodbye to every client and give up the files; the stream is the caller's."""
        for client in self.clients:
            client.close(protocol.pack_json(Type.BYE, {"reason": reason, "text": text}))
        self.clients.clear()
        self.state = "stopped"
        self._player.cancel()
        await asyncio.gather(self._player, return_exceptions=True)
        await self.record(False)
        self.recording.remove()
