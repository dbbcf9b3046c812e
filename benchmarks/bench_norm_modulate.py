"""Time LayerNorm with modulation."""

from __future__ import annotations

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """All tokens of a chunk."""
    size = make.sizes
    x = make.normal(size.batch, size.tokens, size.dim)
    modulation = make.normal(size.batch, size.frames, 6, size.dim)
    scale, shift = modulation[:, :, 1], modulation[:, :, 0]
    return Case(lambda: make.functions.norm_modulate(x, scale, shift), bytes_of(x, x, scale, shift))


def test_norm_modulate(benchmark):
    time_on_gpu(benchmark, build)


def test_norm_modulate_twin(benchmark):
    time_twin(benchmark, build)
