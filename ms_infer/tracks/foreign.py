"""Track files of other programs: ATI's .pth, Wan-Move's pair of .npy and the splines of ComfyUI's SplineEditor."""

from __future__ import annotations

import io
import json
import logging
import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError, TrackShapeError
from ms_infer.tracks.archives import load_npy, npy_bytes, stacked, unzip
from ms_infer.tracks.arrays import Size, TrackArrays
from ms_infer.tracks.layout import as_visible, refuse_unknown

ATI_FRAMES, ATI_FPS, ATI_SCALE = 121, 24.0, 8  # ATI stores coordinates and visibility times 8
WAN_MOVE_SIZE, WAN_MOVE_FPS = (480, 832), 16.0
SPLINE_FPS = 16.0

_log = logging.getLogger(__name__)


# ---- ATI


def read_ati(path: Path, size: Size, fps: float | None) -> TrackArrays:
    import ms_infer.needs_torch  # noqa: F401, I001 (before torch)
    import torch

    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        AttributeError,
        TypeError,
    ) as error:
        raise TrackShapeError("not an ATI track file: it cannot be loaded as plain data") from error
    if not isinstance(content, bytes):
        raise TrackShapeError(f"an ATI track file holds the bytes of an .npz, not {type(content).__name__}")
    values = unzip(content)
    array = values.get("array")
    if array is None or array.ndim != 4 or ATI_FRAMES not in array.shape[:2] or array.shape[2:] != (1, 3):
        found = "nothing" if array is None else list(array.shape)
        raise TrackShapeError(f'an ATI track file holds "array" [tracks, {ATI_FRAMES}, 1, 3], found {found}')
    refuse_unknown("the ATI file", values, ("array",))
    if array.shape[1] != ATI_FRAMES:
        array = array.swapaxes(0, 1)
    numbers = array[:, :, 0].astype(np.float32) / ATI_SCALE
    return TrackArrays(
        numbers[..., :2], numbers[..., 2] > 0.5, None, _known("ATI", size), ATI_FPS if fps is None else fps
    )


def write_ati(tracks: TrackArrays, path: Path) -> dict[Path, bytes]:
    import ms_infer.needs_torch  # noqa: F401, I001 (before torch)
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


def _known(kind: str, size: Size) -> Size:
    if size is None:
        raise TrackShapeError(
            f"{kind} files do not say which picture their pixels refer to; "
            "load them with size=(height, width) of that picture"
        )
    return size


# ---- Wan-Move


def read_wan_move(path: Path, size: Size, fps: float | None) -> TrackArrays:
    partner = _partner(path)
    if not partner.is_file():
        raise TrackShapeError(
            f"a Wan-Move track file comes with its visibility, but there is no {partner.name} beside it"
        )
    points, visible = load_npy(path), load_npy(partner)
    shapes = f"{list(points.shape)} and {list(visible.shape)}"
    points = points[0] if points.ndim == 4 and len(points) == 1 else points
    visible = visible[0] if visible.ndim == 3 and len(visible) == 1 else visible
    if points.ndim != 3 or points.shape[2] != 2 or visible.shape != points.shape[:2]:
        raise TrackShapeError(
            f"Wan-Move files hold tracks [1, T, N, 2] or [T, N, 2] and visibility [1, T, N] or [T, N], found {shapes}"
        )
    points, visible = points.swapaxes(0, 1), as_visible("visibility", visible).T
    return TrackArrays(
        points, visible, None, size or _benchmark_size(points, visible), WAN_MOVE_FPS if fps is None else fps
    )


def _benchmark_size(points: NDArray[Any], visible: NDArray[Any]) -> tuple[int, int]:
    """480x832, that of the published files, unless tracks begin outside of it."""
    height, width = WAN_MOVE_SIZE
    begin = points[:, 0][visible[:, 0]] if points.shape[1] else points[:0, 0]
    if (begin > (width, height)).any():
        place = begin[(begin > (width, height)).any(-1)][0].tolist()
        raise TrackShapeError(
            f"a track begins at {place}, outside of the {height}x{width} pixels of Wan-Move's own pictures; "
            "load the file with size=(height, width) of the picture it was drawn on"
        )
    _log.warning("the file does not say its picture's size: taken as %dx%d pixels", height, width)
    return WAN_MOVE_SIZE


def write_wan_move(tracks: TrackArrays, path: Path) -> dict[Path, bytes]:
    points, visible = map(np.asarray, tracks[:2])
    return {path: npy_bytes(points.swapaxes(0, 1)[None]), _partner(path): npy_bytes(visible.T[None])}


def _partner(path: Path) -> Path:
    """The file of the visibility, in any case of letters."""
    at = path.stem.lower().rfind("tracks")
    if at < 0:
        raise ConfigError(f"{path.name}: a Wan-Move pair is called NAME_tracks.npy and NAME_visibility.npy")
    name = f"{path.name[:at]}visibility{path.name[at + len('tracks') :]}"
    beside = sorted(path.parent.iterdir()) if path.parent.is_dir() else []
    same = [file for file in beside if file.name.lower() == name.lower()]
    return path.with_name(name) if path.with_name(name) in same or not same else same[0]


# ---- splines


def spline_text(data: bytes) -> Any:
    """JSON of the editor's coordinates, also in Python's quotes, as some of its versions hand them out."""
    text = data.decode("utf-8-sig")
    if text.lstrip().startswith("[") and '"' not in text:
        text = text.replace("'", '"')
    return json.loads(text)


def read_splines(content: list[Any], size: Size, fps: float | None) -> TrackArrays:
    """One track per spline; a spline of one point stands still."""
    rows = [content] if content and all(isinstance(place, dict) for place in content) else content
    if not rows or not all(isinstance(row, list) and row for row in rows):
        raise TrackShapeError("expected splines, [[{x, y}, ...], ...], or one, [{x, y}, ...]")
    for number, row in enumerate(rows):
        _check_places(number, row)
    longest = max(len(row) for row in rows)
    held = [row * longest if len(row) == 1 else row for row in rows]
    points = stacked("points", [[[place["x"], place["y"]] for place in row] for row in held])
    rate = SPLINE_FPS if fps is None else fps
    return TrackArrays(points, None, None, _known("SplineEditor", size), rate)


def _check_places(number: int, row: list[Any]) -> None:
    for place in row:
        if not isinstance(place, dict) or not {"x", "y"} <= set(place):
            raise TrackShapeError(f"expected places {{x, y}} in spline {number}, found {str(place)[:60]}")
        refuse_unknown(f"a place of spline {number}", place, ("x", "y"))
