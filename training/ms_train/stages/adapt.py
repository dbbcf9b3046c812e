"""Stage 3: causal adaptation: the teacher's weights learn to make one chunk out of a clean past.

Regression onto rendered clips instead of ODE trajectories of a guided teacher: the moved first frame leaves
little to guess, and trajectories would cost 150 passes a clip. `targets="teacher"` regresses onto teacher samples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ms_train.data.clips import Clips
from ms_train.data.paths import chance, uniform
from ms_train.precision import autocast
from ms_train.stages.flow_matching import block_causal, draw_step_sigmas, flow_loss, noised, shifted
from ms_train.stages.teacher import FlowConfig, FlowStage, sample_teacher
from ms_train.students import Network

# What each of three chunks (sink, window, current) sees: whole context, no sink, no window.
CONTEXTS = (((0,), (0, 1), (0, 1, 2)), ((0,), (1,), (1, 2)), ((0,), (0, 1), (0, 2)))


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(FlowConfig):
    """Settings of causal adaptation."""

    clean_sink: float = 0.5
    """Share of clips whose first chunk is given clean, as in a stream; otherwise it is learnt too."""
    clean_window: float = 0.7
    context_noise: float = 0.1
    """Largest noise added to clean chunks, so that small errors of a stream are known."""
    whole_context: float = 0.8
    """Share of steps with sink and window; the others lack one of them."""
    step_share: float = 0.85
    """Share of noise levels taken from the student's own steps; the others lie anywhere."""
    targets: Literal["clips", "teacher"] = "clips"
    teacher_steps: int = 16


class Adapt(FlowStage):
    """Block-causal over sink, window and current chunk, each with its own noise level."""

    config: AdaptConfig
    teacher: Network | None = None
    """Set for `targets="teacher"`."""

    def step(self) -> dict[str, float]:
        clips = self.draw_batch()
        latents = clips.latents.float()
        if self.config.targets == "teacher":
            assert self.teacher is not None, "targets='teacher' needs a teacher"
            latents = sample_teacher(self.teacher, clips, self.generator, steps=self.config.teacher_steps)
        sigma, clean = self._levels(len(clips))
        noise = self.normal(latents)
        with autocast(self.device):
            flow = self._flow(clips, noised(latents, noise, sigma), torch.where(clean, 0.0, sigma), self._context())
        return self.update(flow_loss(flow, latents, noise, (~clean).float()))

    def _levels(self, count: int) -> tuple[Tensor, Tensor]:
        """Sigma and "given clean", [B, F] both."""
        config, generator = self.config, self.generator
        size, chunks = self.stream.context.chunk_frames, config.clip_chunks
        shape = (count, chunks)
        anywhere = shifted(uniform(generator, shape, 0.0, 1.0), self.stream.schedule.shift)
        own = draw_step_sigmas(self.stream.schedule, shape, generator)
        sigma = torch.where(chance(generator, shape, config.step_share) > 0, own, anywhere)
        clean = torch.zeros(shape, dtype=torch.bool, device=self.device)
        clean[:, 0] = chance(generator, (count,), config.clean_sink) > 0
        clean[:, 1:-1] = chance(generator, (count, chunks - 2), config.clean_window) > 0
        small = uniform(generator, shape, 0.0, config.context_noise)
        sigma = torch.where(clean, small, sigma)
        return sigma.repeat_interleave(size, dim=1), clean.repeat_interleave(size, dim=1)

    def _context(self) -> tuple[tuple[int, ...], ...]:
        if self.config.clip_chunks != 3:
            return tuple(tuple(range(chunk + 1)) for chunk in range(self.config.clip_chunks))
        draw = float(torch.rand((), generator=self.generator, device=self.device))
        share = self.config.whole_context
        return CONTEXTS[0] if draw < share else CONTEXTS[1 if draw < (1 + share) / 2 else 2]

    def _flow(self, clips: Clips, noisy: Tensor, sigma: Tensor, sees: tuple[tuple[int, ...], ...]) -> Tensor:
        track, image, keys = self.inputs(clips)
        attend = block_causal(self.rotation(noisy.shape[1]), sees)
        return self.network.flow(noisy, sigma * 1000, track, image, keys, attend)

    def preview(self, clips: Clips) -> Tensor:
        latents = clips.latents.float()
        size = self.stream.context.chunk_frames
        sigma = torch.zeros(latents.shape[:2], device=self.device)
        sigma[:, -size:] = 1.0
        noisy = noised(latents, self.normal(latents), sigma)
        flow = self._flow(clips, noisy, sigma, CONTEXTS[0][: self.config.clip_chunks])
        return noisy - sigma[:, :, None, None, None] * flow
