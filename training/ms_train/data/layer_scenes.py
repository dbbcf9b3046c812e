"""Scenes for the layer network: a first frame, its true layers, and tracks as people make them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ms_infer.config import THINGS
from ms_infer.model.layers import shared_motions
from ms_infer.serve.pictures.layered import AROUND, UNKNOWN
from ms_train.data.assets import Assets, opaque_points
from ms_train.data.paths import chance, scaled, uniform
from ms_train.data.render import cover, lift, object_points, pose_at, project, render_layers
from ms_train.data.scene import Scene, SceneConfig, draw_scene

GRID = 10
PER_OBJECT = 16
SPAN = 11.0  # RGB frames between the two times at which tracks are looked at
FURTHER = 3  # clicks at most after the first one


@dataclass(frozen=True)
class LayerScenes:
    """A batch of first frames with their layers and tracks."""

    image: Tensor
    """float32 [B, 3, H, W]."""
    backdrop: Tensor
    """float32 [B, 3, H, W]: drawn without the things that move."""
    weights: Tensor
    """float32 [B, 1 + THINGS, H, W]: share of the backdrop and of the things of each motion in every pixel."""
    shares: Tensor
    """float32 [B, 1 + THINGS, N]."""
    anchors: Tensor
    """float32 [B, N, 2]."""


def scene_config(size: int) -> SceneConfig:
    """Ranges for pictures of `size` pixels."""
    base = SceneConfig().scaled(size)
    return replace(
        base,
        object_reach=1.4 * base.object_reach,
        object_size=(0.07, 0.3),
        still_camera=0.75,
        drag_share=0.8,
        solid_share=0.12,
        look_share=0.25,
        switch_share=0.0,
    )


@torch.no_grad()
def draw_layer_scenes(assets: Assets, batch: int, generator: torch.Generator, config: SceneConfig) -> LayerScenes:
    """Random scenes of sprites, solids or pieces of photographs; the generator lives on the assets' device."""
    if torch.rand((), generator=generator).item() < 0.55:
        assets = cut_outs(assets, generator)
    scene = _busier(draw_scene(assets, batch, generator, config), generator)
    times = uniform(generator, (batch, 1), 4.0, 70.0) + torch.tensor([[0.0, SPAN]])
    scene = _some_rest(scene, generator)
    points, visible, anchors, owner = page_tracks(assets, scene, times, generator)
    motions = shared_motions(points, visible, anchors, config.size, config.size)
    motion_of = assign(motions.shares, owner, len(scene.things))
    drawn = render_layers(assets, scene, torch.zeros(batch, 1), motion_of, THINGS)
    image, backdrop, weights = drawn.frames[:, 0], drawn.backdrop[:, 0], drawn.weights[:, 0]
    shares = motions.shares
    order = torch.stack([torch.randperm(THINGS, generator=generator) for _ in range(batch)]) + 1
    order = torch.cat([torch.zeros(batch, 1, dtype=torch.int64), order], dim=1)
    shares = shares.gather(1, order[..., None].expand_as(shares))
    weights = weights.gather(1, order[..., None, None].expand_as(weights))
    return LayerScenes(image, backdrop, weights, shares, anchors)


def cut_outs(assets: Assets, generator: torch.Generator, count: int = 48) -> Assets:
    """Assets whose sprites are pieces of the panoramas and textures, with outlines that these have of themselves, of
    sprites or smooth random ones."""
    side = assets.sprites.shape[-1]
    height, width = assets.panoramas.shape[-2:]
    pictures = []
    for _ in range(count):
        if torch.rand((), generator=generator).item() < 0.8 or not len(assets.textures):
            source = assets.panoramas[_pick(len(assets.panoramas), generator)]
            zoom = 0.6 + 1.6 * torch.rand((), generator=generator).item()
            span = min(round(side * zoom), height // 2)
            top = height // 5 + _pick(max(height * 3 // 5 - span, 1), generator)
            left = _pick(width - span, generator)
        else:
            source = assets.textures[_pick(len(assets.textures), generator)]
            span = min(side * 2, source.shape[-1])
            top = left = 0
        piece = source[:, top : top + span, left : left + span].float()[None]
        piece = F.interpolate(piece, size=(side, side), mode="bilinear", antialias=True, align_corners=False)[0]
        alpha = _outline(assets, piece, generator)
        gain = 0.6 + 0.8 * torch.rand((), generator=generator).item()
        piece = (piece * gain + 60 * (torch.rand((), generator=generator).item() - 0.5)).clamp(0, 255)
        pictures.append(torch.cat([piece, alpha]).round().byte())
    made = torch.stack(pictures)
    return replace(
        assets,
        sprites=made,
        sprite_points=torch.stack([opaque_points(sprite[3]) for sprite in made]),
        sprite_names=["piece"] * count,
    )


def _outline(assets: Assets, piece: Tensor, generator: torch.Generator) -> Tensor:
    """Opacity [1, side, side] of a piece: its own outline, a sprite's or a smooth random one."""
    own = own_outline(piece, generator) if torch.rand((), generator=generator).item() < 0.4 else None
    if own is not None:
        return own
    if torch.rand((), generator=generator).item() < 0.5:
        return assets.sprites[_pick(len(assets.sprites), generator), 3:].float()
    return 255 * _blob(piece.shape[-1], generator)[None]


def own_outline(piece: Tensor, generator: torch.Generator, tries: int = 12) -> Tensor | None:
    """Opacity [1, side, side] of a region of [3, side, side] (0..255) whose colours hang together; None if none is
    found that is neither tiny nor cut off by the border."""
    import cv2

    side = piece.shape[-1]
    pixels = cv2.medianBlur(piece.round().byte().permute(1, 2, 0).contiguous().numpy(), 5)
    for _ in range(tries):
        column, row = (side // 5 + _pick(side * 3 // 5, generator) for _ in range(2))
        step = (3 + _pick(12, generator),) * 3
        mask = np.zeros((side + 2, side + 2), np.uint8)
        cv2.floodFill(pixels, mask, (column, row), 0, step, step, 8 | (255 << 8) | cv2.FLOODFILL_MASK_ONLY)
        whole = _largest(mask[1:-1, 1:-1])
        border = np.concatenate([whole[0], whole[-1], whole[:, 0], whole[:, -1]])
        if 0.05 < (whole > 0).mean() < 0.6 and (border > 0).mean() < 0.15:
            return torch.from_numpy(cv2.blur(whole, (3, 3)))[None].float()
    return None


def _largest(region: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The largest piece of a region, smoothed and without holes."""
    import cv2

    region = cv2.morphologyEx(region, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8))
    region = cv2.morphologyEx(region, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    outlines, _ = cv2.findContours(region, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    whole = np.zeros_like(region)
    if outlines:
        cv2.drawContours(whole, [max(outlines, key=cv2.contourArea)], -1, 255, cv2.FILLED)
    return whole


def _pick(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _blob(side: int, generator: torch.Generator) -> Tensor:
    """Opacity [side, side] of a smooth random outline, sometimes a polygon."""
    axis = (torch.arange(side) + 0.5) * (2 / side) - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    stretch = 0.55 + 0.45 * torch.rand((), generator=generator).item()
    if torch.rand((), generator=generator).item() < 0.5:
        x = x / stretch
    else:
        y = y / stretch
    angle, radius = torch.atan2(y, x), (x * x + y * y).sqrt()
    harmonics = torch.arange(1, 7)
    strength = 0.35 * torch.rand(6, generator=generator) / harmonics
    phase = 6.3 * torch.rand(6, generator=generator)
    edge = 0.72 + (strength[:, None, None] * (harmonics[:, None, None] * angle + phase[:, None, None]).cos()).sum(0)
    if torch.rand((), generator=generator).item() < 0.35:  # a polygon or box
        corners = 3 + _pick(4, generator)
        turn = 6.3 * torch.rand((), generator=generator).item()
        step = 6.283185 / corners
        local = torch.remainder(angle + turn, step) - step / 2
        edge = 0.55 / local.cos()
    return ((edge - radius) * side / 4 + 0.5).clamp(0, 1) * (radius < 0.97)


def _busier(scene: Scene, generator: torch.Generator) -> Scene:
    """Shadows fall in part of the scenes, and things may be flipped onto one another."""
    shaded = chance(generator, (scene.batch,), 0.6)
    things = tuple(replace(thing, shadow=thing.shadow * shaded) for thing in scene.things)
    return replace(scene, things=things)


def _some_rest(scene: Scene, generator: torch.Generator) -> Scene:
    """A quarter of the things do not move at all."""
    things = []
    for number, thing in enumerate(scene.things):
        moves = chance(generator, (scene.batch,), 0.85 if number == 0 else 0.6)
        travel = scaled(thing.travel, moves[:, None].expand(-1, 2))
        pose = scaled(thing.pose, moves[:, None].expand(-1, 4))
        things.append(replace(thing, travel=travel, pose=pose))
    return replace(scene, things=tuple(things))


def page_tracks(
    assets: Assets, scene: Scene, times: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points [B, N, 2, 2], visible [B, N, 2], anchors [B, N, 2] and owners [B, N] (-1: backdrop) at two `times`.

    Five habits, one a scene: exact tracks of a video; a grid of which a press grabs a circle; a few points on
    things with a grid or nothing around; points strewn over a thing; clicks on a thing that is to be picked.
    """
    batch, size = scene.batch, scene.size
    stamps = torch.cat([torch.zeros(batch, 1), times], dim=1)
    grid = _grid(scene, generator)
    grid_path, _ = project(scene, stamps, lift(scene, grid))
    covered = cover(assets, scene, torch.zeros(batch, 1), grid[:, :, None], 0)[..., 0] > 0.3
    habit = torch.rand(batch, 1, generator=generator)
    exact, page, few = habit < 0.25, (habit >= 0.25) & (habit < 0.59), (habit >= 0.59) & (habit < 0.73)
    picks = picking = habit >= 0.83
    sparse = uniform(generator, (batch, 1), -0.5, 1.2)  # how much of the grid there is beside few points
    whole = page | picks | (torch.rand(batch, GRID * GRID, generator=generator) < sparse)
    grid_used = torch.where(exact, ~covered, whole)
    # Where nothing was pressed, resting points may lie on things: for exact tracks they do not.
    grid_owner = torch.full((batch, GRID * GRID), -1)
    object_paths, object_used, object_owner = [], [], []
    base = grid_path[:, :, :1]
    drift = torch.zeros_like(grid_path)
    for number, thing in enumerate(scene.things):
        path, seen, taken = _strewn(assets, scene, number, stamps, few, generator)
        travel = thing.travel.at(stamps)[:, None]
        moves = (travel[:, 0, 1:].norm(dim=-1).amax(-1) > 2)[:, None] & (thing.present > 0)[:, None]
        press = _pressed(scene, number, path, seen, grid, stamps, generator)
        grabbed = page & moves & press.grabbed
        grid_used = grid_used & ~(page & moves & press.rim & (grid_owner < 0))
        grid_owner = torch.where(grabbed, number, grid_owner)
        drift = torch.where(grabbed[..., None, None], travel.expand_as(drift), drift)
        taken = torch.where(page, press.single & moves, taken & (exact | moves))
        clicks = _clicked(path, seen, travel, grid, size, generator)
        picked = picking & moves & seen.any(1, keepdim=True)
        picking = picking & ~picked  # one thing a scene
        path = torch.where(picked[..., None, None], clicks.path, path)
        taken = torch.where(picked, clicks.taken, taken & ~picks)
        grid_used = grid_used & ~(picked & clicks.near)
        object_paths.append(path)
        object_used.append(taken)
        object_owner.append(torch.full((batch, PER_OBJECT), number))
    points = torch.cat([grid_path + drift, *object_paths], dim=1)
    used = torch.cat([grid_used, *object_used], dim=1)
    owner = torch.cat([grid_owner, *object_owner], dim=1)
    anchors = torch.cat([base[:, :, 0], *(path[:, :, 0] for path in object_paths)], dim=1)
    owner = torch.where(used, owner, -2)
    now = points[:, :, 1:]
    beneath = _beneath(now, used & (owner >= 0), size) & (owner == -1) & page
    visible = (used & ~beneath)[..., None] & _inside(now, size)
    anchors = torch.where(used[..., None], anchors, 0.0)
    now = torch.where(used[..., None, None], now, 0.0)
    return now, visible, anchors, owner


def _grid(scene: Scene, generator: torch.Generator) -> Tensor:
    """Points [B, GRID^2, 2] of the page's grid, jittered in part of the scenes."""
    step = scene.size / GRID
    axis = (torch.arange(GRID) + 0.5) * step
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([columns, rows], dim=-1).view(1, -1, 2).expand(scene.batch, -1, -1)
    return grid + uniform(generator, grid.shape, -0.35, 0.35) * step * chance(generator, (scene.batch, 1, 1), 0.4)


def _strewn(
    assets: Assets, scene: Scene, number: int, stamps: Tensor, few: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Paths [B, PER_OBJECT, T, 2] of points on a thing, which begin in sight, and which of these are taken."""
    batch = scene.batch
    choice = uniform(generator, (batch, PER_OBJECT, 3), 0.0, 1.0)
    path, facing = object_points(assets, scene, scene.things[number], stamps, choice)
    hidden = cover(assets, scene, torch.zeros(batch, 1), path[:, :, :1], number + 1)[..., 0] > 0.5
    seen = facing[..., 0] & ~hidden & _inside(path[:, :, 0], scene.size)
    share = torch.where(few, uniform(generator, (batch, 1), 0.03, 0.35), uniform(generator, (batch, 1), 0.2, 1.2))
    taken = seen & (torch.rand(batch, PER_OBJECT, generator=generator) < share)
    none = few & ~taken.any(1, keepdim=True)
    return path, seen, taken | (none & (torch.arange(PER_OBJECT) == 0) & seen)


@dataclass(frozen=True)
class _Press:
    """A press near the middle of a thing: a circle of the grid's points is taken along."""

    grabbed: Tensor
    """bool [B, GRID^2]."""
    rim: Tensor
    """bool [B, GRID^2]: just outside of the circle."""
    single: Tensor
    """bool [B, PER_OBJECT]: the thing's own point that is moved where the circle holds none of the grid's."""


def _pressed(
    scene: Scene, number: int, path: Tensor, seen: Tensor, grid: Tensor, stamps: Tensor, generator: torch.Generator
) -> _Press:
    """A press on a thing whose points go along `path` [B, PER_OBJECT, T, 2]; nothing where none is in sight."""
    thing = scene.things[number]
    first, any_seen = seen.float().argmax(1), seen.any(1, keepdim=True)
    place = path[torch.arange(scene.batch), first, 0] * 0.6 + pose_at(scene, thing, stamps[:, :1])["centre"][:, 0] * 0.4
    radius = uniform(generator, (scene.batch, 1), 0.35, 1.35) * thing.half_size[:, None].clamp(min=scene.size / 20)
    distance = (grid - place[:, None]).norm(dim=-1)
    grabbed = any_seen & (distance < radius)
    alone = any_seen & ~grabbed.any(1, keepdim=True)
    single = torch.zeros_like(seen).scatter(1, first[:, None], True) & alone
    return _Press(grabbed, (distance >= radius) & (distance < 1.4 * radius), single)


@dataclass(frozen=True)
class _Clicks:
    """Points as the page makes them when a thing is picked: a ring about the first click, and further clicks."""

    path: Tensor
    """[B, PER_OBJECT, T, 2]; all points move alike."""
    taken: Tensor
    """bool [B, PER_OBJECT]."""
    near: Tensor
    """bool [B, GRID^2]: points of the grid so near to a click or its ring that they are left out."""


def _clicked(
    path: Tensor, seen: Tensor, travel: Tensor, grid: Tensor, size: int, generator: torch.Generator
) -> _Clicks:
    """One to four clicks in sight on the thing whose points go along `path` [B, PER_OBJECT, T, 2]."""
    batch = len(path)
    order = (seen.float() + torch.rand(seen.shape, generator=generator)).argsort(1, descending=True)[:, : 1 + FURTHER]
    places = path[:, :, 0].gather(1, order[..., None].expand(-1, -1, 2))
    clicks = torch.randint(1, 2 + FURTHER, (batch, 1), generator=generator)
    there = seen.gather(1, order) & (torch.arange(1 + FURTHER) < clicks)
    radius = uniform(generator, (batch, 1), 0.04, 0.09) * size
    angles = torch.arange(AROUND) * (2 * torch.pi / AROUND)
    ring = places[:, :1] + radius[..., None] * torch.stack([angles.cos(), angles.sin()], dim=-1)
    starts = torch.cat([places, ring], dim=1)
    taken = torch.cat([there, there[:, :1].expand(-1, AROUND)], dim=1) & _inside(starts, size)
    left = PER_OBJECT - starts.shape[1]
    starts, taken = F.pad(starts, (0, 0, 0, left)), F.pad(taken, (0, left))
    reach = torch.cat([radius, torch.zeros(batch, FURTHER)], dim=1) + UNKNOWN * size
    near = (torch.cdist(grid, places) < torch.where(there, reach, 0.0)[:, None]).any(-1)
    return _Clicks(starts[:, :, None] + travel, taken, near)


def _inside(points: Tensor, size: int) -> Tensor:
    return ((points >= 0) & (points < size)).all(-1)


def _beneath(points: Tensor, moved: Tensor, size: int) -> Tensor:
    """bool [B, N]: which points [B, N, 2, 2] lie close to one that was moved."""
    place = points[:, :, -1]
    gap = torch.cdist(place, place).masked_fill(~moved[:, None], 1e9)
    return gap.amin(-1) < 0.8 * size / GRID


def assign(shares: Tensor, owner: Tensor, things: int) -> Tensor:
    """int64 [B, things]: the motion that each thing's tracks follow, 0 for none or the backdrop's."""
    found = []
    for number in range(things):
        own = (owner == number)[:, None].to(shares.dtype)
        total = (shares * own).sum(-1)  # [B, 1 + THINGS]
        best = total[:, 1:].argmax(-1) + 1
        strong = total.gather(1, best[:, None])[:, 0] > total[:, 0].clamp(min=0.3)
        found.append(torch.where(strong, best, 0))
    return torch.stack(found, dim=1)
