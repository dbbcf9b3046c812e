"""The backdrop behind the things of the first frame: what lies around a hole grows into it, round after round."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_infer.model.blocks import Residual, conv
from ms_infer.model.gaps import fill_gaps

STRIDE = 4  # of the painter's state
ROUNDS = 4  # in which the same blocks work on it
OPENING = 20.0  # all is painted where things have a weight of 1 / 20
TRUST = 0.2  # ground that is more than this part of a thing says nothing of what lies around


class Painter(nn.Module):
    """A small network that sees the picture, its smooth continuation behind the things, and where the things are.

    Its blocks see 7 cells of 8 pixels around in a round; the weights of all rounds are the same.
    """

    def __init__(self, widths: tuple[int, int] = (48, 72)) -> None:
        super().__init__()
        near, far = widths
        self.enter = nn.Conv2d(7 * STRIDE**2, near, 1)
        self.first = Residual(near)
        self.down = conv(near, far, stride=2)
        self.rework = nn.ModuleList(Residual(far, dilation) for dilation in (1, 4))
        self.lift = nn.Conv2d(far, near, 1)
        self.last = Residual(near)
        self.leave = conv(near, 4 * STRIDE**2)
        nn.init.zeros_(self.leave.weight)
        start = torch.zeros(4, STRIDE**2)
        start[0] = 2.0  # begins near the smooth continuation
        with torch.no_grad():
            assert self.leave.bias is not None
            self.leave.bias.copy_(start.flatten())

    def forward(self, image: Tensor, ground: Tensor) -> Tensor:
        """The first frame without its things `[B, 3, H, W]`: itself where no thing is.

        image: `[B, 3, H, W]` in [0, 1], H and W multiples of 32; ground: `[B, 1, H, W]`, the backdrop's share of every
        pixel. A shadow covers its ground in part: there the picture itself can be taken up, and brightened.
        """
        return painted(image, ground, self.paint(image, ground))

    def paint(self, image: Tensor, ground: Tensor) -> Tensor:
        """What is added to the first frame where things are, `[B, 3, H, W]`; the same inputs."""
        around = fill_gaps(image, ((ground - (1 - TRUST)) / TRUST).clamp(0, 1), image)
        seen = torch.cat([image, around, ground], dim=1).to(self.enter.weight.dtype)
        smooth, colours = self._mix(seen * 2 - 1).to(image.dtype).split([1, 3], dim=1)
        return smooth.sigmoid() * (around - image) + colours

    def _mix(self, seen: Tensor) -> Tensor:
        near = self.first(F.relu(self.enter(F.pixel_unshuffle(seen, STRIDE))))
        x = F.relu(self.down(near))
        for _ in range(ROUNDS):
            for block in self.rework:
                x = block(x)
        raised = F.interpolate(self.lift(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        return F.pixel_shuffle(self.leave(self.last(F.relu(near + raised))), STRIDE)


def painted(image: Tensor, ground: Tensor, paint: Tensor) -> Tensor:
    """The first frame `[B, 3, H, W]` with paint where its backdrop is not all of a pixel: `ground` `[B, 1, H, W]`."""
    return image + (OPENING * (1 - ground)).clamp(max=1) * paint
