"""Time the FP8 GEMM of the feed-forward."""

from __future__ import annotations

import torch
from ms_kernels import reference

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """dim -> ffn_dim for all tokens of a chunk."""
    size = make.sizes
    x, x_scale = reference.quantise_rows(make.normal(size.tokens, size.dim))
    weight, weight_scale = reference.quantise_rows(make.normal(size.ffn_dim, size.dim))
    bias = make.normal(size.ffn_dim, dtype=torch.bfloat16)
    moved = bytes_of(x, x_scale, weight, weight_scale, bias) + 2 * size.tokens * size.ffn_dim
    return Case(
        lambda: make.functions.fp8_linear(x, x_scale, weight, weight_scale, bias),
        moved,
        2 * size.tokens * size.dim * size.ffn_dim,
    )


def test_fp8_linear(benchmark):
    time_on_gpu(benchmark, build)


def test_fp8_linear_twin(benchmark):
    time_twin(benchmark, build)
