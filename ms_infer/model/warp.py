"""The first frame moved along the tracks: dense displacement, ghosts and gaps found, gaps filled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

CELL = 4  # pixels between two places where the displacement is worked out
GHOST_PIXELS = 2.0  # a source whose own motion differs by more than this is a ghost
NEAR = 0.25  # least squared distance, so that a track on the very place does not divide by zero
FAR = 1e9  # squared distance of an invisible track

# Rounds of the robust fit in `dominant_motion`: residual in pixels at which a track counts a quarter, and how stiff
# the terms beside the constant one are. It begins with a shift that most tracks share.
ROUNDS = ((16.0, 100.0), (8.0, 30.0), (4.0, 1.0), (2.0, 1.0))
STIFFNESS = (1e-3, 0.05, 0.05, 0.5, 0.5, 0.5)


def warp_first_frame(image: Tensor, points: Tensor, visible: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Move the first frame along the visible tracks, one RGB frame at a time.

    image: float32 `[B, 3, H, W]` in [0, 1], H and W multiples of 4. points: float32 `[B, N, T, 2]` pixels (x, y).
    visible: bool `[B, N, T]`. anchors: float32 `[B, N, 2]`, each track's place in the first frame, also outside it.

    Returns frames float32 `[B, T, 3, H, W]` and valid float32 `[B, T, 1, H, W]`, 1 where the picture is carried by
    tracks. A pixel is not valid where its source lies outside the first frame, or where the source itself moves
    elsewhere (the place that an object left): these are filled from around. Without a visible track the frame
    stands still and nothing is valid. Every frame depends on its own points alone, so chunks can be made one by one.
    """
    batch, _, height, width = image.shape
    frames = points.shape[2]
    places = points.transpose(1, 2).flatten(0, 1)  # [B T, N, 2]
    seen = visible.transpose(1, 2).flatten(0, 1)
    starts = anchors[:, None].expand(-1, frames, -1, -1).flatten(0, 1)
    cells = _cell_centres(height, width, image).expand(len(places), -1, -1)
    moved = places - starts
    shift = displacement_at(cells, places, moved, seen)  # [B T, cells, 2]
    source_shift = displacement_at(cells - shift, starts, moved, seen)
    ghost = ((source_shift - shift).square().sum(-1) + 1e-12).sqrt() - GHOST_PIXELS
    kept = 1 - ghost.clamp(0, 1)

    dense = torch.cat([shift, kept[..., None]], dim=-1).transpose(1, 2)
    dense = dense.reshape(-1, 3, height // CELL, width // CELL)
    dense = F.interpolate(dense, size=(height, width), mode="bilinear", align_corners=False)
    source = _pixel_centres(height, width, image) - dense[:, :2].permute(0, 2, 3, 1)
    limits = torch.tensor([width, height], device=image.device, dtype=image.dtype)
    inside = (source.minimum(limits - source).amin(-1) + 0.5).clamp(0, 1)
    followed = seen.any(1).to(image.dtype)[:, None, None, None]
    still = image[:, None].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    carried = F.grid_sample(still, source * (2 / limits) - 1, padding_mode="border", align_corners=False)
    valid = dense[:, 2:] * inside[:, None]
    filled = fill_gaps(carried, valid, still)
    out = filled * followed + still * (1 - followed)
    return out.unflatten(0, (batch, frames)), (valid * followed).unflatten(0, (batch, frames))


def hold_backdrop(image: Tensor, points: Tensor, visible: Tensor, anchors: Tensor) -> Tensor:
    """The first frame under the motion that most visible tracks share: what lies behind the things that move.

    Arguments as in `warp_first_frame`. Returns float32 `[B, T, 4, H, W]`: the picture, and 1 where its source lies
    inside the first frame. Without a visible track the frame stands still.
    """
    batch, _, height, width = image.shape
    frames = points.shape[2]
    limits = torch.tensor([width, height], device=image.device, dtype=image.dtype)
    places = points.transpose(1, 2).flatten(0, 1)
    moved = places - anchors[:, None].expand(-1, frames, -1, -1).flatten(0, 1)
    terms = dominant_motion(places * (2 / limits) - 1, moved, visible.transpose(1, 2).flatten(0, 1))
    pixels = _pixel_centres(height, width, image)
    shift = _basis(pixels * (2 / limits) - 1).flatten(0, 1) @ terms  # [B T, H W, 2]
    source = pixels - shift.view(-1, height, width, 2)
    inside = (source.minimum(limits - source).amin(-1) + 0.5).clamp(0, 1)
    still = image[:, None].expand(-1, frames, -1, -1, -1).flatten(0, 1)
    picture = F.grid_sample(still, source * (2 / limits) - 1, padding_mode="border", align_corners=False)
    return torch.cat([picture, inside[:, None]], dim=1).unflatten(0, (batch, frames))


def dominant_motion(places: Tensor, moved: Tensor, seen: Tensor) -> Tensor:
    """Terms `[R, 6, 2]` of the quadratic displacement that most seen tracks follow.

    places: `[R, N, 2]` in [-1, 1]; moved: `[R, N, 2]` pixels; seen: bool `[R, N]`. Least squares over 1, x, y, x^2,
    x y, y^2, reweighted by 1 / (1 + (residual / width)^2)^2 (Geman and McClure, 1985) in rounds of falling width.
    """
    basis, shown = _basis(places), seen.to(places.dtype)[..., None]
    stiffness = torch.tensor(STIFFNESS, device=places.device, dtype=places.dtype)
    constant = torch.tensor([1.0, 0, 0, 0, 0, 0], device=places.device, dtype=places.dtype)
    weights, terms = shown, torch.zeros_like(basis[:, :1, :2])
    for width, stiff in ROUNDS:
        weighted = (basis * weights).transpose(1, 2)
        ridge = torch.diag(stiffness * (constant + stiff * (1 - constant)))
        terms = _solve(weighted @ basis + ridge, weighted @ moved)
        residual = (basis @ terms - moved).square().sum(-1, keepdim=True)
        weights = shown / (1 + residual / width**2).square()
    return terms


def _basis(places: Tensor) -> Tensor:
    """1, x, y, x^2, x y, y^2 of `[..., 2]`."""
    x, y = places[..., :1], places[..., 1:]
    return torch.cat([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1)


def _solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solution `[R, K, C]` of a positive definite system by Gauss-Jordan steps, which every engine can run."""
    rows = torch.cat([matrix, right], dim=-1)
    rows = rows / rows[:, :1, :1]  # pivots near 1 keep the steps below exact
    size = matrix.shape[1]
    unit = torch.eye(size, device=matrix.device, dtype=matrix.dtype)
    for pivot in range(size):
        scaled = rows[:, pivot : pivot + 1] / rows[:, pivot : pivot + 1, pivot : pivot + 1]
        rows = rows - (rows[:, :, pivot : pivot + 1] - unit[:, pivot : pivot + 1]) * scaled
    return rows[:, :, size:]


def displacement_at(places: Tensor, tracks: Tensor, moved: Tensor, seen: Tensor) -> Tensor:
    """Displacement `[R, P, 2]` at `places` `[R, P, 2]`: nearly that of the nearest seen track.

    tracks, moved: `[R, N, 2]`; seen: bool `[R, N]`. Shepard's weights (nearest / squared distance)^4: the change
    between two tracks is short but not a step. Zero where nothing is seen.
    """
    shown = seen[..., None].to(tracks.dtype)
    length = tracks.square().sum(-1, keepdim=True) + (1 - shown) * FAR
    keys = torch.cat([-2 * tracks, length, torch.ones_like(length)], dim=-1)
    squares = places.square().sum(-1, keepdim=True)
    queries = torch.cat([places, torch.ones_like(squares), squares], dim=-1)
    squared = (queries @ keys.transpose(1, 2)).clamp(min=NEAR)
    weights = (squared.amin(-1, keepdim=True) / squared).square().square()
    summed = weights @ torch.cat([moved * shown, shown], dim=-1)
    return summed[..., :2] / summed[..., 2:].clamp(min=1e-6)


def fill_gaps(picture: Tensor, weight: Tensor, fallback: Tensor) -> Tensor:
    """Replace pixels `[R, 3, H, W]` of small weight `[R, 1, H, W]` by their surroundings (push-pull pyramid).

    The coarsest level falls back on the mean of `fallback`.
    """
    pictures, weights = [picture * weight], [weight]
    while min(weights[-1].shape[-2:]) > 1 and not any(side % 2 for side in weights[-1].shape[-2:]):
        pictures.append(F.avg_pool2d(pictures[-1], 2))
        weights.append(F.avg_pool2d(weights[-1], 2))
    mean = fallback.mean((2, 3), keepdim=True)
    out = (pictures[-1] + 1e-4 * mean) / (weights[-1] + 1e-4)
    for level in range(len(weights) - 2, -1, -1):
        out = F.interpolate(out, size=weights[level].shape[-2:], mode="bilinear", align_corners=False)
        # Below full resolution a small weight already counts: colour = weighted mean of what is there.
        trust = weights[level] if level == 0 else (4 * weights[level]).clamp(max=1)
        known = pictures[level] / weights[level].clamp(min=1e-4)
        out = known * trust + out * (1 - trust)
    return out


def _cell_centres(height: int, width: int, like: Tensor) -> Tensor:
    """`[1, cells, 2]`, rows first."""
    return _centres(height // CELL, width // CELL, float(CELL), like).flatten(0, 1)[None]


def _pixel_centres(height: int, width: int, like: Tensor) -> Tensor:
    """`[H, W, 2]`."""
    return _centres(height, width, 1.0, like)


def _centres(rows: int, columns: int, step: float, like: Tensor) -> Tensor:
    y = (torch.arange(rows, device=like.device, dtype=like.dtype) + 0.5) * step
    x = (torch.arange(columns, device=like.device, dtype=like.dtype) + 0.5) * step
    return torch.stack([x[None].expand(rows, -1), y[:, None].expand(-1, columns)], dim=-1)
