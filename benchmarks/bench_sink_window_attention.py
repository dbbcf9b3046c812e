"""Time attention of one chunk over a full context."""

from __future__ import annotations

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """Queries of a chunk over sink, window and chunk."""
    size, cache, state = make.sizes, make.cache(), make.state()
    q = make.normal(size.batch, size.heads, size.tokens, size.head_dim)
    flops = 4 * size.batch * size.heads * size.tokens * size.cache_tokens * size.head_dim
    return Case(
        lambda: make.functions.sink_window_attention(q, cache.k, cache.v, state),
        bytes_of(q, q, cache.k, cache.v),
        flops,
    )


def test_sink_window_attention(benchmark):
    time_on_gpu(benchmark, build)


def test_sink_window_attention_twin(benchmark):
    time_twin(benchmark, build)
