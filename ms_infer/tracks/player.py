"""Playback of controls: turns the newest Tracks into the arrays of each chunk, by one exact rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import StreamConfig
from ms_infer.errors import ConfigError, TrackShapeError
from ms_infer.tracks.arrays import BoolArray, FloatArray, IntArray
from ms_infer.tracks.tracks import Tracks


@dataclass(frozen=True, eq=False)
class TrackChunk:
    """Tracks of one chunk, padded to `max_tracks` with invisible tracks of id 0 at (0, 0)."""

    points: FloatArray
    """float32 [max_tracks, count, 2], x and y in pixels."""
    visible: BoolArray
    """bool [max_tracks, count]."""
    ids: IntArray
    """int64 [max_tracks]."""
    anchors: FloatArray
    """float32 [max_tracks, 2]: where each track is in the stream's RGB frame 0, in pixels."""


class TrackPlayer:
    """Plays one control at a time; a new one replaces the old at its RGB frame.

    The rule (float32 unless stated; written so that fused multiply-add changes nothing):

    1. A control of T positions at rate r becomes T' = ceil((T - 1) * fps / r) + 1 positions at the stream's fps:
       s = min(k * r / fps, T - 1) in float64, i = floor(s), w = float32(s - i), j = min(i + 1, T - 1),
       p[k] = float32(float64(p[i]) + float64(p[j] - p[i]) * float64(w)); visible[k] = visible[floor(s + 0.5)].
       When r == fps nothing changes.
    2. Pixels: x = float32(float64(x) * width / own_width), y alike (own size 1 x 1 for 0..1 coordinates). A point
       is invisible unless 0 <= x < width and 0 <= y < height.
    3. A control set at RGB frame f plays position min(g - f, T' - 1) at RGB frame g >= f: the end is held.
    4. Anchors at f = 0: p[0]. At f > 0 an id of the old control keeps its anchor. A new id at p = p[0] gets
       p - (q - a): q and a are position and anchor of the old control's visible track nearest to p at RGB frame
       max(f - 1, start of the old control), and p itself when none is visible. Nearest: least
       float64(dx) * float64(dx) + float64(dy) * float64(dy) of float32 dx = q.x - p.x and dy, the first such row.
    """

    def __init__(self, height: int, width: int, fps: float, max_tracks: int) -> None:
        if min(height, width) < 1 or max_tracks < 0 or not fps > 0:
            raise ConfigError(f"a player needs positive sizes, got {height}x{width}, {fps} fps, {max_tracks} tracks")
        self.height, self.width, self.fps, self.max_tracks = height, width, float(fps), max_tracks
        self._control = Tracks.empty(size=(height, width), fps=fps)
        self._anchors: FloatArray = np.zeros((0, 2), np.float32)
        self._start = 0

    @classmethod
    def of(cls, config: StreamConfig) -> TrackPlayer:
        """A player for streams with these settings."""
        head = config.model.track_head
        return cls(config.height, config.width, config.fps, head.max_tracks if head else 1)

    def set(self, tracks: Tracks | None, at_frame: int) -> None:
        """Replace the control from RGB frame `at_frame` on; None: no tracks.

        TrackShapeError when there are more than `max_tracks`; ConfigError when time would run backwards.
        """
        if tracks is None:
            tracks = Tracks.empty()
        if tracks.count > self.max_tracks:
            raise TrackShapeError(
                f"{tracks.count} tracks, but this stream takes at most {self.max_tracks}; "
                "use a coarser grid or tracks.select(ids)"
            )
        if at_frame < self._start:
            raise ConfigError(f"a control at RGB frame {at_frame} is older than the current one at {self._start}")
        control = tracks.resample(fps=self.fps).to_pixels(self.height, self.width)
        anchors = self._new_anchors(control, at_frame)
        self._control, self._anchors, self._start = control, anchors, at_frame

    def chunk(self, first_frame: int, count: int) -> TrackChunk:
        """The tracks of RGB frames [first_frame, first_frame + count), in new arrays of constant size."""
        if first_frame < self._start or count < 1:
            raise ConfigError(f"cannot play {count} RGB frames from {first_frame}: the control starts at {self._start}")
        control, tracks = self._control, self._control.count
        at = np.minimum(np.arange(first_frame, first_frame + count) - self._start, control.rgb_frames - 1)
        points = np.zeros((self.max_tracks, count, 2), np.float32)
        visible = np.zeros((self.max_tracks, count), np.bool_)
        ids = np.zeros(self.max_tracks, np.int64)
        anchors = np.zeros((self.max_tracks, 2), np.float32)
        points[:tracks], visible[:tracks] = control.points[:, at], control.visible[:, at]
        ids[:tracks], anchors[:tracks] = control.ids, self._anchors
        return TrackChunk(points, visible, ids, anchors)

    def copy(self) -> TrackPlayer:
        """An independent player in the same state (shares only arrays that are never written)."""
        twin = TrackPlayer(self.height, self.width, self.fps, self.max_tracks)
        twin._control, twin._anchors, twin._start = self._control, self._anchors, self._start
        return twin

    @property
    def tracks(self) -> Tracks | None:
        """The control that plays, in pixels and at the stream's fps; None: no tracks. Set again it plays the same."""
        return self._control if self._control.count else None

    def state(self) -> dict[str, NDArray[np.generic]]:
        """Everything that `restore` needs: points, visible, ids, anchors and start (int64 [1])."""
        control = self._control
        return {
            "points": control.points.copy(),
            "visible": control.visible.copy(),
            "ids": control.ids.copy(),
            "anchors": self._anchors.copy(),
            "start": np.array([self._start], np.int64),
        }

    def restore(self, state: Mapping[str, NDArray[np.generic]]) -> None:
        """Take over a `state()` of a player of the same size; TrackShapeError when it does not fit."""
        missing = [name for name in ("points", "visible", "ids", "anchors", "start") if name not in state]
        if missing:
            raise TrackShapeError(f"the saved track state lacks {missing}")
        size = (self.height, self.width)
        control = Tracks(state["points"], state["visible"], state["ids"], size=size, fps=self.fps)
        anchors = np.array(state["anchors"], np.float32)
        if control.count > self.max_tracks or anchors.shape != (control.count, 2) or not np.isfinite(anchors).all():
            raise TrackShapeError(
                f"the saved state has {control.count} tracks and anchors {list(anchors.shape)}; "
                f"expected at most {self.max_tracks} tracks and finite anchors [tracks, 2]"
            )
        self._control, self._anchors, self._start = control, anchors, int(np.asarray(state["start"]).reshape(-1)[0])

    def _new_anchors(self, control: Tracks, at_frame: int) -> FloatArray:
        anchors = np.array(control.points[:, 0])
        if at_frame == 0:
            return anchors
        old, at = self._control, min(max(at_frame - 1 - self._start, 0), self._control.rgb_frames - 1)
        kept = {one: row for row, one in enumerate(old.ids.tolist())}
        seen = np.flatnonzero(old.visible[:, at])
        x, y = (np.ascontiguousarray(old.points[seen, at, axis]) for axis in (0, 1))
        moved = old.points[seen, at] - self._anchors[seen]
        for row, one in enumerate(control.ids.tolist()):
            if one in kept:
                anchors[row] = self._anchors[kept[one]]
            elif len(seen):
                dx, dy = (x - anchors[row, 0]).astype(np.float64), (y - anchors[row, 1]).astype(np.float64)
                anchors[row] -= moved[int((dx * dx + dy * dy).argmin())]
        return anchors
