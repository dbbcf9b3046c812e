"""Which points a press takes along: those within its reach, those that were painted, or those of a thing."""

from __future__ import annotations

import numpy as np

from ms_infer.hand.dots import BoolArray, Dots, Kind, squared
from ms_infer.hand.movers import Array, Point
from ms_infer.tracks.tracks import RIM

NEAR = 0.04  # a grabbed point this close is the one that is meant
OF_THING, HERE = 0.05, 0.02  # a moved point this close to a thing's is part of it; this close it stands for it


def taken(dots: Dots, point: Point, reach: float, thing: Array | None, kind: Kind, aspect: float) -> BoolArray:
    """Which points `[N]` come along with a press at `point`; some of `kind` are added if need be."""
    if thing is not None and len(thing):
        return _of_thing(dots, thing, kind, aspect)
    near = _within(dots, point, reach, aspect)
    if not near.any():
        dots.add(np.array([point]), kind)
        near = np.arange(len(dots.ids)) >= len(near)
    return near


def _of_thing(dots: Dots, thing: Array, kind: Kind, aspect: float) -> BoolArray:
    """The points of a thing, one of its own `thing` `[M, 2]` added wherever none stands for it."""
    apart = squared((dots.points[:, None] - thing[None]) * (aspect, 1.0))
    near = np.where(dots.kind == Kind.GRID, HERE * HERE, OF_THING * OF_THING)
    found = (dots.kind != Kind.STATIC) & (apart.min(1) < near)
    dots.add(thing[~(apart[found] < HERE * HERE).any(0)], kind)
    return np.concatenate([found, np.ones(len(dots.ids) - len(found), np.bool_)])


def _within(dots: Dots, point: Point, reach: float, aspect: float) -> BoolArray:
    """The points within reach; lets go of the grid just beyond, where it is not known what comes along."""
    away = squared((dots.points - point) * (aspect, 1.0))
    movable = dots.kind != Kind.STATIC
    group, meant = movable & dots.grouped, max(NEAR, reach / 2)
    if group.any() and away[group].min() < meant * meant:
        return group
    near, rim = max(reach, NEAR), RIM * reach
    found = movable & (away < near * near)
    dots.free |= movable & ~found & (away < rim * rim) & (dots.kind == Kind.GRID)
    return found
