"""Reads a prompt that was embedded elsewhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import CheckpointError, ConfigError


def read_embedding(path: str | Path) -> NDArray[np.float32]:
    """Rows `[tokens, dim]` of a .npy file, or of the only tensor of a .safetensors, .pt or .pth file.

    A leading dimension of 1 is taken off. ConfigError: no such file, another type or shape.
    """
    path = Path(path)
    rows = _read_npy(path) if path.suffix == ".npy" else _read_tensor(path)
    rows = rows[0] if rows.ndim == 3 and rows.shape[0] == 1 else rows
    if rows.ndim != 2 or not rows.size:
        raise ConfigError(f"{path} holds {list(rows.shape)}; expected the rows of one prompt, [tokens, dim]")
    return rows


def _read_npy(path: Path) -> NDArray[np.float32]:
    try:
        return np.asarray(np.load(path, allow_pickle=False), np.float32)
    except (OSError, ValueError, TypeError, EOFError) as error:
        raise ConfigError(f"{path} is no readable .npy array ({str(error).splitlines()[0][:160]})") from None


def _read_tensor(path: Path) -> NDArray[np.float32]:
    from ms_infer.checkpoint.files import read_checkpoint

    try:
        file = read_checkpoint(path)
    except CheckpointError as error:
        raise ConfigError(f"no prompt embedding: {error}") from None
    if len(file.tensors) != 1:
        raise ConfigError(f"{path} holds {len(file.tensors)} tensors; expected one, the rows of a prompt [tokens, dim]")
    return next(iter(file.tensors.values())).float().numpy()
