"""Time the gated residual with the LayerNorm after it."""

from __future__ import annotations

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """All tokens of a chunk; x is read and written."""
    size = make.sizes
    x, y = (make.normal(size.batch, size.tokens, size.dim) for _ in range(2))
    gate, scale, shift = make.normal(size.batch, size.frames, 6, size.dim).unbind(2)[:3]
    inputs, after = (x, y, gate, scale, shift), make.normal(size.dim)
    written = bytes_of(x)
    return Case(lambda: make.functions.residual_modulate(*inputs, after), bytes_of(x, *inputs, after) + written)


def test_residual_modulate(benchmark):
    time_on_gpu(benchmark, build)


def test_residual_modulate_twin(benchmark):
    time_twin(benchmark, build)
