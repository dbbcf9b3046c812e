"""A context that is encoded again before every chunk, against the rule written out (Krea)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_infer import ConfigError, ContextConfig, Stream
from ms_infer.checkpoint import Student
from ms_infer.engines.base import plan_chunk
from ms_infer.engines.torch import TorchEngine
from ms_infer.engines.torch.captured import FusedEngine
from ms_infer.engines.torch.noise import host_noise
from ms_infer.model.context import ContextCache
from ms_infer.model.denoise import next_latents
from ms_infer.numerics.schedule import denoise_steps
from tests.tiny import without_tracks

AGAIN = ContextConfig(sink_frames=0, window_frames=3, recompute=True)
SEED = 3
PROMPTS = ["a cat", "a cat", "a cat", "dog night", "dog night"]
"""Of each chunk."""


@pytest.fixture(scope="module")
def student() -> Student:
    return without_tracks(context=AGAIN)


def latents_by_the_rule(student: Student, embedded: Callable[[str], NDArray[np.float32]]) -> list[Tensor]:
    """Each chunk in a context of its own: the chunk before, encoded by itself at positions 0 to 2, then the chunk."""
    config, model = student.config, student.transformer
    made: list[Tensor] = []
    for index, prompt in enumerate(PROMPTS):
        keys = model.condition(torch.from_numpy(embedded(prompt))[None], None, imageless=False)
        cache = ContextCache(config)
        if made:
            cache.place_(0, 3)
            model.write(made[-1], torch.zeros(1, 3), keys, cache)
        cache.place_(3 * bool(made), 3)
        plan = plan_chunk(config, index, None, SEED)
        x = host_noise(plan, config, 0)
        for number, step in enumerate(denoise_steps(config.schedule), start=1):
            flow = model(x, torch.full((1, 3), step.timestep), keys, cache)
            x = next_latents(x, flow, step, partial(host_noise, plan, config, number))
        made.append(x)
    return made


def made_by(engine: TorchEngine) -> list[Tensor]:
    """The latents of every chunk of a stream under `PROMPTS`."""
    made = []
    with Stream(engine) as stream:
        stream.start(prompt=PROMPTS[0], seed=SEED)
        for before, prompt in pairwise([PROMPTS[0], *PROMPTS]):
            if prompt != before:
                stream.set_prompt(prompt)
            stream.step()
            made.append(engine._x.clone())
    return made


@pytest.mark.parametrize("kind", [TorchEngine, FusedEngine])
@torch.no_grad()
def test_every_chunk_sees_the_chunk_before_alone_and_under_the_newest_prompt(
    student: Student, kind: type[TorchEngine]
) -> None:
    engine = kind(student, device="cpu", precision="fp32")

    made = made_by(engine)

    expected = latents_by_the_rule(student, kind(student, device="cpu", precision="fp32").embed)
    torch.testing.assert_close(torch.cat(made), torch.cat(expected), atol=2e-5, rtol=0)
    kept = TorchEngine(without_tracks(context=replace(AGAIN, recompute=False)), precision="fp32")
    assert (torch.cat(made_by(kept)) - torch.cat(expected)).abs().max() > 1e-3


def test_no_key_of_the_chunk_before_is_read_again(student: Student) -> None:
    engines = [TorchEngine(student, precision="fp32") for _ in range(2)]
    with Stream(engines[0]) as one, Stream(engines[1]) as other:
        for _ in range(3):
            one.step(), other.step()
        engines[0].cache.k.fill_(torch.nan), engines[0].cache.v.fill_(torch.nan)

        np.testing.assert_array_equal(one.step().frames, other.step().frames)


def test_a_step_that_failed_makes_the_same_chunk(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> None:
        raise InterruptedError

    engine = TorchEngine(student, precision="fp32")
    with Stream(engine) as one, Stream(student) as other:
        for stream in (one, other):
            stream.start(np.full((32, 32, 3), 90, np.uint8), "a cat", seed=SEED)
            stream.step()
        with monkeypatch.context() as patched:
            patched.setattr(engine, "check_cancelled", fails)
            with pytest.raises(InterruptedError):
                one.step()
        for _ in range(2):
            np.testing.assert_array_equal(one.step().frames, other.step().frames)


@pytest.mark.parametrize("sizes", [{"sink_frames": 3}, {"window_frames": 6}, {"window_frames": 0}])
def test_other_contexts_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(
        ConfigError, match=r"recompute needs sink_frames 0 and a window of one chunk, not .*recompute=false"
    ):
        ContextConfig(**{"sink_frames": 0, "window_frames": 3, **sizes}, recompute=True)
