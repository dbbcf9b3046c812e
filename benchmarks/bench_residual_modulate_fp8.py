"""Time the gated residual with the LayerNorm after it, straight to e4m3 rows."""

from __future__ import annotations

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """All tokens of a chunk; x is read and written."""
    size = make.sizes
    x, y = (make.normal(size.batch, size.tokens, size.dim) for _ in range(2))
    gate, scale, shift = make.normal(size.batch, size.frames, 6, size.dim).unbind(2)[:3]
    inputs, after = (x, y, gate, scale, shift), make.normal(size.dim)
    written = x.numel() + 4 * size.tokens
    return Case(lambda: make.functions.residual_modulate_fp8(*inputs, after), bytes_of(x, *inputs, after) + written)


def test_residual_modulate_fp8(benchmark):
    time_on_gpu(benchmark, build)


def test_residual_modulate_fp8_twin(benchmark):
    time_twin(benchmark, build)
