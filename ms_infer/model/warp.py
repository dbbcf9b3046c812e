"""The first frame moved along the tracks: dense displacement, ghosts and gaps found, gaps filled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ms_infer.config import MOTION_LAYERS
from ms_infer.model.constants import numbers
from ms_infer.model.gaps import fill_gaps
from ms_infer.model.motions import LEFT_OVER, STIFFNESS, THING_TERMS, quadratic, shared_motion, squared_distances

CELL = 4  # pixels between two positions where the displacement is worked out
GHOST_PIXELS = 2.0  # a source whose own motion differs by more than this is a ghost
NEAR = 0.25  # least squared distance, so that a track at the very position does not divide by zero
FAR = 1e9  # squared distance of an invisible track
SUPPORT = 10.0  # pixels around a track within which a thing's layer is likely to show it


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
    limits = numbers([width, height], image)
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
    limits = numbers([width, height], image)
    positions = points.transpose(1, 2).flatten(0, 1)  # [B T, N, 2]
    moved = positions - anchors[:, None].expand(-1, frames, -1, -1).flatten(0, 1)
    pixels = _pixel_centres(height, width, image)
    terms_at_pixels = quadratic(pixels * (2 / limits) - 1).flatten(0, 1)  # [H W, 6]
    cells = _cell_centres(height, width, image).expand(len(positions), -1, -1)
    left = visible.transpose(1, 2).flatten(0, 1).to(image.dtype)[..., None]
    basis, shifts, shares = quadratic(positions * (2 / limits) - 1), [], []
    for layer in range(MOTION_LAYERS):
        count = THING_TERMS if layer else len(STIFFNESS)
        terms, share = shared_motion(basis[..., :count], moved, left)
        shifts.append(terms_at_pixels[:, :count] @ terms)
        shares.append(share)
        left = F.relu(left - share - LEFT_OVER)
        if layer == 0:  # where the backdrop still shows the things: their positions in the first frame, moved
            begun = positions - moved
            ghosts = _support(cells, begun + quadratic(begun * (2 / limits) - 1) @ terms, left)
    supports = [1 - ghosts, *_support(cells, positions, torch.cat(shares[1:], dim=-1)).split(1, dim=-1)]
    # All layers are sampled at once, with a fourth channel for the weight: TensorRT cannot fuse sampling with joining.
    source = pixels - torch.stack(shifts, dim=1).view(-1, height, width, 2)
    rgbx = F.pad(image, (0, 0, 0, 0, 0, 1))[:, None].expand(-1, frames * MOTION_LAYERS, -1, -1, -1).flatten(0, 1)
    picture = F.grid_sample(rgbx, source * (2 / limits) - 1, padding_mode="border", align_corners=False)
    inside = (source.minimum(limits - source).amin(-1) + 0.5).clamp(0, 1)[:, None]
    support = torch.stack(supports, dim=1).view(-1, 1, height // CELL, width // CELL)
    weight = inside * F.interpolate(support, size=(height, width), mode="bilinear", align_corners=False)
    last = numbers([0.0, 0, 0, 1], image).view(1, 4, 1, 1)
    return (picture + last * weight).view(batch, frames, 4 * MOTION_LAYERS, height, width)


def _support(cells: Tensor, tracks: Tensor, shares: Tensor) -> Tensor:
    """How near cells `[R, P, 2]` lie to tracks `[R, N, 2]` that have a share `[R, N, L]`: `[R, P, L]`, at most 1."""
    near = (-0.5 / SUPPORT**2 * squared_distances(cells, tracks)).exp()
    return (near @ shares).clamp(max=1)


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
