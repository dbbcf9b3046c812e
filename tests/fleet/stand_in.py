"""A stream without a model: a chunk takes 0.1 s, its state 13 MB, and its frames depend on all that came before."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.blend import Way
from ms_infer.chunk import Chunk
from ms_infer.config import StreamConfig, preset
from ms_infer.errors import ConfigError
from ms_infer.state import StreamState
from ms_infer.tracks import Tracks
from tests.held import held

SECONDS, STATE_BYTES, SIZE = 0.1, 13_000_000, 64


class StandIn:
    """See `StreamLike`. While it makes a chunk, the folder MS_TEST_STEPS has a file that is named as its process."""

    def __init__(self, seconds: float = SECONDS, size: int = STATE_BYTES) -> None:
        self.config: StreamConfig = replace(preset("demo"), height=SIZE, width=SIZE)
        self.seconds = seconds
        self.digest = "0" * 64
        folder = os.environ.get("MS_TEST_STEPS")
        self.mark = Path(folder) / str(os.getpid()) if folder else None
        self.bulk = np.random.default_rng(0).integers(0, 255, size, np.uint8)
        self.start()

    def start(
        self, image: Any = None, prompt: Any = "", tracks: Tracks | None = None, *, seed: int | None = None
    ) -> None:
        picture = b"" if image is None else np.asarray(image).tobytes()
        self.index = self.frame = 0
        self.hash = hashlib.sha256(f"{seed} {prompt}".encode() + picture).digest()
        self.set_tracks(tracks)

    def set_tracks(self, tracks: Tracks | None) -> int:
        points = b"-" if tracks is None else tracks.points.tobytes() + tracks.visible.tobytes()
        self.hash = hashlib.sha256(self.hash + points).digest()
        return 0

    def set_prompt(self, prompt: Any, *, recache: bool = False, over: int = 1, way: Way = "linear") -> int:
        self.hash = hashlib.sha256(self.hash + f"{prompt} {recache} {over} {way}".encode()).digest()
        return 0

    def embed(self, prompt: Any) -> NDArray[np.float32]:
        return np.zeros((16, 128), np.float32)

    @property
    def next_rgb_frames(self) -> int:
        return self.config.context.span(self.index).rgb_frames

    def step(self) -> Chunk:
        if self.mark is not None:
            self.mark.touch()
        time.sleep(self.seconds)
        if self.mark is not None:
            self.mark.unlink(missing_ok=True)
        self.hash = hashlib.sha256(self.hash).digest()
        count = self.next_rgb_frames
        squares = np.random.default_rng(list(self.hash)).integers(0, 255, (count, 8, 8, 3), np.uint8)
        frames = squares.repeat(SIZE // 8, 1).repeat(SIZE // 8, 2)
        chunk = Chunk(self.index, frames, self.frame, 0, {"chunk": self.seconds * 1e3})
        self.index, self.frame = self.index + 1, self.frame + count
        return chunk

    def state(self) -> StreamState:
        own = {"hash": np.frombuffer(self.hash, np.uint8), "frame": np.array([self.frame]), "bulk": self.bulk}
        return held(self, own)

    def load_state(self, state: StreamState) -> None:
        if state.digest != self.digest:
            raise ConfigError("the state was made with other weights")
        self.hash, self.index = state.engine["hash"].tobytes(), state.index
        self.frame, self.bulk = int(state.engine["frame"][0]), state.engine["bulk"].copy()

    def close(self) -> None: ...
