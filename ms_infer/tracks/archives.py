"""Arrays of files, unpacked without pickles and refused before they can take too much memory."""

from __future__ import annotations

import io
import struct
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import TrackShapeError
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


def unzip(data: bytes) -> dict[str, NDArray[Any]]:
    """Arrays of an .npz; TrackShapeError when it is damaged, holds objects or unpacks to more than MAX_BYTES."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked <= MAX_BYTES:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                return {name: np.asarray(arrays[name]) for name in arrays.files}
    except _DAMAGED as error:
        raise TrackShapeError(f"not an .npz of plain arrays: {error}") from error
    raise TrackShapeError(f"unpacks to {unpacked} bytes, more than tracks can have ({MAX_BYTES})")


def load_npy(path: Path) -> NDArray[Any]:
    """The array of an .npy; TrackShapeError when it is damaged or holds objects."""
    try:
        return np.asarray(np.load(path, allow_pickle=False))
    except _DAMAGED as error:
        raise TrackShapeError(f"{path.name} is not an .npy of numbers: {error}") from error


def npy_bytes(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(array))
    return buffer.getvalue()


def stacked(name: str, rows: list[Any]) -> NDArray[Any]:
    """Rows of equal length as one array; TrackShapeError says which row differs."""
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
