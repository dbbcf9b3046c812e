"""What all writers of video share: frames are checked, files are whole under their name or kept as a partial file."""

from __future__ import annotations

import contextlib
import logging
import os
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError, MotionStreamError
from ms_infer.media.sinks import File, Given

PARTIAL = ".partial"

_log = logging.getLogger(__name__)


class VideoWriter(ABC):
    """Takes uint8 [T, height, width, 3]; see `open_writer`."""

    def __init__(self, target: Path | Given, height: int, width: int, fps: float) -> None:
        self.given = target if isinstance(target, Given) else None
        self.target = target if isinstance(target, Path) else Path(target.name)
        self.height, self.width, self.fps = height, width, fps
        self.partial = self.target.with_name(f"{self.target.stem}{PARTIAL}{self.target.suffix}")
        self.frames_written = 0
        self._open = False
        self._failed = False

    def __enter__(self) -> Self:
        try:
            self._begin()
        except OSError as error:
            raise ConfigError(f"cannot write {self.target}: {error.strerror or error}") from error
        self._open = True
        return self

    def write(self, frames: NDArray[np.uint8]) -> None:
        """Append uint8 [T, height, width, 3]; ConfigError for another shape, MotionStreamError when it fails."""
        array = np.asarray(frames)
        if not self._open:
            raise ConfigError("the writer is closed; use it inside `with open_writer(...) as writer:`")
        if array.dtype != np.uint8 or array.ndim != 4 or array.shape[1:] != (self.height, self.width, 3):
            raise ConfigError(
                f"frames must be uint8 [T, {self.height}, {self.width}, 3], got {array.dtype} {list(array.shape)}"
            )
        try:
            for frame in np.ascontiguousarray(array):
                self._put(frame)
                self.frames_written += 1
        except OSError as error:
            self._failed = True
            raise self._failure(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._open:
            return
        self._open = False
        if kind is None and not self._failed:
            try:
                self._finish()
            except OSError as failure:
                self._salvage_quietly()
                raise self._failure(failure) from failure
        else:
            self._salvage_quietly()

    def _salvage_quietly(self) -> None:
        try:
            self._salvage()
        except OSError as failure:
            _log.warning("%s could not be completed: %s", self.partial, failure)
        if self.given is not None:
            return
        if self.frames_written == 0:
            with contextlib.suppress(OSError):
                self._discard()
        elif self.partial.exists():
            _log.warning("the RGB frames so far are in %s", self.partial)

    def _failure(self, error: OSError) -> MotionStreamError:
        reason = error.strerror or error
        if self.given is not None:
            return MotionStreamError(f"{self.target} took {self.frames_written} RGB frames, then failed: {reason}")
        kept = f"; what fitted is in {self.partial} and plays" if self.frames_written else ""
        return MotionStreamError(f"cannot write {self.target}: {reason}{kept}")

    def _opened(self) -> File | Given:
        """Where to write: what was given, or the partial file."""
        return self.given or File(self.partial)

    def _publish(self) -> None:
        """Give the partial file its name."""
        if self.given is None:
            os.replace(self.partial, self.target)

    def _discard(self) -> None:
        self.partial.unlink(missing_ok=True)

    @abstractmethod
    def _begin(self) -> None: ...

    @abstractmethod
    def _put(self, frame: NDArray[np.uint8]) -> None: ...

    @abstractmethod
    def _finish(self) -> None:
        """Complete the file and give it its name."""

    def _salvage(self) -> None:  # noqa: B027  (pipes and folders need nothing)
        """Make what is there playable under the partial name."""
