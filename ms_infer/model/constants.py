"""Constants of models: they move with a module, and no conversion of its weights rounds them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from ms_infer.errors import ConfigError

# Per-channel mean and standard deviation of the latents, as published with Wan 2.1 and Wan 2.2.
# fmt: off
LATENT_STATISTICS = {
    16: (
        (
            -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
            0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
        ),
        (
            2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
            3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
        ),
    ),
    48: (
        (
            -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891,
            0.1570, -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
            -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723,
            -0.2839, -0.2083, -0.0520, 0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
        ),
        (
            0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901,
            0.6885, 0.6165, 0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
            0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944,
            0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
        ),
    ),
}
# fmt: on
"""Latent channels -> means and standard deviations."""


def numbers(values: Sequence[float], like: Tensor) -> Tensor:
    """The values `[len(values)]` in the type and on the device of another tensor, where they are made.

    `torch.tensor` would copy them from the host, which a CUDA graph cannot hold.
    """
    return torch.stack([like.new_full((), value) for value in values])


class ExactBuffers(nn.Module):
    """A module whose buffers keep their type: `.to(bfloat16)` moves them and leaves their values alone."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        exact = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in exact.items():
            self._buffers[name] = buffer.to(getattr(self, name).device)
        return self


class LatentScale(ExactBuffers):
    """Between normalised latents, which transformers read, and those that Wan's autoencoders are trained on.

    Computes in float32 at least. ConfigError for a number of channels that nobody published statistics for.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        if channels not in LATENT_STATISTICS:
            known = " or ".join(map(str, LATENT_STATISTICS))
            raise ConfigError(f"latents of {channels} channels have no known statistics; Wan's have {known}")
        for name, values in zip(("mean", "std"), LATENT_STATISTICS[channels], strict=True):
            self.register_buffer(name, torch.tensor(values).reshape(1, 1, -1, 1, 1), persistent=False)

    def restore(self, latents: Tensor) -> Tensor:
        """Normalised `[B, F, C, h, w]` to raw ones, of the same type."""
        return (latents * self.std + self.mean).to(latents.dtype)

    def normalise(self, latents: Tensor) -> Tensor:
        """Raw `[B, F, C, h, w]` to normalised ones, of the same type."""
        return ((latents - self.mean) / self.std).to(latents.dtype)
