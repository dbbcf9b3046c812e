"""One session: its clients, what they ask for, and what joins the making of chunks to their showing."""

from __future__ import annotations

import logging
import math
import secrets
import time
from collections.abc import Coroutine, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.chunk import Chunk
from ms_infer.errors import MotionStreamError
from ms_infer.hand import Hand
from ms_infer.serve import protocol
from ms_infer.serve.lane import Lane
from ms_infer.serve.making import Cue, Maker, PromptWish, StreamLike
from ms_infer.serve.pictures.uploads import WebcamMotion
from ms_infer.serve.protocol import Type
from ms_infer.serve.recording import Recording
from ms_infer.serve.saved import Facts, SessionState
from ms_infer.serve.shared import Context
from ms_infer.serve.show import Show
from ms_infer.serve.wire.clients import Client

logger = logging.getLogger(__name__)


class Session:
    """Methods belong to the event loop, except `due`, `make`, `fail` and `running`: those are the engine thread's."""

    def __init__(self, stream: StreamLike, context: Context, lane: Lane, name: str) -> None:
        self.id, self.key = name, secrets.token_urlsafe(24)
        self.stream, self.context, self.lane = stream, context, lane
        config = stream.config
        self.fps = context.config.fps or config.fps
        self.chunk_frames = config.context.span(1).rgb_frames
        self.maker = Maker(stream, self.fps)
        self.clients: set[Client] = set()
        self.state = "waiting"  # waiting, running, paused, stopped
        self.born = self.touched = time.monotonic()
        self.left: float | None = self.born
        """When the owner left, None while it is there."""
        self.prompt_wanted = 0
        self.recording = Recording(context, name, config, self.fps)
        self.webcam: WebcamMotion | None = None
        pace = (self.fps, self.chunk_frames)
        self.show = Show(context, lane.worker, self.recording, self.clients, pace, self.fail, self._stop_recording)
        self._rests_after = _chunks_to_rest(stream) if context.config.rest else None
        self._rested: float | None = None  # since when
        self._clock: float | None = None  # server minus client, seconds

    @property
    def hand(self) -> Hand:
        """What moves the points."""
        return self.maker.hand

    @property
    def picture(self) -> NDArray[np.uint8] | None:
        """uint8 [H, W, 3]: what is seen now, the first picture before there is a frame."""
        return self.maker.image if self.show.newest is None else self.show.newest.frame

    # ---- clients

    @property
    def owner(self) -> Client | None:
        return next((client for client in self.clients if client.owner), None)

    def attach(self, client: Client) -> None:
        """A client joins; a new owner replaces the old one."""
        if client.owner:
            self.replace_owner()
        self.clients.add(client)
        if client.owner:
            self.left, self._clock = None, None
        self.touched = time.monotonic()
        if self.show.newest is not None:
            client.put_frame(self.show.newest)
        self.lane.worker.wake()

    def replace_owner(self) -> None:
        """Whoever has it must go: somebody with its key has come."""
        if (old := self.owner) is not None:
            self.clients.discard(old)
            old.owner = False
            old.bye("replaced", "opened in another window")

    def detach(self, client: Client) -> None:
        """A client has gone."""
        if client not in self.clients:
            return
        self.clients.discard(client)
        self.context.metrics.dropped.inc(client.dropped)
        if client.owner:
            self.left = time.monotonic()
            self.hand.release()
            self.maker.note(0)
            self._awake()

    def describe(self) -> dict[str, Any]:
        """What anybody may know about the session."""
        return {
            "id": self.id,
            "state": self.state,
            "resting": self.resting,
            "chunk": self.maker.chunk,
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
        self.maker.note(control.id)
        self.touched = time.monotonic()
        self._awake()

    def begin(self, *, keep_points: bool = False) -> None:
        """Start over from the picture at the next chunk; what waits to be shown is dropped."""
        self.show.start_over(self.maker.begin(keep_points=keep_points))
        self.show.newest = None
        self.set_state("running")

    def set_state(self, state: str) -> None:
        """waiting, running, paused or stopped."""
        self.state = state
        self.show.turn(paused=state == "paused")
        self.say(Type.STATS, {"state": state})
        self._awake()

    def halt(self) -> None:
        """Stop, and drop what waits to be shown."""
        self.show.start_over(self.maker.halt())
        self.set_state("stopped")

    def set_prompt(self, wish: PromptWish) -> None:
        """A prompt for the next chunk."""
        self.maker.set_prompt(wish)
        self._awake()

    def schedule(self, cues: Sequence[Cue]) -> None:
        """Prompts that come by themselves."""
        self.maker.schedule(cues)
        self._awake()

    def pointers(self, control: protocol.Pointers) -> None:
        """Pointer events, put on the server's clock (the least delayed message sets the difference)."""
        now = time.monotonic()
        offset = now - control.t / 1e3
        clock = self._clock = offset if self._clock is None or offset < self._clock else self._clock

        for number, phase, sent, x, y in control.events:
            at = min(max(sent / 1e3 + clock, now - 1), now)
            if phase == "down":
                self.hand.press(number, x, y, at=at, reach=control.radius, thing=control.thing)
            else:
                self.hand.move(number, x, y, at=at)
            if phase == "up":
                self.hand.release(number)

    # ---- rest

    @property
    def resting(self) -> bool:
        """Whether no chunks are made because the picture stands still until something changes."""
        return self._rested is not None

    def _rest(self) -> None:
        if self._rested is None and self._may_rest():
            self._rested = time.monotonic()
            self.say(Type.STATS, {"resting": True})

    def _awake(self) -> None:
        """Something changed: make chunks again."""
        if self._rested is not None:
            self.context.metrics.rested.inc(time.monotonic() - self._rested)
            self._rested = None
            self.show.turn(paused=self.state == "paused")  # a new pace: what comes next is not late
            self.say(Type.STATS, {"resting": False})
        self.lane.worker.wake()

    def _may_rest(self) -> bool:
        return (
            self._rests_after is not None
            and self.state == "running"
            and not self.recording.on
            and self.maker.still(self._rests_after)
        )

    # ---- its state

    async def save(self, *, stream: bool = True) -> SessionState:
        """All that it depends on, between two chunks; without its stream where somebody else keeps that."""
        state, hand, standing = await self.lane.call(self.maker.save, stream=stream)
        text = self.maker.prompt if isinstance(self.maker.prompt, str) else None
        facts = Facts(
            self.id,
            self.key,
            self.state,
            self.maker.seed,
            self.maker.last_control,
            standing.prompt_control,
            standing.restart,
            text,
        )
        return SessionState(facts, self.maker.image, None if text is not None else self.maker.prompt, hand, state)

    async def load(self, saved: SessionState) -> None:
        """Go on where another session stood; ConfigError for one that does not fit changes nothing."""
        await self.lane.call(self.maker.load, saved)
        self.show.start_over(self.maker.epoch)
        self.show.newest = None
        self.set_state(saved.facts.state)

    # ---- the engine thread

    @property
    def running(self) -> bool:
        """Whether it plays, and to somebody."""
        return self.state == "running" and bool(self.clients) and not self.resting

    def due(self) -> float | None:
        """When the next chunk is to be shown, 0 for at once; None when none is wanted."""
        if not self.running or self.show.waits:
            return None
        if self._may_rest():
            if self.show.ends == 0:
                self.context.call_soon(self._rest)
            return None
        return self.show.ends

    def make(self) -> float:
        """Make the next chunk; returns the seconds it took."""
        begun = time.monotonic()
        made, chunk = self.maker.make()
        self.show.put(made)
        taken = time.monotonic() - begun
        self._count(chunk, taken)
        return taken

    def _count(self, chunk: Chunk, taken: float) -> None:
        histogram = self.context.metrics.chunk_seconds
        for stage, milliseconds in chunk.timings.items():
            histogram.labels("step" if stage == "chunk" else stage).observe(milliseconds / 1e3)
        histogram.labels("chunk").observe(taken)

    def fail(self, error: Exception) -> None:
        """No chunk or frame could be made: stop, and tell the clients in words that reveal nothing. Any thread."""
        self.context.metrics.failures.inc()
        logger.error("session %s: chunk %d failed", self.id, self.maker.chunk, exc_info=error)
        known = isinstance(error, MotionStreamError)
        text = str(error) if known else "the engine failed; press Enter to start again"
        self.context.call_soon(self._failed, text)

    def _failed(self, text: str) -> None:
        self.halt()
        self.say(Type.ERROR, {"code": "engine", "text": text})

    # ---- recording

    async def record(self, on: bool) -> None:
        """Begin or end a recording."""
        await self.recording.switch(on)
        self._awake()
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

    async def close(self, reason: str, text: str, code: int = 1000) -> None:
        """Say goodbye to every client and give up the files; the stream is the caller's."""
        for client in self.clients:
            client.bye(reason, text, code)
        self.clients.clear()
        self.state = "stopped"
        self._awake()
        await self.show.close()
        await self.record(False)
        self.recording.remove()


def _chunks_to_rest(stream: StreamLike) -> int | None:
    """Chunks after which a picture in which nothing moves stands still, None for one that goes on flowing.

    What its last motion was made of must have left the window.
    """
    context, model = stream.config.context, stream.config.model
    return 1 + math.ceil(context.window_frames / context.chunk_frames) if model.rests else None
