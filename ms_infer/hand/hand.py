"""A live hand: a grid, dragged and static points, drawn paths; from pointer events to the tracks of each chunk."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ms_infer.errors import ConfigError
from ms_infer.hand import saved
from ms_infer.hand.checks import moment_of, position, positions, reach_of
from ms_infer.hand.dots import BoolArray, Dots, Hold, IntArray, Kind, grid_cells, squared
from ms_infer.hand.grab import taken
from ms_infer.hand.movers import FULL_SPEED, SPRING, Array, Field, Path, Pointer, Stick
from ms_infer.tracks import Tracks
from ms_infer.tracks.checks import positive
from ms_infer.tracks.tracks import RIM

MARGIN = 0.3  # how far outside of the picture a point is kept
COVER = 0.8  # of the grid's spacing
SAME = 1e-3  # a point that was put this close to a place was put there
SPARE = 32  # points that the grid leaves for what is grabbed, painted and held
MAX_POINTERS, MAX_PATHS = 16, 64  # that move at the same time
MAX_POINTS = 10_000


class Hand:
    """What a user does to the picture while a stream runs: press, move, release, paint, hold, steer the camera.

        hand = stream.hand()
        hand.press(1, 0.4, 0.5)                        # a window's events, from any thread
        hand.move(1, 0.45, 0.5)
        stream.set_tracks(hand.tracks(frames=stream.next_rgb_frames))   # before each step

    Positions are shares of the picture: x to the right, y down, 0..1. Times are seconds on any clock that only goes
    forward; left out they are time.monotonic(). What is given with explicit times is deterministic, and bit-equal to
    the C++ hand: docs/reference/hand.md is the exact rule. Methods may be called from any thread.

    rows, cols: the grid of points that rest on the picture and say what stays (fewer where they do not fit).
    aspect: width / height of the picture. fps: RGB frames per second of the video; tracks have this rate.
    capacity: most points, 1..10000; no more than the model's `max_tracks`.
    ConfigError for numbers that cannot be.
    """

    def __init__(
        self, rows: int = 10, cols: int = 10, *, aspect: float = 1.0, fps: float = 16.0, capacity: int = 256
    ) -> None:
        if not 1 <= capacity <= MAX_POINTS:
            raise ConfigError(f"a hand has a capacity of 1..{MAX_POINTS} points, not {capacity!r}")
        self.aspect, self.fps, self.capacity = positive("aspect", aspect), positive("fps", fps), int(capacity)
        self.hold_rest = True
        """Grid points that nobody moves stay where they are; else they are free."""
        self.hold_released = True
        """Points that were let go stay where they are; else they are free."""
        self.loop = False
        """Whether tracks that are played begin again at their end."""
        self.kinds: NDArray[np.uint8] = np.zeros(0, np.uint8)
        """uint8 [N]: what each of the points is that `tracks` returned last, a `Kind`."""
        self._dots = Dots(self.capacity)
        self._stick = self._steered = self._stick_before = Stick()
        self._way = [0.0, 0.0, 0.0, 0.0]
        self._field: Field | None = None
        self._last = -math.inf
        self._lock = threading.RLock()
        self.grid(rows, cols)

    # ---- what a user does

    def grid(self, rows: int, cols: int) -> None:
        """Start over with rows x cols points at the centres of equal cells (fewer when they do not fit)."""
        if rows < 0 or cols < 0:
            raise ConfigError(f"a grid has 0 or more rows and columns, not {rows} x {cols}")
        while rows * cols > max(self.capacity - SPARE, 0):
            rows, cols = max(rows - 1, 0), max(cols - 1, 0)
        with self._lock:
            self._rows, self._cols = rows, cols
            self.reset()

    def reset(self) -> None:
        """Only the grid, at rest; the stick stays where it is."""
        with self._lock:
            self._holds: list[Hold] = []
            self._playing: tuple[Tracks, IntArray] | None = None
            self._played = 0
            self._stick_before = Stick()
            self._way = [0.0, 0.0, 0.0, 0.0]
            self._dots.clear()
            self._dots.add(grid_cells(self._rows, self._cols), Kind.GRID)

    def press(
        self,
        pointer: int,
        x: float,
        y: float,
        *,
        at: float | None = None,
        reach: float = 0.15,
        thing: ArrayLike | None = None,
    ) -> int:
        """A pointer (any number) goes down and takes along what lies within `reach`, in picture heights.

        thing: `[M, 2]`, points that lie upon a thing: these come along instead, with what was moved as part of it.
        Nothing there: a new point is put there. A pointer that was down is released first. Returns how many points it
        holds: 0 when 16 pointers move already, or when a new point does not fit.
        """
        point, moment, wide = position(x, y), moment_of(at), reach_of(reach)
        upon = None if thing is None else positions(thing)
        with self._lock:
            self.release(pointer)
            if sum(isinstance(hold.mover, Pointer) for hold in self._holds) >= MAX_POINTERS:
                return 0
            return self._hold(
                Pointer(point, moment), taken(self._dots, point, wide, upon, Kind.DRAG, self.aspect), Kind.DRAG, pointer
            )

    def move(self, pointer: int, x: float, y: float, *, at: float | None = None) -> None:
        """A pointer that is down is at (x, y) now; one that is not is ignored."""
        point, moment = position(x, y), moment_of(at)
        with self._lock:
            for hold in self._holds:
                if hold.pointer == pointer and isinstance(hold.mover, Pointer):
                    hold.mover.move(point, moment)

    def release(self, pointer: int | None = None) -> None:
        """A pointer comes up where it was moved to last, or every pointer: None. Its points arrive there first."""
        with self._lock:
            for hold in self._holds:
                if isinstance(hold.mover, Pointer) and hold.pointer is not None and pointer in (None, hold.pointer):
                    hold.mover.release()
                    hold.pointer = None

    def static(self, points: ArrayLike) -> None:
        """Add points `[M, 2]` that must not move, whatever else does."""
        with self._lock:
            self._dots.add(positions(points), Kind.STATIC)

    def brush(self, points: ArrayLike) -> None:
        """Add points `[M, 2]` that move together, with all that were painted before, when one of them is grabbed."""
        painted = positions(points)
        with self._lock:
            dots = self._dots
            dots.add(painted, Kind.DRAG, grouped=True)
            gap = squared((dots.rest[:, None] - painted[None]) * (self._cols, self._rows))
            dots.free |= (dots.kind == Kind.GRID) & (gap.min(1, initial=np.inf) < RIM * RIM)

    def remove(self, points: ArrayLike) -> None:
        """Take away the points that were put at `points` `[M, 2]` by `static` or `brush`, wherever they are now."""
        places = positions(points)
        with self._lock:
            dots = self._dots
            put = (dots.kind == Kind.STATIC) | dots.grouped
            gone = put & (squared(dots.rest[:, None] - places[None]).min(1, initial=np.inf) < SAME * SAME)
            gap = squared((dots.rest[:, None] - dots.rest[gone & dots.grouped][None]) * (self._cols, self._rows))
            dots.free &= ~((dots.kind == Kind.GRID) & (gap.min(1, initial=np.inf) < RIM * RIM))
            dots.keep(~gone)

    def path(self, points: ArrayLike, *, seconds: float, reach: float = 0.15, thing: ArrayLike | None = None) -> int:
        """Take what lies within `reach` of the first of `points` `[M >= 2, 2]` along them, in so many seconds of video.

        thing: as in `press`. Begins with the next chunk, at constant speed. Returns how many points it takes along
        (0: as in `press`).
        """
        corners = positions(points)
        if len(corners) < 2:
            raise ConfigError(f"a path has at least 2 points (x, y), not {len(corners)}")
        places = [(float(x), float(y)) for x, y in corners]
        mover, wide = Path(places, positive("seconds", seconds)), reach_of(reach)
        upon = None if thing is None else positions(thing)
        with self._lock:
            if sum(isinstance(hold.mover, Path) for hold in self._holds) >= MAX_PATHS:
                return 0
            along = taken(self._dots, places[0], wide, upon, Kind.PATH, self.aspect)
            return self._hold(mover, along, Kind.PATH, None)

    def steer(self, *, x: float = 0.0, y: float = 0.0, zoom: float = 0.0, roll: float = 0.0) -> None:
        """Move the camera from now on: to the right, down, in, clockwise, each -1..1 of full speed.

        Full speed is 0.12 pictures, a factor e^0.22 and 0.25 radians a second. It holds until the next call.
        """
        values = x, y, zoom, roll
        if not all(-1 <= value <= 1 for value in values):
            raise ConfigError(f"the stick's x, y, zoom and roll are -1..1, not {values}")
        with self._lock:
            self._steered = Stick(float(x), float(y), float(zoom), float(roll))

    def carry(self, *, x: float = 0.0, y: float = 0.0, zoom: float = 0.0, roll: float = 0.0) -> None:
        """Move the camera by so much, beside the stick and as fast as it: pictures, pictures, e-folds, radians.

        It adds up with what is still to be moved; at most 10 seconds of the stick are kept.
        """
        values = x, y, zoom, roll
        if not all(math.isfinite(value) for value in values):
            raise ConfigError(f"the camera is carried by finite numbers, not {values}")
        with self._lock:
            self._way = [
                min(max(left + value, -10 * full), 10 * full)
                for left, value, full in zip(self._way, values, FULL_SPEED, strict=True)
            ]

    def play(self, tracks: Tracks | None, *, loop: bool = False) -> None:
        """Start over with tracks in the place of the grid, from their first position on; None: with the grid.

        At their end they hold still, or begin again: `loop`.
        """
        played = None if tracks is None else tracks.to_pixels(1, 1).resample(fps=self.fps)
        with self._lock:
            self.reset()
            if played is not None:
                played = played.select(played.ids[: self.capacity])
                self._dots.clear()
                self._playing = played, self._dots.add(played.points[:, 0].astype(np.float64), Kind.PATH)
            self.loop = loop

    def push(self, movement: ArrayLike | None) -> None:
        """Push the grid's points by movement `[rows, cols, 2]` of the picture's cells, in shares of the picture.

        For what a camera sees: it adds up until the next chunk, and points come back. None: no more pushes.
        """
        if movement is None:
            self._field = None
            return
        field = np.asarray(movement, np.float64)
        if field.ndim != 3 or field.shape[2] != 2 or not field.size or not np.isfinite(field).all():
            raise ConfigError(f"movement must be finite numbers [rows, cols, 2], got shape {list(field.shape)}")
        with self._lock:
            self._field = self._field or Field()
            self._field.add(field)

    # ---- what the stream gets

    @property
    def moving(self) -> bool:
        """Whether points go on by themselves: along a path, with the camera, with played tracks, after pushes."""
        with self._lock:
            playing = self._playing is not None and (self.loop or self._played < self._playing[0].rgb_frames)
            paths = any(isinstance(hold.mover, Path) for hold in self._holds)
            steering = self._steered.moving or self._stick.moving or any(self._way)
            return playing or paths or steering or self._field is not None

    def tracks(self, now: float | None = None, *, frames: int = 12) -> Tracks:
        """Move on by `frames` RGB frames with all that happened until `now`, and return where the points are.

        Give `stream.next_rgb_frames`: a stream's first chunk is shorter than the others. The tracks are shares of the
        picture; a point keeps its id. What is not visible is where the model may do as it likes.
        """
        if frames < 1:
            raise ConfigError(f"a chunk has 1 or more RGB frames, not {frames}")
        moment = moment_of(now)
        with self._lock:
            moment = max(moment, self._last)
            self._set_stick(frames)
            self._tidy()
            points, visible = self._moved(moment, frames)
            self._stick_before, self._last = self._stick, moment
            self._played += frames
            self._let_go()
            self.kinds = self._dots.kind.copy()
            return Tracks(points, visible, self._dots.ids, fps=self.fps)

    # ---- its state

    def state(self, now: float | None = None) -> dict[str, NDArray[Any]]:
        """Everything that later tracks depend on, as arrays; times are kept relative to `now`."""
        moment = moment_of(now)
        with self._lock:
            return saved.save(self, moment)

    def load_state(self, arrays: Mapping[str, NDArray[Any]], now: float | None = None) -> None:
        """Go on where `state` stood, at `now`; ConfigError for what no hand of this capacity saved changes nothing."""
        moment = moment_of(now)
        with self._lock:
            saved.load(self, arrays, moment)

    # ---- helpers

    def _set_stick(self, frames: int) -> None:
        """The stick of a chunk: as it is held, and what is left of the way that the camera is carried."""
        seconds, values = frames / self.fps, []
        stick = self._steered
        for axis, held in enumerate((stick.x, stick.y, stick.zoom, stick.roll)):
            most = FULL_SPEED[axis] * seconds
            wanted = self._way[axis] / most
            added = min(max(wanted, -1 - held), 1 - held)
            self._way[axis] = 0.0 if added == wanted else self._way[axis] - added * most
            values.append(held + added)
        self._stick = Stick(*values)

    def _moved(self, now: float, frames: int) -> tuple[Array, BoolArray]:
        dots = self._dots
        points, visible = np.zeros((len(dots.ids), frames, 2)), np.zeros((len(dots.ids), frames), np.bool_)
        pushes, held = self._pushes(now, frames)
        for frame in range(frames):
            dots.points = dots.points + pushes[:, frame]
            self._move_camera(~held, (frame + 1) / frames)
            self._play(frame)
            points[:, frame], visible[:, frame] = dots.points, self._seen(frame)
        return points, visible

    def _pushes(self, now: float, frames: int) -> tuple[Array, BoolArray]:
        """Movement `[N, frames, 2]` by pointers, paths and the field; and whether `[N]` the camera leaves a point."""
        dots = self._dots
        pushes, held = np.zeros((len(dots.ids), frames, 2)), np.zeros(len(dots.ids), np.bool_)
        for hold in self._holds:
            mover = hold.mover
            steps = (
                mover.steps(self._last, now, frames) if isinstance(mover, Pointer) else mover.steps(frames, self.fps)
            )
            rows = dots.rows(hold.ids)
            pushes[rows] += np.array(steps)[None]
            held[rows] = True
        if self._field is not None:
            loose = np.flatnonzero((dots.kind == Kind.GRID) & ~held)
            movement = self._field.take(dots.rest[loose]) / frames
            back = (dots.rest[loose] - dots.points[loose]) * SPRING
            pushes[loose] += (movement + back)[:, None]
        return pushes, held | (dots.kind == Kind.STATIC)

    def _move_camera(self, loose: BoolArray, part: float) -> None:
        if self._stick.moving or self._stick_before.moving:
            stick = self._stick_before.towards(self._stick, part)
            moved = stick.moved(self._dots.points, self.fps, self.aspect)
            self._dots.points = np.where(loose[:, None], moved, self._dots.points)

    def _play(self, frame: int) -> None:
        if self._playing is not None:
            tracks, ids = self._playing
            at = self._place_in(tracks, frame)
            self._dots.points[self._dots.rows(ids)] = tracks.points[np.isin(ids, self._dots.ids), at]

    def _place_in(self, tracks: Tracks, frame: int) -> int:
        """Index in played tracks of a frame of this chunk."""
        at = self._played + frame
        return at % tracks.rgb_frames if self.loop else min(at, tracks.rgb_frames - 1)

    def _seen(self, frame: int) -> BoolArray:
        dots = self._dots
        rests = self.hold_rest or self._stick.moving or self._field is not None
        seen = ~dots.free & ((dots.kind != Kind.GRID) | rests)
        seen &= (dots.points >= 0).all(-1) & (dots.points < 1).all(-1)
        if self._playing is not None:
            tracks, ids = self._playing
            at = self._place_in(tracks, frame)
            seen[dots.rows(ids)] &= tracks.visible[np.isin(ids, dots.ids), at]
            return seen
        return seen & ~self._covered()

    def _covered(self) -> BoolArray:
        """Resting grid points that a moved point lies upon: what they stand for is hidden behind it."""
        dots = self._dots
        covered = np.zeros(len(dots.ids), np.bool_)
        resting = np.flatnonzero(dots.kind == Kind.GRID)
        moving = np.flatnonzero((dots.kind == Kind.DRAG) | (dots.kind == Kind.PATH))
        gap = (dots.points[resting][:, None] - dots.points[moving][None]) * (self._cols, self._rows)
        covered[resting] = squared(gap).min(1, initial=np.inf) < COVER * COVER
        return covered

    def _hold(self, mover: Pointer | Path, along: BoolArray, kind: Kind, pointer: int | None) -> int:
        """Let a mover take the points `along` `[N]`.

        Free points stay where it took the grid's: what is behind a thing is not known, so no grid point may go there.
        """
        dots = self._dots
        left = dots.points[along & (dots.kind == Kind.GRID)]
        dots.kind[along], dots.free[along] = kind, False
        if along.any():
            self._holds.append(Hold(mover, dots.ids[along], pointer))
        bare = dots.add(left, Kind.GRID)
        dots.free[dots.rows(bare)] = True
        return int(along.sum())

    def _let_go(self) -> None:
        arrived = [hold for hold in self._holds if hold.mover.done]
        self._holds = [hold for hold in self._holds if not hold.mover.done]
        held = [hold.ids for hold in self._holds]
        for hold in arrived:
            ids = np.setdiff1d(hold.ids, np.concatenate(held)) if held else hold.ids
            self._dots.free[self._dots.rows(ids)] = not self.hold_released

    def _tidy(self) -> None:
        """Drop points far outside and, when the camera moves, put new ones into cells that became empty."""
        if self._playing is not None:
            return
        dots = self._dots
        outside = np.any((dots.points < -MARGIN) | (dots.points > 1 + MARGIN), axis=-1)
        if outside.any():
            dots.keep(~outside)
        if not self._stick.moving or self._rows * self._cols == 0:
            return
        cell = np.floor(dots.points * (self._cols, self._rows)).astype(np.int64)
        inside = ((cell >= 0) & (cell < (self._cols, self._rows))).all(-1)
        empty = np.ones(self._rows * self._cols, np.bool_)
        empty[(cell[:, 1] * self._cols + cell[:, 0])[inside]] = False
        dots.add(grid_cells(self._rows, self._cols)[empty], Kind.GRID)
