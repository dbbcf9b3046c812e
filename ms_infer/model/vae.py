"""The one interface of every autoencoder: streaming encode and decode with an explicit, fixed-shape state."""

from __future__ import annotations

import abc
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ms_infer.config import RGB_FRAMES_PER_LATENT_FRAME as STRIDE
from ms_infer.config import VaeConfig
from ms_infer.errors import ConfigError

State = list[Tensor]
Shape = tuple[int, ...]


class Vae(nn.Module, abc.ABC):
    """Autoencoder between frames `[B, T, 3, H, W]` in [0, 1] and normalised latents `[B, F, C, h, w]`.

    Latent frame 0 of a stream is 1 frame, every later one 4. A state is a list of tensors whose shapes never
    change; a call returns a new list and writes into nothing, so a failed step can be repeated. Any split of a
    clip into calls gives the frames (or latents) of one call over the whole clip.
    """

    def __init__(self, config: VaeConfig) -> None:
        super().__init__()
        self.config = config

    def decoder_state(
        self,
        batch: int,
        latent_height: int,
        latent_width: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Zeros to open a decoded stream with; device and dtype default to those of the weights."""
        return self._zeros(self._decoder_shapes(batch, latent_height, latent_width), device, dtype)

    def encoder_state(
        self,
        batch: int,
        height: int,
        width: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> State:
        """Zeros to open an encoded stream with; device and dtype default to those of the weights."""
        self.latent_size(height, width)
        if not self.config.encodes:
            return []
        return self._zeros(self._encoder_shapes(batch, height, width), device, dtype)

    def decode(self, latents: Tensor, state: Sequence[Tensor], *, opening: bool) -> tuple[Tensor, State]:
        """Turn latents `[B, F, C, h, w]` into frames `[B, T, 3, H, W]` in [0, 1] and the next state.

        T is 4 F - 3 when these latents open the stream, else 4 F.
        """
        frames, new_state = self.decode_unclamped(latents, state, opening=opening)
        return frames.clamp(0, 1), new_state

    def decode_unclamped(self, latents: Tensor, state: Sequence[Tensor], *, opening: bool) -> tuple[Tensor, State]:
        """As `decode`, but values outside [0, 1] are left, and so is their gradient."""
        if latents.ndim != 5 or latents.shape[1] < 1 or latents.shape[2] != self.config.latent_channels:
            raise ConfigError(
                f"latents have the shape {tuple(latents.shape)}; expected [batch, latent frames >= 1, "
                f"{self.config.latent_channels}, height, width]"
            )
        _check_state(state, self._decoder_shapes(latents.shape[0], *latents.shape[3:]), "decoder_state")
        return self._decode(latents, list(state), opening)

    def encode(self, frames: Tensor, state: Sequence[Tensor], *, opening: bool) -> tuple[Tensor, State]:
        """Turn frames `[B, T, 3, H, W]` in [0, 1] into normalised latents `[B, F, C, h, w]` and the next state.

        T is 1 + 4 k when these frames open the stream, else 4 k.
        """
        if not self.config.encodes:
            raise ConfigError(
                "the autoencoder has no encoder, so no picture can be read; give a full one beside it: "
                "vae=[Wan2.1_VAE.pth, taew2_1.pth], or start without an image"
            )
        if frames.ndim != 5 or frames.shape[2] != 3:
            raise ConfigError(f"frames have the shape {tuple(frames.shape)}; expected [batch, T, 3, height, width]")
        if frames.shape[1] < 1 or frames.shape[1] % STRIDE != opening:
            expected = "1 + 4 k frames (1, 5, 9, ...) open a stream" if opening else "4 k frames continue a stream"
            raise ConfigError(f"cannot encode {frames.shape[1]} frames: {expected}")
        self.latent_size(frames.shape[3], frames.shape[4])
        _check_state(state, self._encoder_shapes(frames.shape[0], *frames.shape[3:]), "encoder_state")
        return self._encode(frames, list(state), opening)

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """Latent rows and columns of a picture; ConfigError where the spatial stride does not divide it."""
        unit = self.config.spatial_stride
        if height < unit or width < unit or height % unit or width % unit:
            raise ConfigError(f"frames of {height}x{width} do not fit: height and width must be multiples of {unit}")
        return height // unit, width // unit

    @abc.abstractmethod
    def _decode(self, latents: Tensor, state: State, opening: bool) -> tuple[Tensor, State]: ...

    @abc.abstractmethod
    def _encode(self, frames: Tensor, state: State, opening: bool) -> tuple[Tensor, State]: ...

    @abc.abstractmethod
    def _decoder_shapes(self, batch: int, latent_height: int, latent_width: int) -> list[Shape]: ...

    @abc.abstractmethod
    def _encoder_shapes(self, batch: int, height: int, width: int) -> list[Shape]: ...

    def _zeros(self, shapes: Sequence[Shape], device: torch.device | str | None, dtype: torch.dtype | None) -> State:
        like = next(self.parameters())
        return [torch.zeros(shape, device=device or like.device, dtype=dtype or like.dtype) for shape in shapes]


def _check_state(state: Sequence[Tensor], shapes: Sequence[Shape], source: str) -> None:
    if len(state) != len(shapes):
        raise ConfigError(f"the state holds {len(state)} tensors, expected {len(shapes)}; start from {source}(...)")
    for index, (tensor, shape) in enumerate(zip(state, shapes, strict=True)):
        if tuple(tensor.shape) != shape:
            raise ConfigError(
                f"tensor {index} of the state has the shape {tuple(tensor.shape)}, this input needs {shape}; "
                f"start a new stream from {source}(...) when the batch or the picture size changes"
            )
