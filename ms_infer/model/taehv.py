"""The tiny autoencoder: the TAEHV architecture (madebyollin/taehv), streaming, any widths."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_infer.config import RGB_FRAMES_PER_LATENT_FRAME as STRIDE
from ms_infer.config import VaeConfig
from ms_infer.errors import CheckpointError, ConfigError
from ms_infer.model.constants import LatentScale
from ms_infer.model.planes import spread
from ms_infer.model.vae import Shape, State, Vae

BASE_STRIDE = 8  # spatial stride of the convolutions; a pixel patch of 2 makes it 16
TIME_STRIDES = (1, 2, 2)  # of the decoder's three up stages; the encoder runs them backwards

_FILES = "taew2_1, taew2_2 or taew2_2_super"


class TinyVae(Vae):
    """TAEHV: the frames of a chunk go through every convolution as one batch.

    Parameter names are those of the published `taew2_1`, `taew2_2` and `taew2_2_super` files. The state is one tensor
    per memory block, `[B, width, rows, columns]`: the block's last input. Latents are the normalised ones of Wan.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        self.patch = config.spatial_stride // BASE_STRIDE
        if config.spatial_stride not in (BASE_STRIDE, 2 * BASE_STRIDE):
            raise ConfigError(f"a tiny autoencoder has the spatial stride 8 or 16, not {config.spatial_stride}")
        if config.blocks < 1:
            raise ConfigError(f"a tiny autoencoder needs at least 1 block a stage, not {config.blocks}")
        if config.part != "decoder":
            self.encoder = _encoder(config, 3 * self.patch**2)
        if config.part != "encoder":
            make = _super_decoder if config.decoder == "super" else _decoder
            self.decoder = make(config, 3 * self.patch**2)
        self.scale = LatentScale(config.latent_channels) if config.latents == "raw" else None

    def _decoder_shapes(self, batch: int, latent_height: int, latent_width: int) -> list[Shape]:
        return [
            (batch, width, latent_height << stage, latent_width << stage)
            for stage, width in enumerate(self.config.decoder_widths[:3])
            for _ in range(self.config.blocks)
        ]

    def _encoder_shapes(self, batch: int, height: int, width: int) -> list[Shape]:
        rows, columns = self.latent_size(height, width)
        return [
            (batch, self.config.encoder_width, rows << stage, columns << stage)
            for stage in (2, 1, 0)
            for _ in range(self.config.blocks)
        ]

    def _decode(self, latents: Tensor, state: State, opening: bool) -> tuple[Tensor, State]:
        batch = latents.shape[0]
        latents = self.scale.restore(latents) if self.scale else latents
        x, new_state = _run(self.decoder, _flatten(latents), state, batch)
        frames = _unflatten(spread(x, self.patch) if self.patch > 1 else x, batch)
        return frames[:, STRIDE - 1 :] if opening else frames, new_state

    def _encode(self, frames: Tensor, state: State, opening: bool) -> tuple[Tensor, State]:
        batch = frames.shape[0]
        if opening:  # the first latent frame is the first frame, four times
            frames = torch.cat([frames[:, :1].expand(-1, STRIDE - 1, -1, -1, -1), frames], dim=1)
        x = _flatten(frames)
        x, new_state = _run(self.encoder, F.pixel_unshuffle(x, self.patch) if self.patch > 1 else x, state, batch)
        latents = _unflatten(x, batch)
        return self.scale.normalise(latents) if self.scale else latents, new_state


def tiny_vae_config(state_dict: Mapping[str, Tensor]) -> VaeConfig:
    """Work out the sizes of a TAEHV state dict from its shapes; CheckpointError when it is not one."""
    larger = "decoder.0.weight" in state_dict  # the base decoder begins with a layer without weights
    entry, kernel, first = ("decoder.0.weight", (1, 1), 1) if larger else ("decoder.1.weight", (3, 3), 3)
    blocks = 0
    while f"decoder.{first + blocks}.conv.0.weight" in state_dict:
        blocks += 1
    if blocks == 0 or _shape(state_dict, entry)[2:] != kernel:
        raise CheckpointError(
            "this is no TAEHV file: decoder.1.weight of 3x3 and decoder.3.conv.0.weight are expected, or "
            f"decoder.0.weight of 1x1 and decoder.1.conv.0.weight of a super decoder; use {_FILES}"
        )
    latent, encoder = _shape(state_dict, entry), state_dict.get("encoder.0.weight")
    widths, out_channels = (_super_widths if larger else _widths)(state_dict, blocks)
    patch = math.isqrt(out_channels // 3)
    if 3 * patch**2 != out_channels or (encoder is not None and encoder.shape[1:2] != (out_channels,)):
        raise CheckpointError(f"a TAEHV file makes 3 or 12 channels per pixel, this one {out_channels}")
    return VaeConfig(
        kind="tiny",
        decoder="super" if larger else "base",
        latent_channels=latent[1],
        spatial_stride=BASE_STRIDE * patch,
        decoder_widths=(latent[0], *widths),
        encoder_width=widths[-1] if encoder is None else encoder.shape[0],
        blocks=blocks,
        part="both" if encoder is not None else "decoder",
    )


Widths = tuple[int, int, int]


def _widths(state_dict: Mapping[str, Tensor], blocks: int) -> tuple[Widths, int]:
    """Widths behind each stage of a base decoder, and channels of a pixel patch."""
    after = [_shape(state_dict, f"decoder.{2 + i * (blocks + 3)}.weight")[0] for i in (1, 2, 3)]
    return (after[0], after[1], after[2]), _shape(state_dict, f"decoder.{4 + 3 * (blocks + 3)}.weight")[0]


def _super_widths(state_dict: Mapping[str, Tensor], blocks: int) -> tuple[Widths, int]:
    """The same of a super decoder, whose convolutions behind a stage make four pixels of each."""
    after = [_shape(state_dict, f"decoder.{1 + blocks + i * (blocks + 4)}.weight")[0] // 4 for i in (0, 1, 2)]
    return (after[0], after[1], after[2]), _shape(state_dict, f"decoder.{1 + 3 * (blocks + 4)}.weight")[0]


def tiny_vae_weights(state_dict: Mapping[str, Tensor], config: VaeConfig) -> dict[str, Tensor]:
    """Weights of a TAEHV file; the bigger 1x1 kernels of older files are cut to the output channels in use, the last.

    What does not fit in another way stays as it is.
    """
    with torch.device("meta"):
        wanted = TinyVae(config).state_dict()

    def cut(tensor: Tensor, like: Tensor | None) -> Tensor:
        older = like is not None and like.shape[1:] == tensor.shape[1:] and like.shape[2:] == (1, 1)
        return tensor[-like.shape[0] :] if like is not None and older else tensor

    return {name: cut(tensor, wanted.get(name)) for name, tensor in state_dict.items()}


class MemoryBlock(nn.Module):
    """Residual block that also sees its own input of the frame before."""

    def __init__(self, conv: nn.Sequential, after: nn.Module) -> None:
        super().__init__()
        self.conv, self.after = conv, after

    def forward(self, x: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """x `[T·B, C, H, W]`, frame-major, and the input before it `[B, C, H, W]` -> the same shape, last input."""
        batch = previous.shape[0]
        past = torch.cat([previous, x[:-batch]]) if x.shape[0] > batch else previous
        made: Tensor = self.after(self.conv(torch.cat([x, past], dim=1)) + x)
        return made, x[-batch:].clone()


class Grow(nn.Module):
    """Make `stride` frames out of one, then `scale` times the height and width.

    The published order is the other way round; a 1x1 convolution and nearest upsampling commute, and this order
    does a quarter of the work.
    """

    def __init__(self, width: int, stride: int, scale: int) -> None:
        super().__init__()
        self.stride, self.scale = stride, scale
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        x = self.conv(x)
        if self.stride > 1:
            parts = [part.split(batch) for part in x.chunk(self.stride, dim=1)]
            x = torch.cat([frame for made in zip(*parts, strict=True) for frame in made])
        return F.interpolate(x, scale_factor=float(self.scale), mode="nearest") if self.scale > 1 else x


class Pool(nn.Module):
    """Make one frame out of `stride` frames."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width * stride, width, 1, bias=False)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        if self.stride > 1:
            frames = x.split(batch)
            x = torch.cat([torch.cat(frames[first :: self.stride]) for first in range(self.stride)], dim=1)
        pooled: Tensor = self.conv(x)
        return pooled


class SoftClamp(nn.Module):
    """Keep latents within ±3."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


def _decoder(config: VaeConfig, out_channels: int) -> nn.Sequential:
    widths = config.decoder_widths
    layers: list[nn.Module] = [SoftClamp(), _conv(config.latent_channels, widths[0]), nn.ReLU()]
    for width, next_width, stride in zip(widths[:3], widths[1:], TIME_STRIDES, strict=True):
        layers += [_memory_block(width) for _ in range(config.blocks)]
        layers += [nn.Identity(), Grow(width, stride, 2), _conv(width, next_width, bias=False)]  # keeps the numbering
    return nn.Sequential(*layers, nn.ReLU(), _conv(widths[3], out_channels))


def _super_decoder(config: VaeConfig, out_channels: int) -> nn.Sequential:
    widths = config.decoder_widths
    layers: list[nn.Module] = [nn.Conv2d(config.latent_channels, widths[0], 1, bias=False)]
    for width, next_width, stride in zip(widths[:3], widths[1:], TIME_STRIDES, strict=True):
        layers += [_super_block(width) for _ in range(config.blocks)]
        layers += [_conv(width, 4 * next_width), nn.ReLU(), nn.PixelShuffle(2), Grow(next_width, stride, 1)]
    return nn.Sequential(*layers, _conv(widths[3], out_channels))


def _encoder(config: VaeConfig, in_channels: int) -> nn.Sequential:
    width = config.encoder_width
    layers: list[nn.Module] = [_conv(in_channels, width), nn.ReLU()]
    for stride in reversed(TIME_STRIDES):
        layers += [Pool(width, stride), _conv(width, width, stride=2, bias=False)]
        layers += [_memory_block(width) for _ in range(config.blocks)]
    return nn.Sequential(*layers, _conv(width, config.latent_channels))


def _memory_block(width: int) -> MemoryBlock:
    conv = nn.Sequential(_conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width))
    return MemoryBlock(conv, nn.ReLU())


def _super_block(width: int) -> MemoryBlock:
    """7x7 pixels of each channel, then all channels of each pixel."""
    conv = nn.Sequential(
        nn.Conv2d(2 * width, 2 * width, 7, padding=3, groups=2 * width, bias=False),
        nn.Conv2d(2 * width, 4 * width, 1),
        nn.ReLU(),
        nn.Conv2d(4 * width, width, 1, bias=False),
    )
    return MemoryBlock(conv, nn.Identity())


def _conv(inputs: int, outputs: int, *, stride: int = 1, bias: bool = True) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=bias)


def _run(layers: nn.Sequential, x: Tensor, state: State, batch: int) -> tuple[Tensor, State]:
    previous, new_state = iter(state), []
    for layer in layers:
        if isinstance(layer, MemoryBlock):
            x, last = layer(x, next(previous))
            new_state.append(last)
        elif isinstance(layer, Grow | Pool):
            x = layer(x, batch)
        else:
            x = layer(x)
    return x, new_state


def _flatten(frames: Tensor) -> Tensor:
    """`[B, T, ...]` -> `[T·B, ...]`, frame-major: the frame before any frame lies B entries back."""
    return frames.transpose(0, 1).flatten(0, 1)


def _unflatten(frames: Tensor, batch: int) -> Tensor:
    return frames.reshape(-1, batch, *frames.shape[1:]).transpose(0, 1)


def _shape(state_dict: Mapping[str, Tensor], name: str) -> torch.Size:
    if name not in state_dict:
        raise CheckpointError(f"this is no TAEHV file: {name} is missing; use {_FILES}")
    return state_dict[name].shape
