"""The few-step denoising schedule of causal Wan students: sigmas, x0 and re-noising."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import ScheduleConfig

TRAIN_STEPS = 1000


@functools.cache
def sigma_table(shift: float) -> NDArray[np.float32]:
    """The 1000 training sigmas: s = 1, 0.999, ...; sigma = shift s / (1 + (shift - 1) s)."""
    s = np.linspace(1.0, 0.0, TRAIN_STEPS + 1, dtype=np.float64).astype(np.float32)[:-1]
    k = np.float32(shift)
    table = k * s / (np.float32(1) + (k - np.float32(1)) * s)
    table.setflags(write=False)
    return table


def sigma_of(timestep: float, shift: float) -> float:
    """Sigma of the nearest table entry. A quirk to keep: timestep 0 gives the last, not 0."""
    table = sigma_table(shift)
    return float(table[np.abs(table * np.float32(TRAIN_STEPS) - np.float32(timestep)).argmin()])


def warp(timestep: float, shift: float) -> float:
    """A uniform timestep moved by the shift: 1000 x the sigma at index 1000 - timestep."""
    index = TRAIN_STEPS - round(timestep)
    return float(sigma_table(shift)[index] * np.float32(TRAIN_STEPS)) if index < TRAIN_STEPS else 0.0


@dataclass(frozen=True)
class DenoiseStep:
    """One pass: x0 = x - sigma * flow, then x = (1 - next_sigma) * x0 + next_sigma * noise."""

    timestep: float
    sigma: float
    next_sigma: float
    """0 in the last step: x0 is the result."""


def denoise_steps(config: ScheduleConfig) -> tuple[DenoiseStep, ...]:
    """The passes of a chunk, noisy to clean."""
    steps = [warp(t, config.shift) for t in config.timesteps] if config.warp else list(config.timesteps)
    sigmas = [sigma_of(t, config.shift) for t in steps]
    return tuple(
        DenoiseStep(timestep, sigma, next_sigma)
        for timestep, sigma, next_sigma in zip(steps, sigmas, [*sigmas[1:], 0.0], strict=True)
    )
