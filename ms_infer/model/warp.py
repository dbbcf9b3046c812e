"""The first frame moved along the tracks: dense displacement, ghosts and gaps found, gaps filled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ms_infer.config import MOTION_LAYERS

CELL = 4  # pixels between two positions where the displacement is worked out
GHOST_PIXELS = 2.0  # a source whose own motion differs by more than this is a ghost
NEAR = 0.25  # least squared distance, so that a track at the very position does not divide by zero
FAR = 1e9  # squared distance of an invisible track
SUPPORT = 10.0  # pixels around a track within which a thing's layer is likely to show it
SHIFT_ROUNDS, FIT_ROUNDS = (16.0, 8.0), (4.0, 2.0)  # of `shared_motion`: residuals at which a track counts a quarter
STIFFNESS = (1e-3, 0.02, 0.02, 0.5, 0.5, 0.5)  # of the terms of a displacement
LEFT_OVER = 0.05  # of a track that a motion has taken: not enough to begin another motion
THING_TERMS = 3  # things move by an affine map, the backdrop by a quadratic one


def warp_first_frame(image: Tensor, points: Tensor, visible: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """Move the first frame along the visible tracks, one RGB frame at a time.

    image: float32 `[B, 3, H, W]` in [0, 1], H and W multiples of 4. points: float32 `[B, N, T, 2]` pixels (x, y).
    visible: bool `[B, N, T]`. anchors: float32 `[B, N, 2]`, each track's position in the first frame, also outside it.

    Returns frames float32 `[B, T, 3, H, W]` and valid float32 `[B, T, 1, H, W]`, 1 where the picture is carried by
    tracks. A pixel is not valid where its source lies outside the first frame, or where the source itself moves
    elsewhere (the position that an object left): these are filled from around. Without a visible track the frame
    stands still and nothing is valid. Every frame depends on its own points alone, so chunks can be made one by one.
    """
    batch, _, height, width = image.shape
    frames = points.shape[2]
    positions = points.transpose(1, 2).flatten(0, 1)  # [B T, N, 2]
    seen = visible.transpose(1, 2).flatten(0, 1)
    starts = anchors[:, None].expand(-1, frames, -1, -1).flatten(0, 1)
    cells = _cell_centres(height, width, image).expand(len(positions), -1, -1)
    moved = positions - starts
    shift = displacement_at(cells, positions, moved, seen)  # [B T, cells, 2]
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


def motion_layers(image: Tensor, points: Tensor, visible: Tensor, anchors: Tensor) -> Tensor:
    """The first frame under each of the motions that the visible tracks share, the commonest first.

    Arguments as in `warp_first_frame`. Returns float32 `[B, T, 4 MOTION_LAYERS, H, W]`, for every layer a picture and a
    weight. The first layer is the backdrop: what lies behind the things that move; its weight is 1 where its source
    lies inside the first frame and shows no thing. The others follow the motions of what is left; their weight is 1
    near the tracks that share the motion. Without a visible track the first frame stands still.
    """
    batch, _, height, width = image.shape
    frames = points.shape[2]
    limits = torch.tensor([width, height], device=image.device, dtype=image.dtype)
    positions = points.transpose(1, 2).flatten(0, 1)  # [B T, N, 2]
    moved = positions - anchors[:, None].expand(-1, frames, -1, -1).flatten(0, 1)
    pixels = _pixel_centres(height, width, image)
    terms_at_pixels = _basis(pixels * (2 / limits) - 1).flatten(0, 1)  # [H W, 6]
    cells = _cell_centres(height, width, image).expand(len(positions), -1, -1)
    left = visible.transpose(1, 2).flatten(0, 1).to(image.dtype)[..., None]
    basis, shifts, shares = _basis(positions * (2 / limits) - 1), [], []
    for layer in range(MOTION_LAYERS):
        count = THING_TERMS if layer else len(STIFFNESS)
        terms, share = shared_motion(basis[..., :count], moved, left)
        shifts.append(terms_at_pixels[:, :count] @ terms)
        shares.append(share)
        left = F.relu(left - share - LEFT_OVER)
        if layer == 0:  # where the backdrop still shows the things: their positions in the first frame, moved along
            begun = positions - moved
            ghosts = _support(cells, begun + _basis(begun * (2 / limits) - 1) @ terms, left)
    supports = [1 - ghosts, *_support(cells, positions, torch.cat(shares[1:], dim=-1)).split(1, dim=-1)]
    # All layers are sampled at once, with a fourth channel for the weight: TensorRT cannot fuse sampling with joining.
    source = pixels - torch.stack(shifts, dim=1).view(-1, height, width, 2)
    rgbx = F.pad(image, (0, 0, 0, 0, 0, 1))[:, None].expand(-1, frames * MOTION_LAYERS, -1, -1, -1).flatten(0, 1)
    picture = F.grid_sample(rgbx, source * (2 / limits) - 1, padding_mode="border", align_corners=False)
    inside = (source.minimum(limits - source).amin(-1) + 0.5).clamp(0, 1)[:, None]
    support = torch.stack(supports, dim=1).view(-1, 1, height // CELL, width // CELL)
    weight = inside * F.interpolate(support, size=(height, width), mode="bilinear", align_corners=False)
    last = torch.tensor([0.0, 0, 0, 1], device=image.device, dtype=image.dtype).view(1, 4, 1, 1)
    return (picture + last * weight).view(batch, frames, 4 * MOTION_LAYERS, height, width)


def _support(cells: Tensor, tracks: Tensor, shares: Tensor) -> Tensor:
    """How near cells `[R, P, 2]` lie to tracks `[R, N, 2]` that have a share `[R, N, L]`: `[R, P, L]`, at most 1."""
    near = (-0.5 / SUPPORT**2 * squared_distances(cells, tracks)).exp()
    return (near @ shares).clamp(max=1)


def shared_motion(basis: Tensor, moved: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Terms `[R, K, 2]` of the displacement that most tracks share, and each track's share `[R, N, 1]`.

    basis: `[R, N, K]`, the first K of 1, x, y, x^2, x y, y^2 at the tracks; moved: `[R, N, 2]` pixels; weights:
    `[R, N, 1]`, 0 for tracks that do not count; a share is at most the weight. Least squares, reweighted by
    1 / (1 + (residual / width)^2)^2 (Geman and McClure, 1985) in rounds of falling width; the first rounds fit a
    shift alone.
    """
    shares = weights
    for width in SHIFT_ROUNDS:
        fitted = (shares * moved).sum(1, keepdim=True) / (shares.sum(1, keepdim=True) + STIFFNESS[0])
        shares = _shares(weights, fitted - moved, width)
    ridge = torch.diag(torch.tensor(STIFFNESS[: basis.shape[-1]], device=basis.device, dtype=basis.dtype))
    for width in FIT_ROUNDS:
        weighted = (basis * shares).transpose(1, 2)
        terms = _solve(weighted @ basis + ridge, weighted @ moved)
        shares = _shares(weights, basis @ terms - moved, width)
    return terms, shares


def _shares(weights: Tensor, residual: Tensor, width: float) -> Tensor:
    return weights / (1 + residual.square().sum(-1, keepdim=True) / width**2).square()


def _basis(positions: Tensor) -> Tensor:
    """1, x, y, x^2, x y, y^2 of `[..., 2]`."""
    x, y = positions[..., :1], positions[..., 1:]
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


def displacement_at(positions: Tensor, tracks: Tensor, moved: Tensor, seen: Tensor) -> Tensor:
    """Displacement `[R, P, 2]` at `positions` `[R, P, 2]`: nearly that of the nearest seen track.

    tracks, moved: `[R, N, 2]`; seen: bool `[R, N]`. Shepard's weights (nearest / squared distance)^4: the change
    between two tracks is short but not a step. Zero where nothing is seen.
    """
    shown = seen[..., None].to(tracks.dtype)
    squared = squared_distances(positions, tracks, (1 - shown) * FAR).clamp(min=NEAR)
    weights = (squared.amin(-1, keepdim=True) / squared).square().square()
    summed = weights @ torch.cat([moved * shown, shown], dim=-1)
    return summed[..., :2] / summed[..., 2:].clamp(min=1e-6)


def squared_distances(positions: Tensor, tracks: Tensor, added: Tensor | float = 0.0) -> Tensor:
    """`[R, P, N]` between positions `[R, P, 2]` and tracks `[R, N, 2]`, plus `added` `[R, N, 1]`, as one product."""
    length = tracks.square().sum(-1, keepdim=True) + added
    keys = torch.cat([-2 * tracks, length, torch.ones_like(length)], dim=-1)
    squares = positions.square().sum(-1, keepdim=True)
    queries = torch.cat([positions, torch.ones_like(squares), squares], dim=-1)
    return queries @ keys.transpose(1, 2)


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
