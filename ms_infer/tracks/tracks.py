"""Tracks: where points of the picture shall be over time; the motion control of a stream. Pure numpy."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ms_infer.errors import ConfigError, TrackShapeError
from ms_infer.tracks import camera
from ms_infer.tracks.arrays import BoolArray, FloatArray, IntArray, TrackArrays, grid_points
from ms_infer.tracks.checks import (
    check_range,
    check_samples,
    checked_ids,
    checked_points,
    checked_size,
    checked_visible,
    positive,
)
from ms_infer.tracks.files import bounds, named, read_tracks, write_tracks
from ms_infer.tracks.flow import track_video

Point = tuple[float, float]


RIM = 1.4  # share of a grab's radius within which points that do not move along are let go


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Tracks:
    """Point paths over time. Immutable: every method returns new Tracks.

    points  float32 [N, T, 2]: x to the right, y down, T RGB frames. Coordinates are continuous: pixel i covers
            [i, i + 1), the picture [0, width) x [0, height).
    visible bool [N, T]: an invisible point says nothing to the model.
    ids     int64 [N]: unique, >= 0; a track keeps its id, and so its anchor, from one control to the next.
    size    (height, width) in pixels that the coordinates refer to; None: coordinates are 0..1.
    fps     RGB frames per second of the T axis.

    TrackShapeError on NaN, infinity, a wrong shape or length, repeated ids, or pixels without `size`.
    """

    points: FloatArray
    visible: BoolArray
    ids: IntArray
    size: tuple[int, int] | None
    fps: float

    def __init__(
        self,
        points: ArrayLike,
        visible: ArrayLike | None = None,
        ids: ArrayLike | None = None,
        *,
        size: tuple[int, int] | None = None,
        fps: float = 16.0,
    ) -> None:
        checked = checked_points(points)
        count, rgb_frames = checked.shape[:2]
        values = {
            "size": checked_size(size),
            "fps": positive("fps", fps),
            "points": checked,
            "visible": checked_visible(visible, count, rgb_frames),
            "ids": checked_ids(ids, count),
        }
        for name, value in values.items():
            if isinstance(value, np.ndarray):
                value.setflags(write=False)
            object.__setattr__(self, name, value)
        check_range(self.points, self.size)

    def __repr__(self) -> str:
        unit = "0..1" if self.size is None else f"pixels of {self.size[0]}x{self.size[1]}"
        return f"Tracks({self.count} tracks, {self.rgb_frames} RGB frames at {self.fps:g} fps, {unit})"

    @property
    def count(self) -> int:
        """Number of tracks N."""
        return int(self.points.shape[0])

    @property
    def rgb_frames(self) -> int:
        """Number of RGB frames T."""
        return int(self.points.shape[1])

    @property
    def seconds(self) -> float:
        """Time from the first to the last position."""
        return (self.rgb_frames - 1) / self.fps

    # ---- makers

    @classmethod
    def grid(cls, rows: int, cols: int, *, size: tuple[int, int] | None = None, fps: float = 16.0) -> Tracks:
        """rows x cols points at the centres of equal cells, row by row, standing still (T = 1)."""
        return cls(grid_points(rows, cols, size), size=size, fps=fps)

    @classmethod
    def empty(cls, *, size: tuple[int, int] | None = None, fps: float = 16.0) -> Tracks:
        """No tracks at all: the model moves as it likes."""
        return cls(np.zeros((0, 1, 2)), size=size, fps=fps)

    @classmethod
    def from_video(cls, source: Any, rows: int = 24, cols: int = 24, **options: Any) -> Tracks:
        """Follow a grid of points through a video by optical flow; see `ms_infer.tracks.flow.track_video`."""
        points, visible, ids, size, fps = track_video(source, rows, cols, **options)
        return cls(points, visible, ids, size=size, fps=fps)

    @classmethod
    def load(cls, path: str | Path, *, size: tuple[int, int] | None = None, fps: float | None = None) -> Tracks:
        """Read .npz or .json (ours or a tracker's), ATI .pth, a Wan-Move .npy pair; see `tracks.files.read_tracks`."""
        points, visible, ids, stored, rate = read_tracks(path, size=size, fps=fps)
        with named(path):
            return cls(points, visible, ids, size=stored, fps=rate)

    def save(self, path: str | Path) -> None:
        """Write .npz, .json, ATI .pth or a Wan-Move .npy pair; see `ms_infer.tracks.files.write_tracks`."""
        bound = bounds(path)
        tracks = self if bound.fps is None else self.resample(fps=bound.fps)
        tracks = tracks if bound.size is None else tracks.to_pixels(*bound.size)
        write_tracks(path, TrackArrays(tracks.points, tracks.visible, tracks.ids, tracks.size, tracks.fps))

    # ---- motion

    def drag(
        self,
        point: Point,
        to: Point,
        *,
        seconds: float = 1.0,
        radius: float | None = None,
        start: float = 0.0,
        smooth: bool = True,
    ) -> Tracks:
        """Move the visible point nearest to `point` by `to - point`, beginning `start` seconds into the tracks.

        With a `radius` every visible point within it moves, with cosine falloff (1 + cos(pi r / radius)) / 2; radius
        and distance are in the units of the coordinates. The motion eases in and out when `smooth`, adds to what the
        point already does, and is held afterwards. T grows where needed. TrackShapeError when no point is visible.
        """
        return self.path(point, [to], seconds=seconds, radius=radius, start=start, smooth=smooth)

    def grab(self, point: Point, to: Point, *, radius: float, seconds: float = 1.0, start: float = 0.0) -> Tracks:
        """Move everything within `radius` of `point` as one stiff thing by `to - point`, easing in and out.

        From `start` on points between `radius` and 1.4 `radius` are invisible, as where the thing ends is not known,
        and so is every other point while the thing covers it. Units, growth of T and errors as in `drag`.
        """
        corners = np.array([point, to], np.float64)
        first, progress, longer = self._timeline(start, seconds, smooth=True)
        near = longer._falloff(corners[0], first, radius) > 0
        rim = longer._falloff(corners[0], first, RIM * radius) > 0
        offset = _along(corners, progress) - corners[0]
        covered = np.linalg.norm(longer.points - (corners[0] + offset), axis=-1) < RIM * radius
        hidden = ~near[:, None] & (rim[:, None] | covered) & (np.arange(longer.rgb_frames) >= first)
        return longer._moved(longer.points + near[:, None, None] * offset[None], longer.visible & ~hidden)

    def path(
        self,
        point: Point,
        waypoints: Sequence[Point],
        *,
        seconds: float = 1.0,
        radius: float | None = None,
        start: float = 0.0,
        smooth: bool = False,
    ) -> Tracks:
        """As `drag`, along `waypoints` one after the other, at constant speed (eased at both ends when `smooth`)."""
        corners = np.array([point, *waypoints], np.float64)
        if corners.ndim != 2 or corners.shape[1] != 2 or len(corners) < 2 or not np.isfinite(corners).all():
            raise TrackShapeError(
                f"a path needs a point (x, y) and waypoints [(x, y), ...], got {point} and {waypoints}"
            )
        first, progress, longer = self._timeline(start, seconds, smooth)
        weight = longer._falloff(corners[0], first, radius)
        offset = _along(corners, progress) - corners[0]
        return longer._moved(longer.points + weight[:, None, None] * offset[None])

    def static(self, points: ArrayLike) -> Tracks:
        """Add points [M, 2] that must not move (visible at every RGB frame)."""
        added = np.asarray(points, np.float64)
        if added.ndim == 1:
            added = added[None]
        if added.ndim != 2 or added.shape[-1] != 2:
            raise TrackShapeError(f"static points must be [M, 2] (x, y), got shape {list(added.shape)}")
        held = np.broadcast_to(added[:, None], (len(added), self.rgb_frames, 2))
        return self.merge(Tracks(held, size=self.size, fps=self.fps))

    def camera(  # noqa: PLR0913 (one keyword per degree of freedom reads better than an options object)
        self,
        *,
        pan: Point = (0.0, 0.0),
        zoom: float = 1.0,
        roll: float = 0.0,
        dolly: float = 0.0,
        depth: ArrayLike | None = None,
        seconds: float = 1.0,
        start: float = 0.0,
        smooth: bool = True,
        aspect: float | None = None,
    ) -> Tracks:
        """Move every point as a moving camera would, about the centre of the picture; held afterwards.

        pan    (dx, dy): the picture's content moves by so much, in the units of the coordinates.
        zoom   the picture grows by this factor (constant relative speed).
        roll   the content turns clockwise by so many degrees; with 0..1 coordinates give `aspect` = width / height.
        dolly  the camera moves forward by this distance, in the unit of `depth`.
        depth  [H, W] positive distances over the whole picture; without it every point is at distance 1. Points that
               the camera passes become invisible.
        """
        first, progress, longer = self._timeline(start, seconds, smooth)
        move = camera.Move(pan=pan, zoom=zoom, roll=roll, dolly=dolly)
        scene = camera.Scene(size=self.size, aspect=aspect, depth=depth)
        points, seen = camera.apply(move, scene, longer.points, first, progress)
        return longer._moved(points, longer.visible & seen)

    # ---- time, units, sets of tracks

    def resample(self, *, fps: float | None = None, rgb_frames: int | None = None) -> Tracks:
        """Change the frame rate, or the number of RGB frames (same fps: the motion gets faster or slower).

        RGB frame k is read at s = k * old_fps / fps, or s = k * (T - 1) / (rgb_frames - 1): positions linear,
        visibility that of floor(s + 0.5). With `fps`, T becomes ceil((T - 1) * fps / old_fps) + 1 and the last RGB
        frame holds the last position, so nothing of the motion is lost.
        """
        if (fps is None) == (rgb_frames is None):
            raise ConfigError("resample takes either fps=... or rgb_frames=...")
        last = self.rgb_frames - 1
        if fps is not None:
            rate = positive("fps", fps)
            if rate == self.fps:
                return self
            steps = math.ceil(last * rate / self.fps)
            check_samples(self.count, steps + 1)
            return self._sampled(np.arange(steps + 1) * self.fps / rate, rate)
        if rgb_frames is None or rgb_frames < 1:
            raise TrackShapeError(f"rgb_frames must be at least 1, not {rgb_frames}")
        check_samples(self.count, rgb_frames)
        return self._sampled(np.arange(rgb_frames) * last / max(rgb_frames - 1, 1), self.fps)

    def crop_to(self, height: int, width: int) -> Tracks:
        """Coordinates of the centre crop that `load_image(picture, height, width)` makes of these tracks' picture.

        For tracks in pixels of a picture with another aspect: `to_pixels` stretches, this one crops as the picture
        is cropped. Points outside become invisible. ConfigError when `size` is None.
        """
        if self.size is None:
            raise ConfigError("0..1 coordinates do not tell the shape of their picture; make the tracks with a size")
        scale = min(self.size[1] / width, self.size[0] / height)
        corner = (self.size[1] - width * scale) / 2, (self.size[0] - height * scale) / 2
        points = (self.points.astype(np.float64) - corner) / scale
        return Tracks(points, self.visible, self.ids, size=(height, width), fps=self.fps).to_pixels(height, width)

    def to_pixels(self, height: int, width: int, *, hide_outside: bool = True) -> Tracks:
        """Coordinates in pixels of a height x width picture; points outside of it become invisible unless told not."""
        own_height, own_width = self.size or (1, 1)
        scaled = self.points.astype(np.float64) * (width, height) / (own_width, own_height)
        points = scaled.astype(np.float32)
        x, y = points[..., 0], points[..., 1]
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        visible = self.visible & inside if hide_outside else self.visible
        return Tracks(points, visible, self.ids, size=(height, width), fps=self.fps)

    def merge(self, other: Tracks) -> Tracks:
        """The tracks of both; `other` takes this one's units and fps, and new ids where its own are taken.

        The shorter one is held at its last position.
        """
        if other.fps != self.fps:
            other = other.resample(fps=self.fps)
        rgb_frames = max(self.rgb_frames, other.rgb_frames)
        mine, theirs = self._extended(rgb_frames), other._in_units_of(self.size)._extended(rgb_frames)
        return Tracks(
            np.concatenate([mine.points, theirs.points]),
            np.concatenate([mine.visible, theirs.visible]),
            np.concatenate([mine.ids, _free_ids(mine.ids, theirs.ids)]),
            size=self.size,
            fps=self.fps,
        )

    def select(self, ids: ArrayLike | None = None) -> Tracks:
        """Only the tracks with these ids, in this order; without ids those that are visible at some time."""
        if ids is None:
            return self._rows(np.flatnonzero(self.visible.any(1)))
        wanted = np.asarray(ids, np.int64).reshape(-1)
        row_of = {int(known): row for row, known in enumerate(self.ids)}
        missing = [int(one) for one in wanted if int(one) not in row_of]
        if missing:
            raise TrackShapeError(f"no track has the id {missing[0]}; there are {self.count} tracks")
        return self._rows(np.array([row_of[int(one)] for one in wanted], np.int64))

    # ---- helpers

    def _moved(self, points: ArrayLike, visible: BoolArray | None = None) -> Tracks:
        return Tracks(points, self.visible if visible is None else visible, self.ids, size=self.size, fps=self.fps)

    def _rows(self, rows: IntArray) -> Tracks:
        return Tracks(self.points[rows], self.visible[rows], self.ids[rows], size=self.size, fps=self.fps)

    def _extended(self, rgb_frames: int) -> Tracks:
        """Hold the last position until there are `rgb_frames`."""
        if rgb_frames <= self.rgb_frames:
            return self
        check_samples(self.count, rgb_frames)
        return self._sampled(np.arange(rgb_frames, dtype=np.float64), self.fps)

    def _sampled(self, where: NDArray[np.floating[Any]], fps: float) -> Tracks:
        # Differences and weights are float32, their product is exact in float64: the same with and without FMA.
        last = self.rgb_frames - 1
        where = np.minimum(where, last)
        lower = np.floor(where).astype(np.int64)
        upper = np.minimum(lower + 1, last)
        weight = (where - lower).astype(np.float32).astype(np.float64)[:, None]
        step = (self.points[:, upper] - self.points[:, lower]).astype(np.float64)
        points = self.points[:, lower].astype(np.float64) + step * weight
        visible = self.visible[:, np.floor(where + 0.5).astype(np.int64)]
        return Tracks(points, visible, self.ids, size=self.size, fps=fps)

    def _in_units_of(self, size: tuple[int, int] | None) -> Tracks:
        if size == self.size:
            return self
        old, new = self.size or (1, 1), size or (1, 1)
        points = self.points.astype(np.float64) * (new[1], new[0]) / (old[1], old[0])
        return Tracks(points, self.visible, self.ids, size=size, fps=self.fps)

    def _timeline(self, start: float, seconds: float, smooth: bool) -> tuple[int, NDArray[np.float64], Tracks]:
        """First moving RGB frame, progress 0..1 per RGB frame, and these tracks made long enough."""
        if not (math.isfinite(start) and start >= 0):
            raise ConfigError(f"start must be 0 or more seconds, not {start}")
        first = round(start * self.fps)
        steps = max(1, round(positive("seconds", seconds) * self.fps))
        longer = self._extended(first + steps + 1)
        progress = np.clip((np.arange(longer.rgb_frames) - first) / steps, 0.0, 1.0)
        return first, progress * progress * (3 - 2 * progress) if smooth else progress, longer

    def _falloff(self, point: NDArray[np.float64], rgb_frame: int, radius: float | None) -> NDArray[np.float64]:
        """Weight [N] of each track in a drag that begins at `point`."""
        seen = self.visible[:, rgb_frame]
        if not seen.any():
            raise TrackShapeError(
                f"no point is visible at RGB frame {rgb_frame}, so there is nothing to drag; add one by static()"
            )
        distance = np.where(seen, np.linalg.norm(self.points[:, rgb_frame] - point, axis=-1), np.inf)
        weight = np.zeros(self.count)
        if radius is not None:
            inside = distance < positive("radius", radius)
            turns = np.pi * distance[inside] / radius
            weight[inside] = [0.5 + 0.5 * math.cos(turn) for turn in turns]  # numpy's cosine differs by machine
        weight[int(distance.argmin())] = 1.0
        return weight


def _along(corners: NDArray[np.float64], progress: NDArray[np.float64]) -> NDArray[np.float64]:
    """Positions [T, 2] on a polyline at fractions of its length."""
    lengths = np.linalg.norm(np.diff(corners, axis=0), axis=-1)
    at = np.concatenate([[0.0], np.cumsum(lengths)])
    if at[-1] == 0:
        return np.broadcast_to(corners[:1], (len(progress), 2))
    return np.stack([np.interp(progress * at[-1], at, corners[:, axis]) for axis in (0, 1)], -1)


def _free_ids(taken: IntArray, wanted: IntArray) -> IntArray:
    clash = np.isin(wanted, taken)
    first = int(max(taken.max(initial=-1), wanted.max(initial=-1))) + 1
    free = wanted.copy()
    free[clash] = first + np.arange(int(clash.sum()))
    return free
