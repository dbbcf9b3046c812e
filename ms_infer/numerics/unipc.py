"""UniPC of order 2 (B(h) = e^h - 1) over a flow: every step of it as weights of tensors that are at hand.

With lambda = log((1 - sigma) / sigma), h the step in lambda and phi = 1 - e^-h, a step by constant x0 is
sigma' / sigma x + (1 - sigma') phi x0. The predictor adds half of what x0 changed before, scaled to the step; the
corrector, once the next pass has told x0 there, weights both changes so that quadratics in lambda come out right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class UniPcWeights:
    """One pass, which told x0 at its sigma."""

    corrected: tuple[float, float, float, float]
    """The latents of this pass anew: of the corrected ones of the pass before, its x0, the x0 before that, this x0."""
    following: tuple[float, float, float]
    """The latents of the next pass: of the corrected ones of this pass, this x0, the x0 before."""


def unipc_weights(sigmas: Sequence[float]) -> tuple[UniPcWeights, ...]:
    """For passes at these sigmas, which fall and lie within (0, 1); the last one ends at 0.

    The first and the last step are of order 1, as the solver is used with few steps. The first pass corrects nothing.
    """
    ends = [*sigmas[1:], 0.0]
    weights = []
    for index, sigma in enumerate(sigmas):
        change = _change(sigmas, index) if 0 < index < len(sigmas) - 1 else 0.0
        weights.append(UniPcWeights(_corrected(sigmas, index), _step(sigma, ends[index], change)))
    return tuple(weights)


def _lambda(sigma: float) -> float:
    return math.log1p(-sigma) - math.log(sigma) if sigma else math.inf


def _change(sigmas: Sequence[float], index: int) -> float:
    """How long the step from pass `index` is beside the one to it, in lambda: what x0 changes by is scaled by it."""
    before, here, after = (_lambda(sigma) for sigma in sigmas[index - 1 : index + 2])
    return (after - here) / (here - before)


def _step(sigma: float, end: float, change: float) -> tuple[float, float, float]:
    """Weights of the latents, x0 and the x0 before for a step that expects half of `change` times its last change."""
    reach = -(1 - end) * math.expm1(_lambda(sigma) - _lambda(end))
    return end / sigma, reach * (1 + change / 2), -reach * change / 2


def _corrected(sigmas: Sequence[float], index: int) -> tuple[float, float, float, float]:
    if index == 0:
        return 0.0, 0.0, 0.0, 0.0
    sigma, end = sigmas[index - 1 : index + 1]
    h = _lambda(end) - _lambda(sigma)
    reach = -(1 - end) * math.expm1(-h)
    if index == 1:
        return end / sigma, reach / 2, 0.0, reach / 2
    change = _change(sigmas, index - 1)
    first = -1 / h - 1 / math.expm1(-h)
    second = -2 / h * first - 1 / math.expm1(-h)
    older, newer = np.linalg.solve(np.array([[1.0, 1.0], [-1 / change, 1.0]]), np.array([first, second])).tolist()
    return end / sigma, reach * (1 + older * change - newer), -reach * older * change, reach * newer
