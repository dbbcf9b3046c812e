"""The thing under a click: its mask in one picture, its outline, and points that stand for it.

GrabCut finds it by colours. Where the model has a layer network, that is asked as well, and the mask is taken that most
agree upon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import MissingExtraError
from ms_infer.serve.pictures.masks import Mask, Place, parts_at, pixel_at, spread

if TYPE_CHECKING:
    from ms_infer.serve.pictures.layered import LayeredPicker

SIDE = 128  # of the small picture that is cut: 15 to 100 ms a cut on one core
REACHES = 0.2, 0.32  # of the picture's height: how far from a click a thing may go
AGAIN = 1.5, 2.0  # of its own half size, about its own middle
SURE, LIKELY = 0.02, 0.55  # of the height that is certain, of the reach that is likely
ROUNDS = 3
CUTS = 4  # for further places: a long stroke must not take seconds
NEAR = 0.04  # of the picture: what was added so near to what is left out is left out too
BETTER = 1.02  # by so much the second cut must be better
LARGER = 0.08  # for e times the area: of two proposals that are as good, half a thing is the likelier mistake
ROOM, GROWS, AS_GOOD = 0.35, 1.4, 0.8  # about it for what hangs on it: of its size, of its area, of its contrast
LEAST, MOST, FAINT = 0.003, 0.35, 40.0  # of the picture; contrast of an edge: what is beyond is no thing
MOST_POINTS = 48
FINE = 0.004  # of the picture: how exactly the outline is told


@dataclass(frozen=True)
class Thing:
    """What a click picked; places are shares of the picture."""

    mask: Mask
    """bool [h, w], of the small picture."""
    outline: list[list[Place]]
    """Closed polygons."""
    points: list[Place]
    """At most 48, inside, as far apart as they can be: the tracks that move it."""


def find_thing(
    picture: NDArray[np.uint8],
    add: Sequence[Place],
    omit: Sequence[Place] = (),
    layers: LayeredPicker | None = None,
) -> Thing | None:
    """The thing at `add[0]` in a picture uint8 [H, W, 3]: further places add what lies there, `omit` leaves it out.

    layers: the model's layer network, which is asked too. None when nothing is left, or what is there is like all that
    lies around.
    """
    cutter = _Cutter(picture, layers)
    kept = [place for place in add if all(math.dist(place, other) > NEAR for other in omit)] or list(add[:1])
    mask = cutter.whole(kept, omit)
    if len(add) == 1 and not cutter.is_thing(mask):
        return None
    if omit:
        mask = cutter.corrected(cutter.without(mask, kept, omit), kept, omit)
    return Thing(mask, _outline(mask), _points(mask)) if mask.any() else None


class _Cutter:
    """Cuts one picture."""

    def __init__(self, picture: NDArray[np.uint8], layers: LayeredPicker | None = None) -> None:
        self.picture, self.layers = picture, layers
        try:
            import cv2
        except ImportError as error:
            raise MissingExtraError(
                "picking a thing needs OpenCV: pip install -e '.[serve]' in the repository"
            ) from error
        self.cv2: Any = cv2
        scale = SIDE / max(picture.shape[:2])
        size = max(1, round(picture.shape[1] * scale)), max(1, round(picture.shape[0] * scale))
        small = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
        self.colours = cv2.cvtColor(small, cv2.COLOR_RGB2LAB)
        self.height, self.width = self.colours.shape[:2]
        smooth = cv2.GaussianBlur(self.colours, (0, 0), 1).astype(np.float32)
        across, down = (cv2.Sobel(smooth, cv2.CV_32F, *axis) for axis in ((1, 0), (0, 1)))
        self.contrast = np.hypot(across, down).sum(-1)

    def pixel(self, place: Place) -> tuple[int, int]:
        """Row and column of a place, inside."""
        return pixel_at(place, self.height, self.width)

    def is_thing(self, mask: Mask) -> bool:
        """Whether a mask is of a thing's size and stands out from what lies around."""
        return LEAST <= float(mask.mean()) <= MOST and self._edge(mask) >= FAINT

    def whole(self, add: Sequence[Place], omit: Sequence[Place]) -> Mask:
        """The whole things at places, as the most and the sharpest of the proposals have them."""
        by_colours, cuts = self._by_colours(add[0]), 1
        for place in add[1:]:
            if not by_colours[self.pixel(place)] and cuts <= CUTS:
                by_colours, cuts = by_colours | self._by_colours(place), cuts + 1
        mask = None if self.layers is None else self._by_layers(add, omit, by_colours)
        if mask is None:
            return by_colours
        return mask | parts_at(by_colours, [pixel for pixel in map(self.pixel, add) if not mask[pixel]])

    def _by_layers(self, add: Sequence[Place], omit: Sequence[Place], by_colours: Mask) -> Mask | None:
        """The best proposal of the layer network: of those that obey most places, by agreement, contrast and size."""
        assert self.layers is not None
        height, width = self.picture.shape[:2]
        tried = self._resized(by_colours, width, height) if self.is_thing(by_colours) else None
        found = self.layers.masks(self.picture, add, omit, tried)
        masks = [mask for mask in (self._resized(one, self.width, self.height) for one in found) if mask.any()]
        if not masks:
            return None
        contrasts = [self._edge(mask) if LEAST <= mask.mean() <= MOST else 0.0 for mask in masks]
        most = max(contrasts) or 1.0
        scores = [
            _agreement(mask, masks) + own / most + LARGER * math.log(mask.sum())
            for mask, own in zip(masks, contrasts, strict=True)
        ]
        obeyed = [
            sum(mask[self.pixel(one)] for one in add) - sum(mask[self.pixel(one)] for one in omit) for mask in masks
        ]
        return masks[max(range(len(masks)), key=lambda index: (obeyed[index], scores[index]))]

    def _resized(self, mask: Mask, width: int, height: int) -> Mask:
        small = self.cv2.resize(mask.astype(np.float32), (width, height), interpolation=self.cv2.INTER_AREA)
        return np.asarray(small > 0.5)

    def _by_colours(self, place: Place) -> Mask:
        """The best of several cuts about a click, then about the middle of what was found."""
        best, score = max((self._scored(place, reach) for reach in REACHES), key=lambda one: one[1])
        rows, columns = np.nonzero(best)
        if len(rows):
            middle = (np.ptp(columns) / 2 + columns.min()) / self.width, (np.ptp(rows) / 2 + rows.min()) / self.height
            half = max(np.ptp(rows), np.ptp(columns)) / 2 / self.height
            for times in AGAIN:
                again, better = self._scored(middle, max(half * times, 0.1))
                if again[self.pixel(place)] and better > score * BETTER:
                    best, score = again, better
        return self._at(self._with_all(best, score), place)

    def without(self, mask: Mask, add: Sequence[Place], omit: Sequence[Place]) -> Mask:
        """The mask without the things of their own at the places to omit, unless they hold what was added."""
        stays = np.zeros_like(mask)
        for place in omit:
            if not mask[self.pixel(place)] or stays[self.pixel(place)]:
                continue
            part = self._by_colours(place)
            if any(part[self.pixel(one)] for one in add):
                stays |= part
            else:
                mask = mask & ~part
        return mask

    def corrected(self, mask: Mask, add: Sequence[Place], omit: Sequence[Place]) -> Mask:
        """The mask without what looks like the places to omit and lies there."""
        cv2 = self.cv2
        trimap = np.where(mask, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
        for places, value in ((add, cv2.GC_FGD), (omit, cv2.GC_BGD)):
            for place in places:
                trimap[self._distance(place) < max(SURE * self.height, 1.5)] = value
        mask = self._grab(trimap)
        return parts_at(mask, [self.pixel(place) for place in add])

    def _with_all(self, mask: Mask, score: float) -> Mask:
        """The mask with what hangs on it, like a balloon's basket: all near it that is unlike what lies farther off."""
        rows, columns = np.nonzero(mask)
        if not len(rows):
            return mask
        cv2, room = self.cv2, max(int(np.ptp(rows)), int(np.ptp(columns)), 4) * ROOM
        trimap = np.full(mask.shape, cv2.GC_BGD, np.uint8)
        upper, left = max(int(rows.min() - room), 0), max(int(columns.min() - room), 0)
        trimap[upper : int(rows.max() + room), left : int(columns.max() + room)] = cv2.GC_PR_FGD
        more = self._at(self._grab(trimap), (columns[0] / self.width, rows[0] / self.height))
        kept = (more & mask).sum() >= 0.95 * mask.sum() and more.sum() <= GROWS * mask.sum()
        return more | mask if kept and self._edge(more) > AS_GOOD * score else mask

    def _edge(self, mask: Mask) -> float:
        """Contrast along the edge of a mask."""
        edge = self._edge_of(mask)
        return float(np.median(self.contrast[edge])) if edge.any() else 0.0

    def _edge_of(self, mask: Mask) -> Mask:
        """Pixels of a mask that have a neighbour outside of it."""
        return np.asarray(mask & ~self.cv2.erode(mask.astype(np.uint8), np.ones((3, 3))).astype(np.bool_))

    def _scored(self, place: Place, reach: float) -> tuple[Mask, float]:
        """A cut, and how much contrast lies along its edge; a cut that its reach ended counts less."""
        cv2 = self.cv2
        away, reach = self._distance(place), reach * self.height
        trimap = np.full(away.shape, cv2.GC_BGD, np.uint8)
        trimap[away < reach] = cv2.GC_PR_BGD
        trimap[away < reach * LIKELY] = cv2.GC_PR_FGD
        trimap[away < max(SURE * self.height, 1.5)] = cv2.GC_FGD
        trimap[self.pixel(place)] = cv2.GC_FGD
        mask = self._at(self._grab(trimap), place)
        ended = (mask & (away > 0.93 * reach)).sum() / max(self._edge_of(mask).sum(), 1)
        return mask, self._edge(mask) * max(1 - ended, 0.0)

    def _grab(self, trimap: NDArray[np.uint8]) -> Mask:
        cv2 = self.cv2
        fore = (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)
        if fore.all() or not fore.any():  # nothing to tell one from the other
            return np.asarray(fore)
        cv2.setRNGSeed(0)  # the same click, the same thing
        cv2.grabCut(self.colours, trimap, None, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK)
        return np.asarray((trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD))

    def _at(self, mask: Mask, place: Place) -> Mask:
        """The connected part of a mask at a place."""
        return parts_at(mask, [self.pixel(place)])

    def _distance(self, place: Place) -> NDArray[np.float64]:
        """Pixels from a place, [h, w]."""
        rows, columns = np.mgrid[: self.height, : self.width]
        return np.hypot(columns + 0.5 - place[0] * self.width, rows + 0.5 - place[1] * self.height)


def _outline(mask: Mask) -> list[list[Place]]:
    """Polygons round the mask, along the middle of its outer pixels."""
    import cv2

    height, width = mask.shape
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    lines = (cv2.approxPolyDP(one, FINE * height, True)[:, 0] for one in found)
    return [
        [(round((x + 0.5) / width, 4), round((y + 0.5) / height, 4)) for x, y in line.tolist()]
        for line in lines
        if len(line) > 2
    ]


def _agreement(mask: Mask, masks: Sequence[Mask]) -> float:
    """How much of a mask and the others is common, on average; 1 where there are no others."""
    shared = [float((mask & other).sum() / (mask | other).sum()) for other in masks if other is not mask]
    return float(np.mean(shared)) if shared else 1.0


def _points(mask: Mask) -> list[Place]:
    """Places inside, as `spread` has them."""
    height, width = mask.shape
    count = min(MOST_POINTS, max(4, round(float(mask.sum()) / 16)))
    return [(round(x / width, 4), round(y / height, 4)) for x, y in spread(mask, count).tolist()]
