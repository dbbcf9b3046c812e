"""Counter-based noise: the same numbers on every engine, in Python and C++.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011), keyed by
the seed and counted by (element group, pass, chunk), then Box-Muller in float64.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
LOW = 0xFFFFFFFF
ROUNDS = 10


def philox(counter: NDArray[np.uint64], key: int) -> NDArray[np.uint64]:
    """Ten rounds over counters `[4, n]` of 32-bit words (held in uint64), 64-bit key."""
    c0, c1, c2, c3 = counter
    low, shift = np.uint64(LOW), np.uint64(32)
    k0, k1 = key & LOW, (key >> 32) & LOW
    for _ in range(ROUNDS):
        product0, product1 = np.uint64(MULTIPLIERS[0]) * c0, np.uint64(MULTIPLIERS[1]) * c2
        c0, c2 = (product1 >> shift) ^ c1 ^ np.uint64(k0), (product0 >> shift) ^ c3 ^ np.uint64(k1)
        c1, c3 = product1 & low, product0 & low
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return np.stack([c0, c1, c2, c3])


def normal(seed: int, chunk: int, denoise_pass: int, count: int) -> NDArray[np.float32]:
    """`count` standard normal float32 values of one pass of one chunk.

    Group g of four words has the counter (g, pass, chunk low, chunk high). Words (a, b) and
    (c, d) become pairs r cos(t), r sin(t) with r = sqrt(-2 ln((a + 1) / 2^32)), t = 2 pi b / 2^32.
    """
    groups = -(-count // 4)
    counter = np.zeros((4, groups), np.uint64)
    counter[0] = np.arange(groups, dtype=np.uint64)
    counter[1] = denoise_pass
    counter[2], counter[3] = chunk & LOW, chunk >> 32
    words = philox(counter, seed & 0xFFFFFFFFFFFFFFFF).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((words[0::2] + 1.0) * 2.0**-32))
    angle = words[1::2] * (2.0 * np.pi * 2.0**-32)
    values = np.stack(
        [
            radius[0] * np.cos(angle[0]),
            radius[0] * np.sin(angle[0]),
            radius[1] * np.cos(angle[1]),
            radius[1] * np.sin(angle[1]),
        ],
        axis=1,
    )
    return values.reshape(-1)[:count].astype(np.float32)


Noises = list[NDArray[np.float32]]


class NoiseAhead:
    """Noise of a chunk, `[1, frames, *frame_shape]` per draw: the first one, then one for each pass but the last."""

    def __init__(self, frame_shape: tuple[int, ...], draws: int) -> None:
        self._frame_shape, self._draws = frame_shape, draws
        self._ready: tuple[tuple[int, int, int], Noises] | None = None

    def prepare(self, seed: int, chunk: int, frames: int) -> None:
        """Draw what `take` will probably be asked for."""
        self._ready = ((seed, chunk, frames), self._draw(seed, chunk, frames))

    def take(self, seed: int, chunk: int, frames: int) -> Noises:
        """The noise of a chunk, drawn now unless it was prepared."""
        if self._ready is not None and self._ready[0] == (seed, chunk, frames):
            return self._ready[1]
        return self._draw(seed, chunk, frames)

    def _draw(self, seed: int, chunk: int, frames: int) -> Noises:
        shape = (1, frames, *self._frame_shape)
        count = int(np.prod(shape))
        return [normal(seed, chunk, draw, count).reshape(shape) for draw in range(self._draws)]
