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


class Wan22Vae(WanVae):
    """Wan 2.2: `WanVae` over 2x2 pixel patches, whose stages have parameter-free shortcuts."""

    kind = "wan2.2"
    patch = 2
    channels = 48

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
