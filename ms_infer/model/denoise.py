"""From the flow that a pass gave to the latents of the next pass; engines and training share these lines."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from torch import Tensor

from ms_infer.config import ScheduleConfig
from ms_infer.numerics.schedule import DenoiseStep, denoise_steps
from ms_infer.numerics.unipc import unipc_weights


def next_latents(x: Tensor, flow: Tensor, step: DenoiseStep, noise: Callable[[], Tensor] | None) -> Tensor:
    """What the next pass reads, x0 after the last one. noise: draws fresh values; None goes along the flow (Euler)."""
    x0 = x - step.sigma * flow
    if not step.next_sigma:
        return x0
    if noise is None:
        return x0 + step.next_sigma * flow
    return (1 - step.next_sigma) * x0 + step.next_sigma * noise()


class Sampler:
    """The passes of a chunk, one after the other: every step depends on its own pass alone."""

    def __init__(self, config: ScheduleConfig) -> None:
        self.steps = denoise_steps(config)
        self._fresh = config.renoise == "fresh"

    def next(self, index: int, x: Tensor, flow: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        """What pass `index` + 1 reads, x0 after the last one; `noise` draws the fresh values of a pass."""
        return next_latents(x, flow, self.steps[index], partial(noise, index + 1) if self._fresh else None)


class UniPc(Sampler):
    """Remembers the passes before in the chunk, in float32; pass 0 begins anew."""

    def __init__(self, config: ScheduleConfig) -> None:
        super().__init__(config)
        self._weights = unipc_weights([step.sigma for step in self.steps])

    def next(self, index: int, x: Tensor, flow: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        x0 = x.float() - self.steps[index].sigma * flow.float()
        if index == 0:
            self._latents, self._x0, self._older = x.float(), x0, x0
        else:
            told = (self._latents, self._x0, self._older, x0)
            self._latents = _mixed(self._weights[index].corrected, told)
            self._x0, self._older = x0, self._x0
        return _mixed(self._weights[index].following, (self._latents, self._x0, self._older)).to(x.dtype)


def sampler_of(config: ScheduleConfig) -> Sampler:
    """The sampler that the schedule names."""
    return UniPc(config) if config.solver == "unipc" else Sampler(config)


def _mixed(weights: tuple[float, ...], tensors: tuple[Tensor, ...]) -> Tensor:
    first, *rest = (weight * tensor for weight, tensor in zip(weights, tensors, strict=True))
    return sum(rest, start=first)
