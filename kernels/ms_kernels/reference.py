"""The plain PyTorch twin of every kernel: the obvious version that tests believe, in any float dtype, on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from ms_kernels import argument_checks as checks
from ms_kernels.argument_checks import FP8, FP8_MAX
from ms_kernels.layout import FAR_PIXELS, FIRST_SLOT, N_VALID, SUBFRAMES, LayerCache, QKNorm, Rotation, TrackGrid

SMALLEST_AMAX = 1e-12
"""A row of zeros is quantised with this instead of its largest magnitude."""


def _wide(x: Tensor) -> Tensor:
    """fp64 stays, everything else is computed in fp32."""
    return x if x.dtype == torch.float64 else x.float()


def _store(result: Tensor, like: Tensor, out: Tensor | None) -> Tensor:
    if out is None:
        return result.to(like.dtype)
    out.copy_(result)
    return out


def _per_token(rows: Tensor, tokens: int, name: str) -> Tensor:
    """[batch, frames, dim] -> [batch, tokens, dim]: every token takes its latent frame's row."""
    return _wide(rows).repeat_interleave(checks.frame_tokens(tokens, rows.shape[1], name), dim=1)


def sink_window_attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, state: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """softmax(q k^T / sqrt(head_dim)) v over the valid prefix of the cache, unmasked.

    q [batch, heads, tokens, head_dim], caches [batch, heads, cache_tokens, head_dim], state int32 (`ChunkState`; only
    its first number is read). Returns [batch, heads, tokens, head_dim]; zeros when no slot is valid.
    """
    n_valid = min(max(int(state[N_VALID]), 0), k_cache.shape[2])
    k, v = _wide(k_cache[:, :, :n_valid]), _wide(v_cache[:, :, :n_valid])
    weights = torch.softmax(_wide(q) @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1)
    return _store(weights @ v, q, out)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """RoPE on interleaved pairs: (x[2i], x[2i+1]) turned by the angle of [token, i]; x [..., tokens, head_dim]."""
    cos, sin = rotation.cos.to(x.dtype), rotation.sin.to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension (Wan's qk-norm: all heads together)."""
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * weight.to(x.dtype)


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
    """Normalise and rotate q and k, store k and v in the chunk's slots, return the rotated q.

    q, k, v [batch, tokens, dim] as the projections make them; rotation [tokens, head_dim / 2]; state int32
    (`ChunkState`). Slots inside the sink also keep the key before rotation in `cache.sink_k`. Returns
    [batch, heads, tokens, head_dim]. Source: Wan 2.1's self-attention (qk-norm over dim, then RoPE).
    """
    head_dim, tokens, per_frame = cache.k.shape[-1], q.shape[1], cache.tokens_per_frame

    def split(x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], -1, head_dim).transpose(1, 2)

    raw_k = split(rms_norm(_wide(k), norm.k_weight, norm.eps))
    rotated_k, new_v = rotate(raw_k, rotation), split(v)
    for frame in range(tokens // per_frame):
        source = slice(frame * per_frame, (frame + 1) * per_frame)
        first = int(state[FIRST_SLOT + frame]) * per_frame
        if not 0 <= first < cache.k.shape[2]:
            continue  # -1: the frame only asks
        target = slice(first, first + per_frame)
        cache.k[:, :, target] = rotated_k[:, :, source].to(cache.k)
        cache.v[:, :, target] = new_v[:, :, source].to(cache.v)
        if cache.sink_k is not None and first < cache.sink_k.shape[2]:
            cache.sink_k[:, :, target] = raw_k[:, :, source].to(cache.sink_k)
    rotated_q = rotate(split(rms_norm(_wide(q), norm.q_weight, norm.eps)), rotation)
    return _store(rotated_q, q, out)


def roll_sink(cache: LayerCache, rotation: Rotation) -> None:
    """Re-rotate the sink's keys from their un-rotated copy: `cache.k[:, :, :sink_tokens] = rotate(sink_k)`, in place.

    rotation [sink_tokens, head_dim / 2] holds the angles of the sink's new positions.
    """
    kept = cache.kept_sink()
    cache.k[:, :, : kept.shape[2]] = rotate(_wide(kept), rotation).to(cache.k)


def norm_modulate(x: Tensor, scale: Tensor, shift: Tensor, *, eps: float = 1e-6, out: Tensor | None = None) -> Tensor:
    """LayerNorm(x; no affine) * (1 + scale) + shift; x [batch, tokens, dim], scale and shift [batch, frames, dim]."""
    normed = torch.nn.functional.layer_norm(_wide(x), x.shape[-1:], eps=eps)
    tokens = x.shape[1]
    return _store(normed * (1 + _per_token(scale, tokens, "scale")) + _per_token(shift, tokens, "shift"), x, out)


def gate_residual(x: Tensor, y: Tensor, gate: Tensor) -> None:
    """x += y * gate, in place; x, y [batch, tokens, dim], gate [batch, frames, dim]."""
    x.copy_(_wide(x) + _wide(y) * _per_token(gate, x.shape[1], "gate"))


def residual_modulate(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, after: Tensor, *, eps: float = 1e-6
) -> Tensor:
    """x += y * gate, in place; returns norm_modulate(x, scale, shift); then x += after [dim]. See the kernel."""
    gate_residual(x, y, gate)
    normed = norm_modulate(x, scale, shift, eps=eps)
    x.copy_(_wide(x) + _wide(after))
    return normed


def residual_modulate_fp8(
    x: Tensor, y: Tensor, gate: Tensor, scale: Tensor, shift: Tensor, after: Tensor, *, eps: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """quantise_rows(residual_modulate(...)) without the rounding in between."""
    gate_residual(x, y, gate)
    rows = norm_modulate_fp8(x, scale, shift, eps=eps)
    x.copy_(_wide(x) + _wide(after))
    return rows


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(x weight^T + bias) in its tanh form; x [..., k], weight [n, k], bias [n]."""
    return gelu(torch.nn.functional.linear(x, weight, bias))


def add_linear(x: Tensor, y: Tensor, weight: Tensor) -> None:
    """x += y weight^T, in place; x [..., n], y [..., k], weight [n, k]."""
    x += torch.nn.functional.linear(y, weight)


def gelu(x: Tensor, *, out: Tensor | None = None) -> Tensor:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))), any shape."""
    return _store(torch.nn.functional.gelu(_wide(x), approximate="tanh"), x, out)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 rows and their scales: x is about q * scale; x [..., columns] -> q alike, scale [..., 1] fp32.

    scale = max |row| / 448 (1e-12 / 448 for a row of zeros).
    """
    wide = _wide(x)
    scale = wide.abs().amax(-1, keepdim=True).clamp(min=SMALLEST_AMAX) / FP8_MAX
    return (wide / scale).clamp(-FP8_MAX, FP8_MAX).to(FP8), scale.float()


def norm_modulate_fp8(x: Tensor, scale: Tensor, shift: Tensor, *, eps: float = 1e-6) -> tuple[Tensor, Tensor]:
    """quantise_rows(norm_modulate(x, scale, shift)) without the rounding in between."""
    return quantise_rows(norm_modulate(_wide(x), scale, shift, eps=eps))


def gelu_fp8(x: Tensor) -> tuple[Tensor, Tensor]:
    """quantise_rows(gelu(x)) without the rounding in between."""
    return quantise_rows(gelu(_wide(x)))


def fp8_linear(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """(x * x_scale) @ (weight * weight_scale)^T + bias.

    x [..., k] e4m3, x_scale [..., 1] fp32, weight [n, k] e4m3, weight_scale [n, 1] fp32, bias [n]. Returns [..., n].
    """
    product = (x.float() * x_scale) @ (weight.float() * weight_scale).transpose(0, 1)
    return (product if bias is None else product + bias.float()).to(out_dtype)


def embed_ids(ids: Tensor, id_dim: int, grid: TrackGrid) -> Tensor:
    """Embedding of track ids [tracks] -> [tracks, id_dim] fp64: cosines and sines of id * id_period^(-i / half)."""
    half = id_dim // 2
    exponent = -torch.arange(half, dtype=torch.float64, device=ids.device) / half
    angle = ids.double()[:, None] * grid.id_period**exponent
    parts = (angle.cos(), angle.sin())
    return torch.cat(parts if grid.id_order == "cos_sin" else parts[::-1], dim=-1)


def point_cells(points: Tensor, visible: Tensor, grid: TrackGrid) -> Tensor:
    """Cell `row * columns + column` of every point, -1 when invisible; points [..., 2] (x, y) in pixels."""
    x, y = _wide(points).unbind(-1)
    if grid.rounding == "floor":
        column, row = (x / (grid.width // grid.columns)).floor(), (y / (grid.height // grid.rows)).floor()
        seen = (x >= 0) & (x < grid.width) & (y >= 0) & (y < grid.height)
    else:
        column = (x / grid.width * (grid.columns - 1)).round()
        row = (y / grid.height * (grid.rows - 1)).round()
        seen = (x.abs() < FAR_PIXELS) & (y.abs() < FAR_PIXELS)
    cell = row.clamp(0, grid.rows - 1) * grid.columns + column.clamp(0, grid.columns - 1)
    return torch.where(seen & visible.bool(), cell, torch.full_like(x, -1.0)).long()


def scatter_tracks(
    points: Tensor,
    visible: Tensor,
    ids: Tensor,
    weight: Tensor,
    grid: TrackGrid,
    *,
    bias: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Track latents of a chunk: ids scattered into cells, four RGB frames packed into channels, a 1x1x1 convolution.

    points [tracks, rgb_frames, 2] in pixels, visible [tracks, rgb_frames], ids [tracks], weight
    [channels, 4 * id_dim] (input channel = subframe * id_dim + dimension), bias [channels]. 4 F - 3 RGB frames open the
    stream, 4 F continue it. What becomes of points outside the picture is the grid's `rounding`.
    Returns [F, channels, rows, columns] in the weight's dtype. Source: MotionStream Eq. 1 and Fig. 2.
    """
    frames, opening = grid.latent_frames(points.shape[1])
    embedding = embed_ids(ids, weight.shape[1] // SUBFRAMES, grid).to(_wide(weight).dtype)
    cells, count = point_cells(points, visible, grid), grid.rows * grid.columns
    cells = torch.where(cells < 0, count, cells)  # one cell more takes what is invisible
    volume = embedding.new_zeros(frames, SUBFRAMES, count + 1, embedding.shape[1])
    for frame, subframe in ((f, p) for f in range(frames) for p in range(SUBFRAMES)):
        rgb = frame * SUBFRAMES + subframe - (SUBFRAMES - 1) * opening
        if rgb < 0 and grid.first_frame == "zero_pad":
            continue
        of_frame = cells[:, max(rgb, 0)]
        if grid.collision == "sum":
            volume[frame, subframe].index_add_(0, of_frame, embedding)
        else:
            for track in range(len(embedding)):
                volume[frame, subframe].index_copy_(0, of_frame[track : track + 1], embedding[track : track + 1])
    packed = volume[:, :, :count].permute(0, 2, 1, 3).flatten(2)
    latents = packed @ _wide(weight).transpose(0, 1) + (0 if bias is None else _wide(bias))
    return _store(latents.transpose(1, 2).reshape(frames, -1, grid.rows, grid.columns), weight, out)


def frames_to_uint8(frames: Tensor, *, out: Tensor | None = None) -> Tensor:
    """round(255 x), half to even, clamped to 0..255, NaN to 0.

    frames [frames, 3, height, width] -> uint8 [frames, height, width, 3].
    """
    levels = (_wide(frames) * 255).round().clamp(0, 255).nan_to_num(0.0)
    return _store(levels.permute(0, 2, 3, 1).to(torch.uint8).contiguous(), levels.new_empty(0, dtype=torch.uint8), out)
