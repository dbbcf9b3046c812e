"""How a client's frames are coded: by what it can show, by the picture's size, and by what its link carries."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from ms_infer.serve.protocol import Codec, pack_frame
from ms_infer.serve.settings import Codec as CodecName
from ms_infer.serve.wire.encode import BEST_JPEG, Coded, Encoder, Frame, H264Encoder, JpegEncoder, WebpEncoder

LARGE = 512 * 512
"""Pixels from which H.264 comes first: 5 KB at 45 dB for 832 x 480, where JPEG takes 69 KB for 52."""
BETTER = 0.6
"""Share of what a link carries that a better grade may take: no grade is left and entered in turns."""


class Grade(NamedTuple):
    """One way to code a frame."""

    codec: Literal["jpeg", "webp", "h264"]
    quality: int
    """Of JPEG and WebP; of H.264 its rate factor, where less is better."""
    share: float
    """Typical bytes of it per byte of the best JPEG."""
    half: bool = False
    """At half the height and width."""


BEST = Grade("jpeg", BEST_JPEG, 1.0)
JPEG = (BEST, Grade("jpeg", 85, 0.5), Grade("jpeg", 60, 0.3), Grade("jpeg", 60, 0.13, half=True))
WEBP = (BEST, Grade("webp", 90, 0.4), Grade("webp", 75, 0.26), Grade("webp", 75, 0.12, half=True))
H264 = (Grade("h264", 18, 0.1), Grade("h264", 24, 0.06), Grade("h264", 28, 0.04), Grade("h264", 28, 0.02, half=True))


def grades(wanted: CodecName, shows: Sequence[str], pixels: int) -> tuple[Grade, ...]:
    """The ways to code for a client that `shows` these codecs, the best first."""
    pictures = WEBP if "webp" in shows else JPEG
    if "h264" not in shows or wanted == "jpeg":
        return pictures
    return H264 if wanted == "h264" or pixels >= LARGE else (BEST, *H264)


@dataclass
class Sizes:
    """How many bytes the frames of one session take in each grade, from those that were coded."""

    best: float
    """Bytes of the best JPEG."""
    measured: dict[Grade, float] = field(default_factory=dict)

    @classmethod
    def of(cls, pixels: int) -> Sizes:
        """Before any frame is coded: 3 bits a pixel."""
        return cls(pixels * 3 / 8)

    def note(self, grade: Grade, size: int) -> None:
        before = self.measured.get(grade, float(size))
        self.measured[grade] = before + (size - before) / 8
        if grade == BEST:
            self.best = self.measured[grade]

    def expect(self, grade: Grade) -> float:
        return self.measured.get(grade, self.best * grade.share)


@dataclass(eq=False)
class Shown:
    """A frame on its way out; a picture that stands alone is coded once for all clients. Encoder thread only."""

    frame: Frame
    chunk: int
    index: int
    control: int
    made_ms: float
    sizes: Sizes
    _coded: dict[Grade, Coded] = field(default_factory=dict)

    def message(self, coded: Coded) -> bytes:
        return pack_frame(coded.data, coded.codec, coded.size, self.chunk, self.index, self.control, self.made_ms)

    def picture(self, grade: Grade) -> Coded:
        """Coded without regard to other frames."""
        if grade not in self._coded:
            self._coded[grade] = self.code(_encoder(grade, self.frame, 0), grade, key=True)
        return self._coded[grade]

    def code(self, encoder: Encoder, grade: Grade, *, key: bool) -> Coded:
        frame = halved(self.frame) if grade.half else self.frame
        data, codec = encoder.encode(frame, key=key)
        if codec != Codec.H264_KEY:  # these are few, and much larger than the others
            self.sizes.note(grade, len(data))
        return Coded(data, codec, (frame.shape[0], frame.shape[1]))


class Coder:
    """Codes for one client. H.264 codes only frames that leave, so that none builds upon a lost one."""

    def __init__(self, ladder: Sequence[Grade], fps: float) -> None:
        self._ladder, self._fps = ladder, fps
        self.grade = ladder[0]
        self._encoder: tuple[Grade, Encoder] | None = None
        self._key = threading.Event()

    def need_key(self) -> None:
        """The next frame must stand alone."""
        self._key.set()

    def fit(self, frame_bytes: float, sizes: Sizes) -> float:
        """Choose the grade for a link that carries frames of `frame_bytes`; returns the bytes to expect."""
        now = self._ladder.index(self.grade)
        for at, grade in enumerate(self._ladder):
            size = sizes.expect(grade)
            if size <= frame_bytes * (BETTER if at < now else 1) or at == len(self._ladder) - 1:
                self.grade = grade
                return size
        raise AssertionError("a ladder has a last grade")

    def message(self, shown: Shown) -> bytes:
        """The frame message, in the encoder's thread."""
        grade = self.grade
        if grade.codec != "h264":
            self._encoder = None
            return shown.message(shown.picture(grade))
        fresh = self._encoder is None or self._encoder[0] != grade
        if self._encoder is None or fresh:
            self._encoder = grade, _encoder(grade, shown.frame, self._fps)
        key = self._key.is_set()
        self._key.clear()
        return shown.message(shown.code(self._encoder[1], grade, key=key))


def _encoder(grade: Grade, frame: Frame, fps: float) -> Encoder:
    height, width = frame.shape[0] >> grade.half, frame.shape[1] >> grade.half
    match grade.codec:
        case "jpeg":
            return JpegEncoder(grade.quality)
        case "webp":
            return WebpEncoder(grade.quality)
        case "h264":
            return H264Encoder(height, width, fps, grade.quality)


def halved(frame: Frame) -> Frame:
    """The frame `[H, W, 3]` at half its height and width."""
    from PIL import Image

    return np.asarray(Image.fromarray(frame).reduce(2))
