"""Gated residual and the LayerNorm that follows it in one pass over memory; optionally straight to e4m3 rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ms_kernels.argument_checks import (
    FLOATS,
    FP8,
    frame_tokens,
    need_contiguous,
    need_dtype,
    need_float_rows,
    need_frame_rows,
    need_same,
    need_shape,
)
from ms_kernels.jit import block_of, launch, quantised, row_scale
from ms_kernels.tiles import row_warps


@triton.jit
def _residual_row(  # noqa: PLR0913
    y_ptr, gate_ptr, scale_ptr, shift_ptr, after_ptr, tokens_per_frame, dim,
    x_stride_batch, x_stride_token, y_stride_batch, y_stride_token, gate_stride_batch, gate_stride_frame,
    scale_stride_batch, scale_stride_frame, shift_stride_batch, shift_stride_frame,
    x_ptr,
    EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """h = x + y * gate, rounded;  x = h + after;  returns LN(h) * (1 + scale) + shift of this program's token."""
    token = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    frame = (tl.program_id(0) // tokens_per_frame).to(tl.int64)
    column = tl.arange(0, BLOCK)
    live = column < dim
    x_ptrs = x_ptr + batch * x_stride_batch + token * x_stride_token + column
    x = tl.load(x_ptrs, mask=live, other=0.0)
    y = tl.load(y_ptr + batch * y_stride_batch + token * y_stride_token + column, mask=live, other=0.0)
    at_gate = batch * gate_stride_batch + frame * gate_stride_frame + column
    at_scale = batch * scale_stride_batch + frame * scale_stride_frame + column
    at_shift = batch * shift_stride_batch + frame * shift_stride_frame + column
    gate = tl.load(gate_ptr + at_gate, mask=live, other=0.0).to(tl.float32)
    scale = tl.load(scale_ptr + at_scale, mask=live, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + at_shift, mask=live, other=0.0).to(tl.float32)
    after = tl.load(after_ptr + column, mask=live, other=0.0).to(tl.float32)
    kept = (x.to(tl.float32) + y.to(tl.float32) * gate).to(x_ptr.dtype.element_ty).to(tl.float32)
    tl.store(x_ptrs, (kept + after).to(x_ptr.dtype.element_ty), mask=live)
    centred = tl.where(live, kept - tl.sum(kept, 0) / dim, 0.0)
    return centred * tl.rsqrt(tl.sum(centred * centred, 0) / dim + EPS) * (1.0 + scale) + shift


@triton.jit
def residual_modulate_kernel(  # noqa: PLR0913
    y_ptr, gate_ptr, scale_ptr, shift_ptr, after_ptr, tokens_per_frame, dim,
    x_stride_batch, x_stride_token, y_stride_batch, y_stride_token, gate_stride_batch, gate_stride_frame,
    scale_stride_batch, scale_stride_frame, shift_stride_batch, shift_stride_frame,
    x_ptr, out_ptr,
    EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """x += y * gate;  out = LayerNorm(x) * (1 + scale) + shift;  x += after; one token a program."""
    row = _residual_row(
        y_ptr, gate_ptr, scale_ptr, shift_ptr, after_ptr, tokens_per_frame, dim, x_stride_batch, x_stride_token,
        y_stride_batch, y_stride_token, gate_stride_batch, gate_stride_frame, scale_stride_batch, scale_stride_frame,
        shift_stride_batch, shift_stride_frame, x_ptr, EPS, BLOCK,
    )  # fmt: skip
    column = tl.arange(0, BLOCK)
    token = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(out_ptr + token * dim + column, row.to(out_ptr.dtype.element_ty), mask=column < dim)


@triton.jit
def residual_modulate_fp8_kernel(  # noqa: PLR0913
    y_ptr, gate_ptr, scale_ptr, shift_ptr, after_ptr, tokens_per_frame, dim,
    x_stride_batch, x_stride_token, y_stride_batch, y_stride_token, gate_stride_batch, gate_stride_frame,
    scale_stride_batch, scale_stride_frame, shift_stride_batch, shift_stride_frame,
    x_ptr, out_ptr, row_scale_ptr,
    EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The same with r in place of out;  row_scale = max |r| / 448;  out = e4m3(r / row_scale)."""
    row = _residual_row(
        y_ptr, gate_ptr, scale_ptr, shift_ptr, after_ptr, tokens_per_frame, dim, x_stride_batch, x_stride_token,
        y_stride_batch, y_stride_token, gate_stride_batch, gate_stride_frame, scale_stride_batch, scale_stride_frame,
        shift_stride_batch, shift_stride_frame, x_ptr, EPS, BLOCK,
    )  # fmt: skip
    column = tl.arange(0, BLOCK)
    token = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    scale = row_scale(row)
    tl.store(out_ptr + token * dim + column, quantised(row, scale), mask=column < dim)
    tl.store(row_scale_ptr + token, scale)


def residual_modulate(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, after: Tensor, *, eps: float = 1e-6
) -> Tensor:
    """x += y * gate, in place; returns LayerNorm(x; no affine) * (1 + scale) + shift; then x += after.

    x, y [batch, tokens, dim], gate, scale and shift [batch, frames, dim] with packed rows: each token takes its latent
    frame's row; after [dim]. fp16, bf16 or fp32, computed in fp32; x is rounded before it is normalised. Returns
    [batch, tokens, dim], new and contiguous, in x's dtype.
    """
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    _launch(residual_modulate_kernel, (x, y, gate, scale, shift, after), (out,), eps)
    return out


def residual_modulate_fp8(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, after: Tensor, *, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """residual_modulate, what it returns quantised row by row without rounding in between.

    Returns (e4m3 [batch, tokens, dim], scales fp32 [batch, tokens, 1]) for `fp8_linear`.
    """
    out = torch.empty(x.shape, dtype=FP8, device=x.device)
    row_scales = torch.empty((*x.shape[:2], 1), dtype=torch.float32, device=x.device)
    _launch(residual_modulate_fp8_kernel, (x, y, gate, scale, shift, after), (out, row_scales), eps)
    return out, row_scales


def _launch(kernel: object, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...], eps: float) -> None:
    x, y, gate, scale, shift, after = inputs
    need_frame_rows(x, gate=gate, scale=scale, shift=shift)
    need_shape("y", y, x.shape)
    need_float_rows(x=x, y=y)
    need_shape("after", after, x.shape[-1:])
    need_dtype("after", after, *FLOATS)
    need_contiguous("after", after)
    need_same("device", x=x, after=after)
    batch, tokens, dim = x.shape
    launch(
        kernel,
        (tokens, batch),
        y, gate, scale, shift, after, frame_tokens(tokens, gate.shape[1], "gate"), dim,
        *x.stride()[:2], *y.stride()[:2], *gate.stride()[:2], *scale.stride()[:2], *shift.stride()[:2], x, *outputs,
        EPS=eps, BLOCK=block_of(dim), num_warps=row_warps(dim),
    )  # fmt: skip
