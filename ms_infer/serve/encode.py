"""RGB frames to JPEG or H.264 for the page, and to an mp4 that is recorded."""

from __future__ import annotations

import io
import logging
from abc import ABC, abstractmethod
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import MissingExtraError, MotionStreamError
from ms_infer.serve.protocol import Codec
from ms_infer.serve.settings import Codec as CodecName

logger = logging.getLogger(__name__)
JPEG_QUALITY = 88
Frame = NDArray[np.uint8]


class Encoder(ABC):
    """Codes one RGB frame `[H, W, 3]` at a time. One thread at a time."""

    @abstractmethod
    def encode(self, frame: Frame, *, key: bool) -> tuple[bytes, Codec]:
        """Bytes and how they are coded; with `key` the frame can be shown without earlier ones."""


class JpegEncoder(Encoder):
    """Every frame stands alone."""

    def encode(self, frame: Frame, *, key: bool) -> tuple[bytes, Codec]:
        from PIL import Image

        buffer = io.BytesIO()
        Image.fromarray(frame).save(buffer, "JPEG", quality=JPEG_QUALITY)
        return buffer.getvalue(), Codec.JPEG


class H264Encoder(Encoder):
    """libx264 without delay, in Annex B form: WebCodecs takes it as it is."""

    def __init__(self, height: int, width: int, fps: float) -> None:
        try:
            import av
        except ImportError as error:
            raise MissingExtraError("--codec h264 needs PyAV: pip install 'ms-infer[serve]'") from error
        self._av = av
        self._context: Any = av.CodecContext.create("libx264", "w")
        self._context.width, self._context.height, self._context.pix_fmt = width, height, "yuv420p"
        self._context.framerate = round(fps)
        self._context.time_base = 1 / self._context.framerate
        self._context.gop_size = 1 << 20  # key frames only when a client needs one
        self._context.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "20"}
        self._count = 0

    def encode(self, frame: Frame, *, key: bool) -> tuple[bytes, Codec]:
        picture = self._av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts = self._count
        if key or self._count == 0:
            picture.pict_type = self._av.video.frame.PictureType.I
        self._count += 1
        packets = self._context.encode(picture)
        is_key = any(packet.is_keyframe for packet in packets)
        return b"".join(bytes(packet) for packet in packets), Codec.H264_KEY if is_key else Codec.H264_DELTA


def make_encoder(codec: CodecName, height: int, width: int, fps: float) -> Encoder:
    """The encoder that the settings name."""
    return H264Encoder(height, width, fps) if codec == "h264" else JpegEncoder()


class Recorder:
    """Writes exactly the frames that are made to `folder`/NAME.mp4. One thread at a time."""

    def __init__(self, path: Path, height: int, width: int, fps: float, max_seconds: float) -> None:
        from ms_infer.media import open_writer

        self.path = path
        self._left = round(max_seconds * fps)
        self._stack = ExitStack()
        self._writer = self._stack.enter_context(open_writer(path, height=height, width=width, fps=fps))

    def write(self, frame: Frame) -> bool:
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
