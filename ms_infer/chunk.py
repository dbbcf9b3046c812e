"""What a step hands out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.engines.base import DeviceFrames


@dataclass(frozen=True, eq=False)
class Chunk:
    """What one step made. It may be kept: no later step writes into it."""

    index: int
    """Counts chunks from 0."""
    pixels: NDArray[np.uint8] | DeviceFrames = field(repr=False)
    """RGB frames where they lie: on the host, or on a device (`Stream.frames_on`)."""
    first_rgb_frame: int
    """Index of the first frame in the stream."""
    control_id: int
    """Newest control the chunk was made with."""
    timings: dict[str, float]
    """Milliseconds: the whole `chunk` by the host's clock, and its stages by the engine's (`Engine.stage_ms`)."""
    fps: float = 16.0
    """RGB frames per second."""

    @cached_property
    def frames(self) -> NDArray[np.uint8]:
        """RGB frames `[rgb_frames, height, width, 3]` on the host; those on a device are downloaded once."""
        return self.pixels if isinstance(self.pixels, np.ndarray) else self.pixels.numpy()

    def first(self, rgb_frames: int) -> Chunk:
        """The same with so many frames at most."""
        return self if rgb_frames >= len(self.pixels) else replace(self, pixels=self.pixels[:rgb_frames])

    def __dlpack__(self, **options: Any) -> Any:
        """The frames where they lie, without a copy: `torch.from_dlpack(chunk)`, `np.from_dlpack(chunk)`."""
        return self.pixels.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, number = self.pixels.__dlpack_device__()
        return int(kind), int(number)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For CuPy, Numba and others; AttributeError for frames that lie on the host."""
        if isinstance(self.pixels, np.ndarray):
            raise AttributeError("the frames lie on the host; set stream.frames_on = 'device' before the step")
        return self.pixels.__cuda_array_interface__

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        """A moving picture in a notebook."""
        from ms_infer.media.notebook import Clip

        return Clip([self.frames], fps=self.fps)._repr_mimebundle_()
