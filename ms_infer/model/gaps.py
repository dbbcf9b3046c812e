"""Gaps in pictures, filled from what surrounds them."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


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
