"""Frames and speed of the C++ library against Python's stream on one bundle, chunk by chunk in turn.

python tests/cpp/compare_python.py build/cpp/ms_infer/cpp/libms_infer.so BUNDLE --chunks 50
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "kernels")]

from ms_infer import Stream, Tracks  # noqa: E402
from tests.cpp.native import Library, NativeStream  # noqa: E402


@dataclass
class Comparison:
    """What differed, in grey levels of 255, and how long each side took."""

    largest: int
    differing: int
    pixels: int
    python_fps: float
    native_fps: float


def picture(height: int, width: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """A smooth test picture of the exact size."""
    y, x = np.mgrid[0:height, 0:width]
    channels = [127 + 120 * np.sin(0.1 * (a * x + b * y)) for a, b in ((1, 0.3), (0.2, 1), (0.7, 0.7))]
    return np.stack(channels, -1).astype(np.uint8)


def compare(library: Path, bundle: Path, chunks: int, precision: str = "fp32", threads: int = 0) -> Comparison:
    """Both streams with one image, prompt, drag, and changes of tracks and prompt on the way."""
    size_of_prompt = "a cat in the snow"
    with (
        Stream(bundle, engine="openvino", precision=precision) as python,
        NativeStream(Library(library), bundle, engine="openvino", precision=precision, threads=threads) as native,
    ):
        height, width = python.config.height, python.config.width
        tracks = None
        if python.config.model.track_head is not None:
            tracks = Tracks.grid(4, 5).drag((0.4, 0.5), (0.7, 0.4), seconds=1.0, radius=0.3)
        for stream in (python, native):
            stream.start(picture(height, width), size_of_prompt, tracks, seed=11)
        return _run(python, native, chunks)


def _run(python: Stream, native: NativeStream, chunks: int) -> Comparison:
    result = Comparison(0, 0, 0, 0, 0)
    seconds, frames = [0.0, 0.0], 0
    for index in range(chunks):
        _change(python, native, index)
        start = time.perf_counter()
        expected = python.step()
        middle = time.perf_counter()
        made, chunk = native.step()
        end = time.perf_counter()
        assert (chunk.index, chunk.first_rgb_frame) == (expected.index, expected.first_rgb_frame)
        assert chunk.control_id == expected.control_id
        assert made.shape == expected.frames.shape
        difference = np.abs(made.astype(np.int16) - expected.frames)
        result.largest = max(result.largest, int(difference.max()))
        result.differing += int((difference > 0).sum())
        result.pixels += difference.size
        if index >= min(3, chunks - 1):  # the first chunks compile stages
            seconds[0] += middle - start
            seconds[1] += end - middle
            frames += len(made)
    result.python_fps, result.native_fps = frames / seconds[0], frames / seconds[1]
    return result


def _change(python: Stream, native: NativeStream, index: int) -> None:
    """New tracks and new words on the way, the same on both sides."""
    for stream in (python, native):
        if index % 17 == 9 and python.config.model.track_head is not None:
            stream.set_tracks(Tracks.grid(3, 3 + index % 3, fps=24).drag((0.5, 0.5), (0.2, 0.6), seconds=0.8))
        if index % 13 == 7 and python.config.model.text.kind == "words":
            stream.set_prompt("a dog at night", recache=index % 2 == 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("library", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--chunks", type=int, default=50)
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    found = compare(options.library, options.bundle, options.chunks, options.precision)
    print(
        f"{options.chunks} chunks, {options.precision}: largest difference {found.largest}/255, {found.differing} of "
        f"{found.pixels} values differ; Python {found.python_fps:.1f} fps, C++ {found.native_fps:.1f} fps"
    )
    return int(found.largest > 1)


if __name__ == "__main__":
    sys.exit(main())
