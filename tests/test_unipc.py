"""UniPC over a flow against the solver as it is published, against an exact solution, and in the engines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ms_export.exporter import export_bundle
from ms_export.options import ExportOptions
from torch import Tensor

from ms_infer import ConfigError, Stream
from ms_infer.checkpoint import random_student
from ms_infer.config import ScheduleConfig, preset
from ms_infer.engines.torch import TorchEngine
from ms_infer.engines.torch.captured import FusedEngine
from ms_infer.model.denoise import Sampler, sampler_of
from ms_infer.numerics.schedule import denoise_steps
from tests.tiny import tiny_config

Flow = Callable[[Tensor, float], Tensor]


def schedule(steps: int, shift: float = 5.0) -> ScheduleConfig:
    """Even steps, as Wan's scheduler places them."""
    even = tuple(1000.0 * (steps - i) / steps for i in range(steps))
    return ScheduleConfig(timesteps=even, shift=shift, renoise="none", solver="unipc")


def sampled(config: ScheduleConfig, x: Tensor, flow: Flow) -> Tensor:
    sampler = sampler_of(config)
    for index, step in enumerate(sampler.steps):
        x = sampler.next(index, x, flow(x, step.sigma), _no_noise)
    return x


def _no_noise(_: int) -> Tensor:
    raise AssertionError("a solver draws nothing")


def published(sigmas: list[float], x: Tensor, flow: Flow) -> Tensor:
    """Predictor and corrector as UniPC's authors write them, for any order: B(h) = e^h - 1, both solved in float64."""
    at = [*sigmas, 0.0]
    lam = [float(np.log((1 - s) / s)) if s else np.inf for s in at]
    told: list[Tensor] = []
    last = x

    def moved(start: Tensor, i: int, order: int, new: Tensor | None) -> Tensor:
        """From sigma `i` to the next, by x0 told until `i`, and by `new` there."""
        h = lam[i + 1] - lam[i]
        b_h = np.expm1(-h)
        ratios = [(lam[i - k] - lam[i]) / h for k in range(1, order)]
        changes = [(told[i - k] - told[i]) / r for k, r in zip(range(1, order), ratios, strict=True)]
        if new is not None:
            ratios, changes = [*ratios, 1.0], [*changes, new - told[i]]
        moments, phi, factorial = [], b_h / -h - 1, 1
        for k in range(1, len(ratios) + 1):
            moments.append(phi * factorial / b_h)
            factorial *= k + 1
            phi = phi / -h - 1 / factorial
        rhos = np.linalg.solve(np.array([np.power(ratios, k) for k in range(len(ratios))]), moments) if ratios else []
        if len(ratios) == 1:  # what the authors take for one unknown
            rhos = [0.5]
        change = sum((rho * c for rho, c in zip(rhos, changes, strict=True)), start=torch.zeros_like(start))
        return at[i + 1] / at[i] * start - (1 - at[i + 1]) * b_h * (told[i] + change)

    order = 0
    for i in range(len(sigmas)):
        x0 = x - at[i] * flow(x, at[i])
        last = moved(last, i - 1, order, x0) if i else x
        told.append(x0)
        order = min(2, len(sigmas) - i, i + 1)
        x = moved(last, i, order, None)
    return x


def curved(x: Tensor, sigma: float) -> Tensor:
    return torch.sin(3 * x) + sigma * x.roll(1) - 0.3


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_latents_are_those_of_the_published_solver(steps: int, shift: float) -> None:
    config = schedule(steps, shift)
    x = torch.randn(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    got = sampled(config, x, curved)

    expected = published([step.sigma for step in denoise_steps(config)], x, curved)
    torch.testing.assert_close(got, expected, atol=3e-6, rtol=0)


def test_more_steps_come_to_the_exact_solution_with_order_2() -> None:
    """Gaussian data of mean 0.4 and deviation 0.5: the flow's paths are known."""

    def exact(z: Tensor, sigma: float) -> Tensor:
        return (1 - sigma) * 0.4 + np.sqrt((1 - sigma) ** 2 * 0.25 + sigma**2) * z

    def flow(x: Tensor, sigma: float) -> Tensor:
        spread = (1 - sigma) * 0.25 / ((1 - sigma) ** 2 * 0.25 + sigma**2)
        return (x - 0.4 - spread * (x - (1 - sigma) * 0.4)) / sigma

    z = torch.linspace(-2, 2, 9, dtype=torch.float64)
    errors = []
    for steps in (32, 64, 128):
        config = schedule(steps, shift=1.0)
        start = exact(z, denoise_steps(config)[0].sigma)
        errors.append(float((sampled(config, start, flow) - exact(z, 0.0)).abs().max()))
    assert errors[2] < 3e-4  # of Euler's steps 1e-2
    assert errors[0] / errors[1] > 3.7
    assert errors[1] / errors[2] > 3.7


def test_the_steps_of_longlive_2_are_those_of_wans_scheduler() -> None:
    steps = denoise_steps(preset("longlive-2").schedule)

    assert [step.timestep for step in steps] == [999, 937, 833, 624]  # whole numbers, rounded down
    assert [step.sigma for step in steps] == pytest.approx([0.9997998, 0.9372655, 0.8330555, 0.6246874], abs=1e-6)
    assert steps[-1].next_sigma == 0


@pytest.mark.parametrize("image", [False, True])
def test_engines_take_its_steps_and_a_chunk_that_failed_is_made_again(
    image: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(tiny_config(), schedule=schedule(4))
    euler = replace(config, schedule=replace(config.schedule, solver="euler"))
    picture = np.full((32, 32, 3), 90, np.uint8) if image else None
    videos = []
    for kind, chosen in ((TorchEngine, config), (FusedEngine, config), (TorchEngine, euler)):
        engine = kind(random_student(chosen, 0), device="cpu", precision="fp32")
        with Stream(engine) as stream:
            stream.start(picture, seed=1)
            stream.step()
            with monkeypatch.context() as patched:
                patched.setattr(engine.transformer, "forward", _fails_at(3, engine.transformer.forward))
                with pytest.raises(InterruptedError):
                    stream.step()
            videos.append(stream.step().frames.astype(int))
    whole = Stream(TorchEngine(random_student(config, 0), device="cpu", precision="fp32"))
    whole.start(picture, seed=1)
    whole.step()
    np.testing.assert_array_equal(videos[0], whole.step().frames)
    assert np.abs(videos[1] - videos[0]).max() <= 1
    assert np.abs(videos[2] - videos[0]).max() > 1


def _fails_at(turn: int, forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    turns = iter(range(1, turn + 1))

    def once(*given: object) -> Tensor:
        if next(turns) == turn:
            raise InterruptedError
        return forward(*given)

    return once


def test_bf16_latents_are_kept_in_float32_between_passes() -> None:
    x = torch.randn(512, generator=torch.Generator().manual_seed(1)).bfloat16()
    exact = sampled(schedule(4), x.float(), curved)

    made = sampled(schedule(4), x, lambda x, sigma: curved(x.float(), sigma).bfloat16())

    assert made.dtype == torch.bfloat16
    assert (made.float() - exact).abs().mean() < 0.02


def test_an_export_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    student = random_student(replace(tiny_config(), schedule=schedule(4)), 0)

    with pytest.raises(ConfigError, match=r"UniPC.*--set schedule.solver=euler"):
        export_bundle(student, "0" * 64, tmp_path, ExportOptions())
    assert not list(tmp_path.iterdir())


def test_a_solver_with_fresh_noise_is_refused() -> None:
    with pytest.raises(ConfigError, match="unipc with renoise='none', not 'unipc' with 'fresh'"):
        ScheduleConfig(solver="unipc")
    assert type(sampler_of(ScheduleConfig())) is Sampler
