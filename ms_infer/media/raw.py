"""Frames without compression: raw rgb24, and y4m, which tells other programs its size and rate."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from ms_infer.media.writer import VideoWriter

_BT601 = np.array(
    [[0.257, 0.504, 0.098], [-0.148, -0.291, 0.439], [0.439, -0.368, -0.071]], np.float32
)  # what programs take for pictures that do not say, at these sizes
_BLACK = np.array([16, 128, 128], np.float32)


class Rgb24(VideoWriter):
    """Bytes of frame after frame."""

    def _begin(self) -> None:
        self._file = self._opened()

    def _put(self, frame: NDArray[np.uint8]) -> None:
        self._file.write(frame.tobytes())

    def _finish(self) -> None:
        self._file.close()
        self._publish()

    def _salvage(self) -> None:
        self._file.close()


class Y4m(Rgb24):
    """YUV4MPEG2 as ffmpeg, mpv and GStreamer read it: 4:2:0, or 4:4:4 where a side is odd; BT.601, limited range."""

    def _begin(self) -> None:
        super()._begin()
        self._halves = self.height % 2 == 0 and self.width % 2 == 0
        rate, colours = Fraction(self.fps).limit_denominator(1001), "420jpeg" if self._halves else "444"
        head = f"YUV4MPEG2 W{self.width} H{self.height} F{rate.numerator}:{rate.denominator} Ip A1:1 C{colours}"
        self._file.write(f"{head} XCOLORRANGE=LIMITED\n".encode())

    def _put(self, frame: NDArray[np.uint8]) -> None:
        self._file.write(b"FRAME\n" + b"".join(plane.tobytes() for plane in planes(frame, halves=self._halves)))


def planes(frame: NDArray[np.uint8], *, halves: bool) -> list[NDArray[np.uint8]]:
    """Y, U and V of RGB `[height, width, 3]`; halves: U and V are means of 2 x 2 pixels."""
    y, u, v = np.moveaxis(frame.astype(np.float32) @ _BT601.T + _BLACK, -1, 0)
    if halves:
        shape = (frame.shape[0] // 2, 2, frame.shape[1] // 2, 2)
        u, v = (plane.reshape(shape).mean((1, 3)) for plane in (u, v))
    return [np.rint(plane).astype(np.uint8) for plane in (y, u, v)]
