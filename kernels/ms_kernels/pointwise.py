"""Element by element work that a GEMM epilogue cannot take: gated residual, GELU, GELU straight to e4m3 rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ms_kernels.argument_checks import (
    FLOATS,
    FP8,
    frame_tokens,
    need,
    need_contiguous,
    need_dtype,
    need_float_rows,
    need_frame_rows,
    need_out,
    need_same,
    need_shape,
)
from ms_kernels.jit import block_of, launch, quantised, row_scale
from ms_kernels.tiles import row_warps

GELU_BLOCK = 1024


@triton.jit
def gate_residual_kernel(  # noqa: PLR0913
    y_ptr, gate_ptr, tokens_per_frame, dim,
    x_stride_batch, x_stride_token, y_stride_batch, y_stride_token, gate_stride_batch, gate_stride_frame,
    x_ptr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """x += y * gate[frame of the token], one token a program."""
    token = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    column = tl.arange(0, BLOCK)
    live = column < dim
    x_ptrs = x_ptr + batch * x_stride_batch + token * x_stride_token + column
    y = tl.load(y_ptr + batch * y_stride_batch + token * y_stride_token + column, mask=live, other=0.0)
    frame = (tl.program_id(0) // tokens_per_frame).to(tl.int64)
    of_frame = batch * gate_stride_batch + frame * gate_stride_frame
    gate = tl.load(gate_ptr + of_frame + column, mask=live, other=0.0)
    x = tl.load(x_ptrs, mask=live, other=0.0).to(tl.float32) + y.to(tl.float32) * gate.to(tl.float32)
    tl.store(x_ptrs, x.to(x_ptr.dtype.element_ty), mask=live)


def gate_residual(x: Tensor, y: Tensor, gate: Tensor) -> None:
    """x += y * gate, in place, computed in fp32.

    x, y [batch, tokens, dim], gate [batch, frames, dim], all with packed rows, fp16, bf16 or fp32 (x may be wider
    than y); each token takes its latent frame's gate.
    """
    need_frame_rows(x, gate=gate)
    need_shape("y", y, x.shape)
    need_float_rows(x=x, y=y)
    batch, tokens, dim = x.shape
    per_frame = frame_tokens(tokens, gate.shape[1], "gate")
    launch(
        gate_residual_kernel,
        (tokens, batch),
        y, gate, per_frame, dim, *x.stride()[:2], *y.stride()[:2], *gate.stride()[:2], x,
        BLOCK=block_of(dim), num_warps=row_warps(dim),
    )  # fmt: skip


@triton.jit
def _gelu_tanh(x):
    """0.5 x (1 + tanh(u)) = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3)."""
    return x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))


@triton.jit
def gelu_kernel(x_ptr, count, out_ptr, BLOCK: tl.constexpr):
    """out = gelu(x) over `count` packed elements."""
    index = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + index, mask=index < count, other=0.0).to(tl.float32)
    tl.store(out_ptr + index, _gelu_tanh(x).to(out_ptr.dtype.element_ty), mask=index < count)


def gelu(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """GELU in its tanh form, computed in fp32: contiguous x of any shape, fp16, bf16 or fp32; `out` may be x."""
    need_dtype("x", x, *FLOATS)
    need_contiguous("x", x)
    if out is None:
        out = torch.empty_like(x)
    need_out(out, x.shape, x=x)
    need_same("dtype", x=x, out=out)
    launch(gelu_kernel, (triton.cdiv(x.numel(), GELU_BLOCK),), x, x.numel(), out, BLOCK=GELU_BLOCK, num_warps=4)
    return out


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
