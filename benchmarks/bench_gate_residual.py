"""Time the gated residual."""

from __future__ import annotations

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """All tokens of a chunk; x is read and written."""
    size = make.sizes
    x, y = (make.normal(size.batch, size.tokens, size.dim) for _ in range(2))
    gate = make.normal(size.batch, size.frames, 6, size.dim)[:, :, 2]
    return Case(lambda: make.functions.gate_residual(x, y, gate), bytes_of(x, x, y, gate))


def test_gate_residual(benchmark):
    time_on_gpu(benchmark, build)


def test_gate_residual_twin(benchmark):
    time_twin(benchmark, build)
