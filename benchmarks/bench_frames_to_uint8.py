"""Time decoded frames to bytes."""

from __future__ import annotations

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """The 12 RGB frames of a chunk."""
    size = make.sizes
    frames = make.uniform(4 * size.frames, 3, 16 * size.rows, 16 * size.columns).to(make.dtype)
    return Case(lambda: make.functions.frames_to_uint8(frames), bytes_of(frames) + frames.numel())


def test_frames_to_uint8(benchmark):
    time_on_gpu(benchmark, build)


def test_frames_to_uint8_twin(benchmark):
    time_twin(benchmark, build)
