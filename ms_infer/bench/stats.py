"""Statistics of a stream's chunk times: percentiles, jitter, and the slope over the chunk index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PERCENTILES = (50, 90, 95, 99)
BLOCKS = 20
T_95 = {3: 12.71, 4: 4.30, 5: 3.18, 6: 2.78, 7: 2.57, 8: 2.45, 9: 2.36, 10: 2.31, 12: 2.23, 15: 2.16, 20: 2.10}
"""Student's t for 95 % and n - 2 degrees of freedom, by n; a smaller n of the table is on the safe side."""
NOISY_VARIATION = 0.025


@dataclass(frozen=True)
class Summary:
    """Milliseconds of one stage."""

    p50: float
    p90: float
    p95: float
    p99: float
    max: float
    mean: float
    variation: float
    """Standard deviation over mean."""
    count: int

    @property
    def jitter(self) -> float:
        """p99 / p50."""
        return self.p99 / self.p50 if self.p50 else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "jitter": self.jitter}


@dataclass(frozen=True)
class Slope:
    """Trend of the chunk time over the chunk index."""

    ms_per_chunk: float
    margin: float
    """Half of the 95 % confidence interval, milliseconds per chunk; infinite with fewer than 3 blocks."""
    drift: float
    """Change over the whole measurement, as a share of the median chunk."""

    @property
    def flat(self) -> bool:
        """No trend: zero lies in the interval, or the whole drift is below 1 % of a chunk."""
        return abs(self.ms_per_chunk) <= self.margin or abs(self.drift) < 0.01

    def to_dict(self) -> dict[str, Any]:
        margin = self.margin if math.isfinite(self.margin) else None
        return {**asdict(self), "margin": margin, "flat": self.flat}


def summarise(samples: Sequence[float] | NDArray[np.float64]) -> Summary:
    """Percentiles (linear between samples), largest, mean and variation of milliseconds."""
    values = np.asarray(samples, np.float64)
    if not len(values):
        return Summary(0, 0, 0, 0, 0, 0, 0, 0)
    p50, p90, p95, p99 = map(float, np.percentile(values, PERCENTILES))
    mean = float(values.mean())
    variation = float(values.std() / mean) if mean else 0.0
    return Summary(p50, p90, p95, p99, float(values.max()), mean, variation, len(values))


def slope(samples: Sequence[float] | NDArray[np.float64]) -> Slope:
    """Least squares through the medians of up to 20 equal blocks: single slow chunks do not tilt the line."""
    values = np.asarray(samples, np.float64)
    count = min(BLOCKS, len(values))
    if count < 3:
        return Slope(0.0, math.inf, 0.0)
    blocks = np.array_split(np.arange(len(values)), count)
    x = np.array([block.mean() for block in blocks])
    y = np.array([np.median(values[block]) for block in blocks])
    spread = ((x - x.mean()) ** 2).sum()
    rise = float(((x - x.mean()) * (y - y.mean())).sum() / spread)
    rest = y - y.mean() - rise * (x - x.mean())
    error = math.sqrt(float((rest**2).sum()) / (count - 2) / float(spread)) if count > 2 else math.inf
    student = T_95[max(n for n in T_95 if n <= count)]
    middle = float(np.median(values))
    return Slope(rise, student * error, rise * len(values) / middle if middle else 0.0)


def deadline_misses(chunk_ms: Sequence[float], frames: Sequence[int], fps: float) -> int:
    """Chunks that took longer than their frames play."""
    return sum(took > count / fps * 1e3 for took, count in zip(chunk_ms, frames, strict=True))


def average_fps(chunk_ms: Sequence[float], frames: Sequence[int], at_least: int) -> float:
    """Frames per second over the first chunks that hold `at_least` frames (the paper's number: 81)."""
    made, spent = 0, 0.0
    for took, count in zip(chunk_ms, frames, strict=True):
        made, spent = made + count, spent + took
        if made >= at_least:
            break
    return made / spent * 1e3 if spent else 0.0
