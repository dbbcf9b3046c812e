"""RGB frames as a moving picture in a notebook."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError

QUALITY = 85  # of WebP


class Frames(Protocol):
    """What a clip needs of a `Chunk`."""

    @property
    def frames(self) -> NDArray[np.uint8]: ...
    @property
    def fps(self) -> float: ...


class Clip:
    """Frames that a notebook shows: `display(Clip(stream.take(seconds=3)))`, or a Clip as the last line of a cell.

    chunks: chunks, or arrays uint8 `[T, height, width, 3]`; they are taken when the clip is made. fps: RGB frames per
    second; None takes that of the chunks, 16 for arrays. Needs nothing but Pillow: the picture is an animated WebP.
    """

    def __init__(self, chunks: Iterable[Frames | NDArray[np.uint8]], *, fps: float | None = None) -> None:
        taken = list(chunks)
        if not taken:
            raise ConfigError("a clip needs at least one chunk of frames")
        rates = [chunk.fps for chunk in taken if not isinstance(chunk, np.ndarray)]
        self.fps = fps if fps is not None else (rates[0] if rates else 16.0)
        arrays = [chunk if isinstance(chunk, np.ndarray) else chunk.frames for chunk in taken]
        self.frames: NDArray[np.uint8] = np.concatenate(arrays)

    def webp(self) -> bytes:
        """The frames as an animated WebP file."""
        from PIL import Image

        first, *others = [Image.fromarray(frame) for frame in self.frames]
        buffer, times = io.BytesIO(), np.rint(np.arange(len(self.frames) + 1) * 1000 / self.fps).astype(int)
        durations = np.diff(times).tolist()
        first.save(
            buffer, "WEBP", save_all=True, append_images=others, duration=durations, loop=0, quality=QUALITY, method=2
        )
        return buffer.getvalue()

    def _repr_mimebundle_(self, **_: Any) -> dict[str, str]:
        height, width = self.frames.shape[1:3]
        data = base64.b64encode(self.webp()).decode()
        shown = f'<img width="{width}" height="{height}" src="data:image/webp;base64,{data}">'
        return {"text/html": shown, "text/plain": f"Clip({len(self.frames)} RGB frames at {self.fps:g} fps)"}
