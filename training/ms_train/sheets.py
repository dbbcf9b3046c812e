"""Contact sheets: rows of small pictures in one PNG."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from torch import Tensor

from ms_infer.media.sheet import write_sheet
from ms_train import parallel


def to_bytes(frames: Tensor) -> np.ndarray:
    """float [..., 3, H, W] in [0, 1] -> uint8 [..., H, W, 3]."""
    pixels: np.ndarray = frames.detach().float().clamp(0, 1).mul(255).round().byte().cpu().numpy()
    return np.moveaxis(pixels, -3, -1)


def save_sheet(path: Path, rows: Tensor) -> None:
    """Write float [rows, columns, 3, H, W] as a grid; a white gap parts the pictures. Process 0 writes."""
    if parallel.rank() == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sheet(path, to_bytes(rows))
