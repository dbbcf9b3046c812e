"""The refiner of models with layers: what moved layers show, with the light and the new things of the decoded frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ms_infer.config import RefinerConfig
from ms_infer.errors import ConfigError
from ms_infer.model.refiner import FrameNetwork

FOLD = 4  # pixels a side that one place of the first scale holds
INPUTS = 3 + 3 + 1
OUTPUTS = 1 + 1 + 3 + 3  # share of the decoded frame, sharpening, gain and offset of the moved one
STRIDE = 16
START = -3.0  # logit of the decoded frame's share


class LayerRefiner(FrameNetwork):
    """Every pixel mixes the decoded frame with the moved one, which is relit and sharpened.

    A small U-Net, frame by frame and without a state, says how. It starts as (nearly) the moved frame.
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__(config, inputs=INPUTS, outputs=OUTPUTS, fold=FOLD, start=START)

    def forward(self, decoded: Tensor, moved: Tensor, moved_valid: Tensor) -> Tensor:
        """Frames `[B, T, 3, H, W]` in [0, 1]; H and W are multiples of 16.

        decoded, moved: `[B, T, 3, H, W]` in [0, 1]; moved_valid: `[B, T, 1, H, W]`. ConfigError when sizes differ.
        """
        return self.mix(decoded, moved, moved_valid).clamp(0, 1)

    def mix(self, decoded: Tensor, moved: Tensor, moved_valid: Tensor) -> Tensor:
        """As `forward`, not clamped."""
        height, width = decoded.shape[-2:]
        same = decoded.shape == moved.shape and moved_valid.shape[-2:] == (height, width)
        if not same or height % STRIDE or width % STRIDE:
            raise ConfigError(
                f"the refiner got frames of {height}x{width} and references of {tuple(moved.shape)} and "
                f"{tuple(moved_valid.shape)}; all must have one size, a multiple of {STRIDE}"
            )
        ours, theirs = decoded.flatten(0, 1), moved.flatten(0, 1)
        seen = torch.cat([ours * 2 - 1, theirs * 2 - 1, moved_valid.flatten(0, 1)], dim=1)
        share, sharpen, gain, offset = self.choose(seen).split([1, 1, 3, 3], dim=1)
        detail = theirs - F.avg_pool2d(theirs, 3, stride=1, padding=1, count_include_pad=False)
        relit = theirs * (1 + gain) + offset + sharpen * detail
        share = share.sigmoid()
        return (share * ours + (1 - share) * relit).view(decoded.shape)
