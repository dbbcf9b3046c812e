"""What a hand is given, checked."""

from __future__ import annotations

import math
import time

import numpy as np
from numpy.typing import ArrayLike

from ms_infer.errors import ConfigError
from ms_infer.hand.movers import Array, Point

FAR = 10.0  # a position beyond is in pixels, not in shares of the picture


def moment_of(at: float | None) -> float:
    moment = time.monotonic() if at is None else float(at)
    if not math.isfinite(moment):
        raise ConfigError(f"a time must be finite seconds, not {at!r}")
    return moment


def positions(points: ArrayLike) -> Array:
    places = np.asarray(points, np.float64)
    if places.ndim != 2 or places.shape[1] != 2:
        raise ConfigError(f"points must be [M, 2] (x, y), got shape {list(places.shape)}")
    if not (np.abs(places) <= FAR).all():
        raise ConfigError(
            "a hand's positions are shares of the picture, 0..1, not pixels: divide x by its width and y by its height"
        )
    return places


def position(x: float, y: float) -> Point:
    (place,) = positions([(x, y)])
    return float(place[0]), float(place[1])


def reach_of(reach: float) -> float:
    if not 0 <= reach < math.inf:
        raise ConfigError(f"reach must be 0 or more picture heights, not {reach!r}")
    return float(reach)
