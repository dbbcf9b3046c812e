"""The next chunk's noise, drawn while the GPU works on this one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ms_infer.numerics import noise

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
        return [noise.normal(seed, chunk, draw, count).reshape(shape) for draw in range(self._draws)]
