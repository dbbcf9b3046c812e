"""Time GELU straight to e4m3 rows."""

from __future__ import annotations

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """All tokens of a chunk, the feed-forward's inner width."""
    x = make.normal(make.sizes.tokens, make.sizes.ffn_dim)
    return Case(lambda: make.functions.gelu_fp8(x), bytes_of(x) + x.numel() + 4 * make.sizes.tokens)


def test_gelu_fp8(benchmark):
    time_on_gpu(benchmark, build)


def test_gelu_fp8_twin(benchmark):
    time_twin(benchmark, build)
