"""A script of gestures with digests of the tracks that it makes: tests/golden/hand.txt, played by Python and by C++.

One call of `Hand` a line, in words and numbers:

    hand ROWS COLS ASPECT FPS CAPACITY      press POINTER X Y AT REACH [THING]    move POINTER X Y AT
    release POINTER    static X Y ...    brush X Y ...    remove X Y ...    path SECONDS REACH X Y ...
    lead SECONDS CORNERS X Y ... THING      steer X Y ZOOM ROLL       carry X Y ZOOM ROLL
    push ROWS COLS X Y ...    grid ROWS COLS    play LOOP COUNT FRAMES X Y ...    options REST RELEASED
    saved NOW    tracks NOW FRAMES COUNT DIGEST

A THING is points X Y ... upon it; `lead` is a path that takes one along. `saved` puts the state of the hand into a new
one, which goes on. COUNT is the number of points, DIGEST the CRC-32 (of zlib, in hexadecimal) of the bytes of the
points (little-endian float32 [N, T, 2]), of visible (one byte each, [N, T]), ids (little-endian int64) and kinds (one
byte each).

    python -m tests.hand_script > tests/golden/hand.txt     # when the rule is changed on purpose
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator
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
    hand, sizes = Hand(), [10.0, 10.0, 1.0, 16.0, 256.0]
    for line in lines:
        word, *rest = line.split()
        if word == "hand":
            sizes = [float(one) for one in rest]
            hand = _new(sizes)
        elif word == "saved":
            state, hand = hand.state(float(rest[0])), _new(sizes)
            hand.load_state(state, float(rest[0]))
        elif word == "tracks":
            tracks = hand.tracks(float(rest[0]), frames=int(rest[1]))
            line = f"tracks {rest[0]} {rest[1]} {tracks.count} {digest(hand, tracks)}"
        else:
            _do(hand, word, rest)
        yield line


def _new(sizes: list[float]) -> Hand:
    rows, cols, aspect, fps, capacity = sizes
    return Hand(int(rows), int(cols), aspect=aspect, fps=fps, capacity=int(capacity))


def _do(hand: Hand, word: str, rest: list[str]) -> None:
    n = [float(one) for one in rest]
    pairs = _pairs(n)
    words: dict[str, Callable[[], object]] = {
        "press": lambda: hand.press(int(rest[0]), n[1], n[2], at=n[3], reach=n[4], thing=_pairs(n[5:]) or None),
        "move": lambda: hand.move(int(rest[0]), n[1], n[2], at=n[3]),
        "release": lambda: hand.release(int(rest[0])),
        "static": lambda: hand.static(pairs),
        "brush": lambda: hand.brush(pairs),
        "remove": lambda: hand.remove(pairs),
        "path": lambda: hand.path(pairs[1:], seconds=n[0], reach=n[1]),
        "lead": lambda: hand.path(pairs[1 : 1 + int(n[1])], seconds=n[0], reach=0.1, thing=pairs[1 + int(n[1]) :]),
        "steer": lambda: hand.steer(x=n[0], y=n[1], zoom=n[2], roll=n[3]),
        "carry": lambda: hand.carry(x=n[0], y=n[1], zoom=n[2], roll=n[3]),
        "push": lambda: hand.push(np.array(n[2:]).reshape(int(n[0]), int(n[1]), 2)),
        "grid": lambda: hand.grid(int(n[0]), int(n[1])),
        "play": lambda: hand.play(_tracks(n, hand.fps), loop=n[0] == 1),
        "options": lambda: (setattr(hand, "hold_rest", n[0] != 0), setattr(hand, "hold_released", n[1] != 0)),
    }
    words[word]()


def _tracks(n: list[float], fps: float) -> Tracks:
    return Tracks(np.array(n[3:], np.float32).reshape(int(n[1]), int(n[2]), 2), fps=fps)


def _pairs(numbers: list[float]) -> list[tuple[float, float]]:
    return list(zip(numbers[::2], numbers[1::2], strict=False))


def invented(seed: int, chunks: int = 60) -> Iterator[str]:
    """Gestures at random, from seed 4 on of every kind; times and places have few digits."""
    rng = random.Random(seed)
    near = lambda: f"{rng.uniform(0, 1):.3f} {rng.uniform(0, 1):.3f}"  # noqa: E731
    now, sizes = 0.0, ("10 10 1 16 256", "6 9 1.733 16 128", "3 3 0.5625 24 20", "0 0 1 12 40")
    put: list[str] = []
    yield f"hand {sizes[seed % len(sizes)]}"
    for chunk in range(chunks):
        for _ in range(rng.randrange(8)):
            at = f"{now + rng.uniform(-0.1, 0.8):.4f}"
            line = rng.choice(
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
                    *(_more(rng, at, put) if seed >= 4 else ()),
                ]
            )
            if line.startswith(("static", "brush")):
                put.append(line.split(" ", 1)[1])
            yield line
        if chunk % 25 == 24:
            yield f"grid {rng.randrange(12)} {rng.randrange(12)}"
        if seed >= 4 and chunk % 6 == 5:
            yield f"saved {now + 0.01:.4f}"
        now = round(now + rng.choice([0.56, 0.75, 0.9]), 4)
        yield f"tracks {now} {9 if chunk == 0 else 12}"


def _more(rng: random.Random, at: str, put: list[str]) -> list[str]:
    """Gestures with things, with what was put, with ways and with tracks that are played."""
    x, y = rng.uniform(0.1, 0.8), rng.uniform(0.1, 0.8)
    places = [(x + 0.03 * column, y + 0.04 * row) for column in range(3) for row in range(2)]
    thing = " ".join(f"{one:.3f} {other:.3f}" for one, other in places)
    way = " ".join(f"{rng.uniform(0, 1):.3f}" for _ in range(4))
    frames, count = rng.choice([5, 30]), rng.choice([1, 4])
    played = " ".join(f"{rng.uniform(-0.1, 1.1):.3f}" for _ in range(2 * frames * count))
    return [
        *[f"press {rng.randrange(4)} {x:.3f} {y:.3f} {at} 0.1 {thing}"] * 3,
        *[f"lead {rng.uniform(0.2, 3):.2f} 3 {x:.3f} {y:.3f} {way} {thing}"] * 2,
        *[f"remove {rng.choice(put)}" for _ in range(4) if put],
        *[f"carry {rng.uniform(-0.2, 0.2):.2f} {rng.uniform(-0.2, 0.2):.2f} 0.1 {rng.choice([0, 0.3])}"] * 2,
        *([f"play {rng.randrange(2)} {count} {frames} {played}"] if rng.random() < 0.3 else []),
    ]


if __name__ == "__main__":
    for number in range(6):
        print("\n".join(played(invented(number))))
