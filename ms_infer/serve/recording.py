"""The recording of a session: one at a time; the newest finished file is kept until the next or the end."""

from __future__ import annotations

import logging
import secrets
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import StreamConfig
from ms_infer.errors import MotionStreamError
from ms_infer.serve.shared import Context

logger = logging.getLogger(__name__)


class Recording:
    """Methods belong to the event loop, except `write` (encoder thread)."""

    def __init__(self, context: Context, name: str, config: StreamConfig, fps: float) -> None:
        self.file: Path | None = None
        """A finished recording."""
        self._context, self._name, self._config, self._fps = context, name, config, fps
        self._recorder: Recorder | None = None

    @property
    def on(self) -> bool:
        return self._recorder is not None

    def write(self, frame: NDArray[np.uint8]) -> bool:
        """Append a frame where one is going on; False when it must end: too long, or the disk is full."""
        return self._recorder is None or self._recorder.write(frame)

    async def switch(self, on: bool) -> None:
        """Begin or end."""
        context, config = self._context, self._config
        if on and self._recorder is None:
            path = context.folder / f"{self._name}-{secrets.token_hex(4)}.mp4"
            seconds = context.config.limits.record_seconds
            self._recorder = await context.encode(Recorder, path, config.height, config.width, self._fps, seconds)
        elif not on and self._recorder is not None:
            recorder, self._recorder = self._recorder, None
            finished = await context.encode(recorder.finish)
            if finished is not None:
                self.remove()
                self.file = finished

    def remove(self) -> None:
        """Give up the finished file."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)


class Recorder:
    """Writes exactly the frames that are made to `folder`/NAME.mp4. One thread at a time."""

    def __init__(self, path: Path, height: int, width: int, fps: float, max_seconds: float) -> None:
        from ms_infer.media import open_writer

        self.path = path
        self._left = round(max_seconds * fps)
        self._stack = ExitStack()
        self._writer = self._stack.enter_context(open_writer(path, height=height, width=width, fps=fps))

    def write(self, frame: NDArray[np.uint8]) -> bool:
        """Append a frame; False when the recording is as long as it may be, or the disk is full."""
        if self._left > 0:
            try:
                self._writer.write(frame[None])
                self._left -= 1
            except MotionStreamError as error:
                logger.error("a recording ends: %s", error)
                self._left = 0
        return self._left > 0

    def finish(self) -> Path | None:
        """Close the file; None when it holds nothing."""
        try:
            self._stack.close()
        except MotionStreamError as error:
            logger.error("a recording is lost: %s", error)
        if self._writer.frames_written == 0:
            self.path.unlink(missing_ok=True)
        return self.path if self.path.exists() else None
