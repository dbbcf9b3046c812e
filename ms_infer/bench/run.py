"""Runs a stream the way a user would and writes down every chunk: the measuring half of `ms-bench`."""

from __future__ import annotations

import gc
import random
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ms_infer.errors import ConfigError

if TYPE_CHECKING:
    from ms_infer.chunk import Chunk
    from ms_infer.stream import Stream
    from ms_infer.tracks import Tracks

OPENING_FRAMES = 81
"""RGB frames of the paper's average, from the very first chunk."""
PYTHON_CHUNKS = 5
Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """How long to measure."""

    chunks: int | None = None
    """Chunks to measure; None measures for `seconds`."""
    seconds: float = 10.0
    warm_up: int = 20
    """Chunks before the measurement, after sink and window are full."""
    controls: int = 10
    """Control changes for the control latency; 0 leaves it out."""
    grid: int = 12
    """Rows and columns of the grid of tracks."""
    brief: bool = False
    """Only fill the context and measure: no run before it, no opening average, control latency or growth of Python."""

    def __post_init__(self) -> None:
        if (self.chunks is not None and self.chunks < 1) or not self.seconds > 0:
            raise ConfigError(f"a measurement needs chunks >= 1 and seconds > 0, got {self.chunks} and {self.seconds}")
        if self.warm_up < 0 or self.controls < 0 or self.grid < 1:
            raise ConfigError("warm_up and controls must not be negative, grid at least 1")


@dataclass
class Measurement:
    """Raw samples, in the order they were made; milliseconds."""

    first_frame_ms: float = 0.0
    """From `start` to the first chunk's frames, warm."""
    opening_ms: list[float] = field(default_factory=list)
    opening_frames: list[int] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    """Per stage and for the whole `chunk`, in the steady state."""
    cpu_ms: list[float] = field(default_factory=list)
    """Processor time of all threads per chunk: what the chunk cost, whatever else the machine did."""
    frames: list[int] = field(default_factory=list)
    wall_s: float = 0.0
    control_ms: list[float] = field(default_factory=list)
    """From a control set at a random moment to frames made with it."""
    memory: dict[str, float] = field(default_factory=dict)

    @property
    def chunk_ms(self) -> list[float]:
        return self.stages.get("chunk", [])

    @property
    def fps(self) -> float:
        return sum(self.frames) / self.wall_s if self.wall_s else 0.0

    def add(self, chunk: Chunk, cpu_ms: float) -> None:
        for stage, took in chunk.timings.items():
            self.stages.setdefault(stage, []).append(took)
        self.cpu_ms.append(cpu_ms)
        self.frames.append(len(chunk.frames))


def measure(stream: Stream, plan: BenchPlan, *, progress: Progress = lambda step: None) -> Measurement:
    """Warm up, start anew (first frame, opening average), fill the context, measure, then controls and memory."""
    if plan.brief:
        return _measure_briefly(stream, plan, progress)
    progress("warm-up")
    start(stream, plan)
    _run(stream, _filling_chunks(stream) + 1)
    result = Measurement()
    began = time.perf_counter()
    start(stream, plan)
    _opening(stream, result, began)
    progress("steady state")
    _run(stream, max(0, _filling_chunks(stream) - len(result.opening_ms)) + plan.warm_up)
    _steady(stream, plan, result)
    if plan.controls:
        progress("control latency")
        result.control_ms = control_latency(stream, plan, float(np.median(result.chunk_ms)))
    result.memory["python_bytes_per_chunk"] = python_growth(stream)
    return result


def _measure_briefly(stream: Stream, plan: BenchPlan, progress: Progress) -> Measurement:
    """For models whose chunk takes long: the chunks that fill the context are all that comes before the measurement."""
    progress("filling the context")
    result = Measurement()
    start(stream, plan)
    _run(stream, _filling_chunks(stream) + plan.warm_up)
    progress("steady state")
    _steady(stream, plan, result)
    return result


def start(stream: Stream, plan: BenchPlan) -> None:
    """A grey picture and a grid of points of which some are dragged."""
    config = stream.config
    picture = np.full((config.height, config.width, 3), 127, np.uint8)
    stream.start(picture, tracks=grid_tracks(stream, plan) if config.model.track_head else None)


def grid_tracks(stream: Stream, plan: BenchPlan, to: float = 0.7) -> Tracks:
    """The grid, as large as the model takes, with its middle dragged to the right or left."""
    from ms_infer.tracks import Tracks

    head = stream.config.model.track_head
    side = min(plan.grid, int((head.max_tracks if head else 1) ** 0.5))
    return Tracks.grid(side, side).drag((0.5, 0.5), (to, 0.5), seconds=2.0)


def _filling_chunks(stream: Stream) -> int:
    context = stream.config.context
    return -(-context.cache_frames // context.chunk_frames) + 1


def _run(stream: Stream, count: int) -> None:
    for _ in range(count):
        stream.step()


def _opening(stream: Stream, result: Measurement, began: float) -> None:
    """The stream's first chunks, up to OPENING_FRAMES."""
    while sum(result.opening_frames) < OPENING_FRAMES:
        chunk = stream.step()
        now = time.perf_counter()
        if not result.opening_ms:
            result.first_frame_ms = (now - began) * 1e3
        result.opening_ms.append(chunk.timings["chunk"])
        result.opening_frames.append(len(chunk.frames))


def _steady(stream: Stream, plan: BenchPlan, result: Measurement) -> None:
    gc.collect()
    resident, device = resident_bytes(), device_allocated()
    began = time.perf_counter()
    while not _enough(plan, len(result.frames), time.perf_counter() - began):
        cpu = time.process_time()
        chunk = stream.step()
        result.add(chunk, (time.process_time() - cpu) * 1e3)
    result.wall_s = time.perf_counter() - began
    result.memory["resident_growth_bytes"] = resident_bytes() - resident
    result.memory["device_bytes_per_chunk"] = (device_allocated() - device) / len(result.frames)


def _enough(plan: BenchPlan, made: int, seconds: float) -> bool:
    return made >= plan.chunks if plan.chunks is not None else made > 0 and seconds >= plan.seconds


def control_latency(stream: Stream, plan: BenchPlan, chunk_ms: float) -> list[float]:
    """Milliseconds from setting a control, at a random moment of a chunk, to the frames made with it."""
    chance, latencies = random.Random(0), []
    for number in range(plan.controls):
        set_at: dict[str, Any] = {}
        timer = threading.Timer(chance.random() * chunk_ms / 1e3, _set_control, (stream, plan, number, set_at))
        timer.start()
        stream.step()
        timer.join()
        while stream.step().control_id < set_at["id"]:
            pass
        latencies.append((time.perf_counter() - set_at["time"]) * 1e3)
    return latencies


def _set_control(stream: Stream, plan: BenchPlan, number: int, set_at: dict[str, Any]) -> None:
    config = stream.config
    set_at["time"] = time.perf_counter()
    if config.model.track_head is not None:
        set_at["id"] = stream.set_tracks(grid_tracks(stream, plan, 0.3 + 0.4 * (number % 2)))
    else:
        set_at["id"] = stream.set_prompt(np.zeros((1, config.model.text.dim), np.float32))


def python_growth(stream: Stream, chunks: int = PYTHON_CHUNKS) -> float:
    """Bytes of Python objects that a chunk leaves behind (tracemalloc; slow, so apart from the timing)."""
    _run(stream, 1)
    tracemalloc.start()
    try:
        _run(stream, 2)
        gc.collect()
        before = tracemalloc.get_traced_memory()[0]
        _run(stream, chunks)
        gc.collect()
        return (tracemalloc.get_traced_memory()[0] - before) / chunks
    finally:
        tracemalloc.stop()


def resident_bytes() -> int:
    """Memory of this process that lies in RAM; 0 where the system does not tell."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * 4096 if file.exists() else 0


def device_allocated() -> int:
    """Bytes that PyTorch ever took from its CUDA allocator; 0 without CUDA."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return 0
    return int(torch.cuda.memory_stats().get("allocated_bytes.all.allocated", 0))
