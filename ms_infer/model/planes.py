"""Pictures whose channels are planes of their own, each of which is worked on alone.

Engines that would lay the channels of a pixel side by side, as convolutions want them, leave such pictures as they are.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def spread(x: Tensor, fold: int) -> Tensor:
    """`[N, C fold^2, H, W]` to `[N, C, H fold, W fold]`: `F.pixel_shuffle`."""
    planes = F.pixel_shuffle(x.reshape(-1, fold * fold, *x.shape[2:]), fold)
    return planes.view(len(x), -1, *planes.shape[2:])


def means(x: Tensor, pixels: int, stride: int = 1) -> Tensor:
    """Means of `pixels` x `pixels` of `[N, C, H, W]`, every `stride` pixels; beside an edge of those that are there."""
    padding = (pixels - stride) // 2
    return F.avg_pool2d(x.flatten(0, 1), pixels, stride, padding, count_include_pad=False).unflatten(0, x.shape[:2])
