"""What a user may change while a stream runs; the newest wins, from any thread, and none is lost."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from ms_infer.blend import Blend
from ms_infer.tracks import Tracks


@dataclass(frozen=True, eq=False)
class TracksControl:
    """The newest tracks, and the id that setting them got."""

    id: int = 0
    tracks: Tracks | None = None
    """In the stream's pixels and at its fps; None: no tracks."""


@dataclass(frozen=True, eq=False)
class PromptControl:
    """The newest prompt, and the id that setting it got."""

    id: int = 0
    text: NDArray[np.float32] | None = None
    """Embedding `[tokens, dim]`; None before the stream has one."""
    recache: bool = False
    """Whether the prompt also re-encodes the context."""
    replace_sink: bool = False
    blend: Blend = field(default_factory=Blend)
    """How it takes the place of the prompt before."""
    origin: NDArray[np.float32] | None = None
    """Embedding that it comes from while the blend goes on; None before it and after it."""
    done: int = 0
    """Chunks of the blend that were made."""

    @property
    def shown(self) -> NDArray[np.float32]:
        """Embedding that the newest chunk was made with."""
        assert self.text is not None, "a started stream has a text"
        return self.text if self.origin is None else self.blend.between(self.origin, self.text, self.done)

    def followed_by(self, newest: PromptControl) -> PromptControl:
        """The prompt of the next chunk, after one that was made with this one; `self` where nothing changes."""
        if newest.id != self.id:
            started = newest if newest.blend.chunks == 1 else replace(newest, origin=self.shown)
        elif self.origin is None:
            return self
        else:
            started = self
        done = started.done + 1
        return replace(started, done=done, origin=None if done >= started.blend.chunks else started.origin)


@dataclass(frozen=True, eq=False)
class StrengthsControl:
    """The newest strengths of the adapters (LoRA), and the id that setting them got."""

    id: int = 0
    values: tuple[float, ...] = ()
    """One for each adapter; empty where there are none."""


@dataclass(frozen=True, eq=False)
class Control:
    """The newest of each kind."""

    tracks: TracksControl = field(default_factory=TracksControl)
    prompt: PromptControl = field(default_factory=PromptControl)
    strengths: StrengthsControl = field(default_factory=StrengthsControl)

    @property
    def id(self) -> int:
        """Counts every change, so a chunk can say which one it was made with."""
        return max(self.tracks.id, self.prompt.id, self.strengths.id)

    def shifted(self, by: int) -> Control:
        """The same wishes under ids that are larger by `by`."""
        kinds = (self.tracks, self.prompt, self.strengths)
        return Control(*(replace(kind, id=kind.id + by) for kind in kinds))  # type: ignore[arg-type, type-var]


class Controls:
    """The one slot between the threads that set controls and the one that plays them.

    Ids only grow, over starts and restores too: whoever waits for a chunk with an id never waits in vain. A start or
    a restore takes its id when it is called (`reserve`) and enters the slot when it is done (`begin`); what was set
    in between stays on top of it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest = Control()
        self._last = 0

    def newest(self) -> Control:
        return self._newest

    def set_tracks(self, tracks: Tracks | None) -> int:
        with self._lock:
            self._last += 1
            self._newest = replace(self._newest, tracks=TracksControl(self._last, tracks))
            return self._last

    def set_prompt(self, prompt: PromptControl) -> int:
        """The control's id takes the place of the prompt's."""
        with self._lock:
            self._last += 1
            self._newest = replace(self._newest, prompt=replace(prompt, id=self._last))
            return self._last

    def set_strengths(self, values: tuple[float, ...]) -> int:
        with self._lock:
            self._last += 1
            self._newest = replace(self._newest, strengths=StrengthsControl(self._last, values))
            return self._last

    def reserve(self, first: int = 0, last: int = 0) -> int:
        """What to add to the ids first..last of a start or a restore to make them the newest; takes these ids.

        Nothing as long as no control was ever set here: a start is number 0 then, and a snapshot keeps its numbers.
        """
        with self._lock:
            shift = max(0, self._last + 1 - first) if self._last else 0
            self._last = last + shift
            return shift

    def begin(self, base: Control) -> None:
        """Put a start or a restore, of ids that `reserve` gave, below whatever was set since."""
        with self._lock:
            newest = self._newest
            self._newest = Control(
                newest.tracks if newest.tracks.id > base.id else base.tracks,
                newest.prompt if newest.prompt.id > base.id else base.prompt,
                newest.strengths if newest.strengths.id > base.id else base.strengths,
            )
