"""Time the product that is added to the residual stream."""

from __future__ import annotations

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """An output projection over all tokens of a chunk; x is read and written."""
    size = make.sizes
    x, y = (make.normal(size.batch, size.tokens, size.dim) for _ in range(2))
    weight = make.normal(size.dim, size.dim)
    work = 2 * size.batch * size.tokens * size.dim**2
    return Case(lambda: make.functions.add_linear(x, y, weight), bytes_of(x, x, y, weight), work)


def test_add_linear(benchmark):
    time_on_gpu(benchmark, build)


def test_add_linear_twin(benchmark):
    time_twin(benchmark, build)
