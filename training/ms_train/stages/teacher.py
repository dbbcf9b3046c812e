"""Stage 2: the flow-matching teacher, bidirectional over its whole clip."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from ms_infer.config import StreamConfig, preset
from ms_infer.model.rope import Rotation
from ms_infer.model.taehv import TinyVae
from ms_infer.model.transformer import full_attention
from ms_infer.text import tokenize
from ms_train import parallel
from ms_train.codec import decode_clip
from ms_train.data.clips import Clips, ClipSource
from ms_train.data.paths import chance
from ms_train.data.scene import LOOKS
from ms_train.loop import Average, LoopConfig, Stage
from ms_train.muon import Muon, matrix_groups
from ms_train.precision import autocast
from ms_train.sheets import save_sheet
from ms_train.stages.flow_matching import MOTION_WEIGHT, TEXT_WEIGHT, flow_loss, joint_guidance, noised, shifted
from ms_train.students import Network, at_rest, image_slots, pick_chunks, silence, track_inputs, warm_start_

PLAIN = ("table", "places", "patch_embedding", "head.head")  # left to AdamW, as is usual with Muon


@dataclass(frozen=True, kw_only=True)
class FlowConfig:
    """Settings of every stage that learns a flow from clips."""

    stream: tyro.conf.Suppress[StreamConfig] = field(default_factory=lambda: preset("demo"))
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1500, learning_rate=1e-3, cooldown=400))
    batch: int = 8
    """Clips a step and process."""
    clip_chunks: int = 3
    """Chunks of a training clip: the first of the rendered clip, then neighbours from anywhere in it."""
    text_dropout: float = 0.1
    motion_dropout: float = 0.1
    mid_mask: float = 0.2
    """Chance that a latent frame after the first chunk loses its tracks, in clips chosen with the same chance."""
    rest: float = 0.0
    """Share of clips that rest: from one of their chunks on they show the first frame, held by tracks or by none,
    whatever the prompt says."""
    fsdp: bool = False
    """Shard the transformer over all processes with FSDP2, under AdamW; tested with two processes on a CPU."""


class FlowStage(Stage):
    """Common parts: the network, its optimiser and averaged weights, and batches with dropout."""

    def __init__(
        self, config: FlowConfig, source: ClipSource, device: torch.device, vae: TinyVae | None = None
    ) -> None:
        super().__init__(config.loop, device)
        torch.manual_seed(config.loop.seed)
        self.config, self.source, self.stream, self.vae = config, source, config.stream, vae
        self.network = Network(config.stream)
        warm_start_(self.network)
        self.network.to(device)
        parallel.broadcast_(self.network)
        if config.fsdp:
            parallel.shard_(self.network.transformer)
        groups = matrix_groups(self.network.named_parameters(), config.loop.weight_decay, PLAIN)
        self.trained = [parameter for group in groups for parameter in group["params"]]
        if config.fsdp:
            self.optimizer: torch.optim.Optimizer = self._sharded_optimizer()
        else:
            self.optimizer = Muon(groups, config.loop.learning_rate)
        self.average = Average(self.network, config.loop.ema)
        known = [look for look in LOOKS[1:] if look in config.stream.model.text.vocabulary]
        self._looks = torch.tensor([tokenize(look, config.stream.model.text)[0] for look in known] or [-2])

    def start_from_average(self, values: dict[str, Tensor]) -> None:
        """Begin with the averaged weights of another stage."""
        parallel.load_state_(self.network, values)
        self.average = Average(self.network, self.loop.ema)

    def _sharded_optimizer(self) -> torch.optim.Optimizer:
        """AdamW, as Muon needs whole matrices; sharded weights in a group of their own, as torch mixes them in none."""
        sharded = {id(parameter) for parameter in self.network.transformer.parameters()}
        groups = [[p for p in self.trained if (id(p) in sharded) == cut] for cut in (True, False)]
        return torch.optim.AdamW([{"params": group} for group in groups], lr=self.loop.learning_rate)

    def parts(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self.optimizer, "average": self.average}

    def rotation(self, frames: int) -> Rotation:
        """Rotary tables of a clip of `frames` latent frames at positions 0, 1, ..."""
        model = self.stream.model
        return Rotation(frames, self.stream.token_grid, model.head_dim, device=self.device)

    def draw_batch(self) -> Clips:
        """Clips of `clip_chunks` chunks with text and tracks dropped at random."""
        config, size = self.config, self.stream.context.chunk_frames
        self.source.refresh(self.step_index)
        clips = self.source.draw(self.generator, config.batch).to(self.device)
        available = clips.latents.shape[1] // size
        last = torch.randint(
            config.clip_chunks - 1, available, (len(clips), 1), generator=self.generator, device=self.device
        )
        back = torch.arange(config.clip_chunks - 1, -1, -1, device=self.device)
        chunks = torch.where(back == config.clip_chunks - 1, 0, last - back)
        return self._dropped(pick_chunks(clips, chunks, size))

    def _dropped(self, clips: Clips) -> Clips:
        config, (count, frames) = self.config, clips.latents.shape[:2]
        everywhere = chance(self.generator, (count, 1), config.motion_dropout)
        somewhere = chance(self.generator, (count, 1), config.mid_mask)
        masked = somewhere * chance(self.generator, (count, frames), config.mid_mask)
        masked[:, : self.stream.context.chunk_frames] = 0
        clips = silence(clips, (everywhere + masked) > 0)
        mute = chance(self.generator, (count, 1), config.text_dropout).bool()
        return self.resting(replace(clips, words=clips.words.masked_fill(mute, -1)))

    def resting(self, clips: Clips) -> Clips:
        """Let `rest` of the clips come to rest, half of them from the start, under their own, another or no prompt."""
        if not self.config.rest:
            return clips
        (count, frames), size, device = clips.latents.shape[:2], self.stream.context.chunk_frames, self.device
        chunk = torch.randint(frames // size, (count,), generator=self.generator, device=device)
        chunk = chunk * chance(self.generator, (count,), 0.5).long()
        rests = chance(self.generator, (count,), self.config.rest) > 0
        start = torch.where(rests, chunk * size, frames)
        standing = chance(self.generator, (count,), 0.6) > 0
        draw = torch.rand(count, 1, generator=self.generator, device=device)
        words = torch.where(draw < 0.4, clips.words, clips.words.roll(1, dims=0)).masked_fill(draw > 0.7, -1)
        looks = torch.isin(words, self._looks.to(words))  # a look would change the picture
        return at_rest(clips, start, standing, words.masked_fill(looks, -1))

    def normal(self, like: Tensor) -> Tensor:
        """Noise of the stage's generator."""
        return torch.randn(like.shape, generator=self.generator, device=self.device)

    def inputs(self, clips: Clips) -> tuple[Tensor, Tensor, Any]:
        """Track latents, image slots and cross-attention keys of a batch."""
        tracks = track_inputs(self.network.track_head, clips, self.generator)
        track = self.network.track_head.combine(tracks.volume, tracks.content, tracks.validity)
        image = image_slots(self.stream, clips.latents[:, :1].float(), clips.latents.shape[1])
        return track, image, self.network.keys(clips.words)

    def update(self, loss: Tensor) -> dict[str, float]:
        """Optimise and average; the numbers to log."""
        norm = self.optimise(self.optimizer, loss, self.trained)
        self.average.update_(self.network)
        return {"loss": float(loss.detach()), "norm": norm}

    @torch.no_grad()
    def sheet(self, path: Path) -> None:
        """Truth, moved first frame, and one-step prediction of the last chunk, from the averaged weights."""
        if self.vae is None:
            return
        state = self.generator.get_state()
        self.generator.manual_seed(7)
        kept = {name: value.clone() for name, value in self.network.state_dict().items()}
        self.network.load_state_dict(self.average.values)
        clips = self.draw_batch()
        predicted = self.preview(clips)
        rows = []
        for latents in (clips.latents.float(), clips.content.float(), predicted):
            frames = decode_clip(self.vae, latents[:6]).clamp(0, 1)
            rows.append(frames[:, [0, 14, frames.shape[1] - 1]])
        save_sheet(path, torch.cat(rows, dim=1))
        self.network.load_state_dict(kept)
        self.generator.set_state(state)

    def preview(self, clips: Clips) -> Tensor:
        """Predicted x0 of a batch, for the sheet."""
        raise NotImplementedError


class Teacher(FlowStage):
    """One noise level a clip; every latent frame sees every other."""

    def step(self) -> dict[str, float]:
        clips = self.draw_batch()
        latents = clips.latents.float()
        draw = torch.rand(len(clips), 1, generator=self.generator, device=self.device)
        sigma = shifted(draw, self.stream.schedule.shift).expand(-1, latents.shape[1])
        noise = self.normal(latents)
        with autocast(self.device):
            flow = self._flow(clips, noised(latents, noise, sigma), sigma)
        return self.update(flow_loss(flow, latents, noise))

    def _flow(self, clips: Clips, noisy: Tensor, sigma: Tensor) -> Tensor:
        track, image, keys = self.inputs(clips)
        attend = full_attention(self.rotation(noisy.shape[1]))
        return self.network.flow(noisy, sigma * 1000, track, image, keys, attend)

    def preview(self, clips: Clips) -> Tensor:
        return sample_teacher(self.network, clips, self.generator, steps=4)


@torch.no_grad()
def sample_teacher(
    network: Network,
    clips: Clips,
    generator: torch.Generator,
    *,
    steps: int = 50,
    text: float = TEXT_WEIGHT,
    motion: float = MOTION_WEIGHT,
) -> Tensor:
    """Latents `[B, F, C, h, w]` by Euler steps along the guided flow (Eq. 2); three passes a step."""
    stream, latents = network.stream, clips.latents.float()
    count, frames = latents.shape[:2]
    attend = full_attention(Rotation(frames, stream.token_grid, stream.model.head_dim, device=latents.device))
    variants = guidance_variants(clips)
    keys = network.keys(variants.words)
    tracks = track_inputs(network.track_head, variants, generator)
    track = network.track_head.combine(tracks.volume, tracks.content, tracks.validity)
    image = image_slots(stream, latents[:, :1], frames).repeat(3, 1, 1, 1, 1)
    x = torch.randn(latents.shape, generator=generator, device=latents.device)
    levels = shifted(torch.linspace(1, 0, steps + 1, device=latents.device), stream.schedule.shift)
    for level, following in itertools.pairwise(levels):
        timestep = (level * 1000).expand(3 * count, frames)
        flows = network.flow(x.repeat(3, 1, 1, 1, 1), timestep, track, image, keys, attend).chunk(3)
        x = x + (following - level) * joint_guidance(flows[0], flows[1], flows[2], text, motion)
    return x


def guidance_variants(clips: Clips) -> Clips:
    """The batch three times: with both conditions, without text, without tracks."""
    silent = torch.ones(clips.latents.shape[:2], dtype=torch.bool, device=clips.latents.device)
    mute, still = replace(clips, words=torch.full_like(clips.words, -1)), silence(clips, silent)
    parts = (clips, mute, still)
    return Clips(**{name: torch.cat([part.tensors()[name] for part in parts]) for name in clips.tensors()})
