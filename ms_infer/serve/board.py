"""The points of a session: a grid, dragged and static points, drawn paths; from pointer events to Tracks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ms_infer.serve.movers import Array, Field, Path, Point, Pointer, Stick
from ms_infer.tracks import Tracks
from ms_infer.tracks.tracks import RIM

ID_RANGE, ID_STRIDE = 100_000, 7919  # ids jump about the range that models are trained with
MAX_STEP = 0.03  # of the picture per RGB frame; a faster pointer is followed a little later
MARGIN = 0.3  # how far outside of the picture a point is kept
COVER = 0.8  # of the grid's spacing
NEAR = 0.04  # a grabbed point this close is the one that is meant


class Kind(IntEnum):
    """What a point is; the page has a colour and a shape for each."""

    GRID = 0
    DRAG = 1
    STATIC = 2
    PATH = 3


@dataclass(frozen=True)
class Applied:
    """The points of one chunk."""

    points: NDArray[np.float32]
    """float32 [N, T, 2] in 0..1."""
    visible: NDArray[np.bool_]
    """bool [N, T]."""
    ids: NDArray[np.int64]
    kinds: NDArray[np.uint8]

    def tracks(self, fps: float) -> Tracks | None:
        """These points as Tracks, None when none is visible."""
        if not self.visible.any():
            return None
        return Tracks(self.points, self.visible, self.ids, fps=fps)

    def fitted(self, frames: int) -> Applied:
        """For a chunk of `frames` RGB frames: cut, or held at the last one."""
        at = np.minimum(np.arange(frames), self.points.shape[1] - 1)
        return replace(self, points=self.points[:, at], visible=self.visible[:, at])


@dataclass
class _Hold:
    """Points that a mover takes along."""

    mover: Pointer | Path
    ids: NDArray[np.int64]
    weights: Array


class Board:
    """Where the points are and what moves them. Not thread-safe: its session locks it.

    capacity: most points; aspect: width / height of the picture.
    """

    def __init__(self, capacity: int, aspect: float) -> None:
        self.capacity, self.aspect = capacity, aspect
        self.hold_rest = self.hold_released = True
        self.stick, self._stick_before = Stick(), Stick()
        self.webcam: Field | None = None
        self._rows = self._cols = 0
        self._next = 0
        self._last_ms = 0.0
        self.set_grid(10, 10)

    # ---- what a user does

    def set_grid(self, rows: int, cols: int) -> None:
        """Start over with rows x cols points at the centres of equal cells (fewer when they do not fit)."""
        while rows * cols > self.capacity - 32 and rows * cols > 0:
            rows, cols = max(rows - 1, 0), max(cols - 1, 0)
        self._rows, self._cols = rows, cols
        self.reset()

    def reset(self) -> None:
        """Only the grid, at rest."""
        self._pointers: dict[int, _Hold] = {}
        self._paths: list[_Hold] = []
        self._transfer: tuple[Tracks, NDArray[np.int64]] | None = None
        self._played = 0
        self._stick_before = Stick()
        self._ids = np.zeros(0, np.int64)
        self._points = np.zeros((0, 2))
        self._rest = np.zeros((0, 2))
        self._kind = np.zeros(0, np.uint8)
        self._free = np.zeros(0, np.bool_)
        self._grouped = np.zeros(0, np.bool_)
        self._add(self._cells(), Kind.GRID)

    def pointer(self, number: int, phase: str, point: Point, time_ms: float, radius: float) -> None:
        """A pointer goes down, moves or comes up; `time_ms` is on the clock of `advance`."""
        if phase == "down":
            held = self._grab(point, radius, Kind.DRAG)
            if held is not None and len(self._pointers) < 16:
                self._pointers[number] = _Hold(Pointer(point, time_ms), *held)
        elif number in self._pointers:
            mover = self._pointers[number].mover
            assert isinstance(mover, Pointer)
            mover.move(point, time_ms)
            if phase == "up":
                mover.release()
                self._pointers[-1 - self._next] = self._pointers.pop(number)  # the number may come again
                self._next += 1

    def release_all(self) -> None:
        """Let go of every pointer, as when its client has left."""
        for hold in self._pointers.values():
            if isinstance(hold.mover, Pointer):
                hold.mover.release()

    def static(self, points: Sequence[Point]) -> None:
        """Add points that must not move."""
        self._add(np.array(points, np.float64), Kind.STATIC)

    def brush(self, points: Sequence[Point]) -> None:
        """Add points that move together when one of them is dragged."""
        painted = np.array(points, np.float64)
        added = self._add(painted, Kind.DRAG)
        self._grouped[np.isin(self._ids, added)] = True
        gap = (self._rest[:, None] - painted[None]) * (self._cols, self._rows)
        self._free |= (self._kind == Kind.GRID) & (np.hypot(gap[..., 0], gap[..., 1]).min(1) < RIM)

    def path(self, points: Sequence[Point], seconds: float, radius: float) -> None:
        """Take the points near the path's start along it, from the next chunk on."""
        held = self._grab(points[0], radius, Kind.PATH)
        if held is not None and len(self._paths) < 64:
            self._paths.append(_Hold(Path(points, seconds), *held))

    def transfer(self, tracks: Tracks | None, fps: float) -> None:
        """Play tracks instead of the grid; None goes back to the grid."""
        self.reset()
        if tracks is None:
            return
        played = tracks.to_pixels(1, 1).resample(fps=fps)
        rows = np.arange(min(played.count, self.capacity))
        played = played.select(played.ids[rows])
        self._keep(np.zeros(len(self._ids), np.bool_))
        self._transfer = (played, self._add(played.points[:, 0].astype(np.float64), Kind.PATH))

    # ---- what the session does

    def advance(self, now_ms: float, frames: int, fps: float) -> Applied:
        """Move on by `frames` RGB frames with everything that happened until `now_ms`."""
        self._tidy()
        count = len(self._ids)
        points, visible = np.zeros((count, frames, 2)), np.zeros((count, frames), np.bool_)
        pushes, held = self._pushes(now_ms, frames, fps)
        for frame in range(frames):
            part = (frame + 1) / frames
            before = self._points.copy()
            self._points = before + pushes[:, frame]
            self._move_camera(held, part, 1 / fps)
            self._play_transfer(frame)
            points[:, frame] = self._points
            visible[:, frame] = self._seen(frame)
        self._stick_before, self._last_ms = replace(self.stick), now_ms
        self._played += frames
        self._let_go()
        return Applied(points.astype(np.float32), visible, self._ids.copy(), self._kind.copy())

    # ---- helpers

    def _pushes(self, now_ms: float, frames: int, fps: float) -> tuple[Array, Array]:
        """Movement `[N, frames, 2]` by pointers, paths and the webcam; and how firmly `[N]` each point is held."""
        pushes, held = np.zeros((len(self._ids), frames, 2)), np.zeros(len(self._ids))
        for hold in (*self._pointers.values(), *self._paths):
            if isinstance(hold.mover, Pointer):
                steps = hold.mover.steps(self._last_ms, now_ms, frames, MAX_STEP)
            else:
                steps = hold.mover.steps(frames, fps)
            rows, weights = self._rows_of(hold)
            pushes[rows] += weights[:, None, None] * steps[None]
            held[rows] = np.maximum(held[rows], weights)
        if self.webcam is not None:
            loose = np.flatnonzero((self._kind == Kind.GRID) & (held == 0))
            movement = self.webcam.take(self._rest[loose]) / frames
            back = (self._rest - self._points)[loose] * Field.SPRING
            pushes[loose] += (movement + back)[:, None]
        held[self._kind == Kind.STATIC] = 1
        return pushes, held

    def _rows_of(self, hold: _Hold) -> tuple[NDArray[np.int64], Array]:
        row_of = {int(one): row for row, one in enumerate(self._ids)}
        kept = [(row_of[int(one)], weight) for one, weight in zip(hold.ids, hold.weights, strict=True) if one in row_of]
        return np.array([row for row, _ in kept], np.int64), np.array([weight for _, weight in kept])

    def _move_camera(self, held: Array, part: float, seconds: float) -> None:
        if self.stick.moving or self._stick_before.moving:
            moved = self.stick.moved(self._points, self._stick_before, part, seconds, self.aspect)
            self._points += (moved - self._points) * (1 - held[:, None])

    def _play_transfer(self, frame: int) -> None:
        if self._transfer is not None:
            tracks, ids = self._transfer
            rows = np.isin(self._ids, ids)
            self._points[rows] = tracks.points[
                np.isin(ids, self._ids), min(self._played + frame, tracks.rgb_frames - 1)
            ]

    def _seen(self, frame: int) -> NDArray[np.bool_]:
        seen = ~self._free & (
            (self._kind != Kind.GRID) | self.hold_rest | self.stick.moving | (self.webcam is not None)
        )
        seen &= (self._points >= 0).all(-1) & (self._points < 1).all(-1)
        seen &= ~self._covered()
        if self._transfer is not None:
            tracks, ids = self._transfer
            rows = np.isin(self._ids, ids)
            at = min(self._played + frame, tracks.rgb_frames - 1)
            seen[rows] &= tracks.visible[np.isin(ids, self._ids), at]
        return seen

    def _covered(self) -> NDArray[np.bool_]:
        """Resting grid points that a moved point lies upon: what they stand for is hidden behind it."""
        covered = np.zeros(len(self._ids), np.bool_)
        resting = np.flatnonzero(self._kind == Kind.GRID)
        moving = np.flatnonzero((self._kind == Kind.DRAG) | (self._kind == Kind.PATH))
        if len(resting) and len(moving) and self._transfer is None:
            gap = (self._points[resting][:, None] - self._points[moving][None]) * (self._cols, self._rows)
            covered[resting] = np.hypot(gap[..., 0], gap[..., 1]).min(1) < COVER
        return covered

    def _grab(self, point: Point, radius: float, kind: Kind) -> tuple[NDArray[np.int64], Array] | None:
        """Ids and weights of the points that a mover at `point` takes along; one right there is added if need be."""
        shape = np.array([self.aspect, 1.0])
        distance = np.hypot(*((self._points - point) * shape).T)
        movable = (self._kind != Kind.STATIC) & (distance < np.inf)
        group = movable & self._grouped
        if group.any() and distance[group].min() < max(NEAR, radius / 2):
            weights = group.astype(np.float64)
        else:
            weights = (movable & (distance < max(radius, NEAR))).astype(np.float64)
            loose = movable & (weights == 0) & (distance < RIM * radius) & (self._kind == Kind.GRID)
            self._free[loose] = True
        taken = weights > 0.02
        if not (weights[taken] > 0.99).any():
            self._add(np.array([point]), kind)
            if len(self._ids) > len(weights):
                weights, taken = np.append(weights, 1.0), np.append(taken, True)
        if not taken.any():
            return None
        self._kind[taken], self._free[taken] = kind, False
        return self._ids[taken].copy(), weights[taken]

    def _let_go(self) -> None:
        for number in [number for number, hold in self._pointers.items() if hold.mover.done]:
            self._release(self._pointers.pop(number))
        for hold in [hold for hold in self._paths if hold.mover.done]:
            self._paths.remove(hold)
            self._release(hold)

    def _release(self, hold: _Hold) -> None:
        rows, _ = self._rows_of(hold)
        self._free[rows] = not self.hold_released

    def _tidy(self) -> None:
        """Drop points far outside and, when the camera moves, put new ones into cells that became empty."""
        outside = np.any((self._points < -MARGIN) | (self._points > 1 + MARGIN), axis=-1)
        if outside.any() and self._transfer is None:
            self._keep(~outside)
        if not self.stick.moving or self._rows * self._cols == 0 or self._transfer is not None:
            return
        cell = np.floor(self._points * (self._cols, self._rows)).astype(np.int64)
        inside = ((cell >= 0) & (cell < (self._cols, self._rows))).all(-1)
        empty = np.ones(self._rows * self._cols, np.bool_)
        empty[(cell[:, 1] * self._cols + cell[:, 0])[inside]] = False
        self._add(self._cells()[empty], Kind.GRID)

    def _cells(self) -> Array:
        y, x = np.meshgrid((np.arange(self._rows) + 0.5), (np.arange(self._cols) + 0.5), indexing="ij")
        return np.stack([x / max(self._cols, 1), y / max(self._rows, 1)], -1).reshape(-1, 2)

    def _add(self, points: Array, kind: Kind) -> NDArray[np.int64]:
        """Append points, as many as fit; returns their ids."""
        points = points.reshape(-1, 2)[: self.capacity - len(self._ids)]
        used = set(self._ids.tolist())
        fresh: list[int] = []
        while len(fresh) < len(points):
            one = self._next * ID_STRIDE % ID_RANGE
            self._next += 1
            if one not in used:
                fresh.append(one)
        count = len(points)
        self._ids = np.concatenate([self._ids, np.array(fresh, np.int64)])
        self._points = np.concatenate([self._points, points])
        self._rest = np.concatenate([self._rest, points])
        self._kind = np.concatenate([self._kind, np.full(count, kind, np.uint8)])
        self._free = np.concatenate([self._free, np.zeros(count, np.bool_)])
        self._grouped = np.concatenate([self._grouped, np.zeros(count, np.bool_)])
        return np.array(fresh, np.int64)

    def _keep(self, mask: NDArray[np.bool_]) -> None:
        self._ids, self._points, self._rest = self._ids[mask], self._points[mask], self._rest[mask]
        self._kind, self._free, self._grouped = self._kind[mask], self._free[mask], self._grouped[mask]
