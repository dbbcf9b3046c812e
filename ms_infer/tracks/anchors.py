"""Where points that appear on the way were in the first RGB frame: a local affine fit over the nearest tracks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ms_infer.tracks.arrays import FloatArray

NEIGHBOURS = (12, 6)  # tracks of a fit; the smaller number where a fit to the larger one does not hold
SOFTENING = 2.0  # pixels added to a distance: a track under the point does not silence the others
STRAIGHT = 0.04  # 4 det / trace^2 of the spread below which neighbours count as lying on one line
REACH = 16.0  # squared distance to the middle of the neighbours, in their spread, up to which a fit is believed

Doubles = NDArray[np.float64]


def anchors_of(new: FloatArray, now: FloatArray, moved: FloatArray, tolerance: float) -> FloatArray:
    """Places [M, 2] in the first RGB frame of `new` points [M, 2] that appear beside tracks at `now` [N, 2].

    `moved` [N, 2] is how far each track has come since the first RGB frame, `tolerance` the largest error of a fit; all
    in pixels. The rule is that of `TrackPlayer`, point 4; sums run over the neighbours one by one, nearest first.
    """
    if not len(new) or not len(now):
        return new
    order = np.stack([_nearest(point, now) for point in new])
    dx, dy = (_widened(now[order, axis] - new[:, None, axis]) for axis in (0, 1))
    squares = dx * dx + dy * dy
    places = new - moved[order[:, 0]]
    undecided = np.ones(len(new), np.bool_)
    for most in NEIGHBOURS:
        near = order[:, :most]
        if near.shape[1] < NEIGHBOURS[-1]:
            break
        weights = 1 / _squared(np.sqrt(squares[:, :most]) + SOFTENING)
        fitted, holds = _affine(dx[:, :most], dy[:, :most], weights, _widened(moved[near]), tolerance)
        taken = undecided & holds
        places[taken] = (new[taken].astype(np.float64) - fitted[taken]).astype(np.float32)
        undecided &= ~holds
    return places


def _nearest(point: FloatArray, now: FloatArray) -> NDArray[np.intp]:
    """Rows of the tracks nearest to one point, nearest first, at equal distance the first rows."""
    dx, dy = _widened(now[:, 0] - point[0]), _widened(now[:, 1] - point[1])
    squares = dx * dx + dy * dy
    most = min(NEIGHBOURS[0], len(now))
    close = np.flatnonzero(squares <= np.partition(squares, most - 1)[most - 1])
    return close[np.argsort(squares[close], kind="stable")[:most]]


def _widened(values: FloatArray) -> Doubles:
    return values.astype(np.float64)


def _squared(values: Doubles) -> Doubles:
    return values * values


def _affine(
    dx: Doubles, dy: Doubles, weights: Doubles, moved: Doubles, tolerance: float
) -> tuple[Doubles, NDArray[np.bool_]]:
    """Displacement [M, 2] at (0, 0) of weighted affine fits to `moved` [M, K, 2] at (dx, dy), and which fits hold."""
    total = _sum(weights)
    centre_x, centre_y = _sum(weights * dx) / total, _sum(weights * dy) / total
    x, y = dx - centre_x[:, None], dy - centre_y[:, None]
    xx, xy, yy = _sum(weights * x * x), _sum(weights * x * y), _sum(weights * y * y)
    spread, area = xx + yy, xx * yy - xy * xy
    far = (_squared(centre_x) + _squared(centre_y)) * total
    holds = (4 * area > STRAIGHT * _squared(spread)) & (far <= REACH * spread)
    area = np.where(holds, area, 1.0)
    fitted, error = np.empty((len(weights), 2)), np.zeros_like(weights)
    for axis in (0, 1):
        mean = _sum(weights * moved[..., axis]) / total
        rest = moved[..., axis] - mean[:, None]
        along_x, along_y = _sum(weights * x * rest), _sum(weights * y * rest)
        slope_x = (yy * along_x - xy * along_y) / area
        slope_y = (xx * along_y - xy * along_x) / area
        fitted[:, axis] = mean - slope_x * centre_x - slope_y * centre_y
        error += _squared(rest - slope_x[:, None] * x - slope_y[:, None] * y)
    return fitted, holds & (_sum(weights * error) <= tolerance * tolerance * total)


def _sum(values: Doubles) -> Doubles:
    """[M, K] to [M], one after the other: the same numbers as in a plain loop."""
    total = np.zeros(len(values))
    for column in values.T:
        total = total + column
    return total
