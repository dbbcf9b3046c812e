"""Decoded frames to bytes: scale, round, clamp and reorder in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ms_kernels.argument_checks import FLOATS, need, need_dtype, need_out, need_rank
from ms_kernels.jit import launch, round_half_even
from ms_kernels.layout import INT32_MAX

BLOCK = 1024


@triton.jit
def frames_to_uint8_kernel(frames_ptr, pixels, stride_frame, stride_channel, out_ptr, BLOCK: tl.constexpr):
    """out[frame, pixel, channel] = clamp(round(255 x[frame, channel, pixel]), 0, 255), NaN to 0.

    Compile without fused multiply-add: 255 x is rounded to fp32 before the tie is judged."""
    frame = tl.program_id(1).to(tl.int64)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = index < pixels * 3
    source = frame * stride_frame + (index % 3).to(tl.int64) * stride_channel + index // 3
    x = tl.load(frames_ptr + source, mask=live, other=0.0).to(tl.float32) * 255.0
    x = tl.where(x > 0.0, tl.minimum(x, 255.0), 0.0)
    tl.store(out_ptr + frame * pixels * 3 + index, round_half_even(x).to(tl.uint8), mask=live)


def frames_to_uint8(frames: Tensor, *, out: Tensor | None = None) -> Tensor:
    """round(255 x), half to even, clamped to 0..255, NaN to 0.

    frames [frames, 3, height, width] in 0..1, packed pictures (slices of frames or channels will do), fp16, bf16 or
    fp32. Returns uint8 [frames, height, width, 3]: `out` (contiguous), or a new tensor.
    """
    need_rank("frames", frames, "frames 3 height width")
    count, channels, height, width = frames.shape
    need(channels == 3, f"frames have {channels} channels, expected 3 (red, green, blue)")
    need_dtype("frames", frames, *FLOATS)
    need(
        frames.stride()[2:] == (width, 1) or frames.is_contiguous(),
        f"frames have strides {frames.stride()}, pictures must be packed; call .contiguous()",
    )
    need(3 * height * width <= INT32_MAX - BLOCK, f"pictures of {height}x{width} pixels are too large (2^31 bytes)")
    if out is None:
        out = torch.empty(count, height, width, 3, dtype=torch.uint8, device=frames.device)
    need_dtype("out", out, torch.uint8)
    need_out(out, (count, height, width, 3), frames=frames)
    launch(
        frames_to_uint8_kernel,
        (triton.cdiv(height * width * 3, BLOCK), count),
        frames, height * width, *frames.stride()[:2], out,
        BLOCK=BLOCK, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return out
