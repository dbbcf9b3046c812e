"""Time qk-norm, rotation and the cache write of one chunk."""

from __future__ import annotations

from ms_kernels import QKNorm, Rotation

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """A chunk of the steady state: its slots lie in the ring."""
    size, cache, state = make.sizes, make.cache(), make.state()
    q, k, v = (make.normal(size.batch, size.tokens, size.dim) for _ in range(3))
    norm = QKNorm(make.normal(size.dim), make.normal(size.dim))
    angle = make.uniform(size.tokens, size.head_dim // 2)
    rotation = Rotation(angle.cos(), angle.sin())
    return Case(
        lambda: make.functions.write_kv(q, k, v, norm, rotation, cache, state),
        2 * bytes_of(q, k, v) + bytes_of(*rotation),
    )


def test_write_kv(benchmark):
    time_on_gpu(benchmark, build)


def test_write_kv_twin(benchmark):
    time_twin(benchmark, build)
