"""What moves points: a pointer, a drawn path, the camera's stick, and a motion field. The picture is 0..1 x 0..1.

Everything is float64, without fused multiply-add, in the order that is written (docs/reference/hand.md).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Point = tuple[float, float]

MAX_STEP = 0.03  # of the picture per RGB frame; a faster pointer is followed a little later
MAX_SAMPLES = 512  # pointer positions kept between two chunks: 2 s of a 240 Hz mouse
ARRIVED = 1e-4  # of the picture
FULL_SPEED = 0.12, 0.12, 0.22, 0.25  # what the stick moves in a second: pictures, pictures, e-folds, radians
SPRING = 0.02  # share of the way back to its point of rest that a pushed point goes in each RGB frame


def between(at: float, where: Sequence[float], points: Sequence[Point]) -> Point:
    """The polyline `points` at `at`, their ascending places being `where`; held before the first and after the last."""
    last = len(where) - 1
    left = last
    while left > 0 and where[left] > at:
        left -= 1
    if left == last or at < where[0]:
        return points[left]
    weight = (at - where[left]) / (where[left + 1] - where[left])
    (x, y), (to_x, to_y) = points[left], points[left + 1]
    return x + (to_x - x) * weight, y + (to_y - y) * weight


class Pointer:
    """A drag. Its history between two chunks is replayed on the RGB frames of the next one."""

    def __init__(self, point: Point, at: float) -> None:
        self.times, self.points = [at], [point]
        self.applied = point
        self.up, self.fresh = False, True

    def move(self, point: Point, at: float) -> None:
        """It is at `point` from `at` seconds on, or from its newest time on where that is later."""
        self.times.append(max(at, self.times[-1]))
        self.points.append(point)
        if len(self.times) > MAX_SAMPLES:
            del self.times[1], self.points[1]

    def release(self) -> None:
        self.up = True

    def steps(self, last: float, now: float, frames: int) -> list[Point]:
        """Movement of each RGB frame: the history of [last, now] seconds, at most MAX_STEP a frame.

        The first RGB frame of all shows the point that was grabbed: a new point's anchor is where it begins.
        """
        begin = max(last, self.times[0])
        steps = []
        for frame in range(frames):
            part = frame / max(frames - 1, 1) if self.fresh else (frame + 1) / frames
            steps.append(self._step(between(begin + (now - begin) * part, self.times, self.points)))
        self.fresh = False
        self._forget(now)
        return steps

    def _step(self, wanted: Point) -> Point:
        x, y = wanted[0] - self.applied[0], wanted[1] - self.applied[1]
        length = math.sqrt(x * x + y * y)
        if length > MAX_STEP:
            scale = MAX_STEP / length
            x, y = x * scale, y * scale
        self.applied = self.applied[0] + x, self.applied[1] + y
        return x, y

    def _forget(self, now: float) -> None:
        """Keep the last position at or before `now`, and what is later."""
        while len(self.times) > 1 and self.times[1] <= now:
            del self.times[0], self.points[0]

    @property
    def done(self) -> bool:
        """Whether it was released and has arrived."""
        x, y = self.points[-1][0] - self.applied[0], self.points[-1][1] - self.applied[1]
        return self.up and x * x + y * y < ARRIVED * ARRIVED


class Path:
    """A polyline, followed at constant speed over `seconds` of video."""

    def __init__(self, points: Sequence[Point], seconds: float) -> None:
        self.corners = list(points)
        self.along = [0.0]
        for (x, y), (to_x, to_y) in zip(self.corners, self.corners[1:], strict=False):
            self.along.append(self.along[-1] + math.sqrt((to_x - x) * (to_x - x) + (to_y - y) * (to_y - y)))
        self.seconds, self.played = seconds, 0
        self.applied = self.corners[0]
        self.done = self.along[-1] == 0

    def steps(self, frames: int, fps: float) -> list[Point]:
        """Movement of each RGB frame; the first one of all shows the path's start."""
        steps = []
        for _ in range(frames):
            part = min(self.played / fps / self.seconds, 1.0)
            point = between(part * self.along[-1], self.along, self.corners)
            steps.append((point[0] - self.applied[0], point[1] - self.applied[1]))
            self.applied = point
            self.played += 1
            self.done = self.done or part == 1
        return steps


@dataclass(frozen=True)
class Stick:
    """The camera's speed, each -1..1; a change is spread over one chunk."""

    x: float = 0.0
    y: float = 0.0
    zoom: float = 0.0
    roll: float = 0.0

    @property
    def moving(self) -> bool:
        return any((self.x, self.y, self.zoom, self.roll))

    def towards(self, other: Stick, part: float) -> Stick:
        """`part` (0..1) of the way to another one."""
        return Stick(
            self.x + (other.x - self.x) * part,
            self.y + (other.y - self.y) * part,
            self.zoom + (other.zoom - self.zoom) * part,
            self.roll + (other.roll - self.roll) * part,
        )

    def moved(self, points: Array, fps: float, aspect: float) -> Array:
        """Points `[N, 2]` one RGB frame later.

        The content moves against the camera: to the right means that the picture slides to the left. exp and the
        angle's sine and cosine are rational: the same bits in every language, and exact turns.
        """
        full_x, full_y, full_zoom, full_roll = FULL_SPEED
        half = self.zoom / fps * full_zoom * 0.5
        scale = (1 + half) / (1 - half)
        tangent = -(self.roll / fps * full_roll * 0.5)
        below = 1 + tangent * tangent
        cosine, sine = (1 - tangent * tangent) / below, 2 * tangent / below
        across, down = (points[:, 0] - 0.5) * aspect * scale, (points[:, 1] - 0.5) * scale
        x = (across * cosine - down * sine) / aspect + 0.5 - self.x / fps * full_x
        y = across * sine + down * cosine + 0.5 - self.y / fps * full_y
        return np.stack([x, y], -1)


class Field:
    """Movement that pushes points, such as a webcam's, gathered between two chunks."""

    def __init__(self) -> None:
        self.sum: Array | None = None

    def add(self, movement: Array) -> None:
        """Add movement `[rows, cols, 2]` in shares of the picture."""
        if self.sum is None or self.sum.shape != movement.shape:
            self.sum = np.zeros(movement.shape)
        self.sum = self.sum + movement

    def take(self, points: Array) -> Array:
        """Movement `[N, 2]` at points `[N, 2]` since the last call."""
        if self.sum is None:
            return np.zeros_like(points)
        rows, cols = self.sum.shape[:2]
        row = np.clip(points[:, 1] * rows, 0, rows - 1).astype(np.int64)  # clipped first: no integer may be so large
        col = np.clip(points[:, 0] * cols, 0, cols - 1).astype(np.int64)
        movement = self.sum[row, col]
        self.sum = None
        return np.asarray(movement)
