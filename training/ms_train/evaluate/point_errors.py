"""Points that are followed through a video, and how far they are from where they should be."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import MissingExtraError

Pictures = NDArray[np.uint8]
Floats = NDArray[np.float32]


class FlowTracker:
    """Follows points by dense inverse search flow (OpenCV DIS), chained from frame to frame."""

    name = "OpenCV DIS, chained from frame to frame"
    hop = 1

    def __init__(self) -> None:
        try:
            import cv2
        except ImportError:
            raise MissingExtraError(
                "the evaluation measures motion with OpenCV: pip install 'ms-infer[video]'"
            ) from None
        self._cv2 = cv2
        self._flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._flow.setVariationalRefinementIterations(10)

    def between(self, first: Pictures, second: Pictures) -> Floats:
        """Dense flow float32 [H, W, 2] from one picture to another, worked out at twice the size."""
        grey = [self._cv2.cvtColor(p, self._cv2.COLOR_RGB2GRAY) for p in (first, second)]
        large = [self._cv2.resize(g, None, fx=2, fy=2, interpolation=self._cv2.INTER_CUBIC) for g in grey]
        flow = self._flow.calc(large[0], large[1], None)
        small: Floats = self._cv2.resize(flow, (first.shape[1], first.shape[0]), interpolation=self._cv2.INTER_AREA) / 2
        return small

    def follow(self, frames: Pictures, starts: Floats) -> Floats:
        """Paths [N, T, 2] of points `starts` [N, 2] of frame 0 through frames [T, H, W, 3]."""
        path = [starts]
        for before, now in itertools.pairwise(frames):
            path.append(path[-1] + sample_flow(self.between(before, now), path[-1]))
        return np.stack(path, axis=1)


def sample_flow(flow: Floats, points: Floats) -> Floats:
    """Bilinear values [N, 2] of a flow [H, W, 2] at pixels [N, 2]; pixel centres lie at halves."""
    height, width = flow.shape[:2]
    x = np.clip(points[:, 0] - 0.5, 0, width - 1.001)
    y = np.clip(points[:, 1] - 0.5, 0, height - 1.001)
    left, top = x.astype(int), y.astype(int)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    upper = flow[top, left] * (1 - fx) + flow[top, left + 1] * fx
    lower = flow[top + 1, left] * (1 - fx) + flow[top + 1, left + 1] * fx
    values: Floats = (upper * (1 - fy) + lower * fy).astype(np.float32)
    return values


def track_errors(
    followed: Floats, points: Floats, visible: NDArray[np.bool_], allowed: NDArray[np.bool_] | None = None
) -> tuple[Floats, NDArray[np.bool_]]:
    """Distances [N, T] of followed from wanted points, and where they count: visible from frame 0 without a gap.

    followed, points: [N, T, 2]; allowed: bool [N, T], further left out, for instance where the tracker fails on
    the true video.
    """
    counts = np.logical_and.accumulate(visible, axis=1)
    counts[:, 0] = False
    if allowed is not None:
        counts &= allowed
    distances: Floats = np.linalg.norm(followed - points, axis=-1)
    return distances, counts


def offset_errors(
    tracker: FlowTracker, made: Pictures, truth: Pictures, points: Floats, visible: NDArray[np.bool_]
) -> float:
    """Mean length of the flow from the true to the made picture [H, W, 3] at the visible points [N, 2]; pixels."""
    shown = points[visible]
    if not len(shown):
        return float("nan")
    return float(np.linalg.norm(sample_flow(tracker.between(truth, made), shown), axis=-1).mean())


def summary(values: Sequence[float]) -> float:
    """Mean, rounded for a table."""
    return round(float(np.mean(values)), 3) if len(values) else float("nan")
