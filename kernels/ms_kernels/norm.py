"""LayerNorm without affine, then scale and shift per latent frame; optionally straight to e4m3 rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ms_kernels.argument_checks import FP8, frame_tokens, need_frame_rows, need_out
from ms_kernels.jit import block_of, launch, quantised, row_scale
from ms_kernels.tiles import row_warps


@triton.jit
def _modulated_row(  # noqa: PLR0913
    x_ptr, scale_ptr, shift_ptr, tokens_per_frame, dim,
    x_stride_batch, x_stride_token, scale_stride_batch, scale_stride_frame, shift_stride_batch, shift_stride_frame,
    EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """(x - mean) / sqrt(var + EPS) * (1 + scale) + shift of this program's token [BLOCK] fp32, dead lanes zero."""
    token = tl.program_id(0).to(tl.int64)
    batch = tl.program_id(1).to(tl.int64)
    frame = (tl.program_id(0) // tokens_per_frame).to(tl.int64)
    column = tl.arange(0, BLOCK)
    live = column < dim
    x = tl.load(x_ptr + batch * x_stride_batch + token * x_stride_token + column, mask=live, other=0.0)
    at_scale = batch * scale_stride_batch + frame * scale_stride_frame + column
    at_shift = batch * shift_stride_batch + frame * shift_stride_frame + column
    scale = tl.load(scale_ptr + at_scale, mask=live, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr + at_shift, mask=live, other=0.0).to(tl.float32)
    x = x.to(tl.float32)
    centred = tl.where(live, x - tl.sum(x, 0) / dim, 0.0)
    return centred * tl.rsqrt(tl.sum(centred * centred, 0) / dim + EPS) * (1.0 + scale) + shift


@triton.jit
def norm_modulate_kernel(  # noqa: PLR0913
    x_ptr, scale_ptr, shift_ptr, tokens_per_frame, dim,
    x_stride_batch, x_stride_token, scale_stride_batch, scale_stride_frame, shift_stride_batch, shift_stride_frame,
    out_ptr,
    EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """out = LayerNorm(x) * (1 + scale) + shift, one token a program; out is contiguous."""
    row = _modulated_row(
        x_ptr, scale_ptr, shift_ptr, tokens_per_frame, dim, x_stride_batch, x_stride_token,
        scale_stride_batch, scale_stride_frame, shift_stride_batch, shift_stride_frame, EPS, BLOCK,
    )  # fmt: skip
    column = tl.arange(0, BLOCK)
    token = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(out_ptr + token * dim + column, row.to(out_ptr.dtype.element_ty), mask=column < dim)


@triton.jit
def norm_modulate_fp8_kernel(  # noqa: PLR0913
    x_ptr, scale_ptr, shift_ptr, tokens_per_frame, dim,
    x_stride_batch, x_stride_token, scale_stride_batch, scale_stride_frame, shift_stride_batch, shift_stride_frame,
    out_ptr, row_scale_ptr,
    EPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """r = LayerNorm(x) * (1 + scale) + shift;  row_scale = max |r| / 448;  out = e4m3(r / row_scale)."""
    row = _modulated_row(
        x_ptr, scale_ptr, shift_ptr, tokens_per_frame, dim, x_stride_batch, x_stride_token,
        scale_stride_batch, scale_stride_frame, shift_stride_batch, shift_stride_frame, EPS, BLOCK,
    )  # fmt: skip
    column = tl.arange(0, BLOCK)
    token = tl.program_id(1).to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    scale = row_scale(row)
    tl.store(out_ptr + token * dim + column, quantised(row, scale), mask=column < dim)
    tl.store(row_scale_ptr + token, scale)


def norm_modulate(x: Tensor, scale: Tensor, shift: Tensor, *, eps: float = 1e-6, out: Tensor | None = None) -> Tensor:
    """LayerNorm(x; no affine) * (1 + scale) + shift, computed in fp32.

    x [batch, tokens, dim], scale and shift [batch, frames, dim] with packed rows (slices of the modulation will do):
    each token takes its latent frame's row. fp16, bf16 or fp32. Returns [batch, tokens, dim] in x's dtype: `out`
    (contiguous), or a new tensor.
    """
    need_frame_rows(x, scale=scale, shift=shift)
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    need_out(out, x.shape, x=x)
    _launch(norm_modulate_kernel, x, scale, shift, (out,), eps)
    return out


def norm_modulate_fp8(x: Tensor, scale: Tensor, shift: Tensor, *, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """norm_modulate, quantised row by row without rounding in between.

    Returns (e4m3 [batch, tokens, dim], scales fp32 [batch, tokens, 1]) for `fp8_linear`.
    """
    need_frame_rows(x, scale=scale, shift=shift)
    out = torch.empty(x.shape, dtype=FP8, device=x.device)
    row_scales = torch.empty((*x.shape[:2], 1), dtype=torch.float32, device=x.device)
    _launch(norm_modulate_fp8_kernel, x, scale, shift, (out, row_scales), eps)
    return out, row_scales


def _launch(kernel: object, x: Tensor, scale: Tensor, shift: Tensor, outputs: tuple[Tensor, ...], eps: float) -> None:
    batch, tokens, dim = x.shape
    per_frame = frame_tokens(tokens, scale.shape[1], "scale")
    launch(
        kernel,
        (tokens, batch),
        x, scale, shift, per_frame, dim,
        *x.stride()[:2], *scale.stride()[:2], *shift.stride()[:2], *outputs,
        EPS=eps, BLOCK=block_of(dim), num_warps=row_warps(dim),
    )  # fmt: skip
