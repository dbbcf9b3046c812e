"""RGB frames to JPEG, WebP or H.264 for the page."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import MissingExtraError
from ms_infer.serve.protocol import Codec

Frame = NDArray[np.uint8]
BEST_JPEG = 95
"""Quality with colour at full size: 48 dB at 256 x 256, where quality 88 with halved colour has 41."""

BT709 = 1
"""The colours of video that browsers expect, whatever its size: with others red is seen as orange."""


class Coded(NamedTuple):
    """A coded picture."""

    data: bytes
    codec: Codec
    size: tuple[int, int]
    """Height and width."""


class Encoder(ABC):
    """Codes one RGB frame `[H, W, 3]` at a time. One thread at a time."""

    @abstractmethod
    def encode(self, frame: Frame, *, key: bool) -> tuple[bytes, Codec]:
        """Bytes and how they are coded; with `key` the frame can be shown without earlier ones."""


class JpegEncoder(Encoder):
    """Every frame stands alone. From quality 90 on colour keeps its full size."""

    def __init__(self, quality: int = BEST_JPEG) -> None:
        self._options = {"quality": quality, "subsampling": 0 if quality >= 90 else 2}

    def encode(self, frame: Frame, *, key: bool) -> tuple[bytes, Codec]:
        return _picture(frame, "JPEG", **self._options), Codec.JPEG


class WebpEncoder(Encoder):
    """Every frame stands alone; a quarter smaller than JPEG where quality is low, and five times slower."""

    def __init__(self, quality: int) -> None:
        self._quality = quality

    def encode(self, frame: Frame, *, key: bool) -> tuple[bytes, Codec]:
        return _picture(frame, "WEBP", quality=self._quality, method=0), Codec.WEBP


def _picture(frame: Frame, kind: str, **options: Any) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, kind, **options)
    return buffer.getvalue()


class H264Encoder(Encoder):
    """libx264 without delay, in Annex B form: WebCodecs takes it as it is."""

    def __init__(self, height: int, width: int, fps: float, crf: int = 20) -> None:
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
        self._context.colorspace = self._context.color_primaries = self._context.color_trc = BT709
        self._context.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": str(crf)}
        self._count = 0

    def encode(self, frame: Frame, *, key: bool) -> tuple[bytes, Codec]:
        rgb = self._av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture = rgb.reformat(format="yuv420p", dst_colorspace="ITU709")
        picture.pts = self._count
        if key or self._count == 0:
            picture.pict_type = self._av.video.frame.PictureType.I
        self._count += 1
        packets = self._context.encode(picture)
        is_key = any(packet.is_keyframe for packet in packets)
        return b"".join(bytes(packet) for packet in packets), Codec.H264_KEY if is_key else Codec.H264_DELTA
