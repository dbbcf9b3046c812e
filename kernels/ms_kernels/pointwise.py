"""Element by element work that a GEMM epilogue cannot take: GELU straight to e4m3 rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ms_kernels.argument_checks import FLOATS, FP8, need, need_contiguous, need_dtype
from ms_kernels.jit import block_of, launch, quantised, row_scale
from ms_kernels.tiles import row_warps


@triton.jit
def _gelu_tanh(x):
    """0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    return x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))


@triton.jit
def gelu_fp8_kernel(x_ptr, columns, x_stride, out_ptr, scale_ptr, BLOCK: tl.constexpr):
    """g = gelu(x);  scale = max |g| / 448;  out = e4m3(g / scale), one row a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * x_stride + column, mask=column < columns, other=0.0).to(tl.float32)
    values = _gelu_tanh(x)
    scale = row_scale(values)
    tl.store(out_ptr + row * columns + column, quantised(values, scale), mask=column < columns)
    tl.store(scale_ptr + row, scale)


def gelu_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """gelu, quantised row by row without rounding in between; see `quantise_rows` for shapes."""
    return row_launch(gelu_fp8_kernel, x)


def row_launch(kernel: object, x: Tensor) -> tuple[Tensor, Tensor]:
    """Run a kernel that turns each row of contiguous x [..., columns] into e4m3 and one fp32 scale."""
    need_dtype("x", x, *FLOATS)
    need(x.dim() >= 1 and x.shape[-1] >= 1, f"x has shape {tuple(x.shape)}; it needs rows of at least one element")
    need_contiguous("x", x)
    columns = x.shape[-1]
    out = torch.empty(x.shape, dtype=FP8, device=x.device)
    scale = torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)
    launch(
        kernel, (x.numel() // columns,), x, columns, columns, out, scale,
        BLOCK=block_of(columns), num_warps=row_warps(columns),
    )  # fmt: skip
    return out, scale
