"""A script of gestures with digests of the tracks that it makes: tests/golden/hand.txt, played by Python and by C++.

One call of `Hand` a line, in words and numbers:

    hand ROWS COLS ASPECT FPS CAPACITY      press POINTER X Y AT REACH    move POINTER X Y AT    release POINTER
    static X Y ...    brush X Y ...     path SECONDS REACH X Y ...    steer X Y ZOOM ROLL
    push ROWS COLS X Y ...    grid ROWS COLS    options REST RELEASED    tracks NOW FRAMES COUNT DIGEST

COUNT is the number of points, DIGEST the CRC-32 (of zlib, in hexadecimal) of the bytes of the points (little-endian
float32 [N, T, 2]), of visible (one byte each, [N, T]), ids (little-endian int64) and kinds (one byte each).

    python -m tests.hand_script > tests/golden/hand.txt     # when the rule is changed on purpose
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ms_infer.hand import Hand
from ms_infer.tracks import Tracks

GOLDEN = Path(__file__).parent / "golden" / "hand.txt"


def digest(hand: Hand, tracks: Tracks) -> str:
    """CRC-32 of what `tracks` holds."""
    data = tracks.points.astype("<f4").tobytes() + tracks.visible.astype(np.uint8).tobytes()
    return f"{zlib.crc32(data + tracks.ids.astype('<i8').tobytes() + hand.kinds.tobytes()):08x}"


def played(lines: Iterator[str] | list[str]) -> Iterator[str]:
    """The same lines, with count and digest of the tracks that are made now."""
    hand = Hand()
    for line in lines:
        word, *rest = line.split()
        if word == "hand":
            rows, cols, aspect, fps, capacity = map(float, rest)
            hand = Hand(int(rows), int(cols), aspect=aspect, fps=fps, capacity=int(capacity))
        elif word == "tracks":
            tracks = hand.tracks(float(rest[0]), frames=int(rest[1]))
            line = f"tracks {rest[0]} {rest[1]} {tracks.count} {digest(hand, tracks)}"
        else:
            _do(hand, word, rest)
        yield line


def _do(hand: Hand, word: str, rest: list[str]) -> None:
    numbers = [float(one) for one in rest]
    pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
    if word == "press":
        hand.press(int(rest[0]), numbers[1], numbers[2], at=numbers[3], reach=numbers[4])
    elif word == "move":
        hand.move(int(rest[0]), numbers[1], numbers[2], at=numbers[3])
    elif word == "release":
        hand.release(int(rest[0]))
    elif word in ("static", "brush"):
        getattr(hand, word)(pairs)
    elif word == "path":
        hand.path(pairs[1:], seconds=numbers[0], reach=numbers[1])
    elif word == "steer":
        hand.steer(x=numbers[0], y=numbers[1], zoom=numbers[2], roll=numbers[3])
    elif word == "push":
        hand.push(np.array(numbers[2:]).reshape(int(rest[0]), int(rest[1]), 2))
    elif word == "grid":
        hand.grid(int(rest[0]), int(rest[1]))
    elif word == "options":
        hand.hold_rest, hand.hold_released = bool(numbers[0]), bool(numbers[1])
    else:
        raise AssertionError(f"unknown word {word!r}")


def invented(seed: int, chunks: int = 60) -> Iterator[str]:
    """Gestures of every kind, at random; times and places have few digits."""
    rng = random.Random(seed)
    near = lambda: f"{rng.uniform(0, 1):.3f} {rng.uniform(0, 1):.3f}"  # noqa: E731
    now, sizes = 0.0, ("10 10 1 16 256", "6 9 1.733 16 128", "3 3 0.5625 24 20", "0 0 1 12 40")
    yield f"hand {sizes[seed % len(sizes)]}"
    for chunk in range(chunks):
        for _ in range(rng.randrange(8)):
            at = f"{now + rng.uniform(-0.1, 0.8):.4f}"
            yield rng.choice(
                [
                    *[f"press {rng.randrange(4)} {near()} {at} {rng.choice([0, 0.1, 0.15, 0.3])}"] * 3,
                    *[f"move {rng.randrange(4)} {near()} {at}" for _ in range(6)],
                    *[f"release {rng.randrange(4)}"] * 2,
                    f"static {near()} {near()}",
                    f"brush {near()} {near()} {near()}",
                    f"path {rng.uniform(0.2, 3):.2f} 0.1 {near()} {near()} {near()}",
                    f"steer {rng.uniform(-1, 1):.2f} {rng.uniform(-1, 1):.2f} 0 {rng.choice([0, 0.5, -1])}",
                    f"steer 0 0 {rng.uniform(-1, 1):.2f} 0",
                    *["steer 0 0 0 0"] * 2,
                    f"push 2 3 {' '.join(f'{rng.uniform(-0.05, 0.05):.3f}' for _ in range(12))}",
                    f"options {rng.randrange(2)} {rng.randrange(2)}",
                ]
            )
        if chunk % 25 == 24:
            yield f"grid {rng.randrange(12)} {rng.randrange(12)}"
        now = round(now + rng.choice([0.56, 0.75, 0.9]), 4)
        yield f"tracks {now} {9 if chunk == 0 else 12}"


if __name__ == "__main__":
    for number in range(4):
        print("\n".join(played(invented(number))))
