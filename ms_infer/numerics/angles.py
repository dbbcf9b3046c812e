"""Angles of rotary positions and timesteps in float64, without torch: for every engine and the model alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

ROPE_BASE = 10_000.0


def axis_dims(head_dim: int) -> tuple[int, int, int]:
    """Real dimensions of the temporal, height and width parts (128 -> 44, 42, 42)."""
    side = 2 * (head_dim // 6)
    return head_dim - 2 * side, side, side


def axis_angles(positions: NDArray[np.int64], dims: int) -> NDArray[np.float64]:
    """Angles [positions, dims / 2] in float64: position x base^(-2i / dims)."""
    frequencies = ROPE_BASE ** (-np.arange(0, dims, 2, dtype=np.float64) / dims)
    return np.multiply.outer(positions.astype(np.float64), frequencies)


def timestep_sinusoids(timestep: float, dim: int) -> NDArray[np.float32]:
    """Sinusoids `[dim]` of a timestep, cosines first: angle = t x 10000^(-i / (dim / 2))."""
    half = dim // 2
    angles = timestep * np.power(10_000.0, np.arange(half, dtype=np.float64) / -half)
    return np.concatenate([np.cos(angles), np.sin(angles)]).astype(np.float32)


class RotationTables:
    """float32 cosines and sines `[1, frames * cells, head_dim / 2]` of a run of latent frames, in given arrays.

    `move_to` rewrites only the temporal columns; angles are float64, so any latent frame index is exact.
    """

    def __init__(self, cos: NDArray[Any], sin: NDArray[Any], grid: tuple[int, int], head_dim: int) -> None:
        rows, columns = grid
        temporal, height, width = axis_dims(head_dim)
        self._dims, self._pairs = temporal, temporal // 2
        self._tables = [table.reshape(-1, rows * columns, head_dim // 2) for table in (cos, sin)]
        self.frames = self._tables[0].shape[0]
        row, column = np.divmod(np.arange(rows * columns), columns)
        space = np.concatenate([axis_angles(row, height), axis_angles(column, width)], axis=1)
        for table, values in zip(self._tables, (np.cos(space), np.sin(space)), strict=True):
            table[:, :, self._pairs :] = values
        self.move_to(0)

    def move_to(self, first_position: int) -> None:
        """Put the frames at temporal positions first_position, first_position + 1, ..."""
        positions = first_position + np.arange(self.frames, dtype=np.int64)
        angles = axis_angles(positions, self._dims)[:, None, :]
        for table, values in zip(self._tables, (np.cos(angles), np.sin(angles)), strict=True):
            table[:, :, : self._pairs] = values
