"""Points to track latents: ids scattered into cells straight through the 1x1x1 convolution, in a fixed order."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ms_kernels.argument_checks import (
    FLOATS,
    need,
    need_contiguous,
    need_dtype,
    need_out,
    need_rank,
    need_same,
    need_shape,
)
from ms_kernels.jit import block_of, dot, launch, round_half_even
from ms_kernels.layout import FAR_PIXELS, SUBFRAMES, TrackGrid

_SUBFRAMES = tl.constexpr(SUBFRAMES)
_FAR_PIXELS = tl.constexpr(FAR_PIXELS)
EMBED_TRACKS = 32
CELLS = 64
TRACKS = 32


@triton.jit
def embed_tracks_kernel(  # noqa: PLR0913
    ids_ptr, weight_ptr, tracks, channels, table_ptr,
    HALF: tl.constexpr, HALF_BLOCK: tl.constexpr, CHANNELS: tl.constexpr, BLOCK: tl.constexpr,
    LOG2_PERIOD: tl.constexpr, SIN_FIRST: tl.constexpr,
):  # fmt: skip
    """table[track, subframe] = W[:, subframe] phi(id), phi = [cos a | sin a], a_i = id * 2^(-i LOG2_PERIOD / HALF).

    The angle is formed and brought to one turn in fp64: ids go up to 1e5 and more."""
    subframe = tl.program_id(1)
    track = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    i = tl.arange(0, HALF_BLOCK)
    channel = tl.arange(0, CHANNELS)
    identity = tl.load(ids_ptr + track, mask=track < tracks, other=0).to(tl.float64)
    turns = identity[:, None] * tl.exp2(i.to(tl.float64) * (-LOG2_PERIOD / HALF))[None, :] * 0.15915494309189535
    angle = ((turns - tl.floor(turns)) * 6.283185307179586).to(tl.float32)
    live = (i < HALF)[:, None] & (channel < channels)[None, :]
    first = channel[None, :] * (2 * HALF * _SUBFRAMES) + subframe * (2 * HALF) + i[:, None]
    cos_weight = tl.load(weight_ptr + first + (HALF if SIN_FIRST else 0), mask=live, other=0.0).to(tl.float32)
    sin_weight = tl.load(weight_ptr + first + (0 if SIN_FIRST else HALF), mask=live, other=0.0).to(tl.float32)
    row = dot(tl.cos(angle), cos_weight, tl.zeros([BLOCK, CHANNELS], tl.float32), "tf32x3")
    row = dot(tl.sin(angle), sin_weight, row, "tf32x3")
    where = (track[:, None] * _SUBFRAMES + subframe) * channels + channel[None, :]
    tl.store(table_ptr + where, row, mask=(track < tracks)[:, None] & (channel < channels)[None, :])


@triton.jit
def _cells(x, y, height, width, rows, columns, ROUND: tl.constexpr):
    """Cell of each point, -1 where it is invisible (also for NaN)."""
    if ROUND:
        column = round_half_even(tl.div_rn(x, width.to(tl.float32)) * (columns - 1).to(tl.float32))
        row = round_half_even(tl.div_rn(y, height.to(tl.float32)) * (rows - 1).to(tl.float32))
        seen = (tl.abs(x) < _FAR_PIXELS) & (tl.abs(y) < _FAR_PIXELS)
    else:
        column = tl.floor(tl.div_rn(x, (width // columns).to(tl.float32)))
        row = tl.floor(tl.div_rn(y, (height // rows).to(tl.float32)))
        seen = (x >= 0.0) & (x < width) & (y >= 0.0) & (y < height)
    column = tl.minimum(tl.maximum(tl.where(seen, column, 0.0).to(tl.int32), 0), columns - 1)
    row = tl.minimum(tl.maximum(tl.where(seen, row, 0.0).to(tl.int32), 0), rows - 1)
    return tl.where(seen, row * columns + column, -1)


@triton.jit
def scatter_tracks_kernel(  # noqa: PLR0913
    points_ptr, visible_ptr, table_ptr, bias_ptr,
    tracks, channels, height, width, rows, columns, points_step, visible_step, opening,
    out_ptr,
    REPEAT: tl.constexpr, ROUND: tl.constexpr, LAST: tl.constexpr, BIAS: tl.constexpr,
    CHANNELS: tl.constexpr, BLOCK_CELLS: tl.constexpr, BLOCK_TRACKS: tl.constexpr,
):  # fmt: skip
    """out[frame, :, cell] = bias + sum over subframes and tracks of [point in cell] table[track, subframe].

    One program a block of cells of one latent frame goes through the tracks in order: no atomics, same bits always.
    `opening` is 1 when RGB frame 0 is alone in its latent frame. LAST keeps, per subframe, only the last track in the
    cell. Compile without fused multiply-add (exact cells)."""
    frame = tl.program_id(1)
    cell = tl.program_id(0) * BLOCK_CELLS + tl.arange(0, BLOCK_CELLS)
    channel = tl.arange(0, CHANNELS)
    known = (channel < channels)[None, :]
    acc = tl.zeros([BLOCK_CELLS, CHANNELS], tl.float32)
    if BIAS:
        acc += tl.load(bias_ptr + channel, mask=channel < channels, other=0.0).to(tl.float32)[None, :]
    for subframe in tl.static_range(_SUBFRAMES):
        rgb = frame * _SUBFRAMES + subframe - (_SUBFRAMES - 1) * opening
        counts = (rgb >= 0) | REPEAT
        rgb = tl.maximum(rgb, 0)
        last = tl.full([BLOCK_CELLS], -1, tl.int32)
        for start in tl.range(0, tracks, BLOCK_TRACKS):
            track = start + tl.arange(0, BLOCK_TRACKS)
            exists = track < tracks
            at_point = track.to(tl.int64) * points_step + rgb * 2
            x = tl.load(points_ptr + at_point, mask=exists, other=-1.0)
            y = tl.load(points_ptr + at_point + 1, mask=exists, other=-1.0)
            seen = tl.load(visible_ptr + track.to(tl.int64) * visible_step + rgb, mask=exists, other=0)
            hit = tl.where(exists & counts & (seen != 0), _cells(x, y, height, width, rows, columns, ROUND), -1)
            here = cell[:, None] == hit[None, :]
            if LAST:
                last = tl.maximum(last, tl.max(tl.where(here, track[None, :], -1), 1))
            else:
                row = (track[:, None] * _SUBFRAMES + subframe) * channels + channel[None, :]
                vectors = tl.load(table_ptr + row, mask=exists[:, None] & known, other=0.0)
                acc = dot(here.to(tl.float32), vectors, acc, "tf32x3")
        if LAST:
            row = (last[:, None] * _SUBFRAMES + subframe) * channels + channel[None, :]
            acc += tl.load(table_ptr + row, mask=(last >= 0)[:, None] & known, other=0.0)
    cells = rows * columns
    target = (frame.to(tl.int64) * channels + channel[None, :]) * cells + cell[:, None]
    tl.store(out_ptr + target, acc.to(out_ptr.dtype.element_ty), mask=(cell < cells)[:, None] & known)


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

    points fp32 [tracks, rgb_frames, 2] in pixels (x, y), visible bool or uint8 [tracks, rgb_frames] (both may be
    slices along time), ids int32 or int64 [tracks], weight [channels, 4 * id_dim] (input channel = subframe * id_dim +
    dimension), bias [channels]. 4 F - 3 RGB frames open the stream, 4 F continue it. NaN is invisible; what
    becomes of points outside the picture is the grid's `rounding`. Returns [F, channels, rows, columns] in the
    weight's dtype: `out` (contiguous), or a new one.
    The volume of ids is never formed; two launches, no atomics. Source: MotionStream Eq. 1 and Fig. 2.
    """
    frames, opening = grid.latent_frames(points.shape[1])
    tracks, channels = _checked(points, visible, ids, weight, bias, grid)
    if out is None:
        out = weight.new_empty(frames, channels, grid.rows, grid.columns)
    need_out(out, (frames, channels, grid.rows, grid.columns), weight=weight)
    table = torch.empty(tracks, SUBFRAMES, channels, dtype=torch.float32, device=weight.device)
    id_dim = weight.shape[1] // SUBFRAMES
    launch(
        embed_tracks_kernel,
        (triton.cdiv(tracks, EMBED_TRACKS), SUBFRAMES),
        ids, weight, tracks, channels, table,
        **embed_constants(id_dim, channels, grid), num_warps=4,
    )  # fmt: skip
    launch(
        scatter_tracks_kernel,
        (triton.cdiv(grid.rows * grid.columns, CELLS), frames),
        points, visible.view(torch.uint8), table, weight if bias is None else bias,
        tracks, channels, grid.height, grid.width, grid.rows, grid.columns, points.stride(0), visible.stride(0),
        int(opening), out,
        **scatter_constants(channels, grid, bias=bias is not None),
        num_warps=4, num_stages=2, enable_fp_fusion=False,
    )  # fmt: skip
    return out


def embed_constants(id_dim: int, channels: int, grid: TrackGrid) -> dict[str, int | float | bool]:
    """The constexpr arguments of `embed_tracks_kernel`."""
    return {
        "HALF": id_dim // 2,
        "HALF_BLOCK": block_of(id_dim // 2, 16),
        "CHANNELS": block_of(channels, 16),
        "BLOCK": EMBED_TRACKS,
        "LOG2_PERIOD": math.log2(grid.id_period),
        "SIN_FIRST": grid.id_order == "sin_cos",
    }


def scatter_constants(channels: int, grid: TrackGrid, *, bias: bool) -> dict[str, int | bool]:
    """The constexpr arguments of `scatter_tracks_kernel`."""
    return {
        "REPEAT": grid.first_frame == "repeat",
        "ROUND": grid.rounding == "round",
        "LAST": grid.collision == "last",
        "BIAS": bias,
        "CHANNELS": block_of(channels, 16),
        "BLOCK_CELLS": CELLS,
        "BLOCK_TRACKS": TRACKS,
    }


def _checked(
    points: Tensor, visible: Tensor, ids: Tensor, weight: Tensor, bias: Tensor | None, grid: TrackGrid
) -> tuple[int, int]:
    need_rank("points", points, "tracks rgb_frames 2")
    tracks, rgb_frames, _ = points.shape
    need_shape("points", points, (tracks, rgb_frames, 2))
    need_dtype("points", points, torch.float32)
    need_shape("visible", visible, (tracks, rgb_frames))
    need_dtype("visible", visible, torch.bool, torch.uint8)
    need(
        tracks == 0 or (points.stride()[1:] == (2, 1) and visible.stride(1) == 1),
        f"points {points.stride()} and visible {visible.stride()} must be packed along time; call .contiguous()",
    )
    need_shape("ids", ids, (tracks,))
    need_dtype("ids", ids, torch.int32, torch.int64)
    need_contiguous("ids", ids)
    need_rank("weight", weight, "channels 4*id_dim")
    need_dtype("weight", weight, *FLOATS)
    need_contiguous("weight", weight)
    channels, columns = weight.shape
    need(columns % (2 * SUBFRAMES) == 0, f"weight has {columns} columns, expected 4 subframes of an even id_dim")
    tensors = {"points": points, "visible": visible, "ids": ids, "weight": weight}
    if bias is not None:
        need_shape("bias", bias, (channels,))
        need_dtype("bias", bias, *FLOATS)
        need_contiguous("bias", bias)
        tensors["bias"] = bias
    need_same("device", **tensors)
    return tracks, channels
