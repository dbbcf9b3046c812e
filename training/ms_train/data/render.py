"""Draws PanoSprite scenes and their tracks in closed form, with `grid_sample` alone."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ms_train.data.assets import Assets
from ms_train.data.looks import apply_look
from ms_train.data.scene import Scene, Thing

CPU_FRAMES = 2  # frames drawn at once on a CPU: what fits its cache

# Positions are pixels; the centre of the top left pixel is (0.5, 0.5).


def render(assets: Assets, scene: Scene, times: Tensor) -> Tensor:
    """Pictures float32 [B, T, 3, H, W] in [0, 1] at RGB frames `times` [B, T] (any order, any gaps)."""
    if times.is_cuda:
        return _render(assets, scene, times)
    parts = [_render(assets, scene, part) for part in times.split(CPU_FRAMES, dim=1)]
    return torch.cat(parts, dim=1)


def _render(assets: Assets, scene: Scene, times: Tensor) -> Tensor:
    pixels = _pixels(scene, times)
    colour = _background(assets, scene, times, pixels)
    for _, shade, rgba in _things(assets, scene, times, pixels):
        colour = _over(colour, shade, rgba)
    return _toned(colour, scene, times)


@dataclass(frozen=True)
class DrawnLayers:
    """Pictures and what they are made of; every field begins with [B, T]."""

    frames: Tensor
    """float32 [B, T, 3, H, W]."""
    backdrop: Tensor
    """float32 [B, T, 3, H, W]: without the things that move."""
    weights: Tensor
    """float32 [B, T, 1 + motions, H, W]: share of the backdrop and of the things of each motion, 1 in all. A thing's
    shadow is part of the thing."""
    solid: Tensor
    """float32 [B, T, 1, H, W]: opacity of the moving things, without shadows."""


def render_layers(assets: Assets, scene: Scene, times: Tensor, motion: Tensor, motions: int) -> DrawnLayers:
    """Pictures at `times` [B, T] beside their layers. motion: int64 [B, things], 0 for a thing that belongs to the
    backdrop, else the number of its motion, at most `motions`."""
    if not times.is_cuda and times.shape[1] > CPU_FRAMES:
        parts = [render_layers(assets, scene, part, motion, motions) for part in times.split(CPU_FRAMES, dim=1)]
        return DrawnLayers(*(torch.cat(each, dim=1) for each in zip(*(vars(p).values() for p in parts), strict=True)))
    pixels = _pixels(scene, times)
    colour = backdrop = _background(assets, scene, times, pixels)
    weights = torch.zeros(*pixels.shape[:3], 1 + motions, device=assets.device)
    solid = torch.zeros(*pixels.shape[:3], 1, device=assets.device)
    for number, shade, rgba in _things(assets, scene, times, pixels):
        moves = (motion[:, number] > 0)[:, None, None, None]
        colour = _over(colour, shade, rgba)
        backdrop = torch.where(moves, backdrop, _over(backdrop, shade, rgba))
        alpha = rgba[..., 3:]
        covered = 1 - (1 - shade) * (1 - alpha)
        own = covered * F.one_hot(motion[:, number], 1 + motions)[:, None, None]
        weights = torch.where(moves, weights * (1 - covered) + own, weights * (1 - alpha))
        solid = torch.where(moves, torch.maximum(solid, alpha), solid * (1 - alpha))
    weights = torch.cat([1 - weights[..., 1:].sum(-1, keepdim=True), weights[..., 1:]], dim=-1)
    return DrawnLayers(
        frames=_toned(colour, scene, times),
        backdrop=_toned(backdrop, scene, times),
        weights=_as_pictures(weights, scene),
        solid=_as_pictures(solid, scene),
    )


def _pixels(scene: Scene, times: Tensor) -> Tensor:
    """Centres of all pixels, [B, T, H W, 2]."""
    axis = torch.arange(scene.size, device=times.device) + 0.5
    rows, columns = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([columns, rows], dim=-1).view(1, 1, -1, 2).expand(*times.shape, -1, -1)


def _things(assets: Assets, scene: Scene, times: Tensor, pixels: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Number, shadow [B, T, M, 1], colour and opacity [B, T, M, 4] of every thing, the farthest first."""
    for number, thing in enumerate(scene.things):
        if thing.present.any():
            pose = pose_at(scene, thing, times)
            yield number, _shadow(thing, pose, pixels), _surface(assets, thing, pose, pixels)


def _over(colour: Tensor, shade: Tensor, rgba: Tensor) -> Tensor:
    alpha = rgba[..., 3:]
    return colour * (1 - shade) * (1 - alpha) + rgba[..., :3] * alpha


def _as_pictures(values: Tensor, scene: Scene) -> Tensor:
    """[B, T, H W, C] -> [B, T, C, H, W]."""
    return values.unflatten(2, (scene.size, scene.size)).permute(0, 1, 4, 2, 3)


def _toned(colour: Tensor, scene: Scene, times: Tensor) -> Tensor:
    return apply_look(_as_pictures(colour, scene), scene.look, (times - scene.look_start[:, None]) / 12.0)


def camera_at(scene: Scene, times: Tensor) -> tuple[Tensor, Tensor]:
    """Rotation [B, T, 3, 3] (camera axes to world axes) and focal length [B, T] in pixels."""
    yaw, pitch, roll, zoom = scene.camera.at(times).unbind(-1)
    rotation = _rotation(yaw + scene.heading[:, :1], pitch + scene.heading[:, 1:], roll)
    return rotation, scene.focal[:, None] * zoom.exp()


def project(scene: Scene, times: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [B, N, T, 2] of world directions [B, N, 3], and whether they lie before the camera."""
    rotation, focal = camera_at(scene, times)
    local = torch.einsum("btij,bni->bntj", rotation, rays)
    depth = local[..., 2]
    safe = depth.clamp(min=1e-3)[..., None]
    return local[..., :2] / safe * focal[:, None, :, None] + scene.size / 2, depth > 0.05


def lift(scene: Scene, pixels: Tensor) -> Tensor:
    """World directions [B, N, 3] of pixels [B, N, 2] of frame 0."""
    start = torch.zeros(scene.batch, 1, device=pixels.device)
    rotation, focal = camera_at(scene, start)
    local = (pixels - scene.size / 2) / focal[:, :, None]
    local = torch.cat([local, torch.ones_like(local[..., :1])], dim=-1)
    return torch.einsum("bij,bnj->bni", rotation[:, 0], local)


def cover(assets: Assets, scene: Scene, times: Tensor, points: Tensor, first: int) -> Tensor:
    """Opacity [B, N, T] of the objects from number `first` on, at pixels `points` [B, N, T, 2]."""
    covered = torch.zeros(points.shape[:-1], device=points.device)
    samples = points.transpose(1, 2)
    for thing in scene.things[first:]:
        alpha = _surface(assets, thing, pose_at(scene, thing, times), samples)[..., 3]
        covered = torch.maximum(covered, alpha.transpose(1, 2))
    return covered


def object_points(assets: Assets, scene: Scene, thing: Thing, times: Tensor, choice: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [B, K, T, 2] of points that an object carries, and whether they face the camera.

    `choice`: float [B, K, 3] in [0, 1), which samples of the object to follow.
    """
    pose = pose_at(scene, thing, times)
    if thing.kind == "sprite":
        index = (choice[..., 0] * assets.sprite_points.shape[1]).long()
        local = assets.sprite_points[thing.index].gather(1, index[..., None].expand(-1, -1, 2))
        local = torch.cat([local, torch.zeros_like(local[..., :1])], dim=-1)
        normal = torch.tensor([0.0, 0.0, -1.0], device=local.device).expand_as(local)
    else:
        local, normal = _solid_points(thing, choice)
    turned = torch.einsum("btij,bkj->bkti", pose["turn"], local)
    facing = torch.einsum("btij,bkj->bkti", pose["turn"], normal)[..., 2] < -0.15
    pixels = pose["centre"][:, None] + turned[..., :2] * pose["half"][:, None, :, None]
    return pixels, facing & (thing.present[:, None, None] > 0)


def _solid_points(thing: Thing, choice: Tensor) -> tuple[Tensor, Tensor]:
    if thing.kind == "sphere":
        height = choice[..., 0] * 2 - 1
        ring = (1 - height**2).clamp(min=0).sqrt()
        angle = choice[..., 1] * 2 * math.pi
        local = torch.stack([ring * angle.cos(), height, ring * angle.sin()], dim=-1)
        return local, local
    face = (choice[..., 2] * 6).long()
    plane = choice[..., :2] * 1.8 - 0.9
    sign = (face % 2).float() * 2 - 1
    parts = [plane[..., 0], plane[..., 1], sign]
    axis = face // 2
    order = torch.stack([(torch.arange(3, device=face.device) + 2 - axis[..., None]) % 3], 0)[0]
    local = torch.stack(parts, dim=-1).gather(-1, order)
    normal = torch.zeros_like(local).scatter_(-1, axis[..., None], sign[..., None])
    return local * BOX_HALF, normal


BOX_HALF = 0.62


def _background(assets: Assets, scene: Scene, times: Tensor, pixels: Tensor) -> Tensor:
    rotation, focal = camera_at(scene, times)
    local = (pixels - scene.size / 2) / focal[..., None, None]
    ray = (
        local[..., :1] * rotation[:, :, None, :, 0]
        + local[..., 1:] * rotation[:, :, None, :, 1]
        + rotation[:, :, None, :, 2]
    )
    longitude = torch.atan2(ray[..., 0], ray[..., 2])
    latitude = torch.atan2(ray[..., 1], ray[..., ::2].norm(dim=-1))
    height, width = assets.panoramas.shape[-2:]
    column = (longitude / (2 * math.pi) + 0.5) * (width - 1) + 0.5
    row = (latitude / math.pi + 0.5) * height
    grid = torch.stack([column * (2 / width) - 1, row * (2 / height) - 1], dim=-1)
    picture = assets.panoramas[scene.panorama].float() / 255
    colour = F.grid_sample(picture, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return colour.permute(0, 2, 3, 1)


def pose_at(scene: Scene, thing: Thing, times: Tensor) -> dict[str, Tensor]:
    """Centre [B, T, 2] and half size [B, T] in pixels, turn [B, T, 3, 3] (object to picture axes)."""
    ray = lift(scene, thing.ray[:, None, :2] + scene.size / 2)
    anchor, _ = project(scene, times, ray)
    scale, spin, turn_x, turn_y = thing.pose.at(times).unbind(-1)
    _, focal = camera_at(scene, times)
    turn = _rotation(turn_x + thing.tilt[:, 1:2], turn_y + thing.tilt[:, 2:], torch.zeros_like(spin))
    if thing.kind == "sprite":
        turn = torch.eye(3, device=spin.device).expand_as(turn)
    upright = torch.zeros_like(spin)
    flat = _rotation(upright, upright, spin + thing.tilt[:, :1])
    return {
        "centre": anchor[:, 0] + thing.travel.at(times),
        "half": thing.half_size[:, None] * scale.exp() * focal / scene.focal[:, None],
        "turn": flat @ turn,
    }


def _surface(assets: Assets, thing: Thing, pose: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Colour and opacity [B, T, M, 4] of one object at pixels [B, T, M, 2]."""
    offset = (pixels - pose["centre"][:, :, None]) / pose["half"][..., None, None]
    if thing.kind == "sprite":
        rgba = _sprite(assets, thing, pose, offset)
    elif thing.kind == "sphere":
        rgba = _sphere(assets, thing, pose, offset)
    else:
        rgba = _box(assets, thing, pose, offset)
    return torch.cat([rgba[..., :3], rgba[..., 3:] * thing.present[:, None, None, None]], dim=-1)


def _sprite(assets: Assets, thing: Thing, pose: dict[str, Tensor], offset: Tensor) -> Tensor:
    flat = pose["turn"][:, :, None, :2, :2]
    local = (offset[..., None] * flat).sum(-2)  # the transpose of the turn: picture to object
    picture = assets.sprites[thing.index].float() / 255
    picture = torch.cat([picture[:, :3] * picture[:, 3:], picture[:, 3:]], dim=1)
    sampled = F.grid_sample(picture, local, mode="bilinear", padding_mode="zeros", align_corners=False)
    sampled = sampled.permute(0, 2, 3, 1)
    alpha = sampled[..., 3:]
    return torch.cat([sampled[..., :3] / alpha.clamp(min=1e-4), alpha], dim=-1)


def _sphere(assets: Assets, thing: Thing, pose: dict[str, Tensor], offset: Tensor) -> Tensor:
    square = offset.square().sum(-1, keepdim=True)
    depth = -(1 - square).clamp(min=0).sqrt()
    normal = torch.cat([offset, depth], dim=-1)
    local = (normal[..., None] * pose["turn"][:, :, None]).sum(-2)
    longitude = torch.atan2(local[..., 0], local[..., 2]) / math.pi
    latitude = local[..., 1].clamp(-1, 1)
    colour = _texture(assets, thing, torch.stack([longitude, latitude], dim=-1))
    alpha = ((1 - square.sqrt()) * pose["half"][..., None, None]).clamp(0, 1)
    return torch.cat([colour * _light(normal), alpha], dim=-1)


def _box(assets: Assets, thing: Thing, pose: dict[str, Tensor], offset: Tensor) -> Tensor:
    turn = pose["turn"][:, :, None]
    start = (torch.cat([offset, torch.full_like(offset[..., :1], -3.0)], dim=-1)[..., None] * turn).sum(-2)
    along = turn[..., 2, :].expand_as(start)
    safe = torch.where(along.abs() < 1e-4, torch.full_like(along, 1e-4), along)
    near_face, far_face = (-BOX_HALF - start) / safe, (BOX_HALF - start) / safe
    enter, axis = torch.minimum(near_face, far_face).max(dim=-1, keepdim=True)
    leave = torch.maximum(near_face, far_face).min(dim=-1, keepdim=True).values
    hit = start + along * enter
    first = hit.gather(-1, (axis + 1) % 3)
    second = hit.gather(-1, (axis + 2) % 3)
    colour = _texture(assets, thing, torch.cat([first, second], dim=-1).clamp(-1, 1))
    outward = -torch.sign(along).gather(-1, axis)
    normal = turn.expand(*axis.shape[:-1], 3, 3).gather(-1, axis[..., None].expand(*axis.shape[:-1], 3, 1))[..., 0]
    alpha = ((leave - enter) * pose["half"][..., None, None]).clamp(0, 1)
    return torch.cat([colour * _light(normal * outward), alpha], dim=-1)


def _texture(assets: Assets, thing: Thing, grid: Tensor) -> Tensor:
    picture = assets.textures[thing.index].float() / 255
    colour = F.grid_sample(picture, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return colour.permute(0, 2, 3, 1)


def _light(normal: Tensor) -> Tensor:
    """Brightness [..., 1] under a lamp up to the left, before the picture."""
    lamp = torch.tensor([-0.45, -0.65, -0.61], device=normal.device)
    return 0.5 + 0.7 * (normal * lamp).sum(-1, keepdim=True).clamp(min=0)


def _shadow(thing: Thing, pose: dict[str, Tensor], pixels: Tensor) -> Tensor:
    """Darkness [B, T, M, 1] of a soft ellipse below the object."""
    half = pose["half"][..., None]
    offset = pixels - pose["centre"][:, :, None]
    across = offset[..., 0] / (0.85 * half)
    down = (offset[..., 1] - 0.9 * half) / (0.28 * half)
    darkness = (-1.5 * (across**2 + down**2)).exp()
    return (darkness * (thing.shadow * thing.present)[:, None, None])[..., None]


def _rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """R_y(yaw) R_x(pitch) R_z(roll), [..., 3, 3]; x right, y down, z away."""
    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin()
    rows = [
        [cy * cr + sy * sp * sr, sy * sp * cr - cy * sr, sy * cp],
        [cp * sr, cp * cr, -sp],
        [cy * sp * sr - sy * cr, sy * sr + cy * sp * cr, cy * cp],
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
