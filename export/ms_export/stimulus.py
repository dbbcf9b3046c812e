"""What every comparison streams: the demo's own picture, prompt and drags, for a model of any size."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import StreamConfig
from ms_infer.demo import default_example
from ms_infer.media import load_image
from ms_infer.tracks import Tracks
from ms_infer.tracks.player import TrackPlayer


def example_tracks(config: StreamConfig) -> Tracks | None:
    """A grid of points with the drags of the demo's own picture; None for models without a track head."""
    side = example_side(config)
    if not side:
        return None
    return default_example().moved(Tracks.grid(side, side), seconds=2.0)


def example_side(config: StreamConfig) -> int:
    """Rows and columns of the grid: what the model can take, up to 12."""
    head = config.model.track_head
    return 0 if head is None else min(12, math.isqrt(head.max_tracks))


def example_player(config: StreamConfig) -> TrackPlayer | None:
    """Plays `example_tracks`; None for models without a track head."""
    if config.model.track_head is None:
        return None
    player = TrackPlayer.of(config)
    player.set(example_tracks(config), 0)
    return player


def example_image(height: int, width: int) -> NDArray[np.uint8]:
    """The demo's own picture `[height, width, 3]`."""
    return load_image(default_example().image, height, width)


def example_prompt() -> str:
    """The prompt that goes with it."""
    return default_example().prompt
