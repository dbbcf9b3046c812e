"""The few-step denoising schedule of causal Wan students: sigmas, x0 and re-noising."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import ScheduleConfig

TRAIN_STEPS = 1000


@functools.cache
def sigma_table(shift: float, twice: bool = False) -> NDArray[np.float32]:
    """The 1000 training sigmas: s = 1, 0.999, ..., 0.001; sigma = shift s / (1 + (shift - 1) s).

    twice: s falls evenly from 1 to the sigma of 0.001 instead (FastVideo's scheduler).
    """
    s = np.linspace(1.0, 0.0, TRAIN_STEPS + 1, dtype=np.float64).astype(np.float32)[:-1]
    if twice:
        s = np.linspace(1.0, float(_shifted(s[-1:], shift)[0]), TRAIN_STEPS).astype(np.float32)
    table = _shifted(s, shift)
    table.setflags(write=False)
    return table


def _shifted(s: NDArray[np.float32], shift: float) -> NDArray[np.float32]:
    k = np.float32(shift)
    moved: NDArray[np.float32] = k * s / (np.float32(1) + (k - np.float32(1)) * s)
    return moved


def sigma_of(timestep: float, shift: float, twice: bool = False) -> float:
    """Sigma of the nearest table entry. A quirk to keep: timestep 0 gives the last, not 0."""
    table = sigma_table(shift, twice)
    return float(table[np.abs(table * np.float32(TRAIN_STEPS) - np.float32(timestep)).argmin()])


def warp(timestep: float, shift: float, twice: bool = False) -> float:
    """A uniform timestep moved by the shift: 1000 x the sigma at place 1000 - timestep."""
    place = TRAIN_STEPS - round(timestep)
    return float(sigma_table(shift, twice)[place] * np.float32(TRAIN_STEPS)) if place < TRAIN_STEPS else 0.0


@dataclass(frozen=True)
class DenoiseStep:
    """One pass: x0 = x - sigma * flow, then x = (1 - next_sigma) * x0 + next_sigma * noise."""

    timestep: float
    sigma: float
    next_sigma: float
    """0 in the last step: x0 is the result."""


def denoise_steps(config: ScheduleConfig) -> tuple[DenoiseStep, ...]:
    """The passes of a chunk, noisy to clean."""
    shift, twice = config.shift, config.shifted_twice
    if config.solver == "unipc":
        sigmas = _solver_sigmas(config)
        steps = [float(int(TRAIN_STEPS * sigma)) for sigma in sigmas]
    else:
        steps = [warp(t, shift, twice) for t in config.timesteps] if config.warp else list(config.timesteps)
        sigmas = [sigma_of(t, shift, twice) for t in steps]
    return tuple(
        DenoiseStep(timestep, sigma, next_sigma)
        for timestep, sigma, next_sigma in zip(steps, sigmas, [*sigmas[1:], 0.0], strict=True)
    )


def _solver_sigmas(config: ScheduleConfig) -> list[float]:
    """Sigmas of Wan's solvers: even between 0.999 and 0, then shifted, without a table."""
    even = np.array(config.timesteps) * float(np.float32(1 - 1 / TRAIN_STEPS)) / TRAIN_STEPS
    moved = config.shift * even / (1 + (config.shift - 1) * even) if config.warp else even
    return [float(sigma) for sigma in moved.astype(np.float32)]
