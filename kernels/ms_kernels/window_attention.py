"""Attention of a chunk's queries over the valid prefix of the `[sink | ring]` cache, read in place."""

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from ms_kernels.argument_checks import (
    FLOATS,
    heads_of,
    need,
    need_caches,
    need_dtype,
    need_packed_rows,
    need_rank,
    need_same,
    need_shape,
)
from ms_kernels.jit import INTERPRETED, block_of, dot, launch
from ms_kernels.layout import INT32_MAX
from ms_kernels.tiles import Form, Tile, architecture, attention_tile

LOG2_E = 1.4426950408889634


@triton.jit
def _attend(q, k, v, acc, row_max, row_sum, valid, SCALE: tl.constexpr, MASKED: tl.constexpr):  # noqa: PLR0913
    """One step of the online softmax: scores in base 2, rescale what is summed so far, add this tile."""
    scores = dot(q, tl.trans(k), tl.zeros([q.shape[0], k.shape[0]], tl.float32), "tf32x3")
    if MASKED:
        scores = tl.where(valid[None, :], scores, float("-inf"))
    new_max = tl.maximum(row_max, tl.max(scores, 1) * SCALE)
    weights = tl.math.exp2(scores * SCALE - new_max[:, None])
    keep = tl.math.exp2(row_max - new_max)
    acc = dot(weights.to(q.dtype), v, acc * keep[:, None], "tf32x3")
    return acc, new_max, row_sum * keep + tl.sum(weights, 1)


@triton.jit
def _query_tile(
    tokens, heads, stride_batch, stride_head, stride_token,
    DIM: tl.constexpr, DIM_BLOCK: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Offsets of this program's queries (or outputs) and which of them exist."""
    first = tl.program_id(0).to(tl.int64) * ROWS
    pair = tl.program_id(1).to(tl.int64)
    row = tl.arange(0, ROWS)
    dim = tl.arange(0, DIM_BLOCK)
    start = pair // heads * stride_batch + pair % heads * stride_head + first * stride_token
    return start + row[:, None] * stride_token + dim[None, :], (first + row < tokens)[:, None] & (dim < DIM)[None, :]


@triton.jit
def _finished(acc, row_sum):
    return acc / tl.where(row_sum > 0.0, row_sum, 1.0)[:, None]


# Pointers of inputs, integers, pointer of the output: the order TensorRT's ahead-of-time plugins pass.
@triton.jit
def sink_window_attention_kernel(  # noqa: PLR0913
    q_ptr, k_ptr, v_ptr, state_ptr,
    tokens, cache_tokens, heads,
    q_stride_batch, q_stride_head, q_stride_token, out_stride_batch, out_stride_head, out_stride_token,
    out_ptr,
    SCALE: tl.constexpr, DIM: tl.constexpr, DIM_BLOCK: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out = softmax(q k^T / sqrt(DIM)) v over the cache rows [0, state[0]); SCALE = log2(e) / sqrt(DIM)."""
    where, exists = _query_tile(
        tokens, heads, q_stride_batch, q_stride_head, q_stride_token, DIM, DIM_BLOCK, BLOCK_Q
    )  # fmt: skip
    q = tl.load(q_ptr + where, mask=exists, other=0.0)
    n_valid = tl.maximum(tl.minimum(tl.load(state_ptr), cache_tokens), 0)
    key = tl.arange(0, BLOCK_K)
    dim = tl.arange(0, DIM_BLOCK)
    inside = tl.program_id(1).to(tl.int64) * cache_tokens * DIM + key[:, None] * DIM + dim[None, :]
    k_ptrs = k_ptr + inside
    v_ptrs = v_ptr + inside
    acc = tl.zeros([BLOCK_Q, DIM_BLOCK], tl.float32)
    row_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_Q], tl.float32)
    full = n_valid // BLOCK_K * BLOCK_K
    for _ in tl.range(0, full, BLOCK_K):
        if DIM == DIM_BLOCK:
            k = tl.load(k_ptrs)
            v = tl.load(v_ptrs)
        else:
            k = tl.load(k_ptrs, mask=(dim < DIM)[None, :], other=0.0)
            v = tl.load(v_ptrs, mask=(dim < DIM)[None, :], other=0.0)
        acc, row_max, row_sum = _attend(q, k, v, acc, row_max, row_sum, key, SCALE, False)
        k_ptrs += BLOCK_K * DIM
        v_ptrs += BLOCK_K * DIM
    if full < n_valid:
        valid = full + key < n_valid
        live = valid[:, None] & (dim < DIM)[None, :]
        k = tl.load(k_ptrs, mask=live, other=0.0)
        v = tl.load(v_ptrs, mask=live, other=0.0)
        acc, row_max, row_sum = _attend(q, k, v, acc, row_max, row_sum, valid, SCALE, True)
    # Formed here again: offsets kept alive over the loop cost registers (sm_89: spills).
    where, exists = _query_tile(
        tokens, heads, out_stride_batch, out_stride_head, out_stride_token, DIM, DIM_BLOCK, BLOCK_Q
    )  # fmt: skip
    tl.store(out_ptr + where, _finished(acc, row_sum).to(out_ptr.dtype.element_ty), mask=exists)


@triton.jit
def sink_window_attention_tma_kernel(  # noqa: PLR0913
    q_ptr, k_rows, v_rows, state_ptr,
    tokens, cache_tokens, heads,
    q_stride_batch, q_stride_head, q_stride_token, out_stride_batch, out_stride_head, out_stride_token,
    out_ptr,
    SCALE: tl.constexpr, DIM: tl.constexpr, DIM_BLOCK: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The same; k_rows and v_rows are descriptors of the caches as [batch * heads * cache_tokens, DIM], tile
    [BLOCK_K, DIM_BLOCK]. The last tile reads rows past the prefix (never past the cache): they are masked."""
    where, exists = _query_tile(
        tokens, heads, q_stride_batch, q_stride_head, q_stride_token, DIM, DIM_BLOCK, BLOCK_Q
    )  # fmt: skip
    q = tl.load(q_ptr + where, mask=exists, other=0.0)
    n_valid = tl.maximum(tl.minimum(tl.load(state_ptr), cache_tokens), 0)
    first_row = tl.program_id(1) * cache_tokens
    acc = tl.zeros([BLOCK_Q, DIM_BLOCK], tl.float32)
    row_max = tl.full([BLOCK_Q], float("-inf"), tl.float32)
    row_sum = tl.zeros([BLOCK_Q], tl.float32)
    key = tl.arange(0, BLOCK_K)
    full = n_valid // BLOCK_K * BLOCK_K
    for start in tl.range(0, full, BLOCK_K):
        k = k_rows.load([first_row + start, 0])
        v = v_rows.load([first_row + start, 0])
        acc, row_max, row_sum = _attend(q, k, v, acc, row_max, row_sum, key, SCALE, False)
    if full < n_valid:
        valid = full + key < n_valid
        k = k_rows.load([first_row + full, 0])
        v = v_rows.load([first_row + full, 0])
        v = tl.where(valid[:, None], v, 0.0)  # weight 0 times a stale NaN would be NaN
        acc, row_max, row_sum = _attend(q, k, v, acc, row_max, row_sum, valid, SCALE, True)
    # Formed here again: offsets kept alive over the loop cost registers (sm_89: spills).
    where, exists = _query_tile(
        tokens, heads, out_stride_batch, out_stride_head, out_stride_token, DIM, DIM_BLOCK, BLOCK_Q
    )  # fmt: skip
    tl.store(out_ptr + where, _finished(acc, row_sum).to(out_ptr.dtype.element_ty), mask=exists)


def sink_window_attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    state: Tensor,
    *,
    out: Tensor | None = None,
    form: Form | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v over the valid prefix of the cache, unmasked, fp32 accumulation.

    q [batch, heads, tokens, head_dim] with packed rows (any other strides), fp16, bf16 or fp32; caches [batch, heads,
    cache_tokens, head_dim], contiguous; state int32 on the device (`ChunkState`; only its first number, the valid
    tokens, is read, so a captured graph serves every fill level). Slots past it may hold anything, NaN too.
    `form`: "pointer" (every architecture), "tma" (sm_90 and later); None takes TMA where it runs.
    Returns [batch, heads, tokens, head_dim]: `out`, or a new tensor whose `.transpose(1, 2)` is contiguous.
    """
    batch, heads, tokens, dim = _checked(q, k_cache, v_cache, state)
    if out is None:
        out = q.new_empty(batch, tokens, heads, dim).transpose(1, 2)
    need_shape("out", out, q.shape)
    need_packed_rows("out", out)
    need_same("dtype", q=q, out=out)
    arch = _architecture(q.device)
    if form is None:
        form = "tma" if arch >= 90 and q.element_size() == 2 and dim in (32, 64, 128) else "pointer"
    need(form in ("pointer", "tma"), f"form must be 'pointer' or 'tma', not {form!r}")
    tile = attention_tile(arch, form, q.element_size())
    caches = (k_cache, v_cache) if form == "pointer" else _descriptors(k_cache, v_cache, tile)
    launch(
        sink_window_attention_kernel if form == "pointer" else sink_window_attention_tma_kernel,
        (triton.cdiv(tokens, tile.block_q), batch * heads),
        q, *caches, state, tokens, k_cache.shape[2], heads, *q.stride()[:3], *out.stride()[:3], out,
        **attention_constants(dim, tile), num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    return out


def attention_constants(dim: int, tile: Tile) -> dict[str, int | float]:
    """The constexpr arguments of both kernels."""
    return {
        "SCALE": LOG2_E * dim**-0.5,
        "DIM": dim,
        "DIM_BLOCK": block_of(dim),
        "BLOCK_Q": tile.block_q,
        "BLOCK_K": tile.block_k,
    }


def _checked(q: Tensor, k_cache: Tensor, v_cache: Tensor, state: Tensor) -> tuple[int, int, int, int]:
    need_rank("q", q, "batch heads tokens head_dim")
    batch, heads, tokens, dim = q.shape
    heads_of(heads * dim, dim)
    need_caches("k_cache", k_cache, "v_cache", v_cache)
    need_shape("k_cache", k_cache, (batch, heads, k_cache.shape[2], dim))
    need_packed_rows("q", q)
    need_dtype("q", q, *FLOATS)
    need_same("dtype", q=q, k_cache=k_cache, v_cache=v_cache)
    need_dtype("state", state, torch.int32)
    need(state.numel() >= 1, "state is empty; it starts with the number of valid tokens (ChunkState)")
    need_same("device", q=q, k_cache=k_cache, v_cache=v_cache, state=state)
    return batch, heads, tokens, dim


def _descriptors(k_cache: Tensor, v_cache: Tensor, tile: Tile) -> tuple[TensorDescriptor, TensorDescriptor]:
    rows, dim = k_cache.shape[:3].numel(), k_cache.shape[3]
    need(rows <= INT32_MAX, f"the cache has {rows} rows; the TMA form counts them in int32, use form='pointer'")
    need(k_cache.data_ptr() % 16 == 0 and v_cache.data_ptr() % 16 == 0, "TMA needs caches aligned to 16 bytes")
    block = [tile.block_k, block_of(dim)]
    return (
        TensorDescriptor.from_tensor(k_cache.view(rows, dim), block),
        TensorDescriptor.from_tensor(v_cache.view(rows, dim), block),
    )


@functools.lru_cache
def _architecture(device: torch.device) -> int:
    """Row of the tile table; 0 is the interpreter."""
    return 0 if INTERPRETED else architecture(*torch.cuda.get_device_capability(device))
