"""A stand-in for Stream in tests of the server: the first frame, moved along the tracks, without a model."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.blend import Way
from ms_infer.chunk import Chunk
from ms_infer.config import StreamConfig, preset
from ms_infer.errors import ConfigError
from ms_infer.media import load_image
from ms_infer.state import StreamState
from ms_infer.tracks import Tracks
from ms_infer.tracks.player import TrackPlayer
from tests.held import held

CELL = 4  # pixels that move together


def moved(image: NDArray[np.uint8], points: NDArray[np.float32], anchors: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The picture `[S, S, 3]`, every cell gone with the point `[N, 2]` nearest to it, which came from its anchor."""
    size = len(image)
    if len(points) == 0:
        return image
    centres = np.arange(CELL / 2, size, CELL, dtype=np.float32)
    cells = np.stack(np.meshgrid(centres, centres), -1)
    nearest = np.square(cells[:, :, None] - points).sum(-1).argmin(-1)
    shift = (points - anchors)[nearest].repeat(CELL, 0).repeat(CELL, 1)
    pixels = np.stack(np.meshgrid(np.arange(size), np.arange(size)), -1)
    x, y = np.clip(np.rint(pixels - shift), 0, size - 1).astype(int).transpose(2, 0, 1)
    return image[y, x]


class MovingPicture:
    """Deterministic; `seconds` is how long a chunk takes at least, `fail_at` one that fails, `words` what it reads."""

    engine = "moving picture"
    digest = "0" * 64

    def __init__(self, *, size: int = 64, seconds: float = 0.0, fail_at: int = -1, words: tuple[str, ...] = ()) -> None:
        self.config: StreamConfig = replace(preset("demo"), height=size, width=size)
        model = self.config.model  # without a layer network: things are picked by their colours
        head = replace(model.require_track_head(), content="none")
        text = replace(model.text, vocabulary=words)
        bare = replace(model, text=text, track_head=head, layer_network=None, refiner=None)
        self.config = replace(self.config, model=bare)
        self.seconds, self.fail_at = seconds, fail_at
        self.prompts: list[Any] = []
        self.blends: list[tuple[int, int, Way, bool]] = []
        """Of every changed prompt: the RGB frame before which it came, and how."""
        self.controls: list[Tracks | None] = []
        self.seeds: list[int | None] = []
        self.threads: set[int] = set()
        self.closed = False
        self.start()
        self.threads.clear()

    def start(
        self, image: Any = None, prompt: Any = "", tracks: Tracks | None = None, *, seed: int | None = None
    ) -> None:
        self.threads.add(threading.get_ident())
        size = self.config.height
        grey = np.full((size, size, 3), 128, np.uint8)
        self.image: NDArray[np.uint8] = grey if image is None else load_image(image, size, size)
        self.prompts.append(prompt)
        self.seeds.append(seed)
        self.index = self.frame = 0
        self.player = TrackPlayer(size, size, self.config.fps, 256)

    def set_prompt(self, prompt: Any, *, recache: bool = False, over: int = 1, way: Way = "linear") -> int:
        self.prompts.append(prompt)
        self.blends.append((self.frame, over, way, recache))
        return len(self.prompts)

    def set_tracks(self, tracks: Tracks | None) -> int:
        self.controls.append(tracks)
        self.player.set(tracks, self.frame)
        return len(self.controls)

    @property
    def next_rgb_frames(self) -> int:
        return self.config.context.span(self.index).rgb_frames

    def step(self) -> Chunk:
        self.threads.add(threading.get_ident())
        if self.index == self.fail_at:
            self.fail_at = -1
            raise RuntimeError("secret path /home/somebody/weights.pt")
        until = time.monotonic() + self.seconds
        count = self.next_rgb_frames
        frames = self._moved(count)
        time.sleep(max(0.0, until - time.monotonic()))
        chunk = Chunk(self.index, frames, self.frame, 0, {"denoise": 1.0, "chunk": 1.0})
        self.index += 1
        self.frame += count
        return chunk

    def _moved(self, count: int) -> NDArray[np.uint8]:
        plan = self.player.chunk(self.frame, count)
        rows = np.flatnonzero(plan.visible.any(1))
        if len(rows) == 0:
            return np.repeat(self.image[None], count, 0)
        return np.stack(
            [
                moved(self.image, plan.points[rows, t][seen], plan.anchors[rows][seen])
                for t, seen in enumerate(plan.visible[rows].T)
            ]
        )

    def state(self) -> StreamState:
        self.threads.add(threading.get_ident())
        shown = self.controls[-1] if self.controls else None
        own = {"first": self.image.copy(), "frame": np.array([self.frame])}
        return held(self, own, tracks=shown, image=self.image.copy(), player=self.player.state())

    def load_state(self, state: StreamState) -> None:
        self.threads.add(threading.get_ident())
        if state.digest != self.digest:
            raise ConfigError("the state was made with other weights")
        player = TrackPlayer(self.config.height, self.config.width, self.config.fps, 256)
        player.restore(state.player)
        self.image, self.index, self.frame = state.engine["first"].copy(), state.index, int(state.engine["frame"][0])
        self.player = player

    def close(self) -> None:
        self.closed = True
