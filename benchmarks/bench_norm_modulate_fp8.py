"""Time LayerNorm with modulation straight to e4m3 rows."""

from __future__ import annotations

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """All tokens of a chunk."""
    size = make.sizes
    x = make.normal(size.batch, size.tokens, size.dim)
    modulation = make.normal(size.batch, size.frames, 6, size.dim)
    scale, shift = modulation[:, :, 1], modulation[:, :, 0]
    written = x.numel() + 4 * size.tokens
    return Case(lambda: make.functions.norm_modulate_fp8(x, scale, shift), bytes_of(x, scale, shift) + written)


def test_norm_modulate_fp8(benchmark):
    time_on_gpu(benchmark, build)


def test_norm_modulate_fp8_twin(benchmark):
    time_twin(benchmark, build)
