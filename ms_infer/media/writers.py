"""RGB frames out: mp4, gif, a folder of PNG or a raw pipe, each whole under its name or kept as a partial file."""

from __future__ import annotations

import contextlib
import io
import itertools
import logging
import os
import shutil
import sys
from abc import ABC, abstractmethod
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError, MissingExtraError, MotionStreamError

CRF = 18  # visually near lossless
PARTIAL = ".partial"
SHORTEST_DELAY, LONGEST_DELAY = 2, 65535  # of a GIF's frames, in 1/100 s
_BT709, _LIMITED_RANGE = 1, 1  # H.273 code points; players guess BT.601 for small untagged pictures

_log = logging.getLogger(__name__)


def open_writer(path: str | Path, *, height: int, width: int, fps: float) -> VideoWriter:
    """A context manager that takes RGB frames: `with open_writer(...) as writer: writer.write(frames)`.

    `NAME.mp4` H.264 (needs the extra [video] and an even size), `NAME.gif`, `FOLDER/` for numbered PNG, `-` for raw
    rgb24 on standard output. A file is written as NAME.partial.EXT beside the target and takes its name when the
    block ends well; after an error, inside the block or on the disk, the frames so far stay there, playable (a full
    disk costs an mp4 about its last two seconds), until the next run. The target is replaced only by a whole file.
    ConfigError for a target that cannot be; MotionStreamError when writing fails.
    """
    if min(height, width) < 1 or not 0 < fps <= 1000:
        raise ConfigError(f"a video needs a positive size and rate, got {height}x{width} at {fps} fps")
    text = str(path)
    if text == "-":
        return _Pipe(Path("-"), height, width, fps)
    target = Path(path)
    if text.endswith(("/", os.sep)) or target.is_dir():
        kind: type[VideoWriter] = _Folder
    elif target.suffix.lower() in (".mp4", ".gif"):
        kind = _Mp4 if target.suffix.lower() == ".mp4" else _Gif
    else:
        raise ConfigError(f"cannot tell what {text} shall be: end it in .mp4, .gif or / (a folder of PNG), or use -")
    if not target.parent.is_dir():
        raise ConfigError(f"there is no folder {target.parent} to write {target.name} into")
    return kind(target, height, width, fps)


class VideoWriter(ABC):
    """Takes uint8 [T, height, width, 3]; see `open_writer`."""

    def __init__(self, target: Path, height: int, width: int, fps: float) -> None:
        self.target, self.height, self.width, self.fps = target, height, width, fps
        self.partial = target.with_name(f"{target.stem}{PARTIAL}{target.suffix}")
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
        if self.frames_written == 0:
            with contextlib.suppress(OSError):
                self._discard()
        elif self.partial.exists():
            _log.warning("the RGB frames so far are in %s", self.partial)

    def _failure(self, error: OSError) -> MotionStreamError:
        kept = f"; what fitted is in {self.partial} and plays" if self.frames_written else ""
        return MotionStreamError(f"cannot write {self.target}: {error.strerror or error}{kept}")

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


class _Pipe(VideoWriter):
    def _begin(self) -> None:
        self._out: BinaryIO = sys.stdout.buffer

    def _put(self, frame: NDArray[np.uint8]) -> None:
        self._out.write(frame.tobytes())

    def _finish(self) -> None:
        self._out.flush()

    def _failure(self, error: OSError) -> MotionStreamError:
        return MotionStreamError(
            f"standard output took {self.frames_written} RGB frames, then failed: {error.strerror}"
        )


class _Folder(VideoWriter):
    def _begin(self) -> None:
        if self.target.exists() and (not self.target.is_dir() or any(self.target.iterdir())):
            raise ConfigError(f"{self.target} is not an empty folder; name a new one")
        if self.partial.exists():
            shutil.rmtree(self.partial)
        self.partial.mkdir()

    def _put(self, frame: NDArray[np.uint8]) -> None:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "PNG", compress_level=3)
        file = self.partial / f"{self.frames_written:06d}.png"
        try:
            file.write_bytes(buffer.getvalue())
        except OSError:
            file.unlink(missing_ok=True)
            raise

    def _finish(self) -> None:
        if self.target.exists():
            self.target.rmdir()
        os.replace(self.partial, self.target)

    def _discard(self) -> None:
        shutil.rmtree(self.partial)


class _File:
    """An unbuffered file: a write is whole or raises, and after a failure nothing more is written."""

    def __init__(self, path: Path) -> None:
        self._raw = path.open("w+b", buffering=0)
        self.seek, self.tell = self._raw.seek, self._raw.tell
        self._broken: OSError | None = None

    def write(self, data: bytes) -> int:
        if self._broken is not None:
            raise OSError(self._broken.errno, self._broken.strerror)
        view = memoryview(data)
        try:
            while view:
                view = view[self._raw.write(view) or 0 :]
        except OSError as error:
            self._broken = error
            raise
        return len(data)

    def cut(self, size: int) -> None:
        """Drop what follows `size` bytes; the room is free again."""
        self._raw.seek(size)
        self._raw.truncate()
        self._broken = None

    def close(self) -> None:
        self._raw.close()


class _Gif(VideoWriter):
    """Each frame has its own palette of 256; the file is a playable animation after every frame.

    Times are in 1/100 s. Players take delays below 2 for 10, so frames that come sooner after the last are left out.
    """

    def _begin(self) -> None:
        self._file = _File(self.partial)
        self._good = self._next = 0

    def _put(self, frame: NDArray[np.uint8]) -> None:
        from PIL import GifImagePlugin, Image

        begin = round(100 * self.frames_written / self.fps)
        if begin < self._next:
            return
        later = (round(100 * number / self.fps) for number in itertools.count(self.frames_written + 1))
        self._next = next(time for time in later if time >= begin + SHORTEST_DELAY)
        picture = Image.fromarray(frame).quantize(256, dither=Image.Dither.FLOYDSTEINBERG)
        delay = 10 * min(self._next - begin, LONGEST_DELAY)  # milliseconds
        data = GifImagePlugin.getdata(picture, duration=delay, disposal=1, include_color_table=True)
        if not self._good:
            data = [*GifImagePlugin.getheader(picture.copy(), info={"loop": 0, "duration": delay})[0], *data]
        self._file.write(b"".join(data))
        self._good = self._file.tell()

    def _finish(self) -> None:
        self._file.write(b";")
        self._file.close()
        os.replace(self.partial, self.target)

    def _salvage(self) -> None:
        try:
            self._file.cut(self._good)
            self._file.write(b";")
        finally:
            self._file.close()


class _Mp4(VideoWriter):
    """Writes fragments of about a second, which play even when cut; a finished file is repacked, index first."""

    def _begin(self) -> None:
        try:
            import av
        except ImportError as error:
            raise MissingExtraError("writing mp4 needs PyAV: pip install 'ms-infer[video]'") from error
        if self.height % 2 or self.width % 2:
            raise ConfigError(f"H.264 needs an even height and width, not {self.height}x{self.width}")
        self._av = av
        self._file = _File(self.partial)
        flags = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
        self._container = av.open(self._file, "w", format="mp4", options=flags)
        self._rate = Fraction(self.fps).limit_denominator(1001)
        self._video = self._container.add_stream("libx264", rate=self._rate)
        self._video.width, self._video.height, self._video.pix_fmt = self.width, self.height, "yuv420p"
        self._video.options = {"crf": str(CRF), "preset": "veryfast"}
        codec = self._video.codec_context
        codec.gop_size = max(1, round(self.fps))
        codec.colorspace = codec.color_primaries = codec.color_trc = _BT709
        codec.color_range = _LIMITED_RANGE

    def _put(self, frame: NDArray[np.uint8]) -> None:
        picture = self._av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture = picture.reformat(format="yuv420p", dst_colorspace="ITU709")
        picture.pts = self.frames_written
        picture.time_base = 1 / self._rate
        self._mux(picture)

    def _mux(self, picture: Any) -> None:
        try:
            self._container.mux(self._video.encode(picture))
        except self._av.error.FFmpegError as error:
            raise OSError(error.errno, error.strerror) from error

    def _finish(self) -> None:
        self._complete()
        packed = self.target.with_name(f"{self.target.stem}{PARTIAL}2{self.target.suffix}")
        try:
            self._repack(packed)
        except (OSError, self._av.error.FFmpegError) as error:  # fragments play as well
            packed.unlink(missing_ok=True)
            _log.info("%s stays fragmented: %s", self.target, error)
            os.replace(self.partial, self.target)
            return
        os.replace(packed, self.target)
        self.partial.unlink()

    def _complete(self) -> None:
        try:
            self._mux(None)
        finally:
            try:
                self._container.close()
            except self._av.error.FFmpegError as error:
                raise OSError(error.errno, error.strerror) from error
            finally:
                self._file.close()

    def _repack(self, packed: Path) -> None:
        with (
            self._av.open(f"file:{self.partial}") as source,
            self._av.open(f"file:{packed}", "w", format="mp4", options={"movflags": "+faststart"}) as sink,
        ):
            copy = sink.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(source.streams.video[0]):
                if packet.dts is not None:
                    packet.stream = copy
                    sink.mux(packet)

    def _salvage(self) -> None:
        try:
            self._complete()
        except OSError as error:
            _log.debug("the last fragment is lost: %s", error)
        _cut_to_whole_fragments(self.partial)


def _cut_to_whole_fragments(path: Path) -> None:
    """Drop what follows the last complete moof + mdat pair."""
    end = path.stat().st_size
    whole = position = 0
    with path.open("r+b") as file:
        while position + 8 <= end:
            file.seek(position)
            head = file.read(8)
            size = int.from_bytes(head[:4], "big")
            if size < 8 or position + size > end:
                break
            position += size
            if head[4:] in (b"moov", b"mdat"):
                whole = position
        file.truncate(whole)
