"""Embedded prompts in the user's cache; an entry is used only when it is whole, and none is needed."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ms_infer.environment import cache_folder
from ms_infer.errors import MotionStreamError
from ms_infer.files import whole_file

logger = logging.getLogger(__name__)
_UNREADABLE = (OSError, SafetensorError, MotionStreamError, ValueError, KeyError, TypeError)


def cached_rows(key: str, dim: int, tokens: int) -> NDArray[np.float32] | None:
    """Rows `[1..tokens, dim]` stored under the key; None, with a warning when an entry was damaged, otherwise."""
    try:
        path = _path(key)
        if not path.exists():
            return None
        with safe_open(path, "np") as file:
            rows: NDArray[np.float32] = file.get_tensor("rows")
            intact = (file.metadata() or {}).get("sha256") == _digest(rows)
    except _UNREADABLE as error:
        logger.warning("a cached prompt cannot be read and is made again: %s", error)
        return None
    fits = rows.ndim == 2 and rows.shape[1] == dim and 1 <= len(rows) <= tokens and rows.dtype == np.float32
    if intact and fits and np.isfinite(rows).all():
        return rows
    logger.warning("the cached prompt %s is damaged and is made again", path)
    return None


def store_rows(key: str, rows: NDArray[np.float32]) -> None:
    """Keep rows for the next time; where that fails a warning is all that happens."""
    try:
        path = _path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as unfinished:
            save_file({"rows": np.ascontiguousarray(rows)}, unfinished, {"sha256": _digest(rows)})
    except _UNREADABLE as error:
        logger.warning("the embedded prompt is not kept: %s", error)


def _path(key: str) -> Path:
    return cache_folder() / "prompts" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.safetensors"


def _digest(rows: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).tobytes()).hexdigest()
