"""Numbers where a person looks: on the moved things, on the ground they uncover, and in their shadows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ms_infer.config import MOTION_TERMS, THINGS
from ms_infer.model.layers import Layers, compose
from ms_train.data.assets import Assets
from ms_train.data.clips import Rendered
from ms_train.data.render import DrawnLayers, render_layers
from ms_train.data.scene import Scene
from ms_train.features import Features

TELEA, TRUE_LAYERS = "inpainted (Telea) behind the true things", "true masks, moved by affine maps, Telea behind"
INPAINT_RADIUS = 5
REGIONS = ("things", "uncovered", "shadow")
FEWEST = 40  # pixels; a clip with a smaller region in all frames together has no number for it


@dataclass(frozen=True)
class RegionClips:
    """Rendered clips whose camera rests, and where in them a person looks; masks are bool [B, T, 1, H, W]."""

    data: Rendered
    scene: Scene
    drawn: DrawnLayers
    masks: Mapping[str, Tensor]


@torch.no_grad()
def region_clips(assets: Assets, scene: Scene, data: Rendered) -> RegionClips:
    """Draw the layers of `scene` beside the clips that were filmed of it."""
    frames = data.frames.shape[1]
    times = torch.arange(frames, dtype=torch.float32).expand(scene.batch, -1)
    motion = torch.ones(scene.batch, len(scene.things), dtype=torch.int64)
    drawn = render_layers(assets, scene, times, motion, 1)
    clear = drawn.solid < 0.02
    shade = drawn.weights[:, :, 1:] - drawn.solid
    masks = {
        "things": drawn.solid > 0.5,
        "uncovered": (drawn.solid[:, :1] > 0.5) & clear,
        "shadow": ((shade > 0.08) | (shade[:, :1] > 0.08)) & clear & (drawn.solid[:, :1] < 0.02),
    }
    return RegionClips(data, scene, drawn, masks)


@torch.no_grad()
def baselines(assets: Assets, clips: RegionClips) -> dict[str, Tensor]:
    """What needs no training but the truth: frames [B, T, 3, H, W] by method."""
    image, solid = clips.data.frames[:, 0], clips.drawn.solid
    ground = torch.stack([inpaint(image[row], solid[row, 0, 0] > 0.02) for row in range(len(image))])
    premultiplied = clips.drawn.frames - clips.drawn.backdrop * (1 - solid)
    true_things = (ground[:, None] * (1 - solid) + premultiplied).clamp(0, 1)
    scene = clips.scene
    bare = replace(scene, things=tuple(replace(thing, shadow=torch.zeros_like(thing.shadow)) for thing in scene.things))
    numbers = torch.arange(1, len(scene.things) + 1).expand(scene.batch, -1)
    weights = render_layers(assets, bare, torch.zeros(scene.batch, 1), numbers, THINGS).weights[:, 0]
    moved, _ = compose(image, Layers(weights, ground), true_motions(clips.data))
    return {TELEA: true_things, TRUE_LAYERS: moved}


def inpaint(image: Tensor, hole: Tensor) -> Tensor:
    """Telea's inpainting (2004) of a picture [3, H, W] in [0, 1] where `hole` [H, W] is set."""
    import cv2

    pixels = image.permute(1, 2, 0).mul(255).round().byte().numpy()
    mask = cv2.dilate(hole.byte().numpy(), np.ones((3, 3), np.uint8))
    filled = cv2.inpaint(pixels, mask, INPAINT_RADIUS, cv2.INPAINT_TELEA)
    return torch.from_numpy(filled).permute(2, 0, 1).float() / 255


def true_motions(data: Rendered) -> Tensor:
    """Terms as in `Motions`: a resting backdrop, and the affine map of every thing that fits its own tracks best at
    each frame."""
    size = data.frames.shape[-1]
    batch, _, frames, _ = data.clips.points.shape
    terms = torch.zeros(batch, 1 + THINGS, MOTION_TERMS, frames, 2)
    places = data.anchors * (2 / size) - 1
    basis = torch.cat([torch.ones_like(places[..., :1]), places], dim=-1)
    moved = data.clips.points.float() - data.anchors[:, :, None]
    ridge = torch.diag(torch.tensor([1e-6, 1e-4, 1e-4]))
    for row in range(batch):
        for thing in range(THINGS):
            own = (data.owner[row] == thing) & data.clips.visible[row].any(-1)
            if own.any():
                a, b = basis[row, own], moved[row, own].flatten(1)
                terms[row, 1 + thing, :3] = torch.linalg.solve(a.T @ a + ridge, a.T @ b).unflatten(1, (frames, 2))
    return terms


@torch.no_grad()
def measure_regions(
    rows: Mapping[str, Tensor], clips: RegionClips, features: Features | None
) -> dict[str, dict[str, list[float]]]:
    """Per method and number one value a clip, over the second half of its frames; NaN where a region is too small.

    rows: frames [B, T, 3, H, W] by method. PSNR in dB of every region and of the whole picture; "sharpness": of the
    things, relative to the truth's; "texture": squared distance to the truth in `features` on the uncovered ground.
    """
    half = clips.data.frames.shape[1] // 2
    truth = clips.data.frames[:, half:]
    masks = {name: mask[:, half:] for name, mask in clips.masks.items()}
    sharp = laplacian(truth, masks["things"])
    table: dict[str, dict[str, list[float]]] = {}
    for name, frames in rows.items():
        made = frames[:, half:]
        numbers = {region: psnr_within(made, truth, masks[region]).tolist() for region in REGIONS}
        numbers["whole"] = psnr_within(made, truth, torch.ones_like(masks["things"])).tolist()
        numbers["sharpness"] = (laplacian(made, masks["things"]) / sharp).tolist()
        if features is not None:
            numbers["texture"] = texture(made, truth, masks["uncovered"], features).tolist()
        table[name] = numbers
    return table


def psnr_within(made: Tensor, truth: Tensor, mask: Tensor) -> Tensor:
    """PSNR [B] in dB of [B, T, 3, H, W] where `mask` [B, T, 1, H, W] is set; NaN for fewer than FEWEST pixels."""
    count = mask.sum((1, 2, 3, 4))
    squares = ((made - truth).square() * mask).sum((1, 2, 3, 4)) / (3 * count).clamp(min=1)
    values = -10 * squares.clamp(min=1e-10).log10()
    return values.masked_fill(count < FEWEST, float("nan"))


def laplacian(frames: Tensor, mask: Tensor) -> Tensor:
    """Mean absolute Laplacian [B] of luma of [B, T, 3, H, W] inside `mask`, two pixels from its edge."""
    luma = frames.mean(2, keepdim=True).flatten(0, 1)
    kernel = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]).view(1, 1, 3, 3).to(luma)
    sharp = F.conv2d(luma, kernel, padding=1).abs().unflatten(0, mask.shape[:2])
    inner = 1 - F.max_pool2d(1 - mask.flatten(0, 1).float(), 5, stride=1, padding=2).unflatten(0, mask.shape[:2])
    return (sharp * inner).sum((1, 2, 3, 4)) / inner.sum((1, 2, 3, 4)).clamp(min=1)


def texture(made: Tensor, truth: Tensor, mask: Tensor, features: Features) -> Tensor:
    """Squared feature distance [B] of the last frame, all but the uncovered ground taken from the truth."""
    ground = mask[:, -1].float()
    mixed = made[:, -1] * ground + truth[:, -1] * (1 - ground)
    distance = features.distance(mixed, truth[:, -1], ground)
    return distance.masked_fill(ground.sum((1, 2, 3)) < FEWEST, float("nan"))


def summarise(parts: list[dict[str, dict[str, list[float]]]]) -> dict[str, dict[str, Any]]:
    """Mean and worst clip of every number over batches; "texture_wins": share of clips nearer than Telea's."""
    table: dict[str, dict[str, Any]] = {}
    for name in parts[0]:
        values = {key: np.array([v for part in parts for v in part[name][key]]) for key in parts[0][name]}
        row: dict[str, Any] = {}
        for key, numbers in values.items():
            counted = numbers[np.isfinite(numbers)]
            if not len(counted):
                continue
            row[key] = round(float(counted.mean()), 3)
            if key in (*REGIONS, "whole"):
                row[f"{key}_worst"] = round(float(counted.min()), 2)
        if "texture" in values and TELEA in parts[0]:
            other = np.array([v for part in parts for v in part[TELEA]["texture"]])
            both = np.isfinite(values["texture"]) & np.isfinite(other)
            if both.any():
                row["texture_wins"] = round(float((values["texture"] < other)[both].mean()), 3)
        table[name] = row
    return table
