"""Smooth random paths that stay bounded for ever, so that a stream of any length has ground truth."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

WAVES = 2


@dataclass(frozen=True)
class Paths:
    """A batch of paths: a sum of waves plus one eased drag; the value at frame 0 is 0.

    `amplitude`, `omega` (radians a frame), `phase`: [B, C, waves]; `drag`: [B, C] distance;
    `drag_frames`: [B, 1] frames that the drag takes.
    """

    amplitude: Tensor
    omega: Tensor
    phase: Tensor
    drag: Tensor
    drag_frames: Tensor

    def at(self, times: Tensor) -> Tensor:
        """Values [B, T, C] at RGB frames `times` [B, T] (float)."""
        angle = times[..., None, None] * self.omega[:, None] + self.phase[:, None]
        waves = (self.amplitude[:, None] * (angle.sin() - self.phase[:, None].sin())).sum(-1)
        ease = (times / self.drag_frames).clamp(0, 1)
        ease = ease * ease * (3 - 2 * ease)
        return waves + ease[..., None] * self.drag[:, None]


def uniform(generator: torch.Generator, shape: tuple[int, ...], low: float, high: float) -> Tensor:
    """float32 uniform on [low, high), on the generator's device."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def chance(generator: torch.Generator, shape: tuple[int, ...], probability: float) -> Tensor:
    """float32 of 0 and 1; 1 with `probability`."""
    return (torch.rand(shape, generator=generator, device=generator.device) < probability).float()


def draw_waves(generator: torch.Generator, batch: int, channels: int, *, speed: float, reach: float) -> Paths:
    """Waves whose peak speed is at most `speed` and whose amplitude at most `reach` (same unit)."""
    shape = (batch, channels, WAVES)
    peak = uniform(generator, shape, 0.15, 0.8) * speed / WAVES
    omega = 2 * math.pi / uniform(generator, shape, 50.0, 220.0)
    amplitude = (peak / omega).clamp(max=reach / WAVES)
    return Paths(
        amplitude=amplitude,
        omega=peak / amplitude,
        phase=uniform(generator, shape, 0.0, 2 * math.pi),
        drag=torch.zeros(batch, channels, device=generator.device),
        drag_frames=torch.ones(batch, 1, device=generator.device),
    )


def draw_drags(generator: torch.Generator, batch: int, *, speed: float, reach: float) -> Paths:
    """Straight eased 2-D drags of up to `reach` pixels at a mean speed of up to `speed` a frame."""
    length = uniform(generator, (batch,), 0.25, 1.0) * reach
    angle = uniform(generator, (batch,), 0.0, 2 * math.pi)
    pace = uniform(generator, (batch,), 0.35, 0.65) * speed  # the eased peak is 1.5 times the mean
    zeros = torch.zeros(batch, 2, WAVES, device=generator.device)
    return Paths(
        amplitude=zeros,
        omega=zeros,
        phase=zeros,
        drag=torch.stack([length * angle.cos(), length * angle.sin()], dim=-1),
        drag_frames=(length / pace)[:, None],
    )


def choose(take_first: Tensor, first: Paths, second: Paths) -> Paths:
    """Row by row `first` where `take_first` [B] is 1, else `second`."""

    def pick(a: Tensor, b: Tensor) -> Tensor:
        return torch.where(take_first.view(-1, *[1] * (a.dim() - 1)) > 0, a, b)

    return Paths(
        pick(first.amplitude, second.amplitude),
        pick(first.omega, second.omega),
        pick(first.phase, second.phase),
        pick(first.drag, second.drag),
        pick(first.drag_frames, second.drag_frames),
    )


def scaled(paths: Paths, factor: Tensor) -> Paths:
    """Paths times `factor` [B, C]."""
    return Paths(paths.amplitude * factor[..., None], paths.omega, paths.phase, paths.drag * factor, paths.drag_frames)
