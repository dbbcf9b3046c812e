"""Features of the encoder of `taef2` (a tiny image autoencoder), which see texture where PSNR rewards blur."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FILE = "weights/taef2_encoder.pth"
WIDTH = 64
TAPS = (5, 9)  # modules whose output is compared: at a half and at a quarter of the size
STRIDED = (2, 6)


class Block(nn.Module):
    """Three convolutions beside a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()]
        self.conv = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        """`[B, 64, H, W]` to the same shape."""
        return F.relu(self.conv(x) + x)


class Features(nn.Module):
    """The first two scales of the encoder, frozen."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, padding=1)]
        for index in range(1, TAPS[-1] + 1):
            strided = nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1, bias=False)
            layers.append(strided if index in STRIDED else Block())
        self.layers = nn.Sequential(*layers)
        self.requires_grad_(False)

    def forward(self, frames: Tensor) -> list[Tensor]:
        """frames: float `[B, 3, H, W]` in [0, 1]. Features `[B, 64, H / 2, W / 2]` and `[B, 64, H / 4, W / 4]`, each
        place scaled to length 1, as in Zhang et al. (2018)."""
        found, x = [], frames
        for index, layer in enumerate(self.layers):
            x = layer(x)
            if index in TAPS:
                found.append(x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt())
        return found

    def distance(self, made: Tensor, truth: Tensor, mask: Tensor | None = None) -> Tensor:
        """Mean squared distance `[B]` of features; within `mask` `[B, 1, H, W]` where one is given."""
        total = made.new_zeros(len(made))
        for a, b in zip(self(made), self(truth), strict=True):
            gap = (a - b).square().sum(1, keepdim=True)
            weight = torch.ones_like(gap) if mask is None else F.interpolate(mask, size=gap.shape[-2:], mode="area")
            total = total + (gap * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp(min=1e-3)
        return total


def load_features(assets: Path) -> Features | None:
    """Features with the weights of `assets`/weights, None where the folder has none."""
    path = assets / FILE
    if not path.exists():
        return None
    features = Features()
    stored = torch.load(path, map_location="cpu", weights_only=True)
    wanted = features.layers.state_dict()
    features.layers.load_state_dict({name: stored[name] for name in wanted})
    return features.eval()


def crop_window(hole: Tensor, side: int) -> tuple[slice, slice]:
    """Rows and columns of a square of `side` pixels around the middle of `hole` [H, W], inside the picture."""
    total = hole.sum().clamp(min=1e-6)
    starts = []
    for axis, length in enumerate(hole.shape):
        at = torch.arange(length, device=hole.device) + 0.5
        middle = float((hole.sum(1 - axis) * at).sum() / total)
        starts.append(min(max(round(middle - side / 2), 0), length - side))
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


def crop_around(hole: Tensor, side: int, *pictures: Tensor) -> list[Tensor]:
    """Of each of `pictures` [B, C, H, W] the squares of `side` pixels around the middles of `hole` [B, 1, H, W]."""
    cut = [crop_window(row[0], side) for row in hole]
    return [
        torch.cat([picture[row : row + 1, :, window[0], window[1]] for row, window in enumerate(cut)])
        for picture in pictures
    ]
