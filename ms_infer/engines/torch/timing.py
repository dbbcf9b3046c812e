"""Clocks for measurements: CUDA events where the work runs on a GPU, the wall clock elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

Clock = Callable[[Callable[[], Any]], float]
"""Runs the work once and returns its milliseconds."""


def clock_of(device: torch.device) -> Clock:
    """The clock that sees the device's work; on a CPU the work must wait for itself."""
    return _between_events if device.type == "cuda" else _on_host


def samples_ms(work: Callable[[], Any], clock: Clock, *, repeats: int, warm_ups: int = 3) -> list[float]:
    """Milliseconds of `repeats` runs after some unmeasured ones."""
    return [clock(work) for _ in range(warm_ups + repeats)][warm_ups:]


def _on_host(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def _between_events(work: Callable[[], Any]) -> float:
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    before.record()
    work()
    after.record()
    after.synchronize()
    return float(before.elapsed_time(after))
