"""Time the product with GELU in its epilogue."""

from __future__ import annotations

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """The feed-forward's first product over all tokens of a chunk."""
    size = make.sizes
    x, weight, bias = make.normal(size.tokens, size.dim), make.normal(size.ffn_dim, size.dim), make.normal(size.ffn_dim)
    written = size.tokens * size.ffn_dim * x.element_size()
    work = 2 * size.tokens * size.dim * size.ffn_dim
    return Case(lambda: make.functions.linear_gelu(x, weight, bias), bytes_of(x, weight, bias) + written, work)


def test_linear_gelu(benchmark):
    time_on_gpu(benchmark, build)


def test_linear_gelu_twin(benchmark):
    time_twin(benchmark, build)
