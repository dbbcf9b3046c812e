"""Building blocks that the Wan 2.1 and 2.2 autoencoders share: causal in time, with caches passed in and out."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_infer.model.vae import State

CACHED_FRAMES = 2  # history of a convolution that is 3 frames long
CacheShape = tuple[int, int, int, int]  # channels, frames, rows, columns


class Caches:
    """Walk through the caches of a state in execution order and collect the new ones.

    `first`: the frames at hand are the first one of the stream, which no change of frame rate applies to.
    """

    def __init__(self, state: State, first: bool) -> None:
        self._old = iter(state)
        self.new: State = []
        self.first = first

    def extend(self, x: Tensor) -> Tensor:
        """Put the cached frames before x `[B, C, T, H, W]` and keep the last ones for the next call."""
        cache = next(self._old)
        x = torch.cat([cache, x], dim=2)
        self.new.append(x[:, :, -cache.shape[2] :].clone())
        return x

    def keep(self) -> None:
        """Hand one cache on as it is."""
        self.new.append(next(self._old))


class Cached(nn.Module, abc.ABC):
    """A layer with caches: `forward(x, caches)` on `[B, C, T, H, W]`."""

    @abc.abstractmethod
    def cache_shapes(self, height: int, width: int) -> tuple[list[CacheShape], int, int]:
        """Shapes of the caches for inputs of this size, without the batch, and the output size."""


class CausalConv3d(nn.Conv3d, Cached):
    """3x3x3 convolution that sees the present and the two frames before it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=(0, 1, 1))

    def forward(self, x: Tensor, caches: Caches) -> Tensor:  # type: ignore[override]
        return super().forward(caches.extend(x))

    def cache_shapes(self, height: int, width: int) -> tuple[list[CacheShape], int, int]:
        return [(self.in_channels, CACHED_FRAMES, height, width)], height, width


class ChannelNorm(nn.Module):
    """Scale each position to unit root mean square over its channels."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *[1] * dims))

    def forward(self, x: Tensor) -> Tensor:
        precise = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
        return F.normalize(precise, dim=1).to(x.dtype) * math.sqrt(self.gamma.shape[0]) * self.gamma


class ResidualBlock(Cached):
    """Norm, SiLU, causal convolution, twice, beside a shortcut. Module numbers are those of the published names."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            ChannelNorm(inputs, 3), nn.SiLU(), CausalConv3d(inputs, outputs),
            ChannelNorm(outputs, 3), nn.SiLU(), nn.Identity(), CausalConv3d(outputs, outputs),
        )  # fmt: skip
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv3d(inputs, outputs, 1)

    def forward(self, x: Tensor, caches: Caches) -> Tensor:
        out: Tensor = run(self.residual, x, caches) + self.shortcut(x)
        return out

    def cache_shapes(self, height: int, width: int) -> tuple[list[CacheShape], int, int]:
        return cache_shapes(self.residual, height, width), height, width


class AttentionBlock(nn.Module):
    """Single-head attention among the positions of each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels, 2)
        self.to_qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        images = to_images(x)
        q, k, v = self.to_qkv(self.norm(images)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=-1)
        out = F.scaled_dot_product_attention(q, k, v).squeeze(1).transpose(1, 2)
        return x + from_images(self.proj(out.reshape(images.shape)), x.shape[0])


class Upsample(Cached):
    """Double height and width; with `time`, also the frames after the first of the stream."""

    def __init__(self, inputs: int, outputs: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(inputs, outputs, 3, padding=1))
        self.time_conv = nn.Conv3d(inputs, 2 * inputs, (3, 1, 1)) if time else None
        self.inputs = inputs

    def forward(self, x: Tensor, caches: Caches) -> Tensor:
        if self.time_conv is not None and caches.first:
            caches.keep()  # the history of this convolution begins with the second latent frame
        elif self.time_conv is not None:
            pairs = self.time_conv(caches.extend(x)).reshape(x.shape[0], 2, *x.shape[1:])
            x = pairs.permute(0, 2, 3, 1, 4, 5).flatten(2, 3)
        images = F.interpolate(to_images(x), scale_factor=2.0, mode="nearest")
        return from_images(self.resample(images), x.shape[0])

    def cache_shapes(self, height: int, width: int) -> tuple[list[CacheShape], int, int]:
        shapes = [(self.inputs, CACHED_FRAMES, height, width)] if self.time_conv is not None else []
        return shapes, 2 * height, 2 * width


class Downsample(Cached):
    """Halve height and width; with `time`, also the frames after the first of the stream."""

    def __init__(self, channels: int, *, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.Identity(), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if time else None
        self.channels = channels

    def forward(self, x: Tensor, caches: Caches) -> Tensor:
        x = from_images(self.resample(F.pad(to_images(x), (0, 1, 0, 1))), x.shape[0])
        if self.time_conv is not None:
            extended = caches.extend(x)
            x = x if caches.first else self.time_conv(extended)
        return x

    def cache_shapes(self, height: int, width: int) -> tuple[list[CacheShape], int, int]:
        shapes = [(self.channels, 1, height // 2, width // 2)] if self.time_conv is not None else []
        return shapes, height // 2, width // 2


class Encoder(nn.Module):
    """Frames to latent statistics."""

    def __init__(self, inputs: int, outputs: int, dim: int, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        deepest = 4 * dim
        self.conv1 = CausalConv3d(inputs, dim)
        self.downsamples = nn.Sequential(*stages)
        self.middle = _middle(deepest)
        self.head = nn.Sequential(ChannelNorm(deepest, 3), nn.SiLU(), CausalConv3d(deepest, outputs))

    def layers(self) -> list[nn.Module]:
        """Layers in execution order."""
        return [self.conv1, *self.downsamples, *self.middle, *self.head]


class Decoder(nn.Module):
    """Latents to frames."""

    def __init__(self, inputs: int, outputs: int, dim: int, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        deepest = 4 * dim
        self.conv1 = CausalConv3d(inputs, deepest)
        self.middle = _middle(deepest)
        self.upsamples = nn.Sequential(*stages)
        self.head = nn.Sequential(ChannelNorm(dim, 3), nn.SiLU(), CausalConv3d(dim, outputs))

    def layers(self) -> list[nn.Module]:
        """Layers in execution order."""
        return [self.conv1, *self.middle, *self.upsamples, *self.head]


def residual_blocks(inputs: int, outputs: int, count: int) -> list[nn.Module]:
    """`count` residual blocks, the first of which changes the width."""
    return [ResidualBlock(inputs if i == 0 else outputs, outputs) for i in range(count)]


def stream_through(layers: Sequence[nn.Module], x: Tensor, state: State, opening: bool) -> tuple[Tensor, State]:
    """Run x `[B, C, T, H, W]` through the layers; when it opens a stream, its first frame goes alone."""
    parts = [x] if not opening else [x[:, :, :1]] + ([x[:, :, 1:]] if x.shape[2] > 1 else [])
    out = []
    for index, part in enumerate(parts):
        caches = Caches(state, first=opening and index == 0)
        out.append(run(layers, part, caches))
        state = caches.new
    return torch.cat(out, dim=2) if len(out) > 1 else out[0], state


def run(layers: Sequence[nn.Module] | nn.Sequential, x: Tensor, caches: Caches) -> Tensor:
    """Call the layers in order, those with caches with theirs."""
    for layer in layers:
        arguments: tuple[Any, ...] = (x, caches) if isinstance(layer, Cached) else (x,)
        x = layer(*arguments)
    return x


def cache_shapes(layers: Sequence[nn.Module] | nn.Sequential, height: int, width: int) -> list[CacheShape]:
    """Shapes of all caches of the layers, in execution order, without the batch."""
    shapes: list[CacheShape] = []
    for layer in layers:
        if isinstance(layer, Cached):
            more, height, width = layer.cache_shapes(height, width)
            shapes += more
    return shapes


def to_images(x: Tensor) -> Tensor:
    """`[B, C, T, H, W]` -> `[B·T, C, H, W]`."""
    return x.transpose(1, 2).flatten(0, 1)


def from_images(images: Tensor, batch: int) -> Tensor:
    """`[B·T, C, H, W]` -> `[B, C, T, H, W]`."""
    return images.reshape(batch, -1, *images.shape[1:]).transpose(1, 2)


def _middle(channels: int) -> nn.Sequential:
    return nn.Sequential(ResidualBlock(channels, channels), AttentionBlock(channels), ResidualBlock(channels, channels))
