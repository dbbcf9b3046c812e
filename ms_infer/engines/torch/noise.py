"""The counter-based noise of `ms_infer.numerics.noise`, made where the tensors live and counted by device numbers."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_infer.config import StreamConfig
from ms_infer.engines.base import ChunkPlan
from ms_infer.numerics import noise
from ms_infer.numerics.noise import LOW, MULTIPLIERS, ROUNDS, WEYL

COUNTERS = 4
"""Numbers of `counters`: seed low, seed high, chunk low, chunk high."""


def counters(seed: int, chunk: int) -> NDArray[np.int64]:
    """What `normal` reads: int64 [4], 32 bits each."""
    return np.array([seed & LOW, (seed >> 32) & LOW, chunk & LOW, (chunk >> 32) & LOW], np.int64)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Ten rounds of Philox4x32 over int64 tensors that hold 32 bits each; key int64 [2].

    The product of two 32-bit words wraps in int64, but its bits are right: the high word is masked after the shift.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key[0], key[1]
    for _ in range(ROUNDS):
        product0, product1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0 = ((product1 >> 32) & LOW) ^ c1 ^ k0
        c2 = ((product0 >> 32) & LOW) ^ c3 ^ k1
        c1, c3 = product1 & LOW, product0 & LOW
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return c0, c1, c2, c3


def normal(numbers: Tensor, passes: int, count: int) -> Tensor:
    """Standard normal float32 `[passes, count]`: row p equals `ms_infer.numerics.noise.normal(seed, chunk, p, count)`.

    numbers: int64 [4] on the device (`counters`), so that a captured graph draws new noise for every chunk. The
    words are equal bit for bit; cosine and logarithm in float64 may differ in the last bit between libraries, which
    float32 hides but for about one value in 10^8.
    """
    groups = -(-count // 4)
    group = torch.arange(groups, device=numbers.device).expand(passes, groups)
    number = torch.arange(passes, device=numbers.device)[:, None].expand(passes, groups)
    low, high = numbers[2].expand(passes, groups), numbers[3].expand(passes, groups)
    words = [word.double() for word in philox((group, number, low, high), numbers[:2])]
    values = []
    for magnitude, turn in (words[:2], words[2:]):
        radius = torch.sqrt(-2.0 * torch.log((magnitude + 1.0) * 2.0**-32))
        angle = turn * (2.0 * math.pi * 2.0**-32)
        values += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(values, dim=-1).flatten(1)[:, :count].float()


def host_noise(plan: ChunkPlan, config: StreamConfig, denoise_pass: int) -> Tensor:
    """Noise of one pass of a chunk, float32 `[1, frames, latent_channels, latent_height, latent_width]` on the host."""
    shape = (1, plan.placement.frames, config.model.latent_channels, config.latent_height, config.latent_width)
    return torch.from_numpy(noise.normal(plan.seed, plan.index, denoise_pass, int(np.prod(shape))).reshape(shape))
