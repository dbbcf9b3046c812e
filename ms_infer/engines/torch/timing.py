"""Clocks: CUDA events where the work runs on a GPU, the wall clock elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

Clock = Callable[[Callable[[], Any]], float]
"""Runs the work once and returns its milliseconds."""


def clock_of(device: torch.device) -> Clock:
    """The clock that sees the device's work; on a CPU the work must wait for itself."""
    return partial(_between_events, device) if device.type == "cuda" else _on_host


def samples_ms(work: Callable[[], Any], clock: Clock, *, repeats: int, warm_ups: int = 3) -> list[float]:
    """Milliseconds of `repeats` runs after some unmeasured ones."""
    return [clock(work) for _ in range(warm_ups + repeats)][warm_ups:]


def _on_host(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3


def _between_events(device: torch.device, work: Callable[[], Any]) -> float:
    before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    cuda_stream = torch.cuda.current_stream(device)  # an event without one is recorded on the current device's
    before.record(cuda_stream)
    work()
    after.record(cuda_stream)
    after.synchronize()
    return float(before.elapsed_time(after))


class StageTimes:
    """When the stages of a chunk began and ended, on the clock of the device, and points to wait for.

    Two sets of marks alternate: on a GPU the last stage of a chunk ends only while the next chunk runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._new_mark: Callable[[], Any] = _HostMark
        if device.type == "cuda":
            self._new_mark = lambda: torch.cuda.Event(enable_timing=True)
        self._marks: tuple[dict[str, tuple[Any, Any]], ...] = ({}, {})
        self._current = 0
        self._ms: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, cuda_stream: Any = None) -> Iterator[None]:
        """The block puts a stage of the chunk on a CUDA stream (None: the current one)."""
        marks = self._marks[self._current]
        if name not in marks:
            marks[name] = (self._new_mark(), self._new_mark())
        start, end = marks[name]
        start.record(cuda_stream)
        yield
        end.record(cuda_stream)

    def wait(self, name: str, cuda_stream: Any) -> None:
        """Let later work of the CUDA stream wait for the end of the chunk's stage."""
        self._marks[self._current][name][1].wait(cuda_stream)

    def synchronize(self, name: str) -> None:
        """Let the host wait for the end of the chunk's stage."""
        self._marks[self._current][name][1].synchronize()

    def close_chunk(self) -> None:
        """Read what has ended: of this chunk, and the last stage of the one before."""
        before, now = self._marks[1 - self._current], self._marks[self._current]
        self._ms = {}
        for name, (start, end) in now.items():
            if end.query():
                self._ms[name] = start.elapsed_time(end)
            elif name in before:
                self._ms[name] = before[name][0].elapsed_time(before[name][1])
        self._current = 1 - self._current

    def stage_ms(self) -> dict[str, float]:
        """Milliseconds of the stages of the chunk closed last (`Engine.stage_ms`)."""
        return dict(self._ms)


class _HostMark:
    """What `StageTimes` needs of a CUDA event, for work that is done when its call returns."""

    def __init__(self) -> None:
        self._at = 0.0

    def record(self, _cuda_stream: Any) -> None:
        self._at = time.perf_counter()

    def wait(self, _cuda_stream: Any) -> None:
        return

    def synchronize(self) -> None:
        return

    def query(self) -> bool:
        return True

    def elapsed_time(self, end: _HostMark) -> float:
        return (end._at - self._at) * 1e3
