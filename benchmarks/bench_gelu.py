"""Time GELU over the feed-forward's inner width."""

from __future__ import annotations

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """All tokens of a chunk."""
    x = make.normal(make.sizes.tokens, make.sizes.ffn_dim)
    return Case(lambda: make.functions.gelu(x), bytes_of(x, x))


def test_gelu(benchmark):
    time_on_gpu(benchmark, build)


def test_gelu_twin(benchmark):
    time_twin(benchmark, build)
