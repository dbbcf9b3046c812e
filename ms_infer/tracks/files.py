"""Files that hold tracks: our .npz and .json, ATI's .pth and Wan-Move's pair of .npy."""

from __future__ import annotations

import io
import json
import pickle
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError, TrackShapeError
from ms_infer.files import whole_file
from ms_infer.tracks.arrays import Size, TrackArrays
from ms_infer.tracks.checks import MAX_SAMPLES

MAX_BYTES = MAX_SAMPLES * 32  # unpacked size of a file that could still hold valid tracks
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ValueError,
    LookupError,
    EOFError,
    OSError,
    RuntimeError,
    MemoryError,
    SyntaxError,
    tokenize.TokenError,  # numpy parses the headers of arrays as Python literals
)
_NOT_DATA = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, LookupError, AttributeError, TypeError)
JSON_FORMAT = "ms-infer tracks"

ATI_FRAMES, ATI_FPS, ATI_SCALE = 121, 24.0, 8  # ATI stores coordinates and visibility times 8
WAN_MOVE_SIZE, WAN_MOVE_FPS = (480, 832), 16.0


class Bounds(NamedTuple):
    """What all tracks in a kind of file have in common; None where the file says it."""

    fps: float | None = None
    size: Size = None


def read_tracks(path: str | Path, *, size: Size = None, fps: float | None = None) -> TrackArrays:
    """Read tracks from a file; its ending says which kind.

    .npz   ours (points [N, T, 2], visible [N, T], ids [N], size, fps), or a tracker's tracks [T, N, 2] + visible [T, N]
    .json  ours: {"fps", "size", "tracks": [{"id", "points": [[x, y], ...], "visible": [1, 0, ...]}, ...]}
    .pth   ATI: bytes of an .npz with "array" [N, 121, 1, 3] = (x, y, visible) * 8 at 24 fps; needs `size`
    .npy   Wan-Move: NAME_tracks.npy [1, T, N, 2] and NAME_visibility.npy [1, T, N], pixels of 480x832 at 16 fps

    `size` (height, width) and `fps` speak for what a file does not store, and are ignored where it does.
    TrackShapeError when the content does not fit, ConfigError when the file cannot be read.
    """
    source = Path(path)
    if not source.is_file():
        raise ConfigError(f"there is no track file at {source}")
    if source.suffix not in _READERS:
        raise ConfigError(f"{source.name}: tracks are read from {', '.join(_READERS)}")
    if source.stat().st_size > MAX_BYTES:
        raise TrackShapeError(
            f"{source.name} is too big for tracks: {source.stat().st_size} bytes, at most {MAX_BYTES}"
        )
    with named(source):
        return _READERS[source.suffix](source, size, fps)


def bounds(path: str | Path) -> Bounds:
    """What tracks have to be brought to before they fit into a file of this ending."""
    return _BOUNDS.get(Path(path).suffix, Bounds())


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
    if target.suffix not in _WRITERS:
        raise ConfigError(f"{target.name}: tracks are written as {', '.join(_WRITERS)}")
    files = _WRITERS[target.suffix](tracks, target)
    for name, data in files.items():
        with whole_file(name, ConfigError) as unfinished:
            unfinished.write_bytes(data)


# ---- ours


def _read_npz(path: Path, size: Size, fps: float | None) -> TrackArrays:
    values = _unzip(path.read_bytes())
    if "points" in values:
        points, visible = values["points"], values.get("visible")
    elif "tracks" in values:
        points, visible = _transposed("tracks", values["tracks"], "[T, N, 2]"), values.get("visible")
        visible = None if visible is None else _transposed("visible", visible, "[T, N]")
    else:
        raise TrackShapeError(f"expected the array points [N, T, 2] or tracks [T, N, 2], found {sorted(values)}")
    stored: Any = size  # an empty size in the file says 0..1, a missing one says nothing
    if "size" in values:
        stored = values["size"] if values["size"].size else None
    rate = values.get("fps", np.asarray(fps or 16.0))
    return TrackArrays(points, visible, values.get("ids"), stored, _number("fps", rate.reshape(-1).tolist()))


def _write_npz(tracks: TrackArrays, path: Path) -> dict[Path, bytes]:
    points, visible, ids = map(np.asarray, tracks[:3])
    size = np.array(tracks.size if tracks.size else [], np.int64)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, points=points, visible=visible, ids=ids, size=size, fps=np.float64(tracks.fps))
    return {path: buffer.getvalue()}


def _read_json(path: Path, size: Size, fps: float | None) -> TrackArrays:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise TrackShapeError(f"not JSON: {error}") from error
    rows = content.get("tracks") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "points" in row for row in rows):
        raise TrackShapeError(
            'expected {"fps": ..., "size": [height, width] or null, "tracks": [{"points": [[x, y], ...]}]}'
        )
    size = content.get("size", size)
    rate = _number("fps", [content.get("fps", fps or 16.0)])
    if not rows:
        return TrackArrays(np.zeros((0, 1, 2)), None, None, size, rate)
    points = _stacked("points", [row["points"] for row in rows])
    visible = _stacked("visible", [row.get("visible", [1] * len(points[0])) for row in rows])
    ids = _stacked("id", [row.get("id", index) for index, row in enumerate(rows)])
    return TrackArrays(points, visible, ids, size, rate)


def _write_json(tracks: TrackArrays, path: Path) -> dict[Path, bytes]:
    points, visible, ids = map(np.asarray, tracks[:3])
    exact = points.astype(str).astype(np.float64)  # shortest digits that read back as the same float32
    rows = [
        {"id": int(one), "points": path_points.tolist(), "visible": seen.astype(int).tolist()}
        for one, path_points, seen in zip(ids, exact, visible, strict=True)
    ]
    content = {"format": JSON_FORMAT, "version": 1, "fps": tracks.fps, "size": tracks.size, "tracks": rows}
    return {path: json.dumps(content).encode()}


# ---- ATI


def _read_ati(path: Path, size: Size, fps: float | None) -> TrackArrays:
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _NOT_DATA as error:
        raise TrackShapeError("not an ATI track file: it cannot be loaded as plain data") from error
    if not isinstance(content, bytes):
        raise TrackShapeError(f"an ATI track file holds the bytes of an .npz, not {type(content).__name__}")
    array = _unzip(content).get("array")
    if array is None or array.ndim != 4 or ATI_FRAMES not in array.shape[:2] or array.shape[2:] != (1, 3):
        found = "nothing" if array is None else list(array.shape)
        raise TrackShapeError(f'an ATI track file holds "array" [tracks, {ATI_FRAMES}, 1, 3], found {found}')
    if size is None:
        raise TrackShapeError(
            "ATI files do not say which picture their pixels refer to; "
            "load them with size=(height, width) of that picture"
        )
    if array.shape[1] != ATI_FRAMES:
        array = array.swapaxes(0, 1)
    values = array[:, :, 0].astype(np.float32) / ATI_SCALE
    return TrackArrays(values[..., :2], values[..., 2] > 0.5, None, size, fps or ATI_FPS)


def _write_ati(tracks: TrackArrays, path: Path) -> dict[Path, bytes]:
    import torch

    if tracks.size is None:
        raise TrackShapeError("ATI files hold pixels; call to_pixels(height, width) first")
    points, visible = map(np.asarray, tracks[:2])
    rgb_frames = points.shape[1]
    if rgb_frames > ATI_FRAMES:
        raise TrackShapeError(
            f"ATI files hold {ATI_FRAMES} RGB frames at {ATI_FPS:g} fps, these tracks have {rgb_frames}; "
            "make them shorter, for example by resample(rgb_frames=...)"
        )
    at = np.minimum(np.arange(ATI_FRAMES), rgb_frames - 1)
    values = np.concatenate([points[:, at], visible[:, at, None].astype(np.float32)], -1) * ATI_SCALE
    inner, outer = io.BytesIO(), io.BytesIO()
    np.savez_compressed(inner, array=values[:, :, None].astype(np.float32))
    torch.save(inner.getvalue(), outer)
    return {path: outer.getvalue()}


# ---- Wan-Move


def _read_wan_move(path: Path, size: Size, fps: float | None) -> TrackArrays:
    partner = _visibility_of(path)
    if not partner.is_file():
        raise TrackShapeError(
            f"a Wan-Move track file comes with its visibility, but there is no {partner.name} beside it"
        )
    points, visible = _load_npy(path), _load_npy(partner)
    if points.ndim != 4 or points.shape[0] != 1 or points.shape[3] != 2 or visible.shape != points.shape[:3]:
        raise TrackShapeError(
            "Wan-Move files hold tracks [1, T, N, 2] and visibility [1, T, N], "
            f"found {list(points.shape)} and {list(visible.shape)}"
        )
    return TrackArrays(points[0].swapaxes(0, 1), visible[0].T, None, size or WAN_MOVE_SIZE, fps or WAN_MOVE_FPS)


def _write_wan_move(tracks: TrackArrays, path: Path) -> dict[Path, bytes]:
    points, visible = map(np.asarray, tracks[:2])
    return {path: _npy(points.swapaxes(0, 1)[None]), _visibility_of(path): _npy(visible.T[None])}


def _visibility_of(path: Path) -> Path:
    if "tracks" not in path.stem:
        raise ConfigError(f"{path.name}: a Wan-Move pair is called NAME_tracks.npy and NAME_visibility.npy")
    head, _, tail = path.name.rpartition("tracks")
    return path.with_name(f"{head}visibility{tail}")


# ---- helpers


def _unzip(data: bytes) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz without pickles, refused before unpacking when it is too big."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked <= MAX_BYTES:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return {name: np.asarray(arrays[name]) for name in arrays.files}
    except _DAMAGED as error:
        raise TrackShapeError(f"not an .npz of plain arrays: {error}") from error
    raise TrackShapeError(f"unpacks to {unpacked} bytes, more than tracks can have ({MAX_BYTES})")


def _load_npy(path: Path) -> NDArray[Any]:
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except _DAMAGED as error:
        raise TrackShapeError(f"{path.name} is not an .npy of numbers: {error}") from error


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array))
    return buffer.getvalue()


def _transposed(name: str, array: NDArray[Any], expected: str) -> NDArray[Any]:
    if array.ndim != expected.count(",") + 1:
        raise TrackShapeError(f"{name} must be {expected}, found {list(array.shape)}")
    return array.swapaxes(0, 1)


def _stacked(name: str, rows: list[Any]) -> NDArray[Any]:
    lengths = [len(row) if isinstance(row, list) else -1 for row in rows]
    odd = next((index for index, length in enumerate(lengths) if length != lengths[0]), None)
    if odd is not None:
        raise TrackShapeError(
            f"{name} of track {odd} has length {lengths[odd]}, of track 0 {lengths[0]}; all must be equal"
        )
    try:
        return np.asarray(rows)
    except (ValueError, OverflowError) as error:
        raise TrackShapeError(f"{name} must be plain numbers, every position a pair [x, y]") from error


def _number(name: str, values: list[Any]) -> float:
    if len(values) != 1 or isinstance(values[0], bool) or not isinstance(values[0], (int, float)):
        raise TrackShapeError(f"{name} must be one number, found {values}")
    return float(values[0])


_BOUNDS = {".pth": Bounds(ATI_FPS), ".npy": Bounds(WAN_MOVE_FPS, WAN_MOVE_SIZE)}
_READERS: Mapping[str, Callable[[Path, Size, float | None], TrackArrays]] = {
    ".npz": _read_npz,
    ".json": _read_json,
    ".pth": _read_ati,
    ".npy": _read_wan_move,
}
_WRITERS: Mapping[str, Callable[[TrackArrays, Path], dict[Path, bytes]]] = {
    ".npz": _write_npz,
    ".json": _write_json,
    ".pth": _write_ati,
    ".npy": _write_wan_move,
}
