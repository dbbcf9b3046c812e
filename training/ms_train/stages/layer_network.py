"""The layer network's stage: true masks and true backdrops of drawn scenes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ms_infer.errors import ConfigError
from ms_infer.model.layers import THINGS, LayerNetwork, Layers, Motions, compose, read_layers
from ms_train.data.assets import Assets
from ms_train.data.layer_scenes import LayerScenes, draw_layer_scenes, scene_config
from ms_train.data.paths import uniform
from ms_train.features import Features, crop_around
from ms_train.loop import Average, LoopConfig, Stage
from ms_train.muon import Muon, matrix_groups
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
    mask_weight: float = 1.0
    backdrop_weight: float = 2.0
    hole_weight: float = 4.0
    """Of the painted ground, beside 1 for the whole picture."""
    moved_weight: float = 3.0
    """Of the difference between the found and the true layers when both are moved alike, which is what is seen."""
    moved_rows: int = 4
    """Scenes a step for which it is drawn."""
    moved_reach: float = 0.35
    """How far things are moved for it, relative to the picture."""
    texture_weight: float = 0.0
    """Of the painted ground's distance in the features of `weights/taef2_encoder.pth` of the assets."""
    texture_rows: int = 4
    """Scenes a step whose texture is compared, a crop of `texture_crop` pixels around the hole each."""
    texture_crop: int = 64


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
    """Cross-entropy of the layers' weights, overlap of the things, and the painted backdrop."""

    def __init__(
        self, config: LayersConfig, assets: Assets, device: torch.device, features: Features | None = None
    ) -> None:
        super().__init__(config.loop, device)
        if config.texture_weight and features is None:
            raise ConfigError("texture_weight needs weights/taef2_encoder.pth in the assets; set it to 0 without it")
        torch.manual_seed(config.loop.seed)
        self.config, self.assets, self.scenes = config, assets, scene_config(config.size)
        self.features = None if features is None else features.to(device)
        self.network = LayerNetwork().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.trained = list(self.network.parameters())
        groups = matrix_groups(self.network.named_parameters(), config.loop.weight_decay, ("leave", "enter"))
        self.optimizer = Muon(groups, config.loop.learning_rate)
        self.average = Average(self.network, config.loop.ema)
        self._pool: dict[int, LayerScenes] = {}

    def start_from_average(self, values: dict[str, Tensor]) -> None:
        """Begin with the averaged weights of another run."""
        self.network.load_state_dict(values)
        self.average = Average(self.network, self.loop.ema)

    def parts(self) -> dict[str, Any]:
        return {"network": self.network, "optimizer": self.optimizer, "average": self.average}

    def _refill(self) -> None:
        """The scenes of the last `pool` steps; each depends on its step alone, so a resumed run draws the same."""
        wanted = range(max(0, self.step_index - self.config.pool + 1), self.step_index + 1)
        for old in [step for step in self._pool if step not in wanted]:
            del self._pool[old]
        for step in wanted:
            if step not in self._pool:
                generator = torch.Generator().manual_seed((self.loop.seed * 1_000_003 + step) % 2**32)
                scenes = draw_layer_scenes(self.assets, self.config.fresh, generator, self.scenes)
                self._pool[step] = _map(scenes, lambda t: t.half())

    def _batch(self) -> LayerScenes:
        self._refill()
        steps = sorted(self._pool)
        parts = []
        for _ in range(self.config.batch):
            step = steps[self._draw(len(steps))]
            row = self._draw(self.config.fresh)
            scenes = _map(self._pool[step], lambda t, row=row: t[row : row + 1].to(self.device).float())
            if torch.rand((), generator=self.generator, device=self.device).item() < 0.5:
                scenes = _mirrored(scenes, self.config.size)
            parts.append(scenes)
        return LayerScenes(*(torch.cat(ts) for ts in zip(*(vars(p).values() for p in parts), strict=True)))

    def _draw(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator, device=self.device))

    def step(self) -> dict[str, float]:
        config, scenes = self.config, self._batch()
        with torch.autocast(self.device.type, torch.bfloat16):
            out = self.network.logits(scenes.image.to(memory_format=torch.channels_last), scenes.shares, scenes.anchors)
        out = out.float()
        found = read_layers(scenes.image, out)
        backdrop = found.backdrop
        mask, overlap = mask_losses(out[:, : 1 + THINGS], scenes.weights)
        hole = 1 - scenes.weights[:, :1]
        error = (backdrop - scenes.backdrop).abs() + 2 * (backdrop - scenes.backdrop).square()
        ground = (error * hole).sum() / (3 * hole.sum() + 100)
        edges = ground_edges(backdrop, scenes.backdrop, hole)
        back = error.mean() + config.hole_weight * 0.1 * (ground + edges)
        loss = config.mask_weight * (mask + 0.25 * overlap) + config.backdrop_weight * back
        seen = self._moved_loss(scenes, found)
        loss = loss + config.moved_weight * seen
        numbers = {"moved": float(seen.detach())}
        if config.texture_weight:
            texture = self._texture_loss(backdrop, scenes.backdrop, hole)
            numbers["texture"] = float(texture.detach())
            loss = loss + config.texture_weight * texture
        norm = self.optimise(self.optimizer, loss, self.trained)
        self.average.update_(self.network)
        with torch.no_grad():
            squares = ((backdrop - scenes.backdrop).square() * hole).sum() / (3 * hole.sum() + 1)
        return numbers | {
            "loss": float(loss.detach()),
            "mask": float(mask.detach()),
            "iou": thing_iou(found.weights.detach(), scenes.weights),
            "ground": float(-10 * squares.clamp(min=1e-6).log10()),
            "norm": norm,
        }

    def _moved_loss(self, scenes: LayerScenes, found: Layers) -> Tensor:
        """L1 of one frame of moved layers, over the picture and over what moved or was uncovered."""
        batch, size = min(self.config.moved_rows, len(scenes.image)), self.config.size
        scenes = _map(scenes, lambda t: t[:batch])
        found = Layers(found.weights[:batch], found.backdrop[:batch])
        terms = torch.zeros(batch, 1 + THINGS, 6, 1, 2, device=self.device)
        reach = self.config.moved_reach * size
        terms[:, 1:, 0, 0] = uniform(self.generator, (batch, THINGS, 2), -reach, reach)
        motions = Motions(scenes.shares, terms)
        made, _ = compose(scenes.image, found, motions)
        with torch.no_grad():
            truth, shown = compose(scenes.image, Layers(scenes.weights, scenes.backdrop), motions)
            moved = ((truth - scenes.image[:, None]).abs().amax(2, keepdim=True) > 0.02) | (shown < 0.98)
        error = (made - truth).abs()
        return error.mean() + 0.1 * (error * moved).sum() / (3 * moved.sum() + 100)

    def _texture_loss(self, made: Tensor, truth: Tensor, hole: Tensor) -> Tensor:
        """Feature distance of crops around the holes of the first rows; the truth stands where there is no hole."""
        assert self.features is not None, "the constructor checked it"
        rows = slice(0, self.config.texture_rows)
        parts = crop_around(hole[rows], self.config.texture_crop, made[rows], truth[rows], hole[rows])
        mixed = parts[0] * parts[2] + parts[1] * (1 - parts[2])
        with torch.autocast(self.device.type, torch.bfloat16):
            return self.features.distance(mixed, parts[1], parts[2]).float().mean()

    @torch.no_grad()
    def sheet(self, path: Path) -> None:
        """First frame, true and found things, true and painted backdrop."""
        network = LayerNetwork()
        network.load_state_dict(self.average.values)  # on the CPU, where scenes are drawn
        generator = torch.Generator().manual_seed(7)
        scenes = draw_layer_scenes(self.assets, 10, generator, self.scenes)
        found: Layers = network(scenes.image, scenes.shares, scenes.anchors)
        shown = [scenes.image, scenes.weights[:, 1:], found.weights[:, 1:], scenes.backdrop, found.backdrop]
        save_sheet(path, torch.stack(shown, dim=1))


def mask_losses(logits: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy with soft targets, and 1 - overlap (soft Dice) of all things together; `[B, 1 + THINGS, H, W]`."""
    cross = -(truth * logits.log_softmax(1)).sum(1)
    entropy = -(truth * truth.clamp(min=1e-6).log()).sum(1)
    there = 1 + 3 * (truth[:, 1:].sum(1) > 0.02)
    found, wanted = logits.softmax(1)[:, 1:], truth[:, 1:]
    both = (found * wanted).sum((2, 3))
    dice = (2 * both + 20) / (found.square().sum((2, 3)) + wanted.square().sum((2, 3)) + 20)
    return ((cross - entropy) * there).mean(), (1 - dice).mean()


def ground_edges(made: Tensor, truth: Tensor, hole: Tensor) -> Tensor:
    """L1 of neighbouring pixels' differences inside the hole."""
    total = made.new_zeros(())
    for dim in (2, 3):
        inside = hole.narrow(dim, 1, hole.shape[dim] - 1)
        total = total + (((made - truth).diff(dim=dim)).abs() * inside).sum() / (3 * inside.sum() + 100)
    return total


def thing_iou(found: Tensor, truth: Tensor) -> float:
    """Mean overlap of found and true things where both are cut at one half; things that are there."""
    a, b = found[:, 1:] > 0.5, truth[:, 1:] > 0.5
    both, either = (a & b).sum((2, 3)).float(), (a | b).sum((2, 3)).float()
    there = b.sum((2, 3)) > 20
    return float((both / either.clamp(min=1))[there].mean()) if there.any() else 1.0


def _map(scenes: LayerScenes, change: Any) -> LayerScenes:
    return LayerScenes(*(change(tensor) for tensor in vars(scenes).values()))


def _mirrored(scenes: LayerScenes, size: int) -> LayerScenes:
    anchors = torch.stack([size - scenes.anchors[..., 0], scenes.anchors[..., 1]], dim=-1)
    return LayerScenes(scenes.image.flip(3), scenes.backdrop.flip(3), scenes.weights.flip(3), scenes.shares, anchors)
