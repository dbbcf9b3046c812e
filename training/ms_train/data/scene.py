"""PanoSprite scenes: a camera inside a 360 degree photograph and objects on smooth paths."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ms_train.data.assets import Assets
from ms_train.data.paths import Paths, chance, choose, draw_drags, draw_waves, scaled, uniform

Kind = Literal["sprite", "sphere", "box"]
LOOKS = ("plain", "night", "dusk", "fog", "snow", "sepia")


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """Ranges that scenes are drawn from. Lengths are pixels, times RGB frames."""

    size: int = 128
    max_objects: int = 3
    view_degrees: tuple[float, float] = (52.0, 78.0)
    camera_speed: float = 1.3
    """Peak speed of the picture under a pan or tilt, pixels a frame."""
    camera_reach: float = 42.0
    object_speed: float = 1.8
    object_reach: float = 30.0
    object_size: tuple[float, float] = (0.10, 0.20)
    """Half size of an object, relative to the picture."""
    still_camera: float = 0.45
    """Share of scenes whose camera rests."""
    drag_share: float = 0.5
    """Share of objects that are dragged once and then rest."""
    solid_share: float = 0.2
    """Share of batches whose objects are textured spheres or boxes."""
    look_share: float = 0.35
    """Share of scenes with a look other than plain."""
    switch_share: float = 0.4
    """Share of those that start plain and change to the look."""

    def scaled(self, size: int) -> SceneConfig:
        """The same scenes in pictures of another size."""
        unit = size / self.size
        lengths = ("camera_speed", "camera_reach", "object_speed", "object_reach")
        return replace(self, size=size, **{name: getattr(self, name) * unit for name in lengths})


@dataclass(frozen=True)
class Thing:
    """One object of every scene in the batch."""

    kind: Kind
    index: Tensor
    """int64 [B]: sprite or texture."""
    present: Tensor
    """float [B]: 1 when the scene has this object."""
    ray: Tensor
    """float [B, 3]: direction of its centre at frame 0, world axes."""
    half_size: Tensor
    """float [B]: pixels at frame 0."""
    travel: Paths
    """2 channels, pixels."""
    pose: Paths
    """4 channels: log scale, spin, and two turns in depth (radians)."""
    tilt: Tensor
    """float [B, 3]: spin and turns at frame 0."""
    shadow: Tensor
    """float [B]: darkness of its shadow."""


@dataclass(frozen=True)
class Scene:
    """A batch of scenes; everything needed to draw any frame at any time."""

    size: int
    panorama: Tensor
    """int64 [B]."""
    focal: Tensor
    """float [B]: pixels at frame 0."""
    heading: Tensor
    """float [B, 2]: yaw and pitch at frame 0, radians."""
    camera: Paths
    """4 channels: yaw, pitch, roll (radians), log zoom."""
    things: tuple[Thing, ...]
    look: Tensor
    """int64 [B]: index into LOOKS."""
    look_start: Tensor
    """float [B]: frame at which the look sets in; far below 0 when it holds from the start."""

    @property
    def batch(self) -> int:
        return len(self.panorama)


def draw_scene(assets: Assets, batch: int, generator: torch.Generator, config: SceneConfig | None = None) -> Scene:
    """Random scenes; `generator` lives on the device of the assets."""
    config = config or SceneConfig()
    low, high = (math.radians(d) for d in config.view_degrees)
    focal = config.size / 2 / (uniform(generator, (batch,), low, high) / 2).tan()
    look = torch.randint(1, len(LOOKS), (batch,), generator=generator, device=assets.device)
    look = (look * chance(generator, (batch,), config.look_share)).long()
    switches = chance(generator, (batch,), config.switch_share)
    start = torch.where(switches > 0, uniform(generator, (batch,), 0.0, 6.0), torch.full_like(focal, -1e4))
    kinds: tuple[Kind, ...] = ("sphere", "box")
    solid = torch.rand((), generator=generator, device=assets.device).item() < config.solid_share
    solid &= len(assets.textures) > 0
    slots: list[Kind] = [kinds[j % 2] if solid else "sprite" for j in range(config.max_objects)]
    return Scene(
        size=config.size,
        panorama=torch.randint(len(assets.panoramas), (batch,), generator=generator, device=assets.device),
        focal=focal,
        heading=torch.stack(
            [uniform(generator, (batch,), -math.pi, math.pi), uniform(generator, (batch,), -0.3, 0.25)], dim=-1
        ),
        camera=_draw_camera(generator, batch, focal, config),
        things=tuple(_draw_thing(assets, generator, batch, kind, j, config) for j, kind in enumerate(slots)),
        look=look,
        look_start=start,
    )


def _draw_camera(generator: torch.Generator, batch: int, focal: Tensor, config: SceneConfig) -> Paths:
    speed, reach = config.camera_speed, config.camera_reach
    paths = draw_waves(generator, batch, 4, speed=speed, reach=reach)
    moving = 1 - chance(generator, (batch, 1), config.still_camera)
    rich = chance(generator, (batch, 2), 0.4)  # roll and zoom come less often than pan and tilt
    radius = 0.8 * config.size / 2
    unit = torch.stack([1 / focal, 0.6 / focal], dim=-1)
    turn = rich * torch.tensor([0.35 / radius, 0.35 / radius], device=rich.device)
    return scaled(paths, torch.cat([unit, turn], dim=-1) * moving)


def _draw_thing(
    assets: Assets, generator: torch.Generator, batch: int, kind: Kind, slot: int, config: SceneConfig
) -> Thing:
    pictures = assets.sprites if kind == "sprite" else assets.textures
    waves = draw_waves(generator, batch, 2, speed=config.object_speed, reach=config.object_reach)
    drags = draw_drags(generator, batch, speed=config.object_speed, reach=1.5 * config.object_reach)
    pose = draw_waves(generator, batch, 4, speed=1.0, reach=1e3)
    kept = chance(generator, (batch, 4), 0.4)
    rates = [0.006, 0.012, 0.02, 0.02] if kind != "sprite" else [0.006, 0.015, 0.0, 0.0]
    centre = uniform(generator, (batch, 2), -0.33, 0.33) * config.size
    ray = torch.cat([centre, torch.zeros(batch, 1, device=centre.device)], dim=-1)
    turned = uniform(generator, (batch, 3), -math.pi, math.pi)
    upright = uniform(generator, (batch, 3), -0.25, 0.25)
    return Thing(
        kind=kind,
        index=torch.randint(len(pictures), (batch,), generator=generator, device=assets.device),
        present=torch.ones(batch, device=centre.device) if slot == 0 else chance(generator, (batch,), 0.5),
        ray=ray,
        half_size=uniform(generator, (batch,), *config.object_size) * config.size,
        travel=choose(chance(generator, (batch,), config.drag_share), drags, waves),
        pose=scaled(pose, kept * torch.tensor(rates, device=centre.device)),
        tilt=upright if kind == "sprite" else turned,
        shadow=uniform(generator, (batch,), 0.25, 0.6),
    )
