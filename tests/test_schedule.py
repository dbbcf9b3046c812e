"""The denoising schedule against stored tables of the reference scheduler."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from ms_infer.config import ScheduleConfig
from ms_infer.errors import ConfigError
from ms_infer.numerics.schedule import denoise_steps, sigma_of, sigma_table, warp

GOLDEN = Path(__file__).parent / "golden"
STORED = load_file(GOLDEN / "scheduler.safetensors")
WARPED = json.loads((GOLDEN / "scheduler.json").read_text())["warped"]


@pytest.mark.parametrize("shift", [1, 3, 5, 8])
def test_sigmas_equal_the_reference_table(shift: int) -> None:
    np.testing.assert_allclose(sigma_table(shift), STORED[f"shift{shift}.sigmas"].numpy(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", sorted(WARPED))
def test_warped_steps_equal_the_reference(name: str) -> None:
    shift = float(name.split(".")[0].removeprefix("shift"))

    got = [warp(t, shift) for t in WARPED[name]["list"]]

    np.testing.assert_allclose(got, WARPED[name]["warped"], atol=1e-4, rtol=0)


def test_sigma_is_that_of_the_nearest_entry() -> None:
    got = [sigma_of(float(t), 5.0) for t in STORED["ex.t"]]

    np.testing.assert_allclose(got, STORED["ex.sigma_used"].numpy(), atol=1e-7, rtol=0)


def test_timestep_zero_keeps_the_last_sigma() -> None:
    assert sigma_of(0.0, 5.0) == pytest.approx(0.0049801, abs=1e-6)


def test_x0_and_renoise_equal_the_reference() -> None:
    for row, t in enumerate(STORED["ex.t"]):
        sigma = sigma_of(float(t), 5.0)
        x0 = STORED["ex.xt"][row] - sigma * STORED["ex.flow"][row]
        noisy = (1 - sigma) * STORED["ex.x0"][row] + sigma * STORED["ex.noise"][row]
        np.testing.assert_allclose(x0, STORED["ex.flow_to_x0"][row], atol=1e-6, rtol=0)
        np.testing.assert_allclose(noisy, STORED["ex.add_noise"][row], atol=1e-6, rtol=0)


def test_steps_chain_their_sigmas_and_end_clean() -> None:
    steps = denoise_steps(ScheduleConfig(timesteps=(1000, 750, 500, 250), shift=5.0))

    assert [round(s.timestep, 3) for s in steps] == [1000.0, 937.5, 833.333, 625.0]
    assert [s.next_sigma for s in steps] == [*(s.sigma for s in steps[1:]), 0.0]


@pytest.mark.parametrize("timesteps", [(), (500.0, 600.0), (0.0,), (1200.0,)])
def test_impossible_timesteps_are_refused(timesteps: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="timesteps"):
        ScheduleConfig(timesteps=timesteps)


def test_a_table_shifted_twice_is_that_of_fastvideo() -> None:
    config = ScheduleConfig(timesteps=(1000.0, 750.0, 500.0, 250.0), shifted_twice=True)
    got = [step.timestep for step in denoise_steps(config)]
    np.testing.assert_allclose(got, [1000, 947.6988, 858.3569, 671.0526], atol=1e-4)
