"""Pictures, videos and webcam pictures that clients send: checked, bounded and turned into what a session needs."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError, MissingExtraError
from ms_infer.serve.settings import Limits
from ms_infer.tracks import Tracks

WEBCAM_BYTES, WEBCAM_PIXELS = 64 * 1024, 640 * 480
WEBCAM_SIZE = (96, 128)  # height, width at which motion is measured
FLOW_CELLS = (12, 16)
STILL = 0.004  # of the picture: smaller movement is the webcam's noise


def is_picture(data: bytes) -> bool:
    """Whether the first bytes are those of a JPEG, PNG, WebP or GIF; nothing else reaches a decoder."""
    return data.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8")) or (
        data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    )


def is_video(data: bytes) -> bool:
    """Whether the first bytes are those of an MP4, MOV or WebM; playlists and the like could name other files."""
    return data[4:8] == b"ftyp" or data.startswith(b"\x1aE\xdf\xa3")


def read_picture(data: bytes, height: int, width: int, limits: Limits) -> NDArray[np.uint8]:
    """uint8 [height, width, 3] of an uploaded picture; ConfigError when it is none or too large."""
    from ms_infer.media import load_image

    if not is_picture(data):
        raise ConfigError("this is no JPEG, PNG, WebP or GIF picture; convert it to one of these first")
    return load_image(data, height, width, max_pixels=limits.pixels)


def read_motion(data: bytes, height: int, width: int, fps: float, limits: Limits) -> Tracks:
    """Tracks of a grid of points through the first seconds of an uploaded video."""
    if not is_video(data):
        raise ConfigError("this is no MP4, MOV or WebM video; convert it to one of these first")
    with tempfile.TemporaryDirectory(prefix="ms-serve-") as folder:
        path = Path(folder) / "upload"
        path.write_bytes(data)
        most = max(2, round(limits.video_seconds * fps))
        try:
            _check_video(path, limits)
            return Tracks.from_video(path, rows=12, cols=12, height=height, width=width, fps=fps, max_frames=most)
        except ConfigError as error:  # the name of our temporary file says nothing to the one who sent it
            raise ConfigError(str(error).replace(str(path), "this file")) from error


def _check_video(path: Path, limits: Limits) -> None:
    """Refuse pictures whose decoding would take too much memory, before any is decoded."""
    from ms_infer.media.video import opened

    with opened(path) as (_, stream):
        pixels = stream.width * stream.height
    if not 0 < pixels <= limits.pixels // 4:
        raise ConfigError(
            f"the video's pictures have {pixels / 2**20:.1f} Mpx; at most {limits.pixels / 2**22:g} Mpx are read: "
            "make it smaller first"
        )


class WebcamMotion:
    """Movement between successive webcam pictures by optical flow. One thread at a time."""

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError as error:
            raise MissingExtraError("webcam motion needs OpenCV: pip install 'ms-infer[serve]'") from error
        self._engine: Any = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
        self._before: NDArray[np.uint8] | None = None

    def step(self, data: bytes) -> NDArray[np.float64] | None:
        """Movement `[12, 16, 2]` in shares of the picture since the last one; None for the first."""
        now = _grey(data)
        before, self._before = self._before, now
        if before is None:
            return None
        height, width = WEBCAM_SIZE
        rows, cols = FLOW_CELLS
        flow = self._engine.calc(before, now, None).astype(np.float64)
        cells = np.median(
            flow.reshape(rows, height // rows, cols, width // cols, 2).swapaxes(1, 2).reshape(rows, cols, -1, 2), axis=2
        ) / (width, height)
        return np.asarray(np.where(np.hypot(*cells.T).T[..., None] < STILL, 0.0, cells))


def _grey(data: bytes) -> NDArray[np.uint8]:
    from PIL import Image

    if len(data) > WEBCAM_BYTES or not data.startswith(b"\xff\xd8\xff"):
        raise ConfigError(f"a webcam picture is a JPEG of at most {WEBCAM_BYTES // 1024} KiB")
    try:
        image = Image.open(io.BytesIO(data), formats=["JPEG"])
        if image.width * image.height > WEBCAM_PIXELS:
            raise ConfigError("a webcam picture has at most 640x480 pixels")
        grey = image.convert("L").resize(WEBCAM_SIZE[::-1])
    except (OSError, SyntaxError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("a webcam picture is damaged") from error
    return np.asarray(grey, np.uint8)
