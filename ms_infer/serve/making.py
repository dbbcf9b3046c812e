"""A session's chunks: what is wished for, what the points do, and the step of the stream. Runs in the engine thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from ms_infer.blend import Way
from ms_infer.chunk import Chunk
from ms_infer.config import StreamConfig
from ms_infer.errors import MotionStreamError
from ms_infer.hand import Hand, Kind
from ms_infer.serve import protocol
from ms_infer.serve.saved import SessionState
from ms_infer.serve.show import Made
from ms_infer.state import StreamState
from ms_infer.tracks import Tracks

MAX_POINTS = 1024


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
    def set_prompt(self, prompt: Any, *, recache: bool = False, over: int = 1, way: Way = "linear") -> int: ...
    def embed(self, prompt: Any) -> NDArray[np.float32]: ...
    def state(self) -> StreamState: ...
    def load_state(self, state: StreamState) -> None: ...
    def close(self) -> None: ...


class Standing(NamedTuple):
    """What the next chunk depends on beside stream and hand."""

    prompt_control: int
    restart: bool


class PromptWish(NamedTuple):
    """A prompt, and how it is to come."""

    text: Any
    """Text or embedding."""
    control: int
    """The control that set it."""
    over: int = 1
    way: Way = "linear"
    recache: bool = False


class Cue(NamedTuple):
    """A prompt that is to come by itself."""

    frames: int
    """RGB frames until then, from the next chunk's first one on."""
    wish: PromptWish


@dataclass(frozen=True)
class Wishes:
    """What changed since the last chunk; the newest of each wins."""

    restart: bool = False
    prompt: PromptWish | None = None
    changed: bool = True
    """Whether anything at all came from a user."""


class Maker:
    """Makes a session's chunks. Wishes come from the event loop, `make` runs in the engine thread."""

    def __init__(self, stream: StreamLike, fps: float) -> None:
        self.stream, self.fps = stream, fps
        config = stream.config
        head = config.model.track_head
        self.follows_tracks = head is not None
        capacity = min(head.max_tracks if head else 1, MAX_POINTS)
        self.hand = Hand(aspect=config.width / config.height, fps=fps, capacity=capacity)
        self.image: NDArray[np.uint8] | None = None
        self.prompt: Any = ""
        self.seed = 0
        self.chunk = 0
        """Chunks made since the start."""
        self.last_control = 0
        self.epoch = 0
        """Counts the starts."""
        self.calm = 0
        """Chunks since anything changed or moved."""
        self._lock = threading.Lock()
        self._wishes = Wishes()
        self._prompt_control = 0
        self._received = 0.0
        self._cues: tuple[Cue, ...] = ()
        self._coming = 0  # chunks until a prompt is all there

    # ---- wishes

    def note(self, control: int) -> None:
        """Remember that a control came in: it belongs to the next chunk."""
        with self._lock:
            self.last_control = max(self.last_control, control)
            self._received = self._received or time.monotonic()
            self._wishes = replace(self._wishes, changed=True)

    def begin(self, *, keep_points: bool) -> int:
        """Start over from the picture at the next chunk; returns the new epoch."""
        with self._lock:
            self.epoch += 1
            self._cues = ()
            self._wishes = replace(self._wishes, restart=True, changed=True)
            if not keep_points:
                self.hand.reset()
            return self.epoch

    def halt(self) -> int:
        """Let the chunk that is being made be of no use; returns the new epoch."""
        with self._lock:
            self.epoch += 1
            return self.epoch

    def set_prompt(self, wish: PromptWish) -> None:
        """A prompt for the next chunk; those that were to come by themselves no longer do."""
        self.prompt = wish.text
        with self._lock:
            self._cues = ()
            self._wishes = replace(self._wishes, prompt=wish, changed=True)

    def schedule(self, cues: Sequence[Cue]) -> None:
        """Prompts that come by themselves, in the order of their frames, in place of those before."""
        with self._lock:
            self._cues = tuple(cues)
            self._wishes = replace(self._wishes, changed=True)

    def still(self, chunks: int) -> bool:
        """Whether nothing has changed or moved for so many chunks, and nothing is wished for."""
        return self.calm >= chunks and not self._wishes.changed and not self._cues

    # ---- the engine thread

    def save(self, *, stream: bool = True) -> tuple[StreamState | None, dict[str, NDArray[Any]], Standing]:
        """Stream (None where it is not wanted, or the next chunk is the first one), hand, and what is wished for."""
        with self._lock:
            wishes = self._wishes
        number = self._prompt_control if wishes.prompt is None else wishes.prompt.control
        if stream and wishes.prompt is not None and not wishes.restart:
            self._hand_on(wishes.prompt)  # a wish that no chunk has seen yet belongs to the stream's state
        begun = self.chunk > 0 and not wishes.restart
        return self.stream.state() if begun and stream else None, self.hand.state(), Standing(number, wishes.restart)

    def load(self, saved: SessionState) -> None:
        """Stand where another session stood; ConfigError for one that does not fit changes nothing."""
        before = self.hand.state()
        self.hand.load_state(saved.hand)
        try:
            if saved.stream is not None:
                self.stream.load_state(saved.stream)
        except MotionStreamError:
            self.hand.load_state(before)
            raise
        facts, prompt = saved.facts, saved.embedding if saved.facts.prompt is None else saved.facts.prompt
        with self._lock:
            self.epoch += 1
            self.image, self.prompt, self.seed = saved.image, "" if prompt is None else prompt, facts.seed
            self.chunk = 0 if saved.stream is None else saved.stream.index
            self.last_control = max(self.last_control, facts.control)
            self._prompt_control = facts.prompt_control
            self._wishes = Wishes(restart=saved.stream is None and facts.state != "waiting")

    def make(self) -> tuple[Made, Chunk]:
        """Make the next chunk."""
        with self._lock:
            wishes, self._wishes = self._wishes, Wishes(changed=False)
            epoch, control = self.epoch, self.last_control
            received, self._received = self._received, 0.0
        if wishes.restart:
            self.stream.start(self.image, self.prompt, seed=self.seed)
            self.chunk = 0
        elif wishes.prompt is not None:
            self._hand_on(wishes.prompt)
        if wishes.prompt is not None:
            self._prompt_control = wishes.prompt.control
        self._play_cues()
        tracks = self.hand.tracks(frames=self.stream.next_rgb_frames)
        kinds = self.hand.kinds
        if self.follows_tracks:  # they are at the pace that is shown; the stream plays one position per frame
            self.stream.set_tracks(Tracks(tracks.points, tracks.visible, tracks.ids, fps=self.stream.config.fps))
        chunk = self.stream.step()
        busy = wishes.changed or self._coming > 0 or self.hand.moving or moves(tracks)
        self.calm = 0 if busy else self.calm + 1
        self._coming = max(self._coming - 1, 0)
        return self._made(chunk, tracks, kinds, epoch, control, received), chunk

    def _hand_on(self, wish: PromptWish) -> None:
        self.stream.set_prompt(wish.text, recache=wish.recache, over=wish.over, way=wish.way)
        self._coming = wish.over

    def _play_cues(self) -> None:
        """Hand on the newest prompt whose time comes within the next chunk; the others come nearer."""
        coming = self.stream.next_rgb_frames
        with self._lock:
            due = [cue.wish for cue in self._cues if cue.frames < coming]
            self._cues = tuple(cue._replace(frames=cue.frames - coming) for cue in self._cues[len(due) :])
        if due:
            self._hand_on(due[-1])
            self.prompt, self._prompt_control = due[-1].text, due[-1].control

    def _made(
        self, chunk: Chunk, tracks: Tracks, kinds: NDArray[np.uint8], epoch: int, control: int, received: float
    ) -> Made:
        with self._lock:
            if epoch == self.epoch:
                self.chunk = chunk.index + 1
        full, slim = (
            protocol.pack_ack(
                chunk.index,
                chunk.first_rgb_frame,
                control,
                self._prompt_control,
                kinds[rows],
                tracks.points[rows],
                tracks.visible[rows],
            )
            for rows in (np.ones(len(kinds), np.bool_), kinds != Kind.GRID)
        )
        made_ms = time.monotonic() * 1e3
        return Made(epoch, chunk.index, chunk.first_rgb_frame, chunk.frames, full, slim, control, received, made_ms)


def moves(tracks: Tracks) -> bool:
    """Whether a visible point moves, comes or goes within the chunk."""
    seen, stays = tracks.visible, np.ptp(tracks.points, axis=1).max(axis=-1, initial=0.0) == 0.0
    return not bool((stays | ~seen.any(1)).all() and (seen == seen[:, :1]).all())
