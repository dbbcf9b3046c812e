"""What moves points: a pointer, a drawn path, the camera's stick, and a motion field. Pure numpy, pictures are 0..1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Point = tuple[float, float]

MAX_SAMPLES = 512  # pointer positions kept between two chunks: 2 s of a 240 Hz mouse
PAN_SPEED, ZOOM_SPEED, ROLL_SPEED = 0.12, 0.22, 0.25  # picture widths, e-folds and radians per second at full stick


class Pointer:
    """A drag. Its history between two chunks is replayed on the RGB frames of the next one."""

    def __init__(self, point: Point, time_ms: float) -> None:
        self._times, self._points = [time_ms], [point]
        self._applied = np.array(point, np.float64)
        self._up, self._fresh = False, True

    def move(self, point: Point, time_ms: float) -> None:
        self._times.append(max(time_ms, self._times[-1]))
        self._points.append(point)
        if len(self._times) > MAX_SAMPLES:
            del self._times[1:3], self._points[1:3]

    def release(self) -> None:
        self._up = True

    def steps(self, last_ms: float, now_ms: float, frames: int, max_step: float) -> Array:
        """Movement `[frames, 2]` of each RGB frame: the history of [last_ms, now_ms], at most `max_step` a frame.

        The first RGB frame of all shows the point that was grabbed: a new point's anchor is where it begins.
        """
        begin = max(last_ms, self._times[0])
        parts = np.arange(frames) / max(frames - 1, 1) if self._fresh else (np.arange(frames) + 1.0) / frames
        at = begin + (now_ms - begin) * parts
        self._fresh = False
        history = np.array(self._points)
        wanted = np.stack([np.interp(at, self._times, history[:, axis]) for axis in (0, 1)], -1)
        steps = np.empty((frames, 2))
        for frame in range(frames):
            step = wanted[frame] - self._applied
            steps[frame] = step * min(1.0, max_step / max(float(np.hypot(*step)), 1e-9))
            self._applied += steps[frame]
        del self._times[:-1], self._points[:-1]
        return steps

    @property
    def done(self) -> bool:
        """Whether it was released and has arrived."""
        return self._up and bool(np.hypot(*(np.array(self._points[-1]) - self._applied)) < 1e-4)


class Path:
    """A polyline, followed at constant speed over `seconds` of video."""

    def __init__(self, points: Sequence[Point], seconds: float) -> None:
        self._corners = np.array(points, np.float64)
        lengths = np.hypot(*np.diff(self._corners, axis=0).T)
        self._along = np.concatenate([[0.0], np.cumsum(lengths)])
        self._seconds, self._elapsed = seconds, 0.0

    def steps(self, frames: int, fps: float) -> Array:
        """Movement `[frames, 2]` of each RGB frame."""
        times = self._elapsed + (np.arange(frames + 1) - (self._elapsed == 0)) / fps
        at = np.clip(times / self._seconds, 0.0, 1.0) * self._along[-1]
        points = np.stack([np.interp(at, self._along, self._corners[:, axis]) for axis in (0, 1)], -1)
        self._elapsed = float(times[-1])
        return np.asarray(np.diff(points, axis=0))

    @property
    def done(self) -> bool:
        return self._elapsed >= self._seconds or self._along[-1] == 0


@dataclass
class Stick:
    """The camera's speed, each -1..1; a change is spread over one chunk."""

    x: float = 0.0
    y: float = 0.0
    zoom: float = 0.0
    roll: float = 0.0

    @property
    def moving(self) -> bool:
        return any((self.x, self.y, self.zoom, self.roll))

    def moved(self, points: Array, before: Stick, part: float, seconds: float, aspect: float) -> Array:
        """Points `[N, 2]` after `seconds`; the speed is `part` (0..1) of the way from `before` to this.

        The content moves against the camera: to the right means that the picture slides to the left.
        """
        x, y, zoom, roll = (
            (old + (new - old) * part) * seconds
            for old, new in (
                (before.x, self.x),
                (before.y, self.y),
                (before.zoom, self.zoom),
                (before.roll, self.roll),
            )
        )
        scale, angle = math.exp(zoom * ZOOM_SPEED), -roll * ROLL_SPEED
        across, down = (points[:, 0] - 0.5) * aspect * scale, (points[:, 1] - 0.5) * scale
        turned = np.stack(
            [
                (across * math.cos(angle) - down * math.sin(angle)) / aspect,
                across * math.sin(angle) + down * math.cos(angle),
            ],
            -1,
        )
        return np.asarray(turned + 0.5 - np.array([x, y]) * PAN_SPEED)


class Field:
    """Movement of points seen by a webcam, gathered between two chunks."""

    SPRING = 0.02  # share of the way back to its point of rest that a point goes in each RGB frame

    def __init__(self) -> None:
        self._sum: Array | None = None

    def add(self, flow: Array) -> None:
        """Add movement `[rows, cols, 2]` in shares of the picture."""
        if self._sum is None or self._sum.shape != flow.shape:
            self._sum = np.zeros(flow.shape)
        self._sum += flow

    def take(self, points: Array) -> Array:
        """Movement `[N, 2]` at points `[N, 2]` since the last call."""
        if self._sum is None:
            return np.zeros_like(points)
        rows, cols = self._sum.shape[:2]
        row = np.clip((points[:, 1] * rows).astype(np.int64), 0, rows - 1)
        col = np.clip((points[:, 0] * cols).astype(np.int64), 0, cols - 1)
        movement = self._sum[row, col]
        self._sum = None
        return np.asarray(movement)
