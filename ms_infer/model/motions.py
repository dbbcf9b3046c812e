"""Motions that tracks share, found by robust least squares in operations that every engine has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ms_infer.model.constants import numbers

COMPANY_ROUNDS = (4.0, 2.0, 2.0)  # residuals in pixels at which a track counts a quarter
COMPANY = 8.0  # pixels within which tracks move alike
NEIGHBOURS = 0.25  # deviation of the places that a map around one track is made of, in half widths
NEAR, STRAIN = 1.0, 1.0  # by how many pixels, and what part of their distance, neighbours may move differently
OWN_ROUNDS = (0.7, 0.5, 0.35, 0.35)  # residuals at which a track counts a quarter when such a map is fitted again
LIKELY = 0.35  # the same, when it is told which map most tracks follow
THING_ROUNDS = (1.5, 1.0, 1.0)  # the same, for the fit that begins with it
FOLLOWS = 1.75  # residual in pixels at which half of a track belongs to a motion
STIFFNESS = (1e-3, 0.02, 0.02, 0.5, 0.5, 0.5)  # of the terms of a displacement
THING_STIFFNESS = (1e-3, 4e-3, 4e-3)  # the same, about the middle of the thing
LEFT_OVER = 0.05  # of a track that a motion has taken: not enough to begin another motion
THING_TERMS = 3  # things move by an affine map, the backdrop by a quadratic one


def backdrop_motion(places: Tensor, moved: Tensor, weights: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """The motion that most tracks share: terms `[R, 6, 2 T]` at `places` `[R, N, 2]` in -1..1, and shares `[R, N, 1]`.

    moved: `[R, N, 2 T]` pixels, of T RGB frames together; weights: `[R, N, 1]`, 0 for tracks that do not count: a share
    is at most the weight. Least squares, reweighted by 1 / (1 + (residual / width)^2)^2 (Geman and McClure, 1985) in
    rounds of falling width, in units of `unit` pixels. Begins with the track that most others move like, as the mean
    of two motions is neither, and fits an affine map before a quadratic one, which bends to anything.
    """
    shares = _company(moved, weights, COMPANY * unit)
    for number, width in enumerate(COMPANY_ROUNDS):
        basis = quadratic(places)[..., : THING_TERMS if number == 0 else len(STIFFNESS)]
        terms = _fit(basis, moved, shares, STIFFNESS)
        residual = basis @ terms - moved
        shares = _shares(weights, residual, width * unit)
    return terms, _followers(weights, residual, unit)


def thing_motion(places: Tensor, moved: Tensor, weights: Tensor, unit: float) -> tuple[Tensor, Tensor]:
    """As `backdrop_motion`, with an affine map that is stiff about the middle of the tracks that share it. Begins with
    the map of one track and its neighbours that most tracks follow: things turn and grow, and pass one another."""
    shares = _likeliest(places, moved, weights, unit)
    for width in THING_ROUNDS:
        middle = (shares * places).sum(1, keepdim=True) / (shares.sum(1, keepdim=True) + 1e-6)
        basis = quadratic(places - middle)[..., :THING_TERMS]
        terms = _fit(basis, moved, shares, THING_STIFFNESS)
        residual = basis @ terms - moved
        shares = _shares(weights, residual, width * unit)
    shift = terms[:, :1] - middle[..., :1] * terms[:, 1:2] - middle[..., 1:] * terms[:, 2:]
    return torch.cat([shift, terms[:, 1:]], dim=1), _followers(weights, residual, unit)


def _fit(basis: Tensor, moved: Tensor, shares: Tensor, stiffness: Sequence[float]) -> Tensor:
    """Terms `[R, K, C]` by weighted least squares with a ridge."""
    ridge = torch.diag(numbers(stiffness[: basis.shape[-1]], basis))
    weighted = (basis * shares).transpose(1, 2)
    return solve(weighted @ basis + ridge, weighted @ moved)


def _company(moved: Tensor, weights: Tensor, width: float) -> Tensor:
    """Shares `[R, N, 1]` of the motion of the track that has most others within `width` pixels."""
    scale = 2 / moved.shape[-1]
    counted = weights.transpose(1, 2)
    company = (counted / (1 + squared_distances(moved, moved) * (scale / width**2)).square()).sum(-1, keepdim=True)
    return _shares(weights, moved - _best_row(moved, company * weights), width / 2)


def _best_row(rows: Tensor, score: Tensor) -> Tensor:
    """The row `[R, 1, C]` of `[R, N, C]` with the highest score `[R, N, 1]`."""
    index = torch.arange(rows.shape[1], device=rows.device)[None, :, None]
    return (rows * (index == score.argmax(1, keepdim=True)).to(rows.dtype)).sum(1, keepdim=True)


def _likeliest(places: Tensor, moved: Tensor, weights: Tensor, unit: float) -> Tensor:
    """Shares `[R, N, 1]` of the affine map, out of one around each track, that most tracks follow.

    A map begins with its track and those neighbours that move roughly alike, and is fitted again to those of all its
    neighbours that follow it: beside another thing half of the first ones may be that thing's.
    """
    counted = weights.transpose(1, 2)
    apart = squared_distances(places, places).clamp(min=0)
    differ = squared_distances(moved, moved).clamp(min=0) * (2 / moved.shape[-1])
    around = counted * (-0.5 / NEIGHBOURS**2 * apart).exp()  # [R, N of the map, N]
    alike = 1 / (1 + differ / ((NEAR * unit) ** 2 + (STRAIN * 64 * unit) ** 2 * apart)).square()
    basis = quadratic(places)
    squares = _off_own_maps(basis, moved, around * alike)
    for width in OWN_ROUNDS:
        squares = _off_own_maps(basis, moved, _falling(around, squares, width * unit))
    follow = _falling(counted, squares, LIKELY * unit)
    return _best_row(follow, follow.sum(-1, keepdim=True) * weights).transpose(1, 2)


def _off_own_maps(basis: Tensor, moved: Tensor, near: Tensor) -> Tensor:
    """Mean squares `[R, N, N]` by which all tracks are off the affine map fitted around each, with weights `near`.

    basis: `quadratic` of the places. Sums over tracks and squares of residuals are products of matrices, without the
    residuals `[R, N, N, 2 T]` themselves.
    """
    one, x, y = (basis[..., term : term + 1] for term in range(3))
    steps = moved.shape[-1]
    ways = torch.cat([moved, x * moved, y * moved], dim=-1)
    sums, sums_of_ways = near @ basis, near @ ways
    n, at_x, at_y, xx, xy, yy = sums.split(1, dim=-1)
    all_moved, x_moved, y_moved = sums_of_ways.split(steps, dim=-1)
    middle_x, middle_y = at_x / (n + 1e-6), at_y / (n + 1e-6)
    a, b, c = xx - at_x * middle_x + THING_STIFFNESS[1], xy - at_x * middle_y, yy - at_y * middle_y + THING_STIFFNESS[2]
    u, v = x_moved - middle_x * all_moved, y_moved - middle_y * all_moved
    determinant = (a * c - b * b).clamp(min=1e-9)
    along_x, along_y = (c * u - b * v) / determinant, (a * v - b * u) / determinant
    shift = all_moved / (n + 1e-6) - middle_x * along_x - middle_y * along_y
    # |shift + x along_x + y along_y - moved|^2: terms of the maps times terms of the tracks.
    maps = torch.cat([*_products(shift, along_x, along_y), shift, along_x, along_y, one], dim=-1)
    tracks = torch.cat([basis, -2 * ways, moved.square().sum(-1, keepdim=True)], dim=-1)
    return (maps @ tracks.transpose(1, 2)).clamp(min=0) * (2 / steps)


def _products(a: Tensor, b: Tensor, c: Tensor) -> list[Tensor]:
    """Coefficients `[R, N, 1]` of 1, x, y, x^2, x y, y^2 in |a + x b + y c|^2."""
    pairs = (a * a, 2 * a * b, 2 * a * c, b * b, 2 * b * c, c * c)
    return [pair.sum(-1, keepdim=True) for pair in pairs]


def _shares(weights: Tensor, residual: Tensor, width: float) -> Tensor:
    return _falling(weights, _mean_square(residual), width)


def _falling(weights: Tensor, squares: Tensor, width: float) -> Tensor:
    """The weights, a quarter of them where the mean square of a residual is that of `width`."""
    return weights / (1 + squares / width**2).square()


def _followers(weights: Tensor, residual: Tensor, unit: float) -> Tensor:
    """How much of each track belongs to a motion: nearly all of it up to a residual of `FOLLOWS`, half of it there."""
    return weights / (1 + (_mean_square(residual) / (FOLLOWS * unit) ** 2).square())


def _mean_square(residual: Tensor) -> Tensor:
    """Mean square `[..., 1]` of the distance over RGB frames; residual: `[..., 2 T]`."""
    return residual.square().sum(-1, keepdim=True) * (2 / residual.shape[-1])


def quadratic(places: Tensor) -> Tensor:
    """1, x, y, x^2, x y, y^2 of `[..., 2]`."""
    x, y = places[..., :1], places[..., 1:]
    return torch.cat([torch.ones_like(x), x, y, x * x, x * y, y * y], dim=-1)


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solution `[R, K, C]` of a positive definite system by Gauss-Jordan steps, which every engine can run."""
    rows = torch.cat([matrix, right], dim=-1)
    rows = rows / rows[:, :1, :1]  # pivots near 1 keep the steps below exact
    size = matrix.shape[1]
    unit = torch.eye(size, device=matrix.device, dtype=matrix.dtype)
    for pivot in range(size):
        scaled = rows[:, pivot : pivot + 1] / rows[:, pivot : pivot + 1, pivot : pivot + 1]
        rows = rows - (rows[:, :, pivot : pivot + 1] - unit[:, pivot : pivot + 1]) * scaled
    return rows[:, :, size:]


def squared_distances(places: Tensor, tracks: Tensor, added: Tensor | float = 0.0) -> Tensor:
    """`[R, P, N]` between places `[R, P, 2]` and tracks `[R, N, 2]`, plus `added` `[R, N, 1]`, as one product."""
    length = tracks.square().sum(-1, keepdim=True) + added
    keys = torch.cat([-2 * tracks, length, torch.ones_like(length)], dim=-1)
    squares = places.square().sum(-1, keepdim=True)
    queries = torch.cat([places, torch.ones_like(squares), squares], dim=-1)
    return queries @ keys.transpose(1, 2)
