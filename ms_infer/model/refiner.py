"""The refiner: what moved layers show, with the light and the new things of the decoded frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_infer.config import RefinerConfig
from ms_infer.errors import ConfigError
from ms_infer.model.constants import numbers
from ms_infer.model.motions import solve
from ms_infer.model.planes import means, spread

FOLD = 4  # pixels a side that one place of the first scale holds
INPUTS = 3 + 3 + 1
SHARES = (1, 1, 3, 3)  # share of the decoded frame; sharpening, gain and offset of the moved one
STRIDE = 4 * FOLD
START = -3.0  # logit of the share
STIFFNESS = 5e-4  # of the frame's colour map: the variance of colours that can turn it
NOTICED = 0.05  # change of colour of which half is believed; a decoder and things found wrongly make less


class Refiner(nn.Module):
    """Every pixel mixes the decoded frame with the moved one, which is given its light and sharpened.

    What changes the whole frame, night or fog, is one map of colours (`relight`). A small U-Net, frame by frame and
    without a state, says the rest. It starts as (nearly) the moved frame.
    """

    def __init__(self, config: RefinerConfig) -> None:
        super().__init__()
        self.config = config
        half, quarter, eighth = config.widths
        self.enter = _conv(FOLD * FOLD * INPUTS, half)
        self.down = _conv(half, quarter, stride=2)
        self.middle = Residual(quarter)
        self.deepen = _conv(quarter, eighth, stride=2)
        self.deep = Residual(eighth)
        self.raise_quarter = nn.Conv2d(eighth, quarter, 1)
        self.join = _conv(quarter, quarter)
        self.raise_half = nn.Conv2d(quarter, half, 1)
        self.last = Residual(half)
        self.leave = _conv(half, FOLD * FOLD * sum(SHARES))
        nn.init.zeros_(self.leave.weight)
        first = torch.zeros(sum(SHARES), FOLD * FOLD)
        first[0] = START
        with torch.no_grad():
            assert self.leave.bias is not None
            self.leave.bias.copy_(first.flatten())  # channel-major, as `spread` reads it

    def forward(self, decoded: Tensor, moved: Tensor, moved_valid: Tensor) -> Tensor:
        """Frames `[B, T, 3, H, W]` in [0, 1]; H and W are multiples of 16.

        decoded, moved: `[B, T, 3, H, W]` in [0, 1]; moved_valid: `[B, T, 1, H, W]`; see `compose` for both. ConfigError
        when sizes differ.
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
        ours, valid = decoded.flatten(0, 1), moved_valid.flatten(0, 1)
        theirs = relight(moved.flatten(0, 1), ours, valid)
        seen = torch.cat([ours * 2 - 1, theirs * 2 - 1, valid], dim=1)
        share, sharpen, gain, offset = self._choose(seen).split(SHARES, dim=1)
        detail = theirs - means(theirs, 3)
        shown = theirs * (1 + gain) + offset + sharpen * detail
        share = share.sigmoid()
        return (share * ours + (1 - share) * shown).view(decoded.shape)

    def _choose(self, seen: Tensor) -> Tensor:
        """`[N, INPUTS, H, W]` to `[N, sum(SHARES), H, W]`, at `FOLD` pixels a place, a half and a quarter of that."""
        half = F.relu(self.enter(F.pixel_unshuffle(seen, FOLD)))
        quarter = self.middle(F.relu(self.down(half)))
        eighth = self.deep(F.relu(self.deepen(quarter)))
        quarter = F.relu(self.join(quarter + _twice(self.raise_quarter(eighth))))
        half = self.last(half + _twice(self.raise_half(quarter)))
        return spread(self.leave(half), FOLD)


class Residual(nn.Module):
    """Two convolutions beside a shortcut."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _conv(width, width), _conv(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[N, width, H, W]` to the same shape."""
        return F.relu(x + self.second(F.relu(self.first(x))))


def _conv(inputs: int, outputs: int, *, stride: int = 1) -> nn.Conv2d:
    """3x3, padded."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)


def relight(moved: Tensor, decoded: Tensor, valid: Tensor) -> Tensor:
    """The moved frame in the light of the decoded one: one affine map of colours for the whole of each frame.

    moved, decoded: `[N, 3, H, W]` in [0, 1]; valid: `[N, 1, H, W]`. Least squares with a ridge over means of STRIDE x
    STRIDE pixels, where the moved frame is valid; a map that changes no more than the decoder errs is hardly followed.
    Not clamped.
    """
    seen, wanted, weight = _cells(moved), _cells(decoded), _cells(valid)
    weight = weight / (weight.sum(1, keepdim=True) + 1e-3)
    middle = (weight * seen).sum(1, keepdim=True)
    change = (weight * (wanted - seen)).sum(1, keepdim=True)
    apart, left = seen - middle, wanted - seen - change
    weighted = (weight * apart).transpose(1, 2)
    turn = solve(weighted @ apart + torch.diag(numbers((STIFFNESS,) * 3, seen)), weighted @ left)  # [N, 3, 3]
    size = (weight * (apart @ turn + change).square()).sum((1, 2), keepdim=True)
    believed = size.square() / (size.square() + 9 * NOTICED**4)
    turn, change = believed * turn, believed * (change - middle @ turn)
    shift = turn.transpose(1, 2).to(moved.dtype) @ moved.flatten(2) + change.transpose(1, 2).to(moved.dtype)
    return moved + shift.unflatten(2, moved.shape[2:])


def _cells(x: Tensor) -> Tensor:
    """`[N, C, H, W]` to means of STRIDE x STRIDE pixels, float32 `[N, P, C]`."""
    return means(x.float(), STRIDE, STRIDE).flatten(2).transpose(1, 2)


def _twice(x: Tensor) -> Tensor:
    """Every pixel four times."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
