"""3-D rotary position embedding: temporal, height and width parts of a head, interleaved pairs."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_infer.numerics.angles import ROPE_BASE, axis_angles, axis_dims

__all__ = ["ROPE_BASE", "Rotation", "axis_angles", "axis_dims", "rotate"]


class Rotation:
    """Cosine and sine tables of a run of latent frames, `[frames * rows * columns, head_dim / 2]`.

    The tables are allocated once; `move_to_` rewrites only the temporal columns, so a captured
    graph keeps reading the same memory. Angles are float64: any latent frame index is exact.
    """

    def __init__(
        self,
        frames: int,
        grid: tuple[int, int],
        head_dim: int,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        rows, columns = grid
        self.frames, self.cells, self.head_dim = frames, rows * columns, head_dim
        temporal, height, width = axis_dims(head_dim)
        self._temporal_dims, self._pairs = temporal, temporal // 2
        row, column = np.divmod(np.arange(rows * columns), columns)
        space = np.concatenate([axis_angles(row, height), axis_angles(column, width)], axis=1)
        shape = (frames, self.cells, head_dim // 2)
        self._cos = torch.empty(shape, device=device, dtype=dtype)
        self._sin = torch.empty(shape, device=device, dtype=dtype)
        self._cos[:, :, self._pairs :] = torch.from_numpy(np.cos(space)).to(device, dtype)
        self._sin[:, :, self._pairs :] = torch.from_numpy(np.sin(space)).to(device, dtype)
        self.move_to_(0)

    def move_to_(self, first_position: int) -> None:
        """Put the frames at temporal positions first_position, first_position + 1, ..."""
        values = torch.from_numpy(self.temporal(first_position))
        self.set_temporal_(values.to(self._cos.device, self._cos.dtype))

    def temporal(self, first_position: int) -> NDArray[np.float64]:
        """Cosines and sines `[2, frames, temporal pairs]` of the frames from a temporal position on."""
        positions = first_position + np.arange(self.frames, dtype=np.int64)
        angles = axis_angles(positions, self._temporal_dims)
        return np.stack([np.cos(angles), np.sin(angles)])

    def set_temporal_(self, values: Tensor) -> None:
        """Copy the values of `temporal` into the tables: device work only, so a graph may hold it."""
        for table, part in zip((self._cos, self._sin), values, strict=True):
            table[:, :, : self._pairs] = part[:, None, :]

    @property
    def cos(self) -> Tensor:
        return self._cos.view(-1, self.head_dim // 2)

    @property
    def sin(self) -> Tensor:
        return self._sin.view(-1, self.head_dim // 2)

    def __call__(self, x: Tensor) -> Tensor:
        """Rotate x `[..., tokens, head_dim]`; tokens may be the last ones of the run."""
        tokens = x.shape[-2]
        return rotate(x, self.cos[-tokens:], self.sin[-tokens:])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the pairs (x[2i], x[2i+1]) by the table's angles, in the table's precision.

    x: `[..., tokens, head_dim]`; cos, sin: `[tokens, head_dim / 2]`. Returns x's dtype.
    """
    even, odd = x.to(cos.dtype).unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
