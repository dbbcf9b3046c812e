"""The points that a hand moves: where they are, where they rested, what they are. Rows keep their order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ms_infer.hand.movers import Array, Path, Pointer

ID_RANGE, ID_STRIDE = 100_000, 7919  # ids jump about the range that models are trained with

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class Kind(IntEnum):
    """What a point is; a page may have a colour and a shape for each."""

    GRID = 0
    DRAG = 1
    STATIC = 2
    PATH = 3


@dataclass
class Hold:
    """Points that a mover takes along."""

    mover: Pointer | Path
    ids: IntArray
    pointer: int | None
    """Number of the pointer that is down; None once it is up, and for paths."""


class Dots:
    """N points, at most `capacity`."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.next = 0
        self.clear()

    def clear(self) -> None:
        """No points; ids go on counting, so that a new point is never taken for an old one."""
        self.ids: IntArray = np.zeros(0, np.int64)
        self.points: Array = np.zeros((0, 2))
        self.rest: Array = np.zeros((0, 2))
        self.kind: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self.free: BoolArray = np.zeros(0, np.bool_)
        """Points that the model may put where it likes."""
        self.grouped: BoolArray = np.zeros(0, np.bool_)
        """Points that move together when one of them is grabbed."""

    def add(self, points: Array, kind: Kind, *, grouped: bool = False) -> IntArray:
        """Append points `[M, 2]`, as many as fit; returns their ids."""
        points = points.reshape(-1, 2)[: self.capacity - len(self.ids)]
        fresh, count = self._fresh(len(points)), len(points)
        self.ids = np.concatenate([self.ids, fresh])
        self.points = np.concatenate([self.points, points])
        self.rest = np.concatenate([self.rest, points])
        self.kind = np.concatenate([self.kind, np.full(count, kind, np.uint8)])
        self.free = np.concatenate([self.free, np.zeros(count, np.bool_)])
        self.grouped = np.concatenate([self.grouped, np.full(count, grouped)])
        return fresh

    def keep(self, mask: BoolArray) -> None:
        """Only the points of `mask` [N]."""
        self.ids, self.points, self.rest = self.ids[mask], self.points[mask], self.rest[mask]
        self.kind, self.free, self.grouped = self.kind[mask], self.free[mask], self.grouped[mask]

    def rows(self, ids: IntArray) -> IntArray:
        """Rows of the points with these ids, of those that are still there."""
        return np.flatnonzero(np.isin(self.ids, ids))

    def _fresh(self, count: int) -> IntArray:
        used = set(self.ids.tolist())
        fresh: list[int] = []
        while len(fresh) < count:
            one = self.next * ID_STRIDE % ID_RANGE
            self.next += 1
            if one not in used:
                fresh.append(one)
        return np.array(fresh, np.int64)


def squared(gap: Array) -> Array:
    """Squared lengths `[...]` of `[..., 2]`."""
    return np.asarray(gap[..., 0] * gap[..., 0] + gap[..., 1] * gap[..., 1])


def grid_cells(rows: int, cols: int) -> Array:
    """Centres `[rows * cols, 2]` of equal cells, row by row."""
    y, x = np.meshgrid(np.arange(rows) + 0.5, np.arange(cols) + 0.5, indexing="ij")
    return np.stack([x / max(cols, 1), y / max(rows, 1)], -1).reshape(-1, 2)
