"""Fill the `[sink | ring]` cache in place: normalise, rotate and store a chunk; re-rotate the sink."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ms_kernels.argument_checks import (
    FLOATS,
    heads_of,
    need,
    need_caches,
    need_contiguous,
    need_dtype,
    need_packed_rows,
    need_rank,
    need_same,
    need_shape,
)
from ms_kernels.jit import block_of, launch, turn_pairs
from ms_kernels.layout import FIRST_SLOT, LayerCache, QKNorm, Rotation
from ms_kernels.tiles import row_warps

_FIRST_SLOT = tl.constexpr(FIRST_SLOT)


@triton.jit
def _rms(x, weight, count, EPS: tl.constexpr):
    """x / sqrt(mean(x^2) + EPS) * weight over the whole tile, dead lanes zero."""
    return x * tl.rsqrt(tl.sum(tl.sum(x * x, 1), 0) / count + EPS) * weight


# Pointers of inputs, integers, pointer of the output: the order TensorRT's ahead-of-time plugins pass.
@triton.jit
def write_kv_kernel(  # noqa: PLR0913
    q_ptr, k_ptr, v_ptr, q_weight_ptr, k_weight_ptr, cos_ptr, sin_ptr, state_ptr, k_cache_ptr, v_cache_ptr, sink_k_ptr,
    tokens_per_frame, cache_tokens, sink_tokens, heads,
    q_stride_batch, q_stride_token, k_stride_batch, k_stride_token, v_stride_batch, v_stride_token,
    out_stride_batch, out_stride_head, out_stride_token,
    out_ptr,
    EPS: tl.constexpr, DIM: tl.constexpr, DIM_BLOCK: tl.constexpr, HEADS_BLOCK: tl.constexpr,
):  # fmt: skip
    """One token, all heads: n(x) = x / sqrt(mean(x^2) + EPS) * weight;  q' = R n(q), k' = R n(k), R turns the pairs
    (x[2i], x[2i+1]) by the token's angles;  row = slot[token / tokens_per_frame] * tokens_per_frame + rest."""
    token = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    head = tl.arange(0, HEADS_BLOCK)
    dim = tl.arange(0, DIM_BLOCK)
    pair = tl.arange(0, DIM_BLOCK // 2)
    live = (head < heads)[:, None] & (dim < DIM)[None, :]
    inside = head[:, None] * DIM + dim[None, :]
    where = token.to(tl.int64)
    # Everything is read before anything is written: the loads of one program overlap.
    q = tl.load(q_ptr + batch * q_stride_batch + where * q_stride_token + inside, mask=live, other=0.0).to(tl.float32)
    k = tl.load(k_ptr + batch * k_stride_batch + where * k_stride_token + inside, mask=live, other=0.0).to(tl.float32)
    v = tl.load(v_ptr + batch * v_stride_batch + where * v_stride_token + inside, mask=live, other=0.0)
    q_weight = tl.load(q_weight_ptr + inside, mask=live, other=0.0).to(tl.float32)
    k_weight = tl.load(k_weight_ptr + inside, mask=live, other=0.0).to(tl.float32)
    angle = where * (DIM // 2) + pair
    cos = tl.load(cos_ptr + angle, mask=pair < DIM // 2, other=0.0)[None, :]
    sin = tl.load(sin_ptr + angle, mask=pair < DIM // 2, other=0.0)[None, :]
    slot = tl.load(state_ptr + _FIRST_SLOT + token // tokens_per_frame).to(tl.int64)
    row = slot * tokens_per_frame + token % tokens_per_frame
    q = turn_pairs(_rms(q, q_weight, heads * DIM, EPS), cos, sin, HEADS_BLOCK, DIM_BLOCK)
    k = _rms(k, k_weight, heads * DIM, EPS)
    target = out_ptr + batch * out_stride_batch + where * out_stride_token
    tl.store(
        target + head[:, None].to(tl.int64) * out_stride_head + dim[None, :], q.to(out_ptr.dtype.element_ty), mask=live
    )
    of_head = batch * heads + head[:, None]
    in_cache = live & (row >= 0) & (row < cache_tokens)
    cached = (of_head * cache_tokens + row) * DIM + dim[None, :]
    turned = turn_pairs(k, cos, sin, HEADS_BLOCK, DIM_BLOCK)
    tl.store(k_cache_ptr + cached, turned.to(k_cache_ptr.dtype.element_ty), mask=in_cache)
    tl.store(v_cache_ptr + cached, v.to(v_cache_ptr.dtype.element_ty), mask=in_cache)
    in_sink = in_cache & (row < sink_tokens)
    kept = (of_head * sink_tokens + row) * DIM + dim[None, :]
    tl.store(sink_k_ptr + kept, k.to(sink_k_ptr.dtype.element_ty), mask=in_sink)


def write_kv(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    norm: QKNorm,
    rotation: Rotation,
    cache: LayerCache,
    state: Tensor,
    *,
    out: Tensor | None = None,
) -> Tensor:
    """Normalise and rotate q and k, store k and v in the chunk's slots, return the rotated q: one launch.

    q, k, v [batch, tokens, dim] with packed rows (slices of a fused projection will do), fp16, bf16 or fp32, all in
    the dtype of the caches; rotation fp32 [tokens, head_dim / 2]; state int32 on the device (`ChunkState`): a graph
    replays unchanged. Slots inside the sink also keep the key before rotation in `cache.sink_k`; a slot outside the
    cache (-1: the frame only asks) is not written. Returns [batch, heads, tokens, head_dim]: `out`, or a new tensor.
    Source: Wan 2.1's self-attention (RMS norm over all heads together, then 3-D RoPE on interleaved pairs).
    """
    batch, heads, tokens, dim = _checked_chunk(q, k, v, norm, cache, state)
    _check_rotation(rotation, tokens, dim, q)
    if out is None:
        out = q.new_empty(batch, heads, tokens, dim)
    need_shape("out", out, (batch, heads, tokens, dim))
    need_packed_rows("out", out)
    need_same("dtype", q=q, out=out)
    sink_k = cache.k if cache.sink_k is None else cache.sink_k
    sink_tokens = 0 if cache.sink_k is None else cache.sink_k.shape[2]
    launch(
        write_kv_kernel,
        (tokens, batch),
        q, k, v, norm.q_weight, norm.k_weight, *rotation, state, cache.k, cache.v, sink_k,
        cache.tokens_per_frame, cache.k.shape[2], sink_tokens, heads,
        *q.stride()[:2], *k.stride()[:2], *v.stride()[:2], *out.stride()[:3], out,
        EPS=norm.eps, DIM=dim, DIM_BLOCK=block_of(dim), HEADS_BLOCK=block_of(heads),
        num_warps=row_warps(heads * dim),
    )  # fmt: skip
    return out


# Pointers of inputs, integers, pointer of the output: the order TensorRT's ahead-of-time plugins pass.
@triton.jit
def roll_sink_kernel(  # noqa: PLR0913
    sink_k_ptr, cos_ptr, sin_ptr, sink_tokens, cache_tokens, k_cache_ptr,
    DIM: tl.constexpr, DIM_BLOCK: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """k_cache[:, t] = R(angle of t) sink_k[:, t] for the sink's tokens t."""
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    pair_of_heads = tl.program_id(1).to(tl.int64)
    dim = tl.arange(0, DIM_BLOCK)
    pair = tl.arange(0, DIM_BLOCK // 2)
    exists = (token < sink_tokens)[:, None]
    live = exists & (dim < DIM)[None, :]
    row = token[:, None].to(tl.int64)
    angle = row * (DIM // 2) + pair[None, :]
    cos = tl.load(cos_ptr + angle, mask=exists & (pair < DIM // 2)[None, :], other=0.0)
    sin = tl.load(sin_ptr + angle, mask=exists & (pair < DIM // 2)[None, :], other=0.0)
    kept = (pair_of_heads * sink_tokens + row) * DIM + dim[None, :]
    turned = turn_pairs(tl.load(sink_k_ptr + kept, mask=live, other=0.0).to(tl.float32), cos, sin, BLOCK, DIM_BLOCK)
    cached = (pair_of_heads * cache_tokens + row) * DIM + dim[None, :]
    tl.store(k_cache_ptr + cached, turned.to(k_cache_ptr.dtype.element_ty), mask=live)


ROLL_BLOCK = 32


def roll_sink(cache: LayerCache, rotation: Rotation) -> None:
    """Re-rotate the sink's keys from their un-rotated copy: `cache.k[:, :, :sink_tokens] = rotate(sink_k)`, in place.

    rotation fp32 [sink_tokens, head_dim / 2] holds the angles of the sink's new positions (float64 on the host).
    Every call starts from the same copy, so errors do not add up. The window and the chunk are not touched.
    """
    _check_cache(cache)
    kept = cache.kept_sink()
    batch, heads, sink_tokens, dim = kept.shape
    _check_rotation(rotation, sink_tokens, dim, cache.k)
    launch(
        roll_sink_kernel,
        (triton.cdiv(sink_tokens, ROLL_BLOCK), batch * heads),
        kept, *rotation, sink_tokens, cache.k.shape[2], cache.k,
        DIM=dim, DIM_BLOCK=block_of(dim), BLOCK=ROLL_BLOCK, num_warps=4,
    )  # fmt: skip


def _check_cache(cache: LayerCache) -> None:
    need_caches("cache.k", cache.k, "cache.v", cache.v)
    batch, heads, cache_tokens, dim = cache.k.shape
    heads_of(heads * dim, dim)
    need_dtype("cache.k", cache.k, *FLOATS)
    need(
        cache.tokens_per_frame >= 1 and cache_tokens % cache.tokens_per_frame == 0,
        f"the cache holds {cache_tokens} tokens, which is no number of frames of {cache.tokens_per_frame} tokens",
    )
    tensors = {"k": cache.k, "v": cache.v}
    if cache.sink_k is not None:
        need_rank("cache.sink_k", cache.sink_k, "batch heads sink_tokens head_dim")
        need_shape("cache.sink_k", cache.sink_k, (batch, heads, cache.sink_k.shape[2], dim))
        need(cache.sink_k.shape[2] <= cache_tokens, "cache.sink_k holds more tokens than the cache")
        need_contiguous("cache.sink_k", cache.sink_k)
        tensors["sink_k"] = cache.sink_k
    need_same("dtype", **tensors)
    need_same("device", **tensors)


def _check_rotation(rotation: Rotation, tokens: int, dim: int, like: Tensor) -> None:
    for name, table in zip(("rotation.cos", "rotation.sin"), rotation, strict=True):
        need_shape(name, table, (tokens, dim // 2))
        need_dtype(name, table, torch.float32)
        need_contiguous(name, table)
    need_same("device", cos=rotation.cos, sin=rotation.sin, cache=like)


def _checked_chunk(
    q: Tensor, k: Tensor, v: Tensor, norm: QKNorm, cache: LayerCache, state: Tensor
) -> tuple[int, int, int, int]:
    _check_cache(cache)
    batch, heads, _, dim = cache.k.shape
    need_rank("q", q, "batch tokens dim")
    tokens = q.shape[1]
    for name, tensor in (("q", q), ("k", k), ("v", v)):
        need_shape(name, tensor, (batch, tokens, heads * dim))
        need_packed_rows(name, tensor)
    for name, weight in (("q_weight", norm.q_weight), ("k_weight", norm.k_weight)):
        need_shape(name, weight, (heads * dim,))
        need_dtype(name, weight, *FLOATS)
        need_contiguous(name, weight)
    frames, rest = divmod(tokens, cache.tokens_per_frame)
    need(
        frames >= 1 and rest == 0,
        f"a chunk of {tokens} tokens is no number of latent frames of {cache.tokens_per_frame} tokens",
    )
    need_dtype("state", state, torch.int32)
    need_contiguous("state", state)
    need(
        state.numel() >= FIRST_SLOT + frames,
        f"state holds {state.numel()} numbers; {frames} latent frames need {FIRST_SLOT + frames} (ChunkState)",
    )
    need_same("dtype", q=q, k=k, v=v, cache=cache.k)
    need_same("device", q=q, k=k, v=v, cache=cache.k, state=state, q_weight=norm.q_weight, k_weight=norm.k_weight)
    return batch, heads, tokens, dim
