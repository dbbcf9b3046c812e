"""Point trackers of the evaluation: RAFT-small where its weights are present, OpenCV DIS otherwise."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F

from ms_train.evaluate.point_errors import Floats, FlowTracker, Pictures, sample_flow
from ms_train.evaluate.raft import load_raft

WEIGHTS = "weights/raft-small.pth"


class Tracker(Protocol):
    """Follows points through a video."""

    name: str
    hop: int
    """RGB frames between two looked-at frames."""

    def follow(self, frames: Pictures, starts: Floats) -> Floats:
        """Paths [N, 1 + hops, 2] of points `starts` [N, 2] of frame 0 at frames 0, hop, 2 hop, ..."""


class RaftTracker:
    """RAFT-small at one and a half times the size, chained over hops of eight frames."""

    hop = 8
    name = "RAFT-small, 192 x 192, hops of 8 frames"

    def __init__(self, weights: Path, size: int = 192) -> None:
        self.model, self.size = load_raft(weights), size

    def follow(self, frames: Pictures, starts: Floats) -> Floats:
        picked = torch.from_numpy(np.ascontiguousarray(frames[:: self.hop])).permute(0, 3, 1, 2).float() / 255
        large = F.interpolate(picked, size=(self.size, self.size), mode="bicubic").clamp(0, 1)
        flows = self.model(large[:-1], large[1:], iterations=8)
        small = F.interpolate(flows, size=frames.shape[1:3], mode="area") * (frames.shape[1] / self.size)
        path = [starts]
        for flow in small.permute(0, 2, 3, 1).numpy():
            path.append(path[-1] + sample_flow(flow, path[-1]))
        return np.stack(path, axis=1)


def best_tracker(assets: Path) -> Tracker:
    """RAFT-small from `assets`/weights, else OpenCV DIS."""
    weights = assets / WEIGHTS
    return RaftTracker(weights) if weights.exists() else FlowTracker()
