"""A stream whose engine is elsewhere: asks go there, chunks come back, and when the engine is lost another goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ms_infer.blend import Way
from ms_infer.chunk import Chunk
from ms_infer.config import StreamConfig
from ms_infer.errors import DeviceError
from ms_infer.fleet.vault import Place
from ms_infer.serve.saved import pack_stream, unpack_stream
from ms_infer.state import StreamState
from ms_infer.tracks import Tracks

logger = logging.getLogger(__name__)
Ask = tuple[Any, ...]
"""("start", image, prompt, tracks, seed), ("tracks", tracks), ("prompt", prompt, how) or ("load", state)."""
TRIES, WAIT_SECONDS = 20, 0.25
GONE = "no engine could go on with the stream; start it again"


class Lost(Exception):
    """The engine is gone, or does not have the stream (any more)."""


class Made(NamedTuple):
    """A chunk on its way from an engine."""

    number: int
    """Counts chunks from 0."""
    frames: NDArray[np.uint8]
    """`[T, H, W, 3]`."""
    first_rgb_frame: int
    control_id: int
    timings: dict[str, float]
    kept: Place
    """The newest state of the stream that is safe."""
    keeper: str
    """Life of the keeper that has it."""


class Links(Protocol):
    """How engines and the keeper are reached. Every call may raise Lost, from any thread."""

    def step(self, engine: str, seat: str, place: Place, asks: list[Ask], *, keep: bool) -> Made: ...

    def adopt(self, engine: str, seat: str, place: Place, log: list[list[Ask]], *, restore: bool) -> None:
        """Go on at `place`, from the newest state if that is to be restored, and make again what came since."""

    def state(self, engine: str, seat: str, place: Place, asks: list[Ask]) -> bytes: ...

    def embed(self, engine: str, prompt: Any) -> NDArray[np.float32]: ...

    def move(self, seat: str, away_from: str, wanted: Place) -> tuple[str, Place | None]:
        """Another engine, and where the newest state stands; waits for a handover and for a free seat."""

    def end(self, engine: str, seat: str) -> None:
        """The stream has ended; never raises."""


class RemoteStream:
    """What a session needs of a stream (`StreamLike`). Any thread, one at a time; `embed` from others.

    The asks since the newest safe state are kept, so a lost engine costs a restore and a replay.
    """

    def __init__(self, links: Links, config: StreamConfig, seat: str, engine: str, save_chunks: int) -> None:
        self.config, self.seat, self.engine_id = config, seat, engine
        self.moved = self.replayed = 0
        """Times it changed its engine, and chunks that were made again for that."""
        self.kept_by = ""
        """Life of the keeper that has its newest state."""
        self._links, self._save_chunks = links, save_chunks
        self._epoch = self._given = 0
        self._begin(0, ("start", None, "", None, 0))

    def _begin(self, index: int, ask: Ask) -> None:
        self._epoch += 1
        self._origin = self._base = self._index = index
        self._asks: list[Ask] = [ask]
        self._log: list[list[Ask]] = []
        """What the chunks from `base` on were asked with."""

    @property
    def place(self) -> Place:
        """Of the next chunk."""
        return Place(self._epoch, self._index)

    @property
    def needs_state(self) -> bool:
        """Whether it is lost with its engine if nobody has a state of it: too far from its start to be made again."""
        return self._base > self._origin

    @property
    def next_rgb_frames(self) -> int:
        return self.config.context.span(self._index, self._given).rgb_frames

    def start(
        self, image: Any = None, prompt: Any = "", tracks: Tracks | None = None, *, seed: int | None = None
    ) -> None:
        self._given = int(self.config.model.image_input == "prefill" and image is not None)
        self._begin(0, ("start", image, prompt, tracks, seed or 0))

    def load_state(self, state: StreamState) -> None:
        self._given = state.given
        self._begin(state.index, ("load", pack_stream(state)))

    def set_tracks(self, tracks: Tracks | None) -> int:
        self._asks.append(("tracks", tracks))
        return 0

    def set_prompt(self, prompt: Any, *, recache: bool = False, over: int = 1, way: Way = "linear") -> int:
        self._asks.append(("prompt", prompt, {"recache": recache, "over": over, "way": way}))
        return 0

    def step(self) -> Chunk:
        asks, keep = list(self._asks), (self._index + 1) % self._save_chunks == 0
        made: Made = self._sure(lambda: self._links.step(self.engine_id, self.seat, self.place, asks, keep=keep))
        self._asks = []
        self._log.append(asks)
        self._index += 1
        self._forget(made)
        return Chunk(made.number, made.frames, made.first_rgb_frame, made.control_id, made.timings, self.config.fps)

    def state(self) -> StreamState:
        asks = list(self._asks)
        data: bytes = self._sure(lambda: self._links.state(self.engine_id, self.seat, self.place, asks))
        return unpack_stream(data, self.config)

    def embed(self, prompt: Any) -> NDArray[np.float32]:
        for _ in range(TRIES):
            try:
                return self._links.embed(self.engine_id, prompt)
            except Lost:  # whoever makes the chunks finds another engine
                time.sleep(WAIT_SECONDS)
        raise DeviceError(GONE)

    def relocate(self) -> None:
        """Its engine is gone or leaves: go on elsewhere now, not when the next chunk is due."""
        self._move()

    def close(self) -> None:
        self._links.end(self.engine_id, self.seat)

    def _sure(self, call: Callable[[], Any]) -> Any:
        for _ in range(TRIES):
            try:
                return call()
            except Lost as error:
                logger.warning("stream %s lost its engine at %s: %s", self.seat, tuple(self.place), error)
                self._move()
        raise DeviceError(GONE)

    def _move(self) -> None:
        """To another engine, at the same place."""
        for _ in range(TRIES):
            self.engine_id, kept = self._links.move(self.seat, self.engine_id, self.place)
            self.moved += 1
            try:
                self._adopt(kept)
                return
            except Lost as error:
                logger.warning("stream %s could not go on at %s: %s", self.seat, self.engine_id, error)
        raise DeviceError(GONE)

    def _adopt(self, kept: Place | None) -> None:
        restore = kept is not None and kept.epoch == self._epoch and self._base <= kept.chunk <= self._index
        if not restore and self.needs_state:
            raise DeviceError("the engine was lost together with the newest state of the stream; start it again")
        base = kept.chunk if restore and kept is not None else self._base
        log = self._log[base - self._base :]
        if restore or log:  # else the next step begins it
            self._links.adopt(self.engine_id, self.seat, Place(self._epoch, base), log, restore=restore)
        self.replayed += len(log)

    def _forget(self, made: Made) -> None:
        """Asks before a safe state of this start are needed no more."""
        if made.kept.epoch == self._epoch and self._base < made.kept.chunk <= self._index:
            del self._log[: made.kept.chunk - self._base]
            self._base, self.kept_by = made.kept.chunk, made.keeper
