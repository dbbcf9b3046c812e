"""Masks of things: the part at a place, points that stand for it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Place = tuple[float, float]
"""x and y in shares of the picture, from its upper left corner."""
DEEP, DEEPER = 1.5, 0.6  # pixels from the edge that are inside enough, and the same of the deepest place


def parts_at(mask: Mask, pixels: Sequence[tuple[int, int]]) -> Mask:
    """The connected parts of a mask at pixels (row, column); nothing where none of them is in it."""
    import cv2

    _, labels = cv2.connectedComponents(mask.astype(np.uint8))
    return np.asarray(mask & np.isin(labels, [labels[pixel] for pixel in pixels]))


def pixel_at(place: Place, height: int, width: int) -> tuple[int, int]:
    """Row and column of a place, inside."""
    row, column = math.floor(place[1] * height), math.floor(place[0] * width)
    return min(max(row, 0), height - 1), min(max(column, 0), width - 1)


def spread(mask: Mask, most: int) -> NDArray[np.float64]:
    """Points `[N, 2]` inside a mask, in pixels: the deepest one, then each as far as possible from all before."""
    import cv2

    depth = cv2.distanceTransform(np.pad(mask, 1).astype(np.uint8), cv2.DIST_L2, 3)[1:-1, 1:-1]
    rows, columns = np.nonzero(depth > min(DEEP, float(depth.max()) * DEEPER))
    chosen = [int(np.argmax(depth[rows, columns]))]
    away = np.full(len(rows), np.inf)
    while len(chosen) < min(most, len(rows)):
        away = np.minimum(away, np.hypot(rows - rows[chosen[-1]], columns - columns[chosen[-1]]))
        chosen.append(int(np.argmax(away)))
    return np.stack([columns[chosen], rows[chosen]], -1).astype(np.float64) + 0.5
