"""Stage 1: the tiny video autoencoder of the demo, trained on rendered clips."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn

from ms_infer.config import VaeConfig, preset
from ms_infer.model.taehv import MemoryBlock, TinyVae
from ms_train import parallel
from ms_train.analytic import fit_encoder_, write_colour_path_
from ms_train.codec import decode_clip, encode_clip
from ms_train.data.assets import Assets
from ms_train.data.render import render
from ms_train.data.scene import SceneConfig, draw_scene
from ms_train.loop import Average, LoopConfig, Stage
from ms_train.muon import Muon, matrix_groups
from ms_train.precision import autocast
from ms_train.sheets import save_sheet


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig:
    """Sizes and weights of the autoencoder's training."""

    vae: tyro.conf.Suppress[VaeConfig] = field(default_factory=lambda: preset("demo").model.vae)
    scene: SceneConfig = field(default_factory=lambda: SceneConfig().scaled(preset("demo").height))
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1200, learning_rate=2e-3, cooldown=400))
    clips: int = 4
    """Clips rendered per step; each gives `crops` crops."""
    rgb_frames: int = 9
    crops: int = 4
    crop: int = 128
    latent_noise: float = 0.05
    """Noise on the latents before they are decoded, so that close latents mean close pictures."""
    edge_weight: float = 1.0
    colour_weight: float = 2.0
    """Weight of the mean colours of 8x8 blocks, which L1 alone learns last."""
    statistics_weight: float = 0.02
    """Pull of each latent channel to mean 0 and variance 1."""
    analytic_encoder: bool = True
    """Fit the encoder in closed form (see analytic.py) and train the decoder alone."""
    fit_clips: int = 48


class Autoencoder(Stage):
    """L1 and edges on crops of short clips; latents pulled to zero mean and unit variance."""

    def __init__(self, config: AutoencoderConfig, assets: Assets, device: torch.device) -> None:
        super().__init__(config.loop, device)
        torch.manual_seed(config.loop.seed)
        self.config, self.assets = config, assets
        self.vae = TinyVae(config.vae).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        initialise_(self.vae, self._clips(2))
        if config.analytic_encoder:
            clips = self._clips(config.fit_clips)
            fit_encoder_(self.vae, clips)
            nn.init.zeros_(self.vae.decoder[-1].bias)  # type: ignore[union-attr,arg-type]
            write_colour_path_(self.vae, clips, torch.eye(3, device=device), offset=0.1)
        parallel.broadcast_(self.vae)
        trained = self.vae.decoder if config.analytic_encoder else self.vae
        self.trained = list(trained.parameters())
        groups = matrix_groups(trained.named_parameters(), config.loop.weight_decay)
        self.optimizer = Muon(groups, config.loop.learning_rate)
        self.average = Average(self.vae, config.loop.ema)

    def parts(self) -> dict[str, Any]:
        return {"vae": self.vae, "optimizer": self.optimizer, "average": self.average}

    def step(self) -> dict[str, float]:
        config = self.config
        frames = self._crops()
        with autocast(self.device):
            with torch.set_grad_enabled(not config.analytic_encoder):
                latents = encode_clip(self.vae, frames).float()
            noise = torch.randn(latents.shape, generator=self.generator, device=self.device)
            decoded = decode_clip(self.vae, latents + config.latent_noise * noise).float()
        pixels = (decoded - frames).abs().mean()
        edges = edge_loss(decoded, frames) + 0.5 * (decoded - frames).diff(dim=1).abs().mean()
        statistics = statistics_loss(latents)
        loss = pixels + config.edge_weight * edges + config.colour_weight * colour_loss(decoded, frames)
        if not config.analytic_encoder:
            loss = loss + config.statistics_weight * statistics
        norm = self.optimise(self.optimizer, loss, self.trained)
        self.average.update_(self.vae)
        error = (decoded.clamp(0, 1) - frames).square().mean().clamp(min=1e-8)
        return {
            "loss": float(loss.detach()),
            "psnr": float(-10 * error.detach().log10()),
            "edges": float(edges.detach()),
            "statistics": float(statistics.detach()),
            "norm": norm,
        }

    @torch.no_grad()
    def _crops(self) -> Tensor:
        """float32 [clips * crops, T, 3, crop, crop] in [0, 1]."""
        config = self.config
        clip = self._clips(config.clips)
        parts = []
        for _ in range(config.crops):
            limit = config.scene.size - config.crop + 1
            top, left = torch.randint(limit, (2,), generator=self.generator, device=self.device).tolist()
            parts.append(clip[..., top : top + config.crop, left : left + config.crop])
        return torch.cat(parts)

    def _clips(self, count: int) -> Tensor:
        scene = draw_scene(self.assets, count, self.generator, self.config.scene)
        steps = torch.arange(self.config.rgb_frames, device=self.device, dtype=torch.float32)
        start = torch.randint(60, (count, 1), generator=self.generator, device=self.device)
        return render(self.assets, scene, steps + start)

    @torch.no_grad()
    def sheet(self, path: Path) -> None:
        state = self.generator.get_state()
        frames = self._clips(6)
        self.generator.set_state(state)
        with autocast(self.device):
            decoded = decode_clip(self.vae, encode_clip(self.vae, frames)).float().clamp(0, 1)
        rows = [torch.cat([frames[i, [0, 4, 8]], decoded[i, [0, 4, 8]]]) for i in range(6)]
        save_sheet(path, torch.stack(rows))


def edge_loss(decoded: Tensor, frames: Tensor) -> Tensor:
    """L1 of differences between neighbouring pixels at two scales."""
    error = (decoded - frames).flatten(0, 1)
    loss = torch.zeros((), device=error.device)
    for scale in (1, 2):
        pooled = F.avg_pool2d(error, scale) if scale > 1 else error
        loss = loss + pooled.diff(dim=-1).abs().mean() + pooled.diff(dim=-2).abs().mean()
    return loss


def colour_loss(decoded: Tensor, frames: Tensor) -> Tensor:
    """L1 between the mean colours of 8x8 blocks."""
    return F.avg_pool2d((decoded - frames).flatten(0, 1), 8).abs().mean()


def statistics_loss(latents: Tensor) -> Tensor:
    """Distance of every channel's mean and variance over the batch from 0 and 1."""
    channels = latents.transpose(0, 2).flatten(1)
    return (channels.mean(1).square() + channels.var(1).clamp(min=1e-4).log().square()).mean()


@torch.no_grad()
def initialise_(vae: TinyVae, frames: Tensor) -> None:
    """He initialisation, residual branches small, then latents of `frames` at unit variance."""
    for module in vae.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.constant_(module.bias, 0.05)  # keeps units alive in dark pictures
    for block in vae.modules():
        if isinstance(block, MemoryBlock):
            residual = block.conv[-1]
            assert isinstance(residual, nn.Conv2d)
            residual.weight.mul_(0.1)
    normalise_(vae, encode_clip(vae, frames))
    final = vae.decoder[-1]
    assert isinstance(final, nn.Conv2d)
    assert final.bias is not None
    final.weight.mul_(0.1)
    final.bias.fill_(0.45)


@torch.no_grad()
def normalise_(vae: TinyVae, latents: Tensor) -> None:
    """Fold the channels' mean and deviation into the encoder's last and the decoder's first convolution.

    Afterwards latents have zero mean and unit variance over `latents` [B, F, C, h, w]; the decoder
    sees the same values but for its soft clamp.
    """
    channels = latents.transpose(0, 2).flatten(1)
    mean, deviation = channels.mean(1), channels.std(1)
    last, first = vae.encoder[-1], vae.decoder[1]
    assert isinstance(last, nn.Conv2d)
    assert isinstance(first, nn.Conv2d)
    assert last.bias is not None
    assert first.bias is not None
    last.weight.div_(deviation[:, None, None, None])
    last.bias.sub_(mean).div_(deviation)
    first.bias.add_((first.weight * mean[:, None, None]).sum((1, 2, 3)))
    first.weight.mul_(deviation[:, None, None])
