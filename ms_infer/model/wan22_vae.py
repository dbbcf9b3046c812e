"""The Wan 2.2 autoencoder (TI2V-5B): 48 channels, stride 16, stages with averaging and repeating shortcuts."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from ms_infer.model.wan_vae import BLOCKS, WIDTHS, WanVae
from ms_infer.model.wan_vae_blocks import (
    Cached,
    Caches,
    CacheShape,
    Downsample,
    Upsample,
    cache_shapes,
    residual_blocks,
    run,
)

# Per-channel mean and standard deviation of the latents, as published with the model.
# fmt: off
LATENT_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
    0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
    -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)
LATENT_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
    0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
    0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)
# fmt: on


class Wan22Vae(WanVae):
    """Wan 2.2: `WanVae` over 2x2 pixel patches, whose stages have parameter-free shortcuts."""

    kind = "wan2.2"
    patch = 2

    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return LATENT_MEAN, LATENT_STD

    def _to_frames(self, x: Tensor) -> Tensor:
        """Channels are (colour, column, row) of the patch; pixel_shuffle would take (colour, row, column)."""
        batch, _, frames, rows, columns = x.shape
        patches = x.reshape(batch, 3, self.patch, self.patch, frames, rows, columns).permute(0, 4, 1, 5, 3, 6, 2)
        return patches.reshape(batch, frames, 3, rows * self.patch, columns * self.patch)

    def _from_frames(self, frames: Tensor) -> Tensor:
        batch, count, _, height, width = frames.shape
        x = frames.reshape(batch, count, 3, height // self.patch, self.patch, width // self.patch, self.patch)
        return x.permute(0, 2, 6, 4, 1, 3, 5).flatten(1, 3)

    def _down_stages(self, dim: int) -> list[nn.Module]:
        stages: list[nn.Module] = []
        inputs = dim
        for stage, width in enumerate(WIDTHS):
            stages.append(DownStage(inputs, dim * width, space=stage < 3, time=0 < stage < 3))
            inputs = dim * width
        return stages

    def _up_stages(self, dim: int) -> list[nn.Module]:
        stages: list[nn.Module] = []
        inputs = dim * WIDTHS[-1]
        for stage, width in enumerate(reversed(WIDTHS)):
            stages.append(UpStage(inputs, dim * width, space=stage < 3, time=stage < 2))
            inputs = dim * width
        return stages


class DownStage(Cached):
    """Residual blocks and downsampling, plus the averaged input."""

    def __init__(self, inputs: int, outputs: int, *, space: bool, time: bool) -> None:
        super().__init__()
        layers = residual_blocks(inputs, outputs, BLOCKS)
        self.downsamples = nn.Sequential(*layers, *([Downsample(outputs, time=time)] if space else []))
        self.outputs, self.space, self.time = outputs, 1 + space, 1 + time

    def forward(self, x: Tensor, caches: Caches) -> Tensor:
        return run(self.downsamples, x, caches) + self._averaged(x)

    def _averaged(self, x: Tensor) -> Tensor:
        """Mean over groups of consecutive (channel, frame, row, column) entries of each cell."""
        x = F.pad(x, (0, 0, 0, 0, x.shape[2] % self.time, 0))  # the first frame of a stream has none before it
        batch, channels, frames, height, width = x.shape
        size = (frames // self.time, height // self.space, width // self.space)
        cells = x.reshape(batch, channels, size[0], self.time, size[1], self.space, size[2], self.space)
        return cells.permute(0, 1, 3, 5, 7, 2, 4, 6).reshape(batch, self.outputs, -1, *size).mean(dim=2)

    def cache_shapes(self, height: int, width: int) -> tuple[list[CacheShape], int, int]:
        return cache_shapes(self.downsamples, height, width), height // self.space, width // self.space


class UpStage(Cached):
    """Residual blocks and upsampling, plus the repeated input."""

    def __init__(self, inputs: int, outputs: int, *, space: bool, time: bool) -> None:
        super().__init__()
        layers = residual_blocks(inputs, outputs, BLOCKS + 1)
        self.upsamples = nn.Sequential(*layers, *([Upsample(outputs, outputs, time=time)] if space else []))
        self.outputs, self.space, self.time = outputs, 1 + space, 1 + time

    def forward(self, x: Tensor, caches: Caches) -> Tensor:
        out = run(self.upsamples, x, caches)
        return out + self._repeated(x, caches.first) if self.space > 1 else out

    def _repeated(self, x: Tensor, first: bool) -> Tensor:
        """Each channel fills its share of (channel, frame, row, column) entries of every cell."""
        batch, channels, frames, height, width = x.shape
        entries = self.outputs * self.time * self.space**2
        x = x[:, :, None].expand(-1, -1, entries // channels, -1, -1, -1)
        x = x.reshape(batch, self.outputs, self.time, self.space, self.space, frames, height, width)
        x = x.permute(0, 1, 5, 2, 6, 3, 7, 4)
        x = x.reshape(batch, self.outputs, self.time * frames, self.space * height, self.space * width)
        return x[:, :, self.time - 1 :] if first else x

    def cache_shapes(self, height: int, width: int) -> tuple[list[CacheShape], int, int]:
        return cache_shapes(self.upsamples, height, width), self.space * height, self.space * width
