"""Time row-wise e4m3 quantisation."""

from __future__ import annotations

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """All tokens of a chunk."""
    x = make.normal(make.sizes.tokens, make.sizes.dim)
    return Case(lambda: make.functions.quantise_rows(x), bytes_of(x) + x.numel() + 4 * make.sizes.tokens)


def test_quantise_rows(benchmark):
    time_on_gpu(benchmark, build)


def test_quantise_rows_twin(benchmark):
    time_twin(benchmark, build)
