"""What tracks are as plain arrays: the form in which files and trackers hand them over."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError, TrackShapeError
from ms_infer.tracks.checks import MAX_SAMPLES

FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
IntArray = NDArray[np.int64]
Size = tuple[int, int] | None


class TrackArrays(NamedTuple):
    """The arguments of `Tracks`, in its order; not checked yet."""

    points: NDArray[Any]
    visible: NDArray[Any] | None
    ids: NDArray[Any] | None
    size: Size
    fps: float


def grid_points(rows: int, cols: int, size: Size) -> NDArray[np.float64]:
    """Centres [rows * cols, 1, 2] of equal cells of a picture, row by row."""
    if rows < 1 or cols < 1:
        raise ConfigError(f"a grid needs at least 1 row and 1 column, not {rows} x {cols}")
    if rows * cols > MAX_SAMPLES:
        raise TrackShapeError(f"{rows} x {cols} points; at most {MAX_SAMPLES} are possible")
    height, width = size or (1, 1)
    y, x = np.meshgrid((np.arange(rows) + 0.5) / rows * height, (np.arange(cols) + 0.5) / cols * width, indexing="ij")
    return np.stack([x, y], -1).reshape(-1, 1, 2)
