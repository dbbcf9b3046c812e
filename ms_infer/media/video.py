"""Videos in: the first RGB frames of a file, paced and fitted to a size."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError, MissingExtraError
from ms_infer.media.pictures import MAX_PIXELS, check_pixels, fitted


def read_video(
    path: str | Path,
    height: int | None = None,
    width: int | None = None,
    max_frames: int = 1024,
    *,
    fps: float | None = None,
) -> tuple[NDArray[np.uint8], float]:
    """The first RGB frames of a video as uint8 [T <= max_frames, H, W, 3], and their rate.

    With `height` and `width` each is centre-cropped and resized as `load_image` does. With `fps` the picture shown
    at each multiple of 1 / fps is taken. Needs the extra [video]; ConfigError when the file is no readable video.
    """
    try:
        import av
    except ImportError as error:
        raise MissingExtraError("reading video needs PyAV: pip install 'ms-infer[video]'") from error
    if max_frames < 1 or (height is None) != (width is None):
        raise ConfigError(
            f"read_video needs max_frames >= 1 and both height and width or none, got {max_frames}, {height}, {width}"
        )
    if not Path(path).is_file():
        raise ConfigError(f"there is no video at {path}")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ConfigError(f"{path} has no picture in it")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise ConfigError(f"{path} has a picture stream of an unknown kind")
            rate = float(stream.average_rate or stream.base_rate or 0) or 24.0
            check_pixels((stream.width, stream.height), str(path), MAX_PIXELS)
            timed = _timed(container.decode(stream), rate)
            chosen = timed if fps is None else _paced(timed, fps, 1 / rate)
            frames = [
                _video_frame(frame, height, width)
                for frame, _ in zip(_pictures(chosen), range(max_frames), strict=False)
            ]
            if not frames:
                raise ConfigError(f"{path} holds no decodable picture")
            return np.stack(frames), fps or rate
    except ConfigError:
        raise
    except (OSError, ValueError, av.error.FFmpegError) as error:  # ValueError: the size changes on the way
        raise ConfigError(f"cannot read {path} as a video: {error}") from error


def _timed(decoded: Iterator[Any], rate: float) -> Iterator[tuple[float, Any]]:
    for index, frame in enumerate(decoded):
        yield (index / rate if frame.time is None else float(frame.time)), frame


def _pictures(timed: Iterator[tuple[float, Any]]) -> Iterator[Any]:
    for _, frame in timed:
        yield frame


def _paced(timed: Iterator[tuple[float, Any]], fps: float, last_seconds: float) -> Iterator[tuple[float, Any]]:
    """For k = 0, 1, ... the frame on show at k / fps after the first; the last one is shown for `last_seconds`."""
    if not fps > 0:
        raise ConfigError(f"fps must be positive, not {fps}")
    origin, shown, index, end = 0.0, None, 0, 0.0
    for time, frame in timed:
        origin = time if shown is None else origin
        end = time - origin
        while shown is not None and index / fps < end - 1e-6:
            yield index / fps, shown
            index += 1
        shown = frame
    while shown is not None and index / fps < end + last_seconds - 1e-6:
        yield index / fps, shown
        index += 1


def _video_frame(frame: Any, height: int | None, width: int | None) -> NDArray[np.uint8]:
    from PIL import Image

    picture = np.asarray(frame.to_ndarray(format="rgb24"))
    turns = round(getattr(frame, "rotation", 0) / 90) % 4
    picture = np.rot90(picture, turns)
    if height is None or width is None:
        return np.ascontiguousarray(picture)
    return fitted(Image.fromarray(np.ascontiguousarray(picture)), height, width)
