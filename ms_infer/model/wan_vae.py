"""The Wan 2.1 autoencoder: causal 3-D convolutions whose caches keep one shape from the first call on."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from ms_infer.config import VaeConfig
from ms_infer.errors import CheckpointError, ConfigError
from ms_infer.model.constants import LatentScale
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
    channels = 16

    def __init__(self, config: VaeConfig) -> None:
        super().__init__(config)
        if (config.latent_channels, config.spatial_stride) != (self.channels, 8 * self.patch):
            raise ConfigError(
                f"a {self.kind} autoencoder has {self.channels} latent channels and the spatial stride "
                f"{8 * self.patch}, not {config.latent_channels} and {config.spatial_stride}"
            )
        latent, pixel = config.latent_channels, 3 * self.patch**2
        self.scale = LatentScale(latent)
        if config.part != "decoder":
            self.encoder = Encoder(pixel, 2 * latent, config.base_dim, self._down_stages(config.base_dim))
            self.conv1 = nn.Conv3d(2 * latent, 2 * latent, 1)
        if config.part != "encoder":
            self.conv2 = nn.Conv3d(latent, latent, 1)
            decoder_dim = config.decoder_dim or config.base_dim
            self.decoder = Decoder(latent, pixel, decoder_dim, self._up_stages(decoder_dim))

    def _decoder_shapes(self, batch: int, latent_height: int, latent_width: int) -> list[Shape]:
        return [(batch, *shape) for shape in cache_shapes(self.decoder.layers(), latent_height, latent_width)]

    def _encoder_shapes(self, batch: int, height: int, width: int) -> list[Shape]:
        layers = self.encoder.layers()
        return [(batch, *shape) for shape in cache_shapes(layers, height // self.patch, width // self.patch)]

    def _decode(self, latents: Tensor, state: State, opening: bool) -> tuple[Tensor, State]:
        x = self.conv2(self.scale.restore(latents).transpose(1, 2))
        x, state = stream_through(self.decoder.layers(), x, state, opening)
        return self._to_frames(x) / 2 + 0.5, state

    def _encode(self, frames: Tensor, state: State, opening: bool) -> tuple[Tensor, State]:
        x = self._from_frames(frames * 2 - 1)
        x, state = stream_through(self.encoder.layers(), x, state, opening)
        mean_and_variance = self.conv1(x).transpose(1, 2)
        return self.scale.normalise(mean_and_variance[:, :, : self.config.latent_channels]), state

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
    encoder, decoder, last = "encoder.conv1.weight", "decoder.conv1.weight", "conv2.weight"
    missing = [name for name in (decoder, last) if name not in shapes]
    if missing:
        raise CheckpointError(f"this is no Wan VAE file: {', '.join(missing)} missing; use Wan2.1_VAE or Wan2.2_VAE")
    residual = any(name.startswith("decoder.upsamples.0.upsamples.") for name in shapes)
    decoder_dim = shapes[decoder][0] // WIDTHS[-1]
    base_dim = shapes[encoder][0] if encoder in shapes else decoder_dim
    return VaeConfig(
        kind="wan2.2" if residual else "wan2.1",
        latent_channels=shapes[last][0],
        spatial_stride=16 if residual else 8,
        base_dim=base_dim,
        decoder_dim=None if decoder_dim == base_dim else decoder_dim,
        part="both" if encoder in shapes else "decoder",
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
