"""3-D RoPE tables written from the formula, apart from the SDK's own."""

from __future__ import annotations

import torch
from ms_kernels import Rotation


def rotation(frames: list[int], rows: int, columns: int, head_dim: int, dtype: torch.dtype = torch.float32) -> Rotation:
    """Tables of the tokens of latent frames at these temporal positions: parts temporal | height | width."""
    side = 2 * (head_dim // 6)
    parts = (head_dim - 2 * side, side, side)
    places = torch.cartesian_prod(torch.tensor(frames), torch.arange(rows), torch.arange(columns)).double()
    angles = [
        places[:, axis, None] * 10_000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        for axis, size in enumerate(parts)
    ]
    angle = torch.cat(angles, dim=1)
    return Rotation(angle.cos().to(dtype), angle.sin().to(dtype))
