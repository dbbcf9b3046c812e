"""The decoder of one autoencoder with the encoder of another: a tiny decoder beside Wan's own encoder."""

from __future__ import annotations

from torch import Tensor

from ms_infer.config import VaeConfig
from ms_infer.model.vae import Shape, State, Vae


class PairedVae(Vae):
    """Both halves under their own settings; each may keep its weights in another type, which it computes in."""

    def __init__(self, config: VaeConfig, encoding: Vae, decoding: Vae) -> None:
        super().__init__(config)
        self.encoding, self.decoding = encoding, decoding

    def _decoder_shapes(self, batch: int, latent_height: int, latent_width: int) -> list[Shape]:
        return self.decoding._decoder_shapes(batch, latent_height, latent_width)

    def _encoder_shapes(self, batch: int, height: int, width: int) -> list[Shape]:
        return self.encoding._encoder_shapes(batch, height, width)

    def _decode(self, latents: Tensor, state: State, opening: bool) -> tuple[Tensor, State]:
        return self.decoding._decode(latents, state, opening)

    def _encode(self, frames: Tensor, state: State, opening: bool) -> tuple[Tensor, State]:
        return self.encoding._encode(frames, state, opening)
