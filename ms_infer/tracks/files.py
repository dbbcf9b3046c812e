"""Files that hold tracks: our .npz and .json, and by their endings those of other programs."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ms_infer.errors import ConfigError, TrackShapeError
from ms_infer.files import whole_file
from ms_infer.tracks import foreign, layout
from ms_infer.tracks.archives import MAX_BYTES, stacked, unzip
from ms_infer.tracks.arrays import Size, TrackArrays

JSON_FORMAT = "ms-infer tracks"
FPS = 16.0  # of files that do not say their rate


class Bounds(NamedTuple):
    """What all tracks in a kind of file have in common; None where the file says it."""

    fps: float | None = None
    size: Size = None


def read_tracks(path: str | Path, *, size: Size = None, fps: float | None = None) -> TrackArrays:
    """Read tracks from a file; its ending, in any case of letters, says which kind.

    .npz   ours (points [N, T, 2], visible [N, T], ids [N], size, fps), or a tracker's: tracks in either order (told by
           how far points move along each axis), pred_tracks [1, T, N, 2] of CoTracker, tracks [N, T, 2] + visibles of
           TAPIR; visibility as visible, visibility, vis, visibles, pred_visibility, or inverted occluded, occlusion
    .json  ours: {"fps", "size", "tracks": [{"id", "points": [[x, y], ...], "visible": [1, 0, ...]}, ...]}, or the
           coordinates of ComfyUI's SplineEditor: [[{x, y}, ...], ...], a track per spline, pixels; needs `size`
    .pth   ATI: bytes of an .npz with "array" [N, 121, 1, 3] = (x, y, visible) * 8 at 24 fps; needs `size`
    .npy   Wan-Move: NAME_tracks.npy [1, T, N, 2] and NAME_visibility.npy [1, T, N], pixels at 16 fps

    `size` (height, width) is that of the picture the tracks belong to. It and `fps` speak for what a file does not
    store, and are ignored where it does. Where an .npz or .json says nothing, coordinates up to 2 are shares of the
    picture, others its pixels; Wan-Move's are pixels of 480x832 where no size is given.
    TrackShapeError when the content does not fit or holds what nobody reads, ConfigError when it cannot be read.
    """
    source = Path(path)
    if not source.is_file():
        raise ConfigError(f"there is no track file at {source}")
    suffix = source.suffix.lower()
    if suffix not in _READERS:
        raise ConfigError(f"{source.name}: tracks are read from {', '.join(_READERS)}")
    if source.stat().st_size > MAX_BYTES:
        raise TrackShapeError(
            f"{source.name} is too big for tracks: {source.stat().st_size} bytes, at most {MAX_BYTES}"
        )
    with named(source):
        return _READERS[suffix](source, size, fps)


def bounds(path: str | Path) -> Bounds:
    """What tracks have to be brought to before they fit into a file of this ending."""
    return _BOUNDS.get(Path(path).suffix.lower(), Bounds())


@contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Errors of the block say which file they are about; what the system refuses is a ConfigError."""
    try:
        yield
    except ConfigError as error:
        raise type(error)(f"{Path(path).name}: {error}") from error.__cause__
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}") from error


def write_tracks(path: str | Path, tracks: TrackArrays) -> None:
    """Write tracks, brought to the file's `bounds`, in the format that the ending names (see `read_tracks`).

    .npz and .json keep everything. ATI .pth needs tracks in pixels of at most 5 s (121 RGB frames at 24 fps; shorter
    ones are held); Wan-Move .npy is converted to 480x832 and 16 fps and needs "tracks" in its name. Both lose the ids.
    """
    target = Path(path)
    suffix = target.suffix.lower()
    if suffix not in _WRITERS:
        raise ConfigError(f"{target.name}: tracks are written as {', '.join(_WRITERS)}")
    files = _WRITERS[suffix](tracks, target)
    for name, data in files.items():
        with whole_file(name, ConfigError) as unfinished:
            unfinished.write_bytes(data)


# ---- ours


def _read_npz(path: Path, size: Size, fps: float | None) -> TrackArrays:
    values = unzip(path.read_bytes())
    points, visible = layout.understood(values)
    known = {*layout.POINTS, *layout.FLAGS, *layout.QUERIES, "ids", "size", "fps"}
    layout.refuse_unknown("the file", values, known)
    rate = _number("fps", values.get("fps", np.asarray(FPS if fps is None else fps)).reshape(-1).tolist())
    if "size" in values:  # an empty one says 0..1, a missing one says nothing
        stored: Any = values["size"] if values["size"].size else None
    else:
        points, stored = layout.in_units(points, size)
    return TrackArrays(points, visible, values.get("ids"), stored, rate)


def _write_npz(tracks: TrackArrays, path: Path) -> dict[Path, bytes]:
    points, visible, ids = map(np.asarray, tracks[:3])
    size = np.array(tracks.size if tracks.size else [], np.int64)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, points=points, visible=visible, ids=ids, size=size, fps=np.float64(tracks.fps))
    return {path: buffer.getvalue()}


def _read_json(path: Path, size: Size, fps: float | None) -> TrackArrays:
    try:
        content = foreign.spline_text(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TrackShapeError(f"not JSON: {error}") from error
    if isinstance(content, list):
        return foreign.read_splines(content, size, fps)
    rows = content.get("tracks") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "points" in row for row in rows):
        raise TrackShapeError(
            'expected {"fps": ..., "size": [height, width] or null, "tracks": [{"points": [[x, y], ...]}]}'
        )
    layout.refuse_unknown("the file", content, ("format", "version", "fps", "size", "tracks"))
    rate = _number("fps", [content.get("fps", FPS if fps is None else fps)])
    if not rows:
        return TrackArrays(np.zeros((0, 1, 2)), None, None, content.get("size", size), rate)
    points, visible, ids = _rows(rows)
    stored = content.get("size")
    if "size" not in content:
        points, stored = layout.in_units(points, size)
    return TrackArrays(points, visible, ids, stored, rate)


def _rows(rows: list[dict[str, Any]]) -> tuple[Any, Any, Any]:
    """Points, visible (None: all) and ids of the tracks of a .json."""
    flags = {layout.flag_name(row) for row in rows} - {None}
    if len(flags) > 1:
        raise TrackShapeError(f"tracks say what is visible by several names, {sorted(map(str, flags))}; use one")
    name = next(iter(flags), None)
    for index, row in enumerate(rows):
        layout.refuse_unknown(f"track {index}", row, {"id", "points", *layout.FLAGS})
    points = stacked("points", [row["points"] for row in rows])
    ids = stacked("id", [row.get("id", index) for index, row in enumerate(rows)])
    if name is None:
        return points, None, ids
    seen = [0 if name in layout.HIDDEN else 1] * len(points[0])
    return points, layout.as_visible(name, stacked(name, [row.get(name, seen) for row in rows])), ids


def _write_json(tracks: TrackArrays, path: Path) -> dict[Path, bytes]:
    points, visible, ids = map(np.asarray, tracks[:3])
    exact = points.astype(str).astype(np.float64)  # shortest digits that read back as the same float32
    rows = [
        {"id": int(one), "points": path_points.tolist(), "visible": seen.astype(int).tolist()}
        for one, path_points, seen in zip(ids, exact, visible, strict=True)
    ]
    content = {"format": JSON_FORMAT, "version": 1, "fps": tracks.fps, "size": tracks.size, "tracks": rows}
    return {path: json.dumps(content).encode()}


def _number(name: str, values: list[Any]) -> float:
    if len(values) != 1 or isinstance(values[0], bool) or not isinstance(values[0], (int, float)):
        raise TrackShapeError(f"{name} must be one number, found {values}")
    return float(values[0])


_BOUNDS = {".pth": Bounds(foreign.ATI_FPS), ".npy": Bounds(foreign.WAN_MOVE_FPS, foreign.WAN_MOVE_SIZE)}
_READERS: Mapping[str, Callable[[Path, Size, float | None], TrackArrays]] = {
    ".npz": _read_npz,
    ".json": _read_json,
    ".pth": foreign.read_ati,
    ".npy": foreign.read_wan_move,
}
_WRITERS: Mapping[str, Callable[[TrackArrays, Path], dict[Path, bytes]]] = {
    ".npz": _write_npz,
    ".json": _write_json,
    ".pth": foreign.write_ati,
    ".npy": foreign.write_wan_move,
}
