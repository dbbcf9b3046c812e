"""Motion transfer: follows a grid of points through a video by dense optical flow (OpenCV)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError, MissingExtraError
from ms_infer.media.video import open_video
from ms_infer.tracks.arrays import TrackArrays, grid_points

# Forward and backward flow agree when |f + b|^2 < RELATIVE (|f|^2 + |b|^2) + ABSOLUTE (Sundaram et al., ECCV 2010).
RELATIVE, ABSOLUTE = 0.01, 0.5
REFINEMENTS = 10  # variational iterations; the preset's 5 are a little less exact
MIN_SIDE = 16  # the coarsest patches of the flow need this much

Flow = NDArray[np.float32]


def track_video(
    source: str | Path | NDArray[np.uint8],
    rows: int = 24,
    cols: int = 24,
    *,
    height: int | None = None,
    width: int | None = None,
    fps: float | None = None,
    max_frames: int = 1024,
) -> TrackArrays:
    """Tracks [rows * cols, T] in pixels of a video's frames, starting from a grid over its RGB frame 0.

    `source` is a video file, read at height x width when given, or uint8 [T, H, W, 3]. `fps` is the rate to read a
    file at (default: its own), or the rate of an array (default 16). The flow is DIS (medium preset), chained from
    frame to frame; a point becomes invisible for good where forward and backward flow disagree (occlusion), or where
    it leaves the picture, and then keeps its last place. A file is followed while it is read: two RGB frames are held
    at a time. Needs the extra [video]; ConfigError for unusable frames.
    """
    try:
        import cv2
    except ImportError as error:
        raise MissingExtraError("following a video needs OpenCV: pip install 'ms-infer[video]'") from error
    frames, rate = _frames(source, height, width, fps, max_frames)
    first = next(frames)
    size = (int(first.shape[0]), int(first.shape[1]))
    if min(size) < MIN_SIDE:
        raise ConfigError(
            f"optical flow needs pictures of at least {MIN_SIDE}x{MIN_SIDE} pixels, got {size[0]}x{size[1]}"
        )
    engine = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    engine.setVariationalRefinementIterations(REFINEMENTS)
    points = [grid_points(rows, cols, size)[:, 0].astype(np.float32)]
    visible = [np.ones(len(points[0]), np.bool_)]
    before = cv2.cvtColor(first, cv2.COLOR_RGB2GRAY)
    for frame in frames:
        now = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        flows = engine.calc(before, now, None), engine.calc(now, before, None)
        moved, followed = _step(points[-1], visible[-1], *flows)
        points.append(moved)
        visible.append(followed)
        before = now
    return TrackArrays(np.stack(points, 1), np.stack(visible, 1), None, size, rate)


def _frames(
    source: str | Path | NDArray[np.uint8], height: int | None, width: int | None, fps: float | None, max_frames: int
) -> tuple[Iterator[NDArray[np.uint8]], float]:
    """RGB frames one after the other, at least one, and their rate."""
    if not isinstance(source, np.ndarray):
        return open_video(source, height, width, max_frames, fps=fps)
    frames = source[:max_frames]
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or len(frames) < 1:
        raise ConfigError(f"a video is uint8 [T >= 1, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    return map(np.ascontiguousarray, frames), fps or 16.0


def _step(
    points: NDArray[np.float32], visible: NDArray[np.bool_], forward: Flow, backward: Flow
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Points [N, 2] one RGB frame later and whether they are still followed."""
    height, width = forward.shape[:2]
    ahead = _at(forward, points)
    moved = points + ahead
    back = _at(backward, moved)
    gap = ((ahead + back) ** 2).sum(-1)
    agree = gap < RELATIVE * ((ahead**2).sum(-1) + (back**2).sum(-1)) + ABSOLUTE
    inside = (moved >= 0).all(-1) & (moved[:, 0] < width) & (moved[:, 1] < height)
    followed = visible & agree & inside
    return np.where(followed[:, None], moved, points), followed


def _at(flow: Flow, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """Flow [N, 2] at continuous coordinates: the sample of pixel i stands at i + 0.5."""
    import cv2

    x, y = np.ascontiguousarray(points[:, 0] - 0.5), np.ascontiguousarray(points[:, 1] - 0.5)
    # remap takes at most 32767 columns: one column of points is never a limit in rows either, so fold them
    sampled: Any = cv2.remap(flow, _folded(x), _folded(y), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(sampled, np.float32).reshape(-1, 2)[: len(points)]


def _folded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[N] as rows of 1024, padded with zeros."""
    rows = -(-len(values) // 1024)
    return np.pad(values, (0, rows * 1024 - len(values))).reshape(rows, 1024)
