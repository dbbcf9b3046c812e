"""Clocks for measurements: CUDA events where the work runs on a GPU, the wall clock elsewhere."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Clock = Callable[[Callable[[], Any]], float]
"""Runs the work once and returns its milliseconds."""


def wall_ms(work: Callable[[], Any]) -> float:
    """Milliseconds on the host's clock; the work must wait for its own device."""
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def cuda_ms(work: Callable[[], Any]) -> float:
    """Milliseconds between two CUDA events on the current CUDA stream, waited for."""
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    work()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after))


def clock_of(device: torch.device) -> Clock:
    """The clock that sees the device's work."""
    return cuda_ms if device.type == "cuda" else wall_ms


def median_ms(work: Callable[[], Any], clock: Clock, *, repeats: int = 10, warm_ups: int = 3) -> float:
    """Median of `repeats` runs after `warm_ups` unmeasured ones."""
    for _ in range(warm_ups):
        clock(work)
    return statistics.median(clock(work) for _ in range(repeats))
