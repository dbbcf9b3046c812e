"""Validation of what Tracks are made from; every message says what came and what was expected."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ms_infer.errors import ConfigError, TrackShapeError

MAX_SAMPLES = 1 << 25  # points x RGB frames of one Tracks: 256 MiB of coordinates
MAX_RELATIVE = 100.0  # 0..1 coordinates beyond this are pixels that came without their size
MAX_PIXELS = 1e6


def positive(name: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (math.isfinite(number) and number > 0):
        raise ConfigError(f"{name} must be a positive number, not {value!r}")
    return number


def checked_size(size: Any) -> tuple[int, int] | None:
    if size is None:
        return None
    values = np.asarray(size).reshape(-1)
    if values.shape != (2,) or values.dtype.kind not in "iu" or (values < 1).any():
        raise TrackShapeError(f"size must be (height, width) in whole pixels, or None for 0..1, got {size!r}")
    return int(values[0]), int(values[1])


def _as_array(name: str, value: ArrayLike, expected: str) -> NDArray[Any]:
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.asarray(None)
    if array.dtype.kind not in "biuf":
        raise TrackShapeError(f"{name} must be a numeric array {expected}, got {type(value).__name__} of {array.dtype}")
    return array


def check_samples(count: int, rgb_frames: int) -> None:
    if count * rgb_frames > MAX_SAMPLES:
        raise TrackShapeError(
            f"{count} tracks over {rgb_frames} RGB frames are {count * rgb_frames} positions; "
            f"at most {MAX_SAMPLES} are possible"
        )


def checked_points(points: ArrayLike) -> NDArray[np.float32]:
    array = _as_array("points", points, "[tracks, RGB frames, 2]")
    if array.ndim != 3 or array.shape[2] != 2 or array.shape[1] < 1:
        hint = "; [tracks, 2] needs a time axis: points[:, None]" if array.ndim == 2 else ""
        raise TrackShapeError(
            f"points must be [tracks, RGB frames >= 1, 2] (x, y), got shape {list(array.shape)}{hint}"
        )
    check_samples(array.shape[0], array.shape[1])
    with np.errstate(over="ignore"):
        points32 = np.array(array, np.float32, order="C")
    if not np.isfinite(points32).all():
        bad = ~np.isfinite(points32).all(-1)
        track, frame = (int(i) for i in np.argwhere(bad)[0])
        raise TrackShapeError(
            f"points hold NaN or infinity at {int(bad.sum())} positions, first at track {track}, RGB frame {frame}; "
            "put any finite position there and mark it invisible"
        )
    return points32


def checked_visible(visible: ArrayLike | None, count: int, rgb_frames: int) -> NDArray[np.bool_]:
    if visible is None:
        return np.ones((count, rgb_frames), np.bool_)
    array = _as_array("visible", visible, f"[{count}, {rgb_frames}]")
    if array.shape != (count, rgb_frames):
        raise TrackShapeError(
            f"visible must be [{count}, {rgb_frames}] (tracks, RGB frames) like points, got shape {list(array.shape)}"
        )
    if array.dtype != np.bool_ and not np.isin(array, (0, 1)).all():
        raise TrackShapeError("visible must hold only True and False (or 1 and 0)")
    return np.array(array, np.bool_)


def checked_ids(ids: ArrayLike | None, count: int) -> NDArray[np.int64]:
    if ids is None:
        return np.arange(count, dtype=np.int64)
    array = _as_array("ids", ids, f"[{count}]") if count else np.zeros(np.shape(ids), np.int64)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise TrackShapeError(f"ids must be [{count}] integers, one per track, got {list(array.shape)} {array.dtype}")
    if (array < 0).any() or (array > np.iinfo(np.int64).max).any() or len(np.unique(array)) != count:
        raise TrackShapeError("ids must be unique and 0 or more")
    return np.array(array, np.int64)


def check_range(points: NDArray[np.float32], size: tuple[int, int] | None) -> None:
    largest = float(np.abs(points).max(initial=0.0))
    if size is None and largest > MAX_RELATIVE:
        raise TrackShapeError(
            f"coordinates reach {largest:g}, but without a size they are 0..1; for pixels pass size=(height, width)"
        )
    if largest > MAX_PIXELS:
        raise TrackShapeError(f"coordinates reach {largest:g}; at most {MAX_PIXELS:g} pixels are possible")
