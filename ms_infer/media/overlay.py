"""Draws tracks into RGB frames; colour and shape tell dragged, static and pre-drawn points apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import ConfigError, TrackShapeError

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

Kind = Literal["drag", "static", "path"]
COLOURS: dict[Kind, tuple[int, int, int]] = {"drag": (40, 200, 80), "static": (230, 50, 50), "path": (60, 120, 255)}
TAIL_RGB_FRAMES = 8
STILL_PIXELS = 0.5  # a point that stays within this distance of its start counts as static


def draw_tracks(
    frames: NDArray[np.uint8],
    points: NDArray[np.float32],
    visible: NDArray[np.bool_],
    kinds: Sequence[Kind] | None = None,
) -> NDArray[np.uint8]:
    """A copy of `frames` uint8 [T, H, W, 3] with the tracks on top.

    points float32 [N, P + T, 2] in pixels, visible bool [N, P + T]; the P >= 0 RGB frames before those of `frames`
    only feed the tails (the last 8 positions). kinds [N]: "drag" is a green circle, "static" a red square, "path" a
    blue diamond; by default a point that does not move is static and any other one a drag.
    """
    from PIL import Image, ImageDraw

    _check(frames, points, visible)
    names = guess_kinds(points, visible) if kinds is None else list(kinds)
    if len(names) != len(points) or not set(names) <= set(COLOURS):
        raise ConfigError(f"kinds must name {len(points)} of {list(COLOURS)}, one per track, got {names[:8]}")
    drawn = np.empty_like(frames)
    radius = max(3, round(min(frames.shape[1:3]) / 80))
    for index, frame in enumerate(frames):
        image = Image.fromarray(frame)
        pen = ImageDraw.Draw(image)
        at = points.shape[1] - len(frames) + index
        for track in np.flatnonzero(visible[:, at]):
            _tail(pen, points[track], visible[track], at, names[track])
        for track in np.flatnonzero(visible[:, at]):
            _mark(pen, points[track, at], names[track], radius)
        drawn[index] = np.asarray(image)
    return drawn


def _check(frames: NDArray[np.uint8], points: NDArray[np.float32], visible: NDArray[np.bool_]) -> None:
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
        raise ConfigError(f"frames must be uint8 [T, H, W, 3], got {frames.dtype} {list(frames.shape)}")
    if points.ndim != 3 or points.shape[2] != 2 or points.shape[1] < len(frames) or visible.shape != points.shape[:2]:
        raise TrackShapeError(
            f"points must be [N, >= {len(frames)}, 2] and visible alike, "
            f"got {list(points.shape)} and {list(visible.shape)}"
        )


def guess_kinds(points: NDArray[np.float32], visible: NDArray[np.bool_]) -> list[Kind]:
    """What each track looks like: "static" when it never moves, else "drag"."""
    kinds: list[Kind] = []
    for path, seen in zip(points, visible, strict=True):
        shown = path[seen]
        still = len(shown) == 0 or float(np.abs(shown - shown[0]).max()) <= STILL_PIXELS
        kinds.append("static" if still else "drag")
    return kinds


def _tail(pen: ImageDraw, path: NDArray[np.float32], seen: NDArray[np.bool_], at: int, kind: Kind) -> None:
    first = at
    while first > max(0, at - TAIL_RGB_FRAMES) and seen[first - 1]:
        first -= 1
    if first < at:
        pen.line([(float(x), float(y)) for x, y in path[first : at + 1]], fill=COLOURS[kind], width=2)


def _mark(pen: ImageDraw, point: NDArray[np.float32], kind: Kind, radius: int) -> None:
    x, y = float(point[0]), float(point[1])
    box = (x - radius, y - radius, x + radius, y + radius)
    if kind == "static":
        pen.rectangle(box, fill=COLOURS[kind], outline="white")
    elif kind == "path":
        reach = radius * 1.4
        pen.polygon([(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)], COLOURS[kind], "white")
    else:
        pen.ellipse(box, fill=COLOURS[kind], outline="white")
