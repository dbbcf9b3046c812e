"""Videos in: the RGB frames of a file at their times, upright and with square pixels, one after the other."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError, MissingExtraError
from ms_infer.media.pictures import MAX_PIXELS, check_pixels, fitted
from ms_infer.media.timing import USUAL, Pace, paced, steady_rate

LONGEST_PIXEL = 16  # times as long as wide or wide as long: more is a damaged header, not a shape
ROOM = 16  # RGB frames by which the array of a whole video grows at least
REORDERED = 32  # packets that may come before one that is shown before them

_log = logging.getLogger(__name__)
Picture = NDArray[np.uint8]


def read_video(
    path: str | Path,
    height: int | None = None,
    width: int | None = None,
    max_frames: int = 1024,
    *,
    fps: float | None = None,
) -> tuple[NDArray[np.uint8], float]:
    """The first RGB frames of a video as uint8 [T <= max_frames, H, W, 3], and their rate; see `open_video`."""
    frames, rate = open_video(path, height, width, max_frames, fps=fps)
    return _gathered(frames), rate


def _gathered(frames: Iterator[Picture]) -> Picture:
    """All frames [T, H, W, 3] in one array that grows in place: a list of them would be there twice in the end."""
    first = next(frames)
    video, count = np.empty((ROOM, *first.shape), np.uint8), 0
    for frame in chain((first,), frames):
        if count == len(video):
            video.resize((count + max(ROOM, count // 8), *first.shape), refcheck=False)
        video[count] = frame
        count += 1
    video.resize((count, *first.shape), refcheck=False)
    return video


def open_video(
    path: str | Path,
    height: int | None = None,
    width: int | None = None,
    max_frames: int = 1024,
    *,
    fps: float | None = None,
) -> tuple[Iterator[Picture], float]:
    """The first RGB frames of a video, uint8 [H, W, 3] one after the other, and their rate.

    Read is the file's best picture stream (never its cover), turned and mirrored as it says, with square pixels. With
    `height` and `width` each picture is centre-cropped and resized as `load_image` does. With `fps` the picture shown
    at each multiple of 1 / fps is taken; without it the rate is one at which also uneven times are kept (see
    `steady_rate`). What is damaged or cut off is logged and left out. Needs the extra [video]; ConfigError when the
    file is no video, or by the iterator when nothing of it can be read.
    """
    if max_frames < 1 or (height is None) != (width is None):
        raise ConfigError(
            f"read_video needs max_frames >= 1 and both height and width or none, got {max_frames}, {height}, {width}"
        )
    if fps is not None and not (math.isfinite(fps) and fps > 0):
        raise ConfigError(f"fps must be positive, not {fps}")
    with opened(path) as (container, stream):
        pace = _kept_times(container, stream, max_frames) if fps is None else _asked_times(stream, fps, max_frames)
    size = None if height is None or width is None else (height, width)
    return _pictures(path, size, pace), pace.fps


@contextmanager
def opened(path: str | Path) -> Iterator[tuple[Any, Any]]:
    """PyAV's container of a video file and its best picture stream; ConfigError, also out of the block."""
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("reading video needs PyAV: pip install 'ms-infer[video]'") from error
    if not Path(path).is_file():
        raise ConfigError(f"there is no video at {path}")
    try:
        with av.open(f"file:{path}") as container:  # "file:" or a name with a colon would be a protocol
            stream = _best(container, path)
            check_pixels((stream.width, stream.height), str(path), MAX_PIXELS)
            yield container, stream
    except ConfigError:
        raise
    except (OSError, ValueError, av.error.FFmpegError) as error:
        raise ConfigError(f"cannot read {path} as a video: {error}") from error


def _best(container: Any, path: str | Path) -> Any:
    """What FFmpeg takes for the best stream of pictures, unless it is a cover or of an unknown kind."""
    pictures = container.streams.video
    moving = [one for one in pictures if not one.disposition & type(one.disposition).attached_pic]
    known = [one for one in moving if one.codec_context is not None]
    if not known:
        found = "a picture stream of an unknown kind" if moving else "only a cover" if pictures else "no picture in it"
        raise ConfigError(f"{path} has {found}")
    best = container.streams.best("video")
    return next((one for one in known if best is not None and one.index == best.index), known[0])


def _kept_times(container: Any, stream: Any, count: int) -> Pace:
    """From the times of the first packets, which are read and not decoded."""
    packets = islice(_until_damage(container.demux(stream), []), count + REORDERED)
    ticks = sorted(packet.pts for packet in packets if packet.pts is not None and not packet.is_discard)
    time_base = stream.time_base or 1 / USUAL
    rate, begin = steady_rate(ticks[:count], time_base, [stream.average_rate, stream.base_rate])
    return Pace(float(rate), 0.5 / float(rate) - 1e-6, count, float(begin) if ticks else None)


def _asked_times(stream: Any, fps: float, count: int) -> Pace:
    """A time that was rounded to a tick still belongs to the RGB frame it was meant for."""
    return Pace(fps, min(float(stream.time_base or 0), 1 / fps) / 2 + 1e-6, count)


def _pictures(path: str | Path, size: tuple[int, int] | None, pace: Pace) -> Iterator[Picture]:
    """`size` (height, width), or None: that of the first picture, to which all are brought."""
    damage: list[Exception] = []
    before, picture, display = None, None, None
    with opened(path) as (container, stream):
        for frame in paced(_timed(container, stream, damage), pace):
            if display is None:  # asked once: a frame that was asked for its side data is long held by it
                display = _display(stream, frame)
            if frame is not before or picture is None:
                before, picture = frame, _rgb(frame, size, display, str(path))
                size = size or (picture.shape[0], picture.shape[1])
            yield picture
    if damage:
        _log.warning("%s is damaged or cut off (%s); what could be read is used", path, damage[0])
    if picture is None:
        raise ConfigError(f"{path} holds no decodable picture{f': {damage[0]}' if damage else ''}")


def _timed(container: Any, stream: Any, damage: list[Exception]) -> Iterator[tuple[float, float, Any]]:
    """Begin and duration in seconds, and the frame."""
    mean = float(stream.average_rate or stream.base_rate or USUAL)
    for index, frame in enumerate(_decoded(container, stream, damage)):
        begin = index / mean if frame.time is None else float(frame.time)
        yield begin, float((frame.duration or 0) * (frame.time_base or 0)) or 1 / mean, frame


def _decoded(container: Any, stream: Any, damage: list[Exception]) -> Iterator[Any]:
    """Frames of all packets that can be decoded; errors go into `damage`."""
    for packet in _until_damage(container.demux(stream), damage):
        yield from _frames_of(stream, packet, damage)
    if damage:  # the end was not reached, so nothing has asked for the frames that wait for it
        yield from _frames_of(stream, None, damage)


def _frames_of(stream: Any, packet: Any, damage: list[Exception]) -> Iterator[Any]:
    import av

    try:
        yield from stream.codec_context.decode(packet)
    except av.error.FFmpegError as error:
        if not isinstance(error, av.error.EOFError):
            damage.append(error)


def _until_damage(packets: Iterator[Any], damage: list[Exception]) -> Iterator[Any]:
    import av

    try:
        yield from packets
    except av.error.FFmpegError as error:
        damage.append(error)


class _Display(NamedTuple):
    """How a file says its pictures are shown."""

    shape: Fraction
    """Width of a pixel over its height, after the turn."""
    turned: bool
    """Whether rows become columns; before the mirrors."""
    mirrored: tuple[bool, bool]
    """Whether (rows, columns) run the other way."""


def _display(stream: Any, frame: Any) -> _Display:
    from av.sidedata.sidedata import Type

    shape = Fraction(stream.sample_aspect_ratio or 1)
    if not Fraction(1, LONGEST_PIXEL) <= shape <= LONGEST_PIXEL:
        shape = Fraction(1)
    data = frame.side_data.get(Type.DISPLAYMATRIX)
    if data is None:
        return _Display(shape, False, (False, False))
    # x' = a x + c y, y' = b x + d y
    a, b, _, c, d = (int(value) for value in np.frombuffer(bytes(data), np.int32)[:5])
    if abs(b) + abs(c) > abs(a) + abs(d):
        return _Display(1 / shape, True, (b < 0, c < 0))
    return _Display(shape, False, (d < 0, a < 0))


def _rgb(frame: Any, size: tuple[int, int] | None, display: _Display, name: str) -> Picture:
    from PIL import Image

    check_pixels((frame.width, frame.height), name, MAX_PIXELS)
    picture = np.asarray(frame.to_ndarray(format="rgb24"))
    picture = picture.swapaxes(0, 1) if display.turned else picture
    rows, columns = (-1 if mirrored else 1 for mirrored in display.mirrored)
    picture, shape = np.ascontiguousarray(picture[::rows, ::columns]), display.shape
    if size is None:
        height, width = picture.shape[:2]
        size = (height, round(width * shape)) if shape >= 1 else (round(height / shape), width)
        check_pixels((size[1], size[0]), name, MAX_PIXELS)
    if shape == 1 and size == picture.shape[:2]:
        return picture
    return fitted(Image.fromarray(picture), *size, pixel_shape=float(shape))
