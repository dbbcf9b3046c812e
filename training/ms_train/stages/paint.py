"""The painter's stage: true backdrops behind things that a trained layer network has found."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ms_infer.errors import ConfigError
from ms_infer.model.layers import LayerNetwork
from ms_train.data.assets import Assets
from ms_train.data.layer_scenes import draw_layer_scenes, scene_config
from ms_train.data.scene_pool import ScenePool, changed
from ms_train.features import Features, crop_around
from ms_train.loop import Average, LoopConfig, Stage
from ms_train.muon import Muon, matrix_groups
from ms_train.precision import autocast
from ms_train.sheets import save_sheet


@dataclass(frozen=True, kw_only=True)
class PaintConfig:
    """Sizes and weights of the painter's training."""

    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=6000, learning_rate=2e-3, cooldown=3000))
    size: int = 256
    batch: int = 12
    fresh: int = 2
    """Scenes drawn anew in a step."""
    pool: int = 200
    """Steps for which a scene stays in the pool that batches come from."""
    hole_weight: float = 4.0
    """Of the painted ground, beside 1 for the whole picture."""
    texture_weight: float = 0.0
    """Of the painted ground's distance in the features of `weights/taef2_encoder.pth` of the assets."""
    texture_rows: int = 4
    """Scenes a step whose texture is compared, a crop of `texture_crop` pixels around the hole each."""
    texture_crop: int = 64


@dataclass(frozen=True)
class Holes:
    """First frames and what lies behind their things."""

    image: Tensor
    """float32 [B, 3, H, W]."""
    backdrop: Tensor
    """float32 [B, 3, H, W]: drawn without the things that move."""
    hole: Tensor
    """float32 [B, 1, H, W]: true share of things and their shadows."""
    ground: Tensor
    """float32 [B, 1, H, W]: share of the backdrop as the layer network finds it."""


class PaintStage(Stage):
    """Differences to the true backdrop, of pixels, of their neighbours and of texture, within the holes."""

    def __init__(
        self,
        config: PaintConfig,
        network: LayerNetwork,
        assets: Assets,
        device: torch.device,
        features: Features | None = None,
    ) -> None:
        super().__init__(config.loop, device)
        if config.texture_weight and features is None:
            raise ConfigError("texture_weight needs weights/taef2_encoder.pth in the assets; set it to 0 without it")
        self.config, self.assets, self.scenes = config, assets, scene_config(config.size)
        self.features = None if features is None else features.to(device)
        self.network = network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        # Not channels last: oneDNN then reads memory that nothing has written where it makes the gradients of dilated
        # bf16 convolutions of 72 channels (torch 2.13).
        self.painter = self.network.painter.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        self.trained = list(self.painter.requires_grad_(True).parameters())
        groups = matrix_groups(self.painter.named_parameters(), config.loop.weight_decay, ("leave", "enter"))
        self.optimizer = Muon(groups, config.loop.learning_rate)
        self.average = Average(self.network, config.loop.ema)
        self.pool = ScenePool(self._draw, config.fresh, config.pool, config.loop.seed)

    def parts(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self.optimizer, "average": self.average}

    @torch.no_grad()
    def _draw(self, generator: torch.Generator, count: int | None = None) -> Holes:
        scenes = draw_layer_scenes(self.assets, count or self.config.fresh, generator, self.scenes)
        seen = (part.to(self.device) for part in (scenes.image, scenes.shares, scenes.anchors))
        with autocast(self.device):
            weights = self.network.weights(*seen)
        ground = weights.float()[:, :1].cpu()
        return Holes(scenes.image, scenes.backdrop, 1 - scenes.weights[:, :1], ground)

    def step(self) -> dict[str, float]:
        config = self.config
        self.pool.refresh(self.step_index)
        holes = self.pool.batch(config.batch, self.generator, self.device, _mirrored)
        with autocast(self.device):
            made = self.painter(holes.image, holes.ground)
        hole = holes.hole
        error = (made - holes.backdrop).abs() + 2 * (made - holes.backdrop).square()
        ground = (error * hole).sum() / (3 * hole.sum() + 100)
        edges = ground_edges(made, holes.backdrop, hole)
        loss = error.mean() + config.hole_weight * 0.1 * (ground + edges)
        numbers = {}
        if config.texture_weight:
            texture = self._texture_loss(made, holes)
            numbers["texture"] = float(texture.detach())
            loss = loss + config.texture_weight * texture
        norm = self.optimise(self.optimizer, loss, self.trained)
        self.average.update_(self.network)
        with torch.no_grad():
            squares = ((made - holes.backdrop).square() * hole).sum() / (3 * hole.sum() + 1)
        psnr = float(-10 * squares.clamp(min=1e-6).log10())
        return numbers | {"loss": float(loss.detach()), "ground": psnr, "norm": norm}

    def _texture_loss(self, made: Tensor, holes: Holes) -> Tensor:
        """Feature distance of crops around the holes of the first rows; the truth stands where there is no hole."""
        assert self.features is not None, "the constructor checked it"
        rows = slice(0, self.config.texture_rows)
        whole = [picture[rows] for picture in (holes.hole, made, holes.backdrop, holes.hole)]
        painted, truth, hole = crop_around(whole[0], self.config.texture_crop, *whole[1:])
        with autocast(self.device):
            return self.features.distance(painted * hole + truth * (1 - hole), truth, hole).float().mean()

    @torch.no_grad()
    def sheet(self, path: Path) -> None:
        """First frame, share of the found things, true and painted backdrop."""
        holes = self._draw(torch.Generator().manual_seed(7), 10)
        network = copy.deepcopy(self.network)
        network.load_state_dict(self.average.values)
        found = (1 - holes.ground).expand_as(holes.image)
        made = network.cpu().painter(holes.image, holes.ground).clamp(0, 1)
        save_sheet(path, torch.stack([holes.image, found, holes.backdrop, made], dim=1))


def ground_edges(made: Tensor, truth: Tensor, hole: Tensor) -> Tensor:
    """L1 of neighbouring pixels' differences inside the hole."""
    total = made.new_zeros(())
    for dim in (2, 3):
        inside = hole.narrow(dim, 1, hole.shape[dim] - 1)
        total = total + (((made - truth).diff(dim=dim)).abs() * inside).sum() / (3 * inside.sum() + 100)
    return total


def _mirrored(holes: Holes) -> Holes:
    return changed(holes, lambda t: t.flip(3))
