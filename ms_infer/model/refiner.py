"""The refiner: what the first frame still shows, put into frames that a small decoder leaves soft."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_infer.config import LAYER_CHANNELS, MOTION_LAYERS, RefinerConfig
from ms_infer.errors import ConfigError

SOURCES = 2 + MOTION_LAYERS  # decoded, moved, and one per motion layer
INPUTS = 2 * 3 + 1 + MOTION_LAYERS * LAYER_CHANNELS
OUTPUTS = SOURCES + 3
STRIDE = 8


class FrameNetwork(nn.Module):
    """A small U-Net over one frame at a time: at `fold` pixels a place, and at a half and a quarter of that.

    Its outputs are zero to begin with, the first of them `start`.
    """

    def __init__(self, config: RefinerConfig, *, inputs: int, outputs: int, fold: int, start: float) -> None:
        super().__init__()
        self.config, self.fold = config, fold
        half, quarter, eighth = config.widths
        self.enter = conv(fold * fold * inputs, half)
        self.down = conv(half, quarter, stride=2)
        self.middle = Residual(quarter)
        self.deepen = conv(quarter, eighth, stride=2)
        self.deep = Residual(eighth)
        self.raise_quarter = nn.Conv2d(eighth, quarter, 1)
        self.join = conv(quarter, quarter)
        self.raise_half = nn.Conv2d(quarter, half, 1)
        self.last = Residual(half)
        self.leave = conv(half, fold * fold * outputs)
        nn.init.zeros_(self.leave.weight)
        first = torch.zeros(outputs, fold * fold)
        first[0] = start
        with torch.no_grad():
            assert self.leave.bias is not None
            self.leave.bias.copy_(first.flatten())  # channel-major, as pixel_shuffle reads it

    def choose(self, seen: Tensor) -> Tensor:
        """`[N, inputs, H, W]` to `[N, outputs, H, W]`; H and W are multiples of 4 `fold`."""
        half = F.relu(self.enter(F.pixel_unshuffle(seen, self.fold)))
        quarter = self.middle(F.relu(self.down(half)))
        eighth = self.deep(F.relu(self.deepen(quarter)))
        quarter = F.relu(self.join(quarter + twice(self.raise_quarter(eighth))))
        half = self.last(half + twice(self.raise_half(quarter)))
        return F.pixel_shuffle(self.leave(half), self.fold)


class Refiner(FrameNetwork):
    """Every pixel is a mixture of the decoded frame, the moved one and the motion layers, plus a correction.

    A small U-Net, frame by frame and without a state, chooses the mixture. It starts as the decoded frame alone.
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__(config, inputs=INPUTS, outputs=OUTPUTS, fold=2, start=4.0)

    def forward(self, decoded: Tensor, moved: Tensor, moved_valid: Tensor, layers: Tensor) -> Tensor:
        """Frames `[B, T, 3, H, W]` in [0, 1]; H and W are multiples of 8.

        decoded, moved: `[B, T, 3, H, W]` in [0, 1]; moved_valid: `[B, T, 1, H, W]`; layers: `[B, T, 12, H, W]`; all
        as `warp_first_frame` and `motion_layers` make them. ConfigError when sizes differ.
        """
        return self.mix(decoded, moved, moved_valid, layers).clamp(0, 1)

    def mix(self, decoded: Tensor, moved: Tensor, moved_valid: Tensor, layers: Tensor) -> Tensor:
        """As `forward`, not clamped."""
        height, width = decoded.shape[-2:]
        others = (moved_valid.shape[-2:], layers.shape[-2:])
        if decoded.shape != moved.shape or others != ((height, width),) * 2 or height % STRIDE or width % STRIDE:
            found = ", ".join(str(tuple(one.shape)) for one in (moved, moved_valid, layers))
            raise ConfigError(
                f"the refiner got frames of {height}x{width} and references of {found}; all must have one size, a "
                f"multiple of {STRIDE}"
            )
        seen = torch.cat([decoded, moved, moved_valid, layers], dim=2).flatten(0, 1)
        chosen = self.choose(seen * 2 - 1)
        weights = chosen[:, :SOURCES].softmax(dim=1)
        pictures = (decoded, moved, *(layer[:, :, :3] for layer in layers.chunk(MOTION_LAYERS, dim=2)))
        mixed = chosen[:, SOURCES:]
        for source, picture in enumerate(pictures):
            mixed = mixed + weights[:, source : source + 1] * picture.flatten(0, 1)
        return mixed.view(decoded.shape)


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = conv(width, width), conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, width, H, W]` to the same shape."""
        return F.relu(x + self.second(F.relu(self.first(x))))


def conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    """3x3, padded."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def twice(x: Tensor) -> Tensor:
    """Every pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
