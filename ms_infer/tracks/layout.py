"""Which of a file's arrays are the points, which say what is visible, in which order and in which units."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import TrackShapeError
from ms_infer.tracks.arrays import Size

# Names that trackers and data sets use, and whether their time comes before their tracks: None where both are in use.
POINTS: dict[str, bool | None] = {"points": False, "tracks": None, "pred_tracks": True}
VISIBLE: dict[str, bool | None] = {
    "visible": None,
    "visibility": None,
    "vis": None,
    "visibles": False,
    "pred_visibility": True,
}
HIDDEN: dict[str, bool | None] = {"occluded": False, "occlusion": False}
FLAGS = VISIBLE | HIDDEN
QUERIES = ("queries", "query_points")  # where tracks were begun: the tracks themselves say it
CLEAR = 2.0  # from one RGB frame to the next points move at least so many times less than from one track to the next
RELATIVE_REACH = 2.0  # coordinates of a file without a size are 0..1 up to here, and pixels beyond

_log = logging.getLogger(__name__)
Array = NDArray[Any]


def understood(values: Mapping[str, Array]) -> tuple[Array, Array | None]:
    """Points [N, T, 2] and, where the file says it, visible [N, T] of named arrays in any public layout.

    A leading batch of 1 and a last axis of 1 are dropped. TrackShapeError when an array is missing, does not fit, or is
    there twice, and when the order cannot be told.
    """
    name = _one_of(values, POINTS)
    if name is None:
        expected = "the array points [N, T, 2], tracks [N, T, 2] or [T, N, 2], or pred_tracks [T, N, 2]"
        raise TrackShapeError(f"expected {expected}, found {sorted(values)}")
    points = _without_batch(values[name], 3)
    if points.ndim != 3 or points.shape[2] != 2:
        raise TrackShapeError(f"{name} must be [tracks, RGB frames, 2], or time first, found {list(points.shape)}")
    flags = _one_of(values, FLAGS)
    turned = POINTS[name]
    if turned is None and flags is not None:
        turned = FLAGS[flags]
    if turned is None:
        turned = _time_first(name, points)
    visible = None if flags is None else _flags(flags, values[flags], name, points)
    if turned:
        points, visible = points.swapaxes(0, 1), None if visible is None else visible.T
    return points, visible


def refuse_unknown(what: str, names: Collection[str], known: Collection[str]) -> None:
    """TrackShapeError for data that nobody reads: dropped in silence it would change what the tracks say."""
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise TrackShapeError(
            f"{what} holds {', '.join(map(repr, unknown))}, which means nothing here; "
            f"take it out, or give it one of the names {', '.join(sorted(known))}"
        )


def flag_name(names: Collection[str]) -> str | None:
    """The one name among `names` that says what is visible or hidden."""
    return _one_of(names, FLAGS)


def as_visible(name: str, flags: Array) -> Array:
    """bool flags of the array `name`, True where a point is seen."""
    if flags.dtype.kind not in "biuf" or not np.isin(flags, (0, 1)).all():
        raise TrackShapeError(
            f"{name} must hold only True and False (or 1 and 0); turn scores into these first, for example scores > 0.5"
        )
    return flags == (0 if name in HIDDEN else 1)


def in_units(points: Array, size: Size) -> tuple[Array, Size]:
    """Points and their size, of a file that does not say its units: shares of the picture `size`, or its pixels.

    Coordinates up to 2 are shares, so that they may leave the picture. TrackShapeError for pixels of no known picture.
    """
    if points.dtype.kind not in "biuf":
        return points, size
    largest = float(np.abs(points).max(initial=0.0))
    if largest > RELATIVE_REACH and size is None:
        raise TrackShapeError(
            f"coordinates reach {largest:g}, so they are pixels, but the file does not say of which picture; "
            "load it with size=(height, width) of that picture"
        )
    if largest > RELATIVE_REACH or size is None:
        return points, size
    return points.astype(np.float64) * (size[1], size[0]), size


def _one_of(names: Collection[str], known: Collection[str]) -> str | None:
    found = sorted(set(names) & set(known))
    if len(found) > 1:
        raise TrackShapeError(f"{' and '.join(found)} say the same thing; keep one of them")
    return found[0] if found else None


def _without_batch(array: Array, axes: int) -> Array:
    return array[0] if array.ndim == axes + 1 and array.shape[0] == 1 else array


def _flags(name: str, flags: Array, points_name: str, points: Array) -> Array:
    wanted = points.shape[:2]
    found = _without_batch(flags[..., 0] if flags.ndim > 2 and flags.shape[-1] == 1 else flags, 2)
    if found.shape != wanted:
        raise TrackShapeError(
            f"{name} {list(flags.shape)} does not fit {points_name} {list(points.shape)}: "
            f"it must be {list(wanted)}, in the same order"
        )
    return as_visible(name, found)


def _time_first(name: str, points: Array) -> bool:
    """Whether axis 0 is the time: things move little from one RGB frame to the next, tracks lie apart."""
    if points.dtype.kind in "biuf" and min(points.shape[:2]) > 1:
        with np.errstate(all="ignore"):  # whether the numbers are finite is checked later
            steps = (np.diff(points.astype(np.float64), axis=axis) for axis in (0, 1))
            over_first, over_second = (float(np.linalg.norm(step, axis=-1).mean()) for step in steps)
        if max(over_first, over_second) > 0 and not over_second / CLEAR < over_first < over_second * CLEAR:
            _log.info("%s: points move %.3g along axis 0 and %.3g along axis 1", name, over_first, over_second)
            return over_first < over_second
    one, two = points.shape[:2]
    raise TrackShapeError(
        f"{name} {list(points.shape)} may be {one} tracks of {two} RGB frames or {two} tracks of {one}; call it points "
        f"when it is [tracks, RGB frames, 2], pred_tracks when it is [RGB frames, tracks, 2]"
    )
