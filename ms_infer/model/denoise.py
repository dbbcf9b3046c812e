"""From the flow that a pass gave to the latents of the next pass; engines and training share these lines."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ms_infer.numerics.schedule import DenoiseStep


def next_latents(x: Tensor, flow: Tensor, step: DenoiseStep, noise: Callable[[], Tensor] | None) -> Tensor:
    """What the next pass reads, x0 after the last one. noise: draws fresh values; None goes along the flow (Euler)."""
    x0 = x - step.sigma * flow
    if not step.next_sigma:
        return x0
    if noise is None:
        return x0 + step.next_sigma * flow
    return (1 - step.next_sigma) * x0 + step.next_sigma * noise()
