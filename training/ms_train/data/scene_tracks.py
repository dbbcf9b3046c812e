"""Exact tracks of a PanoSprite scene: points that objects carry and points that the camera moves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ms_train.data.assets import Assets
from ms_train.data.paths import uniform
from ms_train.data.render import cover, lift, object_points, project
from ms_train.data.scene import Scene

BACKGROUND = -1


@dataclass(frozen=True, kw_only=True)
class TrackLayout:
    """How many points are followed and where."""

    grid: int = 10
    """Background points a side, inside the picture."""
    ring: int = 12
    """Background points a side over twice the picture; only those outside it are kept."""
    per_object: int = 16


@dataclass
class SceneTracks:
    """Tracks of a batch of scenes; coordinates are pixels."""

    points: Tensor
    """float32 [B, N, T, 2]."""
    visible: Tensor
    """bool [B, N, T]."""
    anchors: Tensor
    """float32 [B, N, 2]: point at frame 0, possibly outside the picture."""
    owner: Tensor
    """int64 [B, N]: object number, or -1 for the background."""
    usable: Tensor
    """bool [B, N]: not hidden by another object at frame 0."""

    def part(self, span: slice) -> SceneTracks:
        """The same tracks during a part of the RGB frames."""
        return replace(self, points=self.points[:, :, span], visible=self.visible[:, :, span])

    def only(self, kept: Tensor) -> SceneTracks:
        """Without the tracks that `kept` [B, N] leaves out: hidden and at rest, as a hidden track that moves counts."""
        points = torch.where(kept[..., None, None], self.points, self.anchors[:, :, None])
        return replace(self, points=points, visible=self.visible & kept[..., None])


def draw_tracks(
    assets: Assets, scene: Scene, times: Tensor, generator: torch.Generator, layout: TrackLayout | None = None
) -> SceneTracks:
    """Follow a jittered grid of the background and random points of every object over `times` [B, T]."""
    layout = layout or TrackLayout()
    stamps = torch.cat([torch.zeros(scene.batch, 1, device=times.device), times], dim=1)
    groups = [_follow_background(assets, scene, stamps, generator, layout)]
    for number in range(len(scene.things)):
        groups.append(_follow_object(assets, scene, stamps, generator, number, layout.per_object))
    points, visible, owner = (torch.cat(parts, dim=1) for parts in zip(*groups, strict=True))
    anchors = points[:, :, 0]
    inside = ((anchors >= 0) & (anchors < scene.size)).all(-1)
    usable = visible[:, :, 0] | ((owner == BACKGROUND) & ~inside)
    return SceneTracks(points[:, :, 1:], visible[:, :, 1:], anchors, owner, usable).only(usable)


def _follow_background(
    assets: Assets, scene: Scene, stamps: Tensor, generator: torch.Generator, layout: TrackLayout
) -> tuple[Tensor, Tensor, Tensor]:
    inner = _jittered_grid(scene, generator, layout.grid, 0.0, float(scene.size))
    outer = _jittered_grid(scene, generator, layout.ring, -scene.size / 2, 1.5 * scene.size)
    cells = torch.arange(layout.ring, device=outer.device) + 0.5 - layout.ring / 2
    beyond = cells.abs() > layout.ring / 4
    outer = outer[:, (beyond[:, None] | beyond).flatten()]
    starts = torch.cat([inner, outer], dim=1)
    points, before = project(scene, stamps, lift(scene, starts))
    visible = before & _in_picture(points, scene.size) & (cover(assets, scene, stamps, points, 0) < 0.3)
    owner = torch.full(points.shape[:2], BACKGROUND, device=points.device)
    return points, visible, owner


def _follow_object(
    assets: Assets, scene: Scene, stamps: Tensor, generator: torch.Generator, number: int, count: int
) -> tuple[Tensor, Tensor, Tensor]:
    choice = uniform(generator, (scene.batch, count, 3), 0.0, 1.0)
    points, facing = object_points(assets, scene, scene.things[number], stamps, choice)
    hidden = cover(assets, scene, stamps, points, number + 1) >= 0.3
    visible = facing & _in_picture(points, scene.size) & ~hidden
    return points, visible, torch.full(points.shape[:2], number, device=points.device)


def _in_picture(points: Tensor, size: int) -> Tensor:
    return ((points >= 0) & (points < size)).all(-1)


def _jittered_grid(scene: Scene, generator: torch.Generator, side: int, low: float, high: float) -> Tensor:
    step = (high - low) / side
    axis = low + (torch.arange(side, device=generator.device) + 0.5) * step
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1).view(1, -1, 2)
    return grid + uniform(generator, (scene.batch, side * side, 2), -0.35, 0.35) * step
