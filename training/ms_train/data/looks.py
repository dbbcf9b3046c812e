"""Global looks of a scene (night, dusk, fog, snow, sepia) that a prompt can ask for."""

from __future__ import annotations

import torch
from torch import Tensor

# One row per look of scene.LOOKS: a 3x3 colour matrix (rows make red, green, blue) and an offset.
_GREY = (0.299, 0.587, 0.114)


def _matrix(saturation: float, gain: tuple[float, float, float]) -> list[list[float]]:
    return [[gain[i] * (saturation * (i == j) + (1 - saturation) * _GREY[j]) for j in range(3)] for i in range(3)]


_LOOKS: tuple[tuple[list[list[float]], tuple[float, float, float]], ...] = (
    (_matrix(1.0, (1.0, 1.0, 1.0)), (0.0, 0.0, 0.0)),
    (_matrix(0.5, (0.28, 0.36, 0.62)), (0.0, 0.01, 0.06)),
    (_matrix(0.8, (0.95, 0.66, 0.50)), (0.06, 0.01, 0.03)),
    (_matrix(0.45, (0.48, 0.48, 0.48)), (0.40, 0.41, 0.42)),
    (_matrix(0.35, (0.85, 0.90, 0.95)), (0.22, 0.24, 0.28)),
    (_matrix(0.0, (1.05, 0.86, 0.62)), (0.03, 0.01, 0.0)),
)


def apply_look(frames: Tensor, look: Tensor, progress: Tensor) -> Tensor:
    """Recolour frames [B, T, 3, H, W] by look [B] (int64) as far as `progress` [B, T] (0 plain, 1 full)."""
    matrices = torch.tensor([matrix for matrix, _ in _LOOKS], device=frames.device)[look]
    offsets = torch.tensor([offset for _, offset in _LOOKS], device=frames.device)[look]
    toned = torch.einsum("bij,btjhw->btihw", matrices, frames) + offsets[:, None, :, None, None]
    share = progress.clamp(0, 1)[:, :, None, None, None]
    return (frames * (1 - share) + toned * share).clamp(0, 1)
