"""What every Triton kernel here shares: the dot that the interpreter gets right, the launch, the architecture."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from ms_kernels.argument_checks import FP8_MAX, need

INTERPRETED = bool(triton.knobs.runtime.interpret)
"""Decided when the kernels are decorated, so once per process."""
INTERP = tl.constexpr(INTERPRETED)
E4M3_MAX = tl.constexpr(FP8_MAX)
E4M3_SMALLEST_AMAX = tl.constexpr(1e-12)


@triton.jit
def dot(a, b, c, PRECISION: tl.constexpr):
    """a @ b + c. The interpreter keeps bf16 as raw bits and would multiply those: it gets fp32 (exact)."""
    if INTERP:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, c, input_precision=PRECISION)


@triton.jit
def round_half_even(x):
    """Nearest whole number, ties to even; compile without fused multiply-add so that x is rounded first."""
    below = tl.floor(x)
    rest = x - below
    odd = below - 2.0 * tl.floor(below * 0.5)
    return tl.where((rest > 0.5) | ((rest == 0.5) & (odd == 1.0)), below + 1.0, below)


@triton.jit
def turn_pairs(x, cos, sin, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """RoPE on interleaved pairs; x [ROWS, COLUMNS] fp32, cos and sin broadcast to [ROWS, COLUMNS / 2]."""
    even, odd = tl.split(tl.reshape(x, (ROWS, COLUMNS // 2, 2)))
    return tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), (ROWS, COLUMNS))


@triton.jit
def to_e4m3(x):
    """fp32 within +-448 to e4m3, ties to even. The interpreter's own cast truncates: there x is snapped first."""
    if INTERP:
        bits = x.to(tl.int32, bitcast=True)
        normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) & -0x100000).to(tl.float32, bitcast=True)
        x = tl.where(tl.abs(x) < 0.015625, round_half_even(x * 512.0) / 512.0, normal)
    return x.to(tl.float8e4nv)


@triton.jit
def row_scale(row):
    """Scale that brings the largest magnitude of a row [BLOCK] to 448."""
    return tl.maximum(tl.max(tl.abs(row), 0), E4M3_SMALLEST_AMAX) / E4M3_MAX


@triton.jit
def quantised(row, scale):
    """Row / scale as e4m3."""
    return to_e4m3(tl.clamp(tl.div_rn(row, scale), -E4M3_MAX, E4M3_MAX))


def launch(kernel: Any, grid: tuple[int, ...], first: torch.Tensor, *arguments: Any, **options: Any) -> None:
    """Run `kernel` on the device of its first tensor; an empty grid runs nothing."""
    need(
        first.is_cuda or INTERPRETED,
        f"the tensors are on {first.device}; kernels run on CUDA devices. On a CPU call the function of the same name "
        "in ms_kernels.reference",
    )
    if 0 in grid:
        return
    with torch.cuda.device_of(first):
        kernel[grid](first, *arguments, **options)


def block_of(size: int, smallest: int = 1) -> int:
    """Next power of two: the width of a tile that holds `size` elements."""
    return max(smallest, 1 << (size - 1).bit_length())
