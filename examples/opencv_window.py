"""Drag in a window, and the video follows: opencv_window.py [SOURCE] [PICTURE]; the key q ends it.

A window needs opencv-python; the extra [video] brings opencv-python-headless, which has none: install one of the two.
"""

import sys
from collections.abc import Iterator
from time import monotonic

import cv2
import numpy as np
from numpy.typing import NDArray

from ms_infer import Hand, Stream
from ms_infer.demo import default_example

WINDOW, SCALE = "ms-infer", 4


def on_mouse(event: int, x: int, y: int, flags: int, hand_and_size: tuple[Hand, int, int]) -> None:
    """What OpenCV tells about the mouse, in shares of the picture."""
    hand, height, width = hand_and_size
    at = x / (width * SCALE), y / (height * SCALE)
    if event == cv2.EVENT_LBUTTONDOWN:
        hand.press(0, *at, reach=0.2)
    elif event == cv2.EVENT_MOUSEMOVE:
        hand.move(0, *at)
    elif event == cv2.EVENT_LBUTTONUP:
        hand.release(0)


def frames(stream: Stream, hand: Hand) -> Iterator[NDArray[np.uint8]]:
    """Frames for ever; each chunk is made with what the hand did until then."""
    while True:
        stream.set_tracks(hand.tracks(frames=stream.next_rgb_frames))
        yield from stream.step().frames


def main(source: str, picture: str) -> None:
    with Stream(source) as stream:
        hand, config = stream.hand(), stream.config
        stream.start(picture)
        cv2.namedWindow(WINDOW)
        cv2.setMouseCallback(WINDOW, on_mouse, (hand, config.height, config.width))
        due = monotonic()
        for frame in frames(stream, hand):
            shown = cv2.resize(frame, None, fx=SCALE, fy=SCALE, interpolation=cv2.INTER_CUBIC)
            cv2.imshow(WINDOW, cv2.cvtColor(shown, cv2.COLOR_RGB2BGR))
            due = max(due + 1 / config.fps, monotonic())
            if cv2.waitKey(max(1, round(1000 * (due - monotonic())))) & 0xFF == ord("q"):
                break
        cv2.destroyAllWindows()


if __name__ == "__main__":
    main(*(sys.argv[1:] + ["demo", str(default_example().image)][len(sys.argv) - 1 :])[:2])
