"""A kernel that only TensorRT plugins need: a chunk's keys or values into cache slots that are not in a row."""

from __future__ import annotations

import triton
import triton.language as tl

ROWS = 32
"""Cache rows that one program writes."""


# Pointers of inputs, integers, pointer of the output: the order TensorRT's ahead-of-time plugins pass. The cache comes
# in and goes out: both are the same memory, because the plugin's output is aliased to its first input.
@triton.jit
def write_frames_kernel(  # noqa: PLR0913
    cache_in_ptr, update_ptr, index_ptr, frame_tokens, tokens, cache_tokens, cache_ptr,
    DIM: tl.constexpr, DIM_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """cache[:, index[t // frame_tokens] + t % frame_tokens] = update[:, t]; rows outside the cache are not written."""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    head = tl.program_id(1).to(tl.int64)
    dim = tl.arange(0, DIM_BLOCK)
    exists = token < tokens
    row = tl.load(index_ptr + token // frame_tokens, mask=exists, other=-1) + token % frame_tokens
    live = (exists & (row >= 0) & (row < cache_tokens))[:, None] & (dim < DIM)[None, :]
    source = (head * tokens + token[:, None]) * DIM + dim[None, :]
    target = (head * cache_tokens + row[:, None]) * DIM + dim[None, :]
    tl.store(cache_ptr + target, tl.load(update_ptr + source, mask=live, other=0.0), mask=live)
