"""Timesteps of passes on the device."""

from __future__ import annotations

import torch
from torch import Tensor


class Timesteps:
    """Tensors `[1, frames]`, float64, each made once: graphs read them where they lie."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._made: dict[tuple[float, int, bool], Tensor] = {}

    def __call__(self, value: float, frames: int, *, pinned: bool = False) -> Tensor:
        """The same timestep for all latent frames; a pinned first one is clean."""
        key = (value, frames, pinned)
        if key not in self._made:
            timestep = torch.full((1, frames), value, dtype=torch.float64)
            if pinned:
                timestep[:, 0] = 0
            self._made[key] = timestep.to(self._device)
        return self._made[key]
