"""How far things in a video are from where their tracks want them: points are followed by optical flow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ms_infer.tracks import Tracks
from ms_infer.tracks.player import TrackPlayer


def track_errors(videos: Sequence[NDArray[np.uint8]], player: TrackPlayer, rows: int, cols: int) -> list[float]:
    """Mean end-point error in pixels of each video, over the same points: those that are seen and followed in all.

    videos: uint8 `[T, H, W, 3]` of equal size; player: a control of `rows * cols` tracks that begin on that grid.
    NaN where no point can be followed. MissingExtraError without OpenCV.
    """
    wanted = player.chunk(0, len(videos[0]))
    count = rows * cols
    followed = [Tracks.from_video(video, rows, cols, max_frames=len(video)) for video in videos]
    counts = np.logical_and.reduce([wanted.visible[:count], *(tracks.visible for tracks in followed)])
    counts[:, 0] = False  # all points begin where they should
    if not counts.any():
        return [float("nan")] * len(videos)
    distances = (np.linalg.norm(tracks.points - wanted.points[:count], axis=-1) for tracks in followed)
    return [float(distance[counts].mean()) for distance in distances]
