"""RGB frames out: mp4, gif, y4m, a folder of PNG or a raw pipe, to files or to whatever takes bytes."""

from __future__ import annotations

import io
import itertools
import logging
import os
import shutil
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError, MissingExtraError
from ms_infer.media.raw import Rgb24, Y4m
from ms_infer.media.sinks import Given, Sink
from ms_infer.media.writer import PARTIAL, VideoWriter

Kind = Literal["mp4", "gif", "y4m", "rgb24"]
CRF = 18  # visually near lossless
SHORTEST_DELAY, LONGEST_DELAY = 2, 65535  # of a GIF's frames, in 1/100 s
_BT709, _LIMITED_RANGE = 1, 1  # H.273 code points; players guess BT.601 for small untagged pictures

_log = logging.getLogger(__name__)


def open_writer(
    path: str | Path | Sink, *, height: int, width: int, fps: float, kind: Kind | None = None
) -> VideoWriter:
    """A context manager that takes RGB frames: `with open_writer(...) as writer: writer.write(frames)`.

    `NAME.mp4` H.264 (needs the extra [video] and an even size), `NAME.gif`, `NAME.y4m` (uncompressed, for other
    programs), `FOLDER/` for numbered PNG; on standard output `-` for raw rgb24, `-.y4m`. A file is written as
    NAME.partial.EXT beside the target and takes its name when the block ends well; after an error, inside the block or
    on the disk, the frames so far stay there, playable (a full disk costs an mp4 about its last two seconds), until
    the next run. The target is replaced only by a whole file.

    Anything with a `write` of bytes is a target too, with kind= "mp4" (fragments of a second, which play while they
    come), "gif", "y4m" or "rgb24"; it is flushed and left open.
    ConfigError for a target that cannot be; MotionStreamError when writing fails.
    """
    if min(height, width) < 1 or not 0 < fps <= 1000:
        raise ConfigError(f"a video needs a positive size and rate, got {height}x{width} at {fps} fps")
    if not isinstance(path, str | Path):
        if kind not in _KINDS:
            raise ConfigError(f"kind= says what an open file gets: one of {', '.join(_KINDS)}, not {kind!r}")
        return _KINDS[kind](Given(path), height, width, fps)
    if kind is not None:
        raise ConfigError(f"kind= goes with an open file; the ending of {path} says what it gets")
    text = str(path)
    if text in ("-", "-.y4m"):
        out = Given(sys.stdout.buffer, "standard output")
        return _KINDS["rgb24" if text == "-" else "y4m"](out, height, width, fps)
    target = Path(path)
    if text.endswith(("/", os.sep)) or target.is_dir():
        return _Folder(target, height, width, fps)
    if target.suffix.lower() not in (".mp4", ".gif", ".y4m"):
        raise ConfigError(
            f"cannot tell what {text} shall be: end it in .mp4, .gif, .y4m or / (a folder of PNG), or use -"
        )
    if not target.parent.is_dir():
        raise ConfigError(f"there is no folder {target.parent} to write {target.name} into")
    return _KINDS[target.suffix.lower()[1:]](target, height, width, fps)


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


class _Gif(VideoWriter):
    """Each frame has its own palette of 256; the file is a playable animation after every frame.

    Times are in 1/100 s. Players take delays below 2 for 10, so frames that come sooner after the last are left out.
    """

    def _begin(self) -> None:
        self._file = self._opened()
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
        self._publish()

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
        self._file = self._opened()
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
        if self.given is not None:  # it cannot be packed again
            return
        packed = self.target.with_name(f"{self.target.stem}{PARTIAL}2{self.target.suffix}")
        try:
            self._repack(packed)
        except (OSError, self._av.error.FFmpegError) as error:  # fragments play as well
            packed.unlink(missing_ok=True)
            _log.info("%s stays fragmented: %s", self.target, error)
            self._publish()
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
        if self.given is None:
            _cut_to_whole_fragments(self.partial)


_KINDS: dict[str, type[VideoWriter]] = {"mp4": _Mp4, "gif": _Gif, "y4m": Y4m, "rgb24": Rgb24}


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
