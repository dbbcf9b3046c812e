"""Whole clips through the tiny autoencoder, and back."""

from __future__ import annotations

from torch import Tensor

from ms_infer.model.taehv import TinyVae


def encode_clip(vae: TinyVae, frames: Tensor) -> Tensor:
    """Latents [B, F, C, h, w] of whole clips [B, 1 + 4 k, 3, H, W]."""
    batch, _, _, height, width = frames.shape
    latents, _ = vae.encode(frames, vae.encoder_state(batch, height, width), opening=True)
    return latents


def decode_clip(vae: TinyVae, latents: Tensor) -> Tensor:
    """Frames [B, 4 F - 3, 3, H, W] of whole clips, not clamped."""
    batch, _, _, height, width = latents.shape
    frames, _ = vae.decode_unclamped(latents, vae.decoder_state(batch, height, width), opening=True)
    return frames
