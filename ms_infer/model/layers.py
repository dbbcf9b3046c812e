"""Layers of the first frame: a backdrop painted behind the things that tracks move, and each thing with its opacity.

Found once a chunk in the first frame's coordinates; per frame the layers only move.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_infer.config import MOTION_TERMS, THINGS
from ms_infer.model.blocks import Residual, conv
from ms_infer.model.constants import numbers
from ms_infer.model.motions import LEFT_OVER, backdrop_motion, squared_distances, thing_motion
from ms_infer.model.painter import Painter, painted

ASKED, KEYS = (1, 2), 32  # levels of the U-Net (1/4 and 1/8 of the picture) where tracks are asked; width of a key

PINS, PIN_WEIGHT = 6, 0.25  # points a side that rest where no track is near
PIN_REACH = 0.18  # of the width: how near a track is near
SPLAT = 1.2  # deviation of a track's blob, in 128ths of the width
CURVE_ROUNDS = 2  # of inverting the quadratic part of a motion
DEGREE = 2**CURVE_ROUNDS  # of the polynomial that this makes
MOVED = 0.5  # pixels; an invisible track that has moved farther still says where its thing is


@dataclass(frozen=True)
class Motions:
    """Motions that the tracks of a chunk share: the backdrop's, then those of `THINGS` things."""

    shares: Tensor
    """float32 `[B, 1 + THINGS, N]`: how much each track follows each motion; at most 1 in all."""
    terms: Tensor
    """float32 `[B, 1 + THINGS, 6, T, 2]`: displacement in pixels at each of T RGB frames, in terms of 1, x, y, x^2,
    x y, y^2 of the place in the first frame, in -1..1; the quadratic terms of things are 0."""


def shared_motions(points: Tensor, visible: Tensor, anchors: Tensor, height: int, width: int) -> Motions:
    """Robust least squares, one motion after the other, over all RGB frames of a chunk together.

    points: float32 `[B, N, T, 2]` pixels; visible: bool `[B, N, T]`; anchors: float32 `[B, N, 2]`. Tracks count that
    are visible in any frame, and hidden ones that have moved. Where no track is near, resting points are added: one
    track alone moves a thing, not the picture. Things come in the order in which they are laid over one another.
    """
    batch, _, frames, _ = points.shape
    limits = numbers([width, height], points)
    moved = (points - anchors[:, :, None]).flatten(2)
    far = moved.unflatten(2, (frames, 2)).square().sum(-1).amax(-1) > MOVED**2
    counts = (visible.any(-1) | far).to(points.dtype)[..., None]
    pins, pin_weights = _pins(anchors, counts, height, width)
    count = points.shape[1]
    moved = torch.cat([moved, moved.new_zeros(batch, pins.shape[1], moved.shape[2])], dim=1)
    left = torch.cat([counts, pin_weights], dim=1)
    places = torch.cat([anchors, pins], dim=1) * (2 / limits) - 1
    shares, terms = [], []
    for motion in range(1 + THINGS):
        find = thing_motion if motion else backdrop_motion
        fitted, share = find(places, moved, left, width / 128)
        shares.append(share[:, :count, 0])
        terms.append(F.pad(fitted, (0, 0, 0, MOTION_TERMS - fitted.shape[1])).unflatten(2, (frames, 2)))
        left = F.relu(left - share - LEFT_OVER)
    return _hidden_first(Motions(torch.stack(shares, dim=1), torch.stack(terms, dim=1)), visible)


def _hidden_first(motions: Motions, visible: Tensor) -> Motions:
    """The same motions, things with more hidden tracks first: what is laid over them hides these."""
    things = motions.shares[:, 1:]
    hidden = 1 - visible.to(things.dtype).mean(-1)
    share = (things * hidden[:, None]).sum(-1) / (things.sum(-1) + 1e-6)  # [B, THINGS]
    index = torch.arange(THINGS, device=share.device)
    before = (share[:, None] > share[..., None]) | ((share[:, None] == share[..., None]) & (index < index[:, None]))
    places = (before.sum(-1)[:, None] == index[:, None]).to(things.dtype)  # [B, place, thing]
    terms = (places @ motions.terms[:, 1:].flatten(2)).view_as(motions.terms[:, 1:])
    return Motions(
        torch.cat([motions.shares[:, :1], places @ things], dim=1), torch.cat([motions.terms[:, :1], terms], dim=1)
    )


def _pins(anchors: Tensor, counts: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Points `[B, P, 2]` of a resting grid and their weights `[B, P, 1]`, 0 beside tracks that count."""
    pins = _cells(PINS, height, PINS, width, anchors).expand(len(anchors), -1, -1)
    squared = squared_distances(pins, anchors)
    near = ((-0.5 / (PIN_REACH * width) ** 2 * squared).exp() @ counts).clamp(max=1)
    return pins, PIN_WEIGHT * (1 - near)


@dataclass(frozen=True)
class TrackHints:
    """What the layer network is told of the tracks: coordinates have become maps and places in -1..1, which survive
    the rounding of half precision."""

    shares: Tensor
    """`[B, 1 + THINGS, N]`: how much each track follows each motion."""
    maps: Tensor
    """`[B, 1 + THINGS, H / 2, W / 2]`: see `track_maps`."""
    places: Tensor
    """`[B, N, 2]`: where each track begins, in -1..1."""


def track_hints(shares: Tensor, anchors: Tensor, height: int, width: int) -> TrackHints:
    """Hints of tracks that begin at anchors `[B, N, 2]`, in pixels, and follow motions by shares `[B, 1 + THINGS, N]`.

    Computed in float32.
    """
    places = anchors * (2 / numbers([width, height], anchors)) - 1
    return TrackHints(shares, track_maps(shares, anchors, height, width), places)


def _with_mirrored(hints: TrackHints) -> TrackHints:
    """Hints of all pictures, then of their mirror images."""
    mirrored = hints.places * numbers([-1, 1], hints.places)
    return TrackHints(
        torch.cat([hints.shares, hints.shares]),
        torch.cat([hints.maps, hints.maps.flip(-1)]),
        torch.cat([hints.places, mirrored]),
    )


def track_maps(shares: Tensor, anchors: Tensor, height: int, width: int) -> Tensor:
    """Where the tracks of each motion begin: blobs `[B, 1 + THINGS, H / 2, W / 2]`, at most 1."""
    deviation = SPLAT * width / 128
    x = (-0.5 / deviation**2 * (anchors[..., :1] - _centres(width // 2, width, anchors)).square()).exp()
    y = (-0.5 / deviation**2 * (anchors[..., 1:] - _centres(height // 2, height, anchors)).square()).exp()
    return torch.einsum("bkn,bny,bnx->bkyx", shares, y, x).clamp(max=1)


@dataclass(frozen=True)
class Layers:
    """What the first frame is made of."""

    weights: Tensor
    """`[B, 1 + THINGS, H, W]`: share of the backdrop and of every thing in each pixel, 1 in all; a thing's shadow is
    part of the thing."""
    backdrop: Tensor
    """`[B, 3, H, W]`: the first frame without the things and their shadows."""


class LayerNetwork(nn.Module):
    """A U-Net that sees the first frame and where the tracks of each motion begin; a painter of what lies behind."""

    def __init__(self, widths: Sequence[int] = (32, 64, 96, 128, 160), painter: tuple[int, int] = (48, 72)) -> None:
        super().__init__()
        self.widths = widths
        self.enter = conv(4 * 3 + 1 + THINGS, widths[0])
        self.first = Residual(widths[0])
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in pairs)
        self.deep = nn.ModuleList(
            nn.Sequential(*(Residual(b, dilation) for dilation in ((1,) if level == 0 else (1, 2))))
            for level, (_, b) in enumerate(pairs)
        )
        self.lift = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairs)
        self.join = nn.ModuleList(conv(a, a) for a, _ in pairs)
        self.asked = nn.ModuleList(TrackAttention(widths[level]) for level in ASKED)
        self.last = Residual(widths[0])
        self.leave = conv(widths[0], 4 * (1 + THINGS))
        nn.init.zeros_(self.leave.weight)
        start = torch.zeros(1 + THINGS, 4)
        start[0] = 3.0  # all is backdrop
        with torch.no_grad():
            assert self.leave.bias is not None
            self.leave.bias.copy_(start.flatten())
        self.painter = Painter(painter)

    def forward(self, image: Tensor, shares: Tensor, anchors: Tensor) -> Layers:
        """image: `[B, 3, H, W]` in [0, 1], H and W multiples of 32; shares: `[B, 1 + THINGS, N]`, how much each track
        follows each motion; anchors: `[B, N, 2]`, where it begins, in pixels."""
        return layers_of(image, *self.predict(image, track_hints(shares, anchors, *image.shape[-2:])))

    def predict(self, image: Tensor, hints: TrackHints) -> tuple[Tensor, Tensor]:
        """What `layers_of` needs, and all that may be rounded: logits `[B, 1 + THINGS, H, W]` of the layers' weights,
        and paint `[B, 3, H, W]`, by which the backdrop differs from the first frame."""
        logits = self._both_ways(image, hints)
        return logits, self.painter.paint(image, logits.softmax(dim=1)[:, :1])

    def weights(self, image: Tensor, shares: Tensor, anchors: Tensor) -> Tensor:
        """Those of the layers alone, `[B, 1 + THINGS, H, W]`; the same inputs."""
        return self._both_ways(image, track_hints(shares, anchors, *image.shape[-2:])).softmax(dim=1)

    def logits(self, image: Tensor, shares: Tensor, anchors: Tensor) -> Tensor:
        """Of the layers' weights, `[B, 1 + THINGS, H, W]`, from one look: what is trained."""
        return self._logits(image, track_hints(shares, anchors, *image.shape[-2:]))

    def _both_ways(self, image: Tensor, hints: TrackHints) -> Tensor:
        """Mean of the logits of the picture and of its mirror image: what one look takes for a part of a thing, the
        other one often does not."""
        both = torch.cat([image, image.flip(-1)]).to(self.enter.weight.dtype)
        seen, mirrored = self._logits(both, _with_mirrored(hints)).to(image.dtype).chunk(2)
        return (seen + mirrored.flip(-1)) / 2

    def _logits(self, image: Tensor, hints: TrackHints) -> Tensor:
        x = torch.cat([F.pixel_unshuffle(image * 2 - 1, 2), hints.maps.to(image.dtype)], dim=1)
        x = self.first(F.relu(self.enter(x)))
        kept = []
        for down, deep in zip(self.down, self.deep, strict=True):
            kept.append(x)
            x = deep(F.relu(down(x)))
        for level in reversed(range(len(self.lift))):
            raised = F.interpolate(self.lift[level](x), scale_factor=2.0, mode="bilinear", align_corners=False)
            x = F.relu(self.join[level](kept.pop() + raised))
            if level in ASKED:
                x = self.asked[ASKED.index(level)](x, hints.shares, hints.places)
        return F.pixel_shuffle(self.leave(self.last(x)), 2)


class TrackAttention(nn.Module):
    """Every place asks which tracks it looks like and lies near to, and learns which motions these follow."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query, self.key = nn.Conv2d(width, KEYS, 1), nn.Linear(width, KEYS)
        self.near = nn.Parameter(torch.tensor(8.0))
        self.answer = nn.Conv2d(1 + THINGS, width, 1, bias=False)
        self.digest = Residual(width)
        nn.init.zeros_(self.answer.weight)

    def forward(self, x: Tensor, shares: Tensor, places: Tensor) -> Tensor:
        """`[B, width, H, W]` to the same shape; shares as in `LayerNetwork`; places: `[B, N, 2]` in -1..1."""
        height, width = x.shape[-2:]
        there = F.grid_sample(x.float(), places[:, None], padding_mode="border", align_corners=False)[:, :, 0]
        asked = self.query(x).flatten(2).transpose(1, 2).float()
        known = self.key(there.transpose(1, 2).to(x.dtype)).float()
        score = asked @ known.transpose(1, 2) * KEYS**-0.5
        cells = _cells(height, 2, width, 2, places) - 1
        score = score - F.softplus(self.near) * squared_distances(cells.expand(len(x), -1, -1), places)
        score = score + shares.sum(1, keepdim=True).clamp(min=1e-6).log()
        # A track that nobody looks like has the score 0: where all tracks score less, no motion is told.
        chosen = F.pad(score, (0, 1)).softmax(-1)[..., :-1] @ shares.transpose(1, 2)
        told = chosen.transpose(1, 2).unflatten(2, (height, width)).to(x.dtype)
        return self.digest(F.relu(x + self.answer(told)))


def layers_of(image: Tensor, logits: Tensor, paint: Tensor) -> Layers:
    """The first frame's layers from what `LayerNetwork.predict` gives, in float32: however that was rounded, the
    weights are 1 in all, and the backdrop is the first frame itself where no thing is."""
    weights = logits.softmax(dim=1)
    return Layers(weights, painted(image, weights[:, :1], paint))


def _cells(rows: int, height: int, columns: int, width: int, like: Tensor) -> Tensor:
    """Centres `[1, rows * columns, 2]`, x and y, of the equal cells of a picture of `height` x `width`, row by row."""
    down, across = torch.meshgrid(_centres(rows, height, like), _centres(columns, width, like), indexing="ij")
    return torch.stack([across, down], dim=-1).flatten(0, 1)[None]


def _centres(count: int, length: int, like: Tensor) -> Tensor:
    """Centres of `count` equal cells of `length` pixels."""
    return (torch.arange(count, device=like.device, dtype=like.dtype) + 0.5) * (length / count)


def compose(image: Tensor, layers: Layers, terms: Tensor) -> tuple[Tensor, Tensor]:
    """The layers, moved: frames `[B, T, 3, H, W]`, and `[B, T, 1, H, W]`: 1 where the first frame shows what is there.

    terms: as in `Motions`. Nearer things (higher numbers) cover farther ones. With no motion the frames are the first
    frame.
    """
    height, width = image.shape[-2:]
    frames = terms.shape[3]
    cut = _cut_out(image, layers)  # [B, L, 4, H, W], colours times opacity
    sources, inside = _sources(terms, height, width)
    # All frames of all layers are sampled at once, without copies of the pictures.
    moved = F.grid_sample(
        cut.flatten(0, 1),
        sources.flatten(0, 1).flatten(1, 2),
        mode="bicubic",  # bilinear sampling takes a fifth of the sharpness
        padding_mode="border",
        align_corners=False,
    )
    moved = moved.view(*cut.shape[:3], frames, height, width)
    out, shown = moved[:, 0, :3], moved[:, 0, 3:].clamp(0, 1) * inside[:, :1]
    for thing in range(1, 1 + THINGS):
        found = moved[:, thing, 3:]
        opacity = found.clamp(0, 1) * inside[:, thing, None]
        colours = moved[:, thing, :3] / found.clamp(min=1e-3)  # beside an edge both overshoot alike
        out = out * (1 - opacity) + colours * opacity
        shown = shown.maximum(opacity)
    return out.clamp(0, 1).transpose(1, 2), shown.transpose(1, 2)


def move_first_frame(
    network: LayerNetwork, image: Tensor, points: Tensor, visible: Tensor, anchors: Tensor
) -> tuple[Tensor, Tensor]:
    """The first frame as the tracks of one chunk move it: see `compose`; the tracks as in `shared_motions`.

    image: float32 `[B, 3, H, W]` in [0, 1]; H and W are multiples of 32. The network's convolutions run in its own
    dtype, all else in float32: at rest the layers make the first frame whatever the network's rounding.
    """
    height, width = image.shape[-2:]
    motions = shared_motions(points, visible, anchors, height, width)
    return compose(image, network(image, motions.shares, anchors), motions.terms)


def _cut_out(image: Tensor, layers: Layers) -> Tensor:
    """Layers `[B, 1 + THINGS, 4, H, W]`: the backdrop and how much of it is seen, then each thing's colours times its
    opacity and the opacity, freed of what covers it. Laid over one another they give the first frame."""
    parts, covered = [], torch.zeros_like(layers.weights[:, :1])
    things = layers.weights[:, 1:]
    colours = (image - layers.backdrop * layers.weights[:, :1]) / things.sum(1, keepdim=True).clamp(min=1e-4)
    for thing in reversed(range(THINGS)):
        weight = things[:, thing : thing + 1]
        parts.append(torch.cat([colours * weight, weight], dim=1) / (1 - covered).clamp(min=0.05))
        covered = covered + weight
    parts.append(torch.cat([layers.backdrop, layers.weights[:, :1]], dim=1))
    return torch.stack(parts[::-1], dim=1)


def _sources(terms: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where all pixels come from, x and y `[B, L, T, H, W, 2]` in -1..1, and `[B, L, T, H, W]`: 1 where that lies in
    the first frame, falling to 0 within half a pixel around its edge. terms: as in `Motions`.

    The way from a pixel to its source is a polynomial of its row and column: a few of these tell all.
    """
    column, row = (_centres(pixels, pixels, terms) * (2 / pixels) - 1 for pixels in (width, height))
    nodes = ((torch.arange(DEGREE + 1, device=terms.device, dtype=terms.dtype) + 0.5) * (math.pi / (DEGREE + 1))).cos()
    ways = _ways(terms * (2 / numbers([width, height], terms)), nodes, nodes[:, None]) @ _through(nodes, column).T
    rows = _through(nodes, row)
    x, y = (rows @ ways).unbind()  # [B, L, T, H, W]
    inside = _within(x + column, width).minimum(_within(y + row[:, None], height))
    # Multiplied once more with x and y side by side, as they are read: to put them there costs several times as much.
    pairs = (rows @ ways.movedim(0, -1).flatten(-2)).unflatten(-1, (width, 2))
    return pairs + torch.stack(torch.meshgrid(column, row, indexing="xy"), dim=-1), inside


def _ways(terms: Tensor, column: Tensor, row: Tensor) -> Tensor:
    """From places, in -1..1, to where they come from, x and y first: solves s + d(s) = p for every layer.

    terms: `[B, L, 6, T, 2]` of d, in half widths and heights. The affine part is inverted, the rest found in rounds.
    """
    across, down = (terms[..., axis, None, None].movedim(2, 0) for axis in range(2))  # [6, B, L, T, 1, 1]
    a, b, c, d = 1 + across[1], across[2], down[1], 1 + down[2]
    determinant = (a * d - b * c).clamp(min=0.05)
    to_x, to_y = torch.stack([d, -b]) / determinant, torch.stack([-c, a]) / determinant
    flat_x = to_x[0] * (column - across[0]) + to_x[1] * (row - down[0])
    flat_y = to_y[0] * (column - across[0]) + to_y[1] * (row - down[0])
    x, y = flat_x, flat_y
    for _ in range(CURVE_ROUNDS):
        off_x = x * x * across[3] + x * y * across[4] + y * y * across[5]
        off_y = x * x * down[3] + x * y * down[4] + y * y * down[5]
        x, y = flat_x - (to_x[0] * off_x + to_x[1] * off_y), flat_y - (to_y[0] * off_x + to_y[1] * off_y)
    return torch.stack([x - column, y - row])


def _through(nodes: Tensor, places: Tensor) -> Tensor:
    """Weights `[P, DEGREE + 1]` of a polynomial's values at Chebyshev's nodes for its values at places in -1..1."""
    degree = torch.arange(1, DEGREE + 1, device=nodes.device, dtype=nodes.dtype)
    there, known = ((degree * x.acos()[:, None]).cos() for x in (places, nodes))
    return (1 + 2 * there @ known.T) / (DEGREE + 1)


def _within(places: Tensor, pixels: int) -> Tensor:
    """1 inside of -1..1, falling to 0 within half a pixel around the edge."""
    return ((1 - places.abs()) * (pixels / 2) + 0.5).clamp(0, 1)
