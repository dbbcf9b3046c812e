"""Stage 4: Self Forcing. The student streams by itself and is scored on what it made.

Two scores that can be mixed: Distribution Matching Distillation (MotionStream Eq. 3 and 4; the frozen teacher with
joint guidance against a critic that follows the student), and regression onto the rendered clip.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ms_infer.model.taehv import TinyVae
from ms_infer.model.transformer import full_attention
from ms_train import parallel
from ms_train.data.clips import Clips, ClipSource
from ms_train.muon import Muon, matrix_groups
from ms_train.precision import autocast
from ms_train.stages.flow_matching import MOTION_WEIGHT, TEXT_WEIGHT, flow_loss, joint_guidance, noised, shifted
from ms_train.stages.rollout import generator_noise, rollout
from ms_train.stages.teacher import PLAIN, FlowConfig, FlowStage, guidance_variants
from ms_train.students import Network, image_slots, pick_chunks, track_inputs


@dataclass(frozen=True, kw_only=True)
class DistillConfig(FlowConfig):
    """Settings of Self Forcing."""

    critic_updates: int = 5
    """Critic steps a generator step."""
    critic_rate: float = 0.4
    """The critic's learning rate relative to the student's."""
    dmd_weight: float = 1.0
    regression_weight: float = 0.0
    text: float = TEXT_WEIGHT
    motion: float = MOTION_WEIGHT
    rollout_chunks: int = 5
    """Chunks of a rollout; the teacher's clip has `clip_chunks`."""
    sigma_range: tuple[float, float] = (0.02, 0.98)
    """Uniform draws, before the shift, of the level at which the scores meet."""


class Distill(FlowStage):
    """Self-rollout with the inference context code; `start_from` gives student, teacher and critic their weights."""

    config: DistillConfig

    def __init__(
        self, config: DistillConfig, source: ClipSource, device: torch.device, vae: TinyVae | None = None
    ) -> None:
        super().__init__(config, source, device, vae)
        self.teacher = Network(config.stream).to(device).requires_grad_(False)
        self.critic = Network(config.stream).to(device)
        groups = matrix_groups(self.critic.named_parameters(), config.loop.weight_decay, PLAIN)
        for group in groups:
            group["rate"] = config.critic_rate
        self.critic_trained = [parameter for group in groups for parameter in group["params"]]
        self.critic_optimizer = Muon(groups, config.loop.learning_rate)
        self.network.track_head.requires_grad_(False)  # frozen after the teacher (MotionStream section D)
        self.trained = [parameter for parameter in self.trained if parameter.requires_grad]

    def start_from(self, student: dict[str, Tensor], teacher: dict[str, Tensor]) -> None:
        """Weights to begin with: the student's, and the teacher's for scores and critic."""
        self.start_from_average(student)
        self.teacher.load_state_dict(teacher)
        self.critic.load_state_dict(teacher)
        parallel.broadcast_(self.network)

    def parts(self) -> dict[str, Any]:
        more = {"critic": self.critic, "critic_optimizer": self.critic_optimizer, "teacher": self.teacher}
        return super().parts() | more

    def step(self) -> dict[str, float]:
        config = self.config
        numbers = {}
        if config.dmd_weight:
            losses = [self._critic_update() for _ in range(config.critic_updates)]
            numbers["critic"] = sum(losses) / len(losses)
        clips = self._long_batch()
        with autocast(self.device, cache_enabled=False):
            made = self._rollout(clips, gradient=True)
        loss = torch.zeros((), device=self.device)
        if config.dmd_weight:
            dmd = self._matching_loss(*self._window(clips, made))
            numbers["dmd"] = float(dmd.detach())
            loss = loss + config.dmd_weight * dmd
        if config.regression_weight:
            regression = F.mse_loss(made, clips.latents.float())
            numbers["regression"] = float(regression.detach())
            loss = loss + config.regression_weight * regression
        return numbers | self.update(loss)

    def _long_batch(self) -> Clips:
        """Clips of `rollout_chunks` neighbouring chunks from the start; `rest` of them come to rest."""
        self.source.refresh(self.step_index)
        clips = self.source.draw(self.generator, self.config.batch).to(self.device)
        chunks = torch.arange(self.config.rollout_chunks, device=self.device).expand(len(clips), -1)
        return self.resting(pick_chunks(clips, chunks, self.stream.context.chunk_frames))

    def _rollout(self, clips: Clips, *, gradient: bool) -> Tensor:
        leave = int(torch.randint(len(self.stream.schedule.timesteps), (), generator=self.common))
        exits = [leave] * self.config.rollout_chunks
        tracks = track_inputs(self.network.track_head, clips, self.generator)
        with torch.set_grad_enabled(gradient):
            track = self.network.track_head.combine(tracks.volume, tracks.content, tracks.validity).float()
            keys = self.network.keys(clips.words)
        noise = generator_noise(self.generator)
        first = clips.latents[:, :1].float()
        made = rollout(self.network, track, first, keys, noise, exits=exits, gradient_from=0 if gradient else None)
        return made.float()

    def _window(self, clips: Clips, made: Tensor) -> tuple[Clips, Tensor]:
        """The first chunk and two neighbours of it, as the teacher's clips are."""
        size, config = self.stream.context.chunk_frames, self.config
        count = len(clips)
        last = torch.randint(
            config.clip_chunks - 1, config.rollout_chunks, (count, 1), generator=self.generator, device=self.device
        )
        back = torch.arange(config.clip_chunks - 1, -1, -1, device=self.device)
        chunks = torch.where(back == config.clip_chunks - 1, 0, last - back)
        frames = (chunks[..., None] * size + torch.arange(size, device=self.device)).flatten(1)
        rows = torch.arange(count, device=self.device)[:, None]
        return pick_chunks(clips, chunks, size), made[rows, frames]

    def _levels(self, latents: Tensor) -> Tensor:
        low, high = self.config.sigma_range
        draw = low + (high - low) * torch.rand(len(latents), 1, generator=self.generator, device=self.device)
        return shifted(draw, self.stream.schedule.shift).expand(-1, latents.shape[1])

    def _scored_flow(self, network: Network, clips: Clips, noisy: Tensor, sigma: Tensor) -> Tensor:
        tracks = track_inputs(network.track_head, clips, self.generator)
        track = network.track_head.combine(tracks.volume, tracks.content, tracks.validity)
        image = image_slots(self.stream, clips.latents[:, :1].float(), noisy.shape[1])
        attend = full_attention(self.rotation(noisy.shape[1]))
        return network.flow(noisy, sigma * 1000, track, image, network.keys(clips.words), attend)

    def _critic_update(self) -> float:
        clips = self._long_batch()
        with autocast(self.device, cache_enabled=False):
            with torch.no_grad():
                clips, made = self._window(clips, self._rollout(clips, gradient=False))
            sigma, noise = self._levels(made), self.normal(made)
            flow = self._scored_flow(self.critic, clips, noised(made, noise, sigma), sigma)
        loss = flow_loss(flow, made, noise)
        self.optimise(self.critic_optimizer, loss, self.critic_trained)
        return float(loss.detach())

    def _matching_loss(self, clips: Clips, made: Tensor) -> Tensor:
        """A loss whose gradient is the difference of the scores, divided by the teacher's mean error."""
        variants = guidance_variants(clips)
        with torch.no_grad(), autocast(self.device):
            latents = made.detach()
            sigma, noise = self._levels(latents), self.normal(latents)
            noisy = noised(latents, noise, sigma)
            level = sigma[:, :, None, None, None]
            fake = noisy - level * self._scored_flow(self.critic, clips, noisy, sigma).float()
            flows = self._scored_flow(self.teacher, variants, noisy.repeat(3, 1, 1, 1, 1), sigma.repeat(3, 1))
            full, motion_only, text_only = flows.float().chunk(3)
            real = noisy - level * joint_guidance(full, motion_only, text_only, self.config.text, self.config.motion)
            scale = (latents - real).abs().mean((1, 2, 3, 4), keepdim=True).clamp(min=1e-3)
            gradient = torch.nan_to_num((fake - real) / scale)
        return 0.5 * F.mse_loss(made, (made - gradient).detach())

    def preview(self, clips: Clips) -> Tensor:
        tracks = track_inputs(self.network.track_head, clips, self.generator)
        track = self.network.track_head.combine(tracks.volume, tracks.content, tracks.validity)
        keys = self.network.keys(clips.words)
        return rollout(self.network, track, clips.latents[:, :1].float(), keys, generator_noise(self.generator))
