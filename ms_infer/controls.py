"""What a user may change while a stream runs; the newest wins, from any thread."""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ms_infer.tracks import Tracks


@dataclass(frozen=True)
class Control:
    """The newest wishes. Ids count every change, so a chunk can say which one it was made with."""

    id: int = 0
    tracks: Tracks | None = None
    tracks_id: int = 0
    """`id` at which the tracks were set last."""
    text: NDArray[np.float32] | None = None
    """Embedding `[tokens, dim]` of the prompt."""
    prompt_id: int = 0
    recache: bool = False
    """Whether the newest prompt also re-encodes the context."""
    replace_sink: bool = False


class Controls:
    """A single slot: writers replace it, the stream reads it once per chunk."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest = Control()

    def newest(self) -> Control:
        return self._newest

    def set_tracks(self, tracks: Tracks | None) -> int:
        with self._lock:
            number = self._newest.id + 1
            self._newest = replace(self._newest, id=number, tracks=tracks, tracks_id=number)
        return number

    def set_text(self, text: NDArray[np.float32], *, recache: bool, replace_sink: bool) -> int:
        with self._lock:
            number = self._newest.id + 1
            self._newest = replace(
                self._newest, id=number, text=text, prompt_id=number, recache=recache, replace_sink=replace_sink
            )
        return number

    def reset(self, control: Control) -> None:
        with self._lock:
            self._newest = control
