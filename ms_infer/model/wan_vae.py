"""The Wan 2.1 autoencoder: causal 3-D convolutions whose caches keep one shape from the first call on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from ms_infer.config import VaeConfig
from ms_infer.errors import CheckpointError, ConfigError
from ms_infer.model.vae import Shape, State, Vae
from ms_infer.model.wan_vae_blocks import (
    Decoder,
    Downsample,
    Encoder,
    Upsample,
    cache_shapes,
    residual_blocks,
    stream_through,
)

BLOCKS = 2  # residual blocks of an encoder stage; a decoder stage has one more
WIDTHS = (1, 2, 4, 4)  # of the encoder's stages, in units of the first; the decoder runs them backwards
# Per-channel mean and standard deviation of the latents, as published with the model.
# fmt: off
LATENT_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)
LATENT_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)
# fmt: on


class WanVae(Vae):
    """Wan 2.1: 16 latent channels, stride 8 in space and 4 in time. Parameter names are the published ones.

    The state holds the last 2 input frames of every 3-frame convolution in execution order (32 tensors in the
    decoder, 24 in the encoder), `[B, C, 2, rows, columns]`; 1 frame where the encoder halves time. Zeros are the
    causal padding of a stream's start, so the first call needs no shapes of its own; only the changes of frame
    rate are skipped for the first frame. A call works on all its latent frames at once: pass fewer to bound the
    memory.
    """

    kind = "wan2.1"
    patch = 1
    mean: Tensor
    std: Tensor

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        mean, std = self._statistics()
        if (config.latent_channels, config.spatial_stride) != (len(mean), 8 * self.patch):
            raise ConfigError(
                f"a {self.kind} autoencoder has {len(mean)} latent channels and the spatial stride {8 * self.patch}, "
                f"not {config.latent_channels} and {config.spatial_stride}"
            )
        latent, pixel = config.latent_channels, 3 * self.patch**2
        self.encoder = Encoder(pixel, 2 * latent, config.base_dim, self._down_stages(config.base_dim))
        self.conv1 = nn.Conv3d(2 * latent, 2 * latent, 1)
        self.conv2 = nn.Conv3d(latent, latent, 1)
        decoder_dim = config.decoder_dim or config.base_dim
        self.decoder = Decoder(latent, pixel, decoder_dim, self._up_stages(decoder_dim))
        for name, values in (("mean", mean), ("std", std)):
            self.register_buffer(name, torch.tensor(values).reshape(1, 1, -1, 1, 1), persistent=False)

    def _decoder_shapes(self, batch: int, latent_height: int, latent_width: int) -> list[Shape]:
        return [(batch, *shape) for shape in cache_shapes(self.decoder.layers(), latent_height, latent_width)]

    def _encoder_shapes(self, batch: int, height: int, width: int) -> list[Shape]:
        layers = self.encoder.layers()
        return [(batch, *shape) for shape in cache_shapes(layers, height // self.patch, width // self.patch)]

    def _decode(self, latents: Tensor, state: State, opening: bool) -> tuple[Tensor, State]:
        x = self.conv2((latents * self.std + self.mean).transpose(1, 2))
        x, state = stream_through(self.decoder.layers(), x, state, opening)
        return self._to_frames(x) / 2 + 0.5, state

    def _encode(self, frames: Tensor, state: State, opening: bool) -> tuple[Tensor, State]:
        x = self._from_frames(frames * 2 - 1)
        x, state = stream_through(self.encoder.layers(), x, state, opening)
        mean_and_variance = self.conv1(x).transpose(1, 2)
        return (mean_and_variance[:, :, : self.config.latent_channels] - self.mean) / self.std, state

    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return LATENT_MEAN, LATENT_STD

    def _to_frames(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)

    def _from_frames(self, frames: Tensor) -> Tensor:
        return frames.transpose(1, 2)

    def _down_stages(self, dim: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        inputs = dim
        for stage, width in enumerate(WIDTHS):
            layers += residual_blocks(inputs, dim * width, BLOCKS)
            if stage < 3:
                layers.append(Downsample(dim * width, time=stage > 0))
            inputs = dim * width
        return layers

    def _up_stages(self, dim: int) -> list[nn.Module]:
        layers: list[nn.Module] = []
        inputs = dim * WIDTHS[-1]
        for stage, width in enumerate(reversed(WIDTHS)):
            layers += residual_blocks(inputs, dim * width, BLOCKS + 1)
            inputs = dim * width // 2  # the upsampling halves the width
            if stage < 3:
                layers.append(Upsample(dim * width, inputs, time=stage < 2))
        return layers


def wan_vae_config(state_dict: Mapping[str, Tensor]) -> VaeConfig:
    """Sizes of a Wan 2.1 or 2.2 state dict (published or diffusers names); CheckpointError when it is neither."""
    shapes = {original: state_dict[name].shape for name, original in wan_vae_key_map(state_dict).items()}
    needed = ("encoder.conv1.weight", "decoder.conv1.weight", "conv2.weight")
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise CheckpointError(f"this is no Wan VAE file: {', '.join(missing)} missing; use Wan2.1_VAE or Wan2.2_VAE")
    residual = any(name.startswith("encoder.downsamples.0.downsamples.") for name in shapes)
    base_dim, decoder_dim = shapes[needed[0]][0], shapes[needed[1]][0] // WIDTHS[-1]
    return VaeConfig(
        kind="wan2.2" if residual else "wan2.1",
        latent_channels=shapes[needed[2]][0],
        spatial_stride=16 if residual else 8,
        base_dim=base_dim,
        decoder_dim=None if decoder_dim == base_dim else decoder_dim,
    )


def wan_vae_key_map(diffusers: Iterable[str]) -> dict[str, str]:
    """Published parameter name of every name of diffusers' AutoencoderKLWan; published names map to themselves."""
    names = list(diffusers)
    nested = any(".upsampler." in name or ".downsampler." in name for name in names)
    return {name: _original_name(name, nested) for name in names}


_LEAVES = {
    "norm1": "residual.0",
    "conv1": "residual.2",
    "norm2": "residual.3",
    "conv2": "residual.6",
    "conv_shortcut": "shortcut",
    "conv_in": "conv1",
    "norm_out": "head.0",
    "conv_out": "head.2",
    "quant_conv": "conv1",
    "post_quant_conv": "conv2",
}


def _original_name(name: str, nested: bool) -> str:
    if not re.search(r"_blocks?\.|conv_in|_out\.|quant_conv", name):
        return name
    *path, leaf, kind = name.split(".")
    name = ".".join([*path, _LEAVES.get(leaf, leaf), kind])
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"middle.{2 * int(m[1])}", name)
    name = name.replace("mid_block.attentions.0", "middle.1")
    if nested:
        name = re.sub(r"(down|up)_blocks\.(\d)\.resnets", r"\1samples.\2.\1samples", name)
        name = re.sub(r"down_blocks\.(\d)\.downsampler", rf"downsamples.\1.downsamples.{BLOCKS}", name)
        return re.sub(r"up_blocks\.(\d)\.upsampler", rf"upsamples.\1.upsamples.{BLOCKS + 1}", name)
    stage = BLOCKS + 2  # of a decoder: its blocks and the upsampling
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"upsamples.{stage * int(m[1]) + int(m[2])}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"upsamples.{stage * int(m[1]) + BLOCKS + 1}", name)
    return name.replace("down_blocks", "downsamples")
