"""What a step hands out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Chunk:
    """What one step made."""

    index: int
    """Counts chunks from 0."""
    frames: NDArray[np.uint8]
    """RGB frames `[rgb_frames, height, width, 3]`, valid until the next step; `numpy()` copies."""
    first_rgb_frame: int
    """Index of the first frame in the stream."""
    control_id: int
    """Newest control the chunk was made with."""
    timings: dict[str, float]
    """Milliseconds: the whole `chunk` by the host's clock, and its stages by the engine's (`Engine.stage_ms`)."""

    def numpy(self) -> NDArray[np.uint8]:
        """A copy of the frames that outlives the next step."""
        return self.frames.copy()
