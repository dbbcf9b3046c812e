"""Time the re-rotation of one layer's sink."""

from __future__ import annotations

from ms_kernels import Rotation

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """The whole sink, once per chunk and layer."""
    size, cache = make.sizes, make.cache()
    angle = make.uniform(size.sink_tokens, size.head_dim // 2)
    rotation = Rotation(angle.cos(), angle.sin())
    return Case(lambda: make.functions.roll_sink(cache, rotation), 2 * bytes_of(cache.sink_k) + bytes_of(*rotation))


def test_roll_sink(benchmark):
    time_on_gpu(benchmark, build)


def test_roll_sink_twin(benchmark):
    time_twin(benchmark, build)
