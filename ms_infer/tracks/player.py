"""Playback of controls: turns the newest Tracks into the arrays of each chunk, by one exact rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import StreamConfig
from ms_infer.errors import ConfigError, TrackShapeError
from ms_infer.tracks.anchors import anchors_of
from ms_infer.tracks.arrays import BoolArray, FloatArray, IntArray
from ms_infer.tracks.tracks import Tracks

FIT_ERROR = 256.0  # an anchor's fit may err by (height + width) / 256 pixels


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
       is invisible unless 0 <= x < width and 0 <= y < height, or `hide_outside` is False.
    3. A control set at RGB frame f plays position min(g - f, T' - 1) at RGB frame g >= f: the end is held.
    4. Anchors at f = 0: p[0]. At f > 0 an id of the old control keeps its anchor. A new id at p = p[0] gets p - m,
       where m is how far the picture there has moved since RGB frame 0, by the old control's visible tracks at RGB
       frame max(f - 1, start of the old control): q their positions, a their anchors, none: m = 0.
       Their distances to p are sqrt(d), d = float64(dx) * float64(dx) + float64(dy) * float64(dy) of float32
       dx = q.x - p.x and dy; nearest are those of least d, at equal d the first rows. For k = 12, then for k = 6, an
       affine map of (dx, dy) is fitted to float32 q - a over the k nearest (all, where there are fewer than 12; not
       below 6) by least squares with weights w = 1 / (sqrt(d) + 2)^2; m is its value at p, provided that it
       - is not on one line: 4 det(C) > 0.04 trace(C)^2, C the w-weighted scatter of (dx, dy) about their mean c,
       - does not reach far: |c|^2 sum(w) <= 16 trace(C),
       - holds: the sum of w times squared errors is at most t^2 sum(w), t = (height + width) / 256 pixels.
       Where neither does, m is q - a of the nearest track. Sums are float64 and run from the nearest track on.
    """

    def __init__(self, height: int, width: int, fps: float, max_tracks: int, *, hide_outside: bool = True) -> None:
        if min(height, width) < 1 or max_tracks < 0 or not fps > 0:
            raise ConfigError(f"a player needs positive sizes, got {height}x{width}, {fps} fps, {max_tracks} tracks")
        self.height, self.width, self.fps, self.max_tracks = height, width, float(fps), max_tracks
        self.hide_outside = hide_outside
        self._control = Tracks.empty(size=(height, width), fps=fps)
        self._anchors: FloatArray = np.zeros((0, 2), np.float32)
        self._start = 0

    @classmethod
    def of(cls, config: StreamConfig) -> TrackPlayer:
        """A player for streams with these settings."""
        head = config.model.track_head
        limit, hides = (head.max_tracks, head.hides_outside) if head else (1, True)
        return cls(config.height, config.width, config.fps, limit, hide_outside=hides)

    def set(self, tracks: Tracks | None, at_frame: int) -> None:
        """Replace the control from RGB frame `at_frame` on; None: no tracks.

        TrackShapeError when there are more than `max_tracks`; ConfigError when time would run backwards.
        """
        if at_frame < self._start:
            raise ConfigError(f"a control at RGB frame {at_frame} is older than the current one at {self._start}")
        control = self.fitted(Tracks.empty() if tracks is None else tracks)
        anchors = self._new_anchors(control, at_frame)
        self._control, self._anchors, self._start = control, anchors, at_frame

    def fitted(self, tracks: Tracks) -> Tracks:
        """What `set` plays of tracks: in pixels and at the stream's fps. Depends on nothing that plays already.

        TrackShapeError when there are more than `max_tracks`.
        """
        if tracks.count > self.max_tracks:
            raise TrackShapeError(
                f"{tracks.count} tracks, but this stream takes at most {self.max_tracks}; "
                "use a coarser grid or tracks.select(ids)"
            )
        return tracks.resample(fps=self.fps).to_pixels(self.height, self.width, hide_outside=self.hide_outside)

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
        twin = TrackPlayer(self.height, self.width, self.fps, self.max_tracks, hide_outside=self.hide_outside)
        twin._control, twin._anchors, twin._start = self._control, self._anchors, self._start
        return twin

    @property
    def tracks(self) -> Tracks | None:
        """The control that plays, in pixels and at the stream's fps; None: no tracks. Set again it plays the same."""
        return self._control if self._control.count else None

    @property
    def start(self) -> int:
        """RGB frame from which the control plays."""
        return self._start

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
        anchors, start = np.array(state["anchors"], np.float32), np.asarray(state["start"])
        if start.shape != (1,) or start.dtype != np.int64 or start[0] < 0:
            raise TrackShapeError(f"the saved track state starts at {start!r}; expected an RGB frame, int64 [1]")
        if control.count > self.max_tracks or anchors.shape != (control.count, 2) or not np.isfinite(anchors).all():
            raise TrackShapeError(
                f"the saved state has {control.count} tracks and anchors {list(anchors.shape)}; "
                f"expected at most {self.max_tracks} tracks and finite anchors [tracks, 2]"
            )
        self._control, self._anchors, self._start = control, anchors, int(start[0])

    def _new_anchors(self, control: Tracks, at_frame: int) -> FloatArray:
        anchors = np.array(control.points[:, 0])
        if at_frame == 0:
            return anchors
        old, at = self._control, min(max(at_frame - 1 - self._start, 0), self._control.rgb_frames - 1)
        kept = {one: row for row, one in enumerate(old.ids.tolist())}
        rows = np.array([kept.get(one, -1) for one in control.ids.tolist()], np.int64)
        anchors[rows >= 0] = self._anchors[rows[rows >= 0]]
        seen = np.flatnonzero(old.visible[:, at])
        now = old.points[seen, at]
        tolerance = (self.height + self.width) / FIT_ERROR
        anchors[rows < 0] = anchors_of(anchors[rows < 0], now, now - self._anchors[seen], tolerance)
        return anchors
