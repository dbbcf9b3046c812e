"""The layer network's stage: true masks of drawn scenes. What lies behind the things is painted in `paint`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ms_infer.config import MOTION_TERMS, THINGS
from ms_infer.model.layers import LayerNetwork, Layers, compose
from ms_train.data.assets import Assets
from ms_train.data.layer_scenes import LayerScenes, draw_layer_scenes, scene_config
from ms_train.data.paths import uniform
from ms_train.data.scene_pool import ScenePool, changed
from ms_train.loop import Average, LoopConfig, Stage
from ms_train.muon import Muon, matrix_groups
from ms_train.precision import autocast
from ms_train.sheets import save_sheet
from ms_train.students import read_average


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """Sizes and weights of the layer network's training."""

    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=9000, learning_rate=1e-3, cooldown=3000))
    size: int = 256
    batch: int = 12
    fresh: int = 4
    """Scenes drawn anew in a step."""
    pool: int = 128
    """Steps for which a scene stays in the pool that batches come from."""
    moved_weight: float = 3.0
    """Of the difference between the found and the true layers when both are moved alike, which is what is seen."""
    moved_rows: int = 4
    """Scenes a step for which it is drawn."""
    moved_reach: float = 0.35
    """How far things are moved for it, relative to the picture."""


def load_layers(path: Path) -> LayerNetwork:
    """The averaged layer network of a checkpoint of this stage, of a file of `save_layers` or of a student; frozen."""
    network = LayerNetwork()
    values = load_file(path) if path.suffix == ".safetensors" else read_average(path)
    prefix = "layer_network."
    if any(name.startswith(prefix) for name in values):
        values = {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    network.load_state_dict({name: value.float() for name, value in values.items()})
    return network.eval().requires_grad_(False)


def save_layers(stage: Path, out: Path) -> None:
    """Write the averaged layer network of a stage's checkpoint in bf16, to go on from later."""
    values = {name: value.bfloat16().contiguous() for name, value in read_average(stage).items()}
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(values, out)


class LayerStage(Stage):
    """Cross-entropy of the layers' weights, overlap of the things, and what is seen of them when they move."""

    def __init__(self, config: LayersConfig, assets: Assets, device: torch.device) -> None:
        super().__init__(config.loop, device)
        torch.manual_seed(config.loop.seed)
        self.config, self.assets, self.scenes = config, assets, scene_config(config.size)
        self.network = LayerNetwork().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.painter.requires_grad_(False)
        named = [(name, p) for name, p in self.network.named_parameters() if p.requires_grad]
        self.trained = [p for _, p in named]
        groups = matrix_groups(named, config.loop.weight_decay, ("leave", "enter"))
        self.optimizer = Muon(groups, config.loop.learning_rate)
        self.average = Average(self.network, config.loop.ema)
        self.pool = ScenePool(self._drawn, config.fresh, config.pool, config.loop.seed)

    def start_from_average(self, values: dict[str, Tensor]) -> None:
        """Begin with the averaged weights of another run."""
        self.network.load_state_dict(values)
        self.average = Average(self.network, self.loop.ema)

    def parts(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self.optimizer, "average": self.average}

    def _drawn(self, generator: torch.Generator) -> LayerScenes:
        return draw_layer_scenes(self.assets, self.config.fresh, generator, self.scenes)

    def step(self) -> dict[str, float]:
        config = self.config
        self.pool.refresh(self.step_index)
        scenes = self.pool.batch(config.batch, self.generator, self.device, _mirrored)
        with autocast(self.device):
            out = self.network.logits(scenes.image.to(memory_format=torch.channels_last), scenes.shares, scenes.anchors)
        out = out.float()
        weights = out.softmax(1)
        mask, overlap = mask_losses(out, scenes.weights)
        seen = self._moved_loss(scenes, weights)
        loss = mask + 0.25 * overlap + config.moved_weight * seen
        norm = self.optimise(self.optimizer, loss, self.trained)
        self.average.update_(self.network)
        return {
            "loss": float(loss.detach()),
            "mask": float(mask.detach()),
            "moved": float(seen.detach()),
            "iou": thing_iou(weights.detach(), scenes.weights),
            "norm": norm,
        }

    def _moved_loss(self, scenes: LayerScenes, found: Tensor) -> Tensor:
        """L1 of one frame of moved layers over the true backdrop: everywhere, and where something moved or left."""
        batch, size = min(self.config.moved_rows, len(scenes.image)), self.config.size
        scenes = changed(scenes, lambda t: t[:batch])
        terms = torch.zeros(batch, 1 + THINGS, MOTION_TERMS, 1, 2, device=self.device)
        reach = self.config.moved_reach * size
        terms[:, 1:, 0, 0] = uniform(self.generator, (batch, THINGS, 2), -reach, reach)
        made, _ = compose(scenes.image, Layers(found[:batch], scenes.backdrop), terms)
        with torch.no_grad():
            truth, shown = compose(scenes.image, Layers(scenes.weights, scenes.backdrop), terms)
            moved = ((truth - scenes.image[:, None]).abs().amax(2, keepdim=True) > 0.02) | (shown < 0.98)
        error = (made - truth).abs()
        return error.mean() + 0.1 * (error * moved).sum() / (3 * moved.sum() + 100)

    @torch.no_grad()
    def sheet(self, path: Path) -> None:
        """First frame, true and found things."""
        network = LayerNetwork()
        network.load_state_dict(self.average.values)  # on the CPU, where scenes are drawn
        generator = torch.Generator().manual_seed(7)
        scenes = draw_layer_scenes(self.assets, 10, generator, self.scenes)
        found = network.weights(scenes.image, scenes.shares, scenes.anchors)
        save_sheet(path, torch.stack([scenes.image, scenes.weights[:, 1:], found[:, 1:]], dim=1))


def mask_losses(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy with soft targets, and 1 - overlap (soft Dice) of all things together; `[B, 1 + THINGS, H, W]`."""
    cross = -(truth * logits.log_softmax(1)).sum(1)
    entropy = -(truth * truth.clamp(min=1e-6).log()).sum(1)
    there = 1 + 3 * (truth[:, 1:].sum(1) > 0.02)
    found, wanted = logits.softmax(1)[:, 1:], truth[:, 1:]
    both = (found * wanted).sum((2, 3))
    dice = (2 * both + 20) / (found.square().sum((2, 3)) + wanted.square().sum((2, 3)) + 20)
    return ((cross - entropy) * there).mean(), (1 - dice).mean()


def thing_iou(found: Tensor, truth: Tensor) -> float:
    """Mean overlap of found and true things where both are cut at one half; things that are there."""
    a, b = found[:, 1:] > 0.5, truth[:, 1:] > 0.5
    both, either = (a & b).sum((2, 3)).float(), (a | b).sum((2, 3)).float()
    there = b.sum((2, 3)) > 20
    return float((both / either.clamp(min=1))[there].mean()) if there.any() else 1.0


def _mirrored(scenes: LayerScenes) -> LayerScenes:
    size = scenes.image.shape[-1]
    anchors = torch.stack([size - scenes.anchors[..., 0], scenes.anchors[..., 1]], dim=-1)
    return LayerScenes(scenes.image.flip(3), scenes.backdrop.flip(3), scenes.weights.flip(3), scenes.shares, anchors)
