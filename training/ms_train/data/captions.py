"""Captions of PanoSprite scenes, and the vocabulary of the word-level text encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from ms_train.data.assets import Assets
from ms_train.data.scene import LOOKS, Scene

MOTION_WORDS = ("moves", "rests", "left", "right", "up", "down", "camera", "turns")
SOLID_WORDS = {"sphere": "ball", "box": "box"}


def vocabulary(assets: Assets) -> tuple[str, ...]:
    """All words that captions of these assets can hold, sorted."""
    words = {
        word for name in (*assets.sprite_names, *assets.panorama_names, *assets.texture_names) for word in name.split()
    }
    return tuple(sorted(words | set(LOOKS[1:]) | set(MOTION_WORDS) | set(SOLID_WORDS.values())))


def captions(assets: Assets, scene: Scene, rgb_frames: int) -> list[str]:
    """One caption a scene: look, place, camera, then every object and where it goes in `rgb_frames`."""
    device = scene.focal.device
    span = torch.tensor([[0.0, float(rgb_frames - 1)]], device=device).expand(scene.batch, -1)
    turns = scene.camera.at(span)[:, 1].abs().amax(-1) > 0.01
    travels = [thing.travel.at(span)[:, 1] for thing in scene.things]
    return [_caption(assets, scene, row, bool(turns[row]), travels) for row in range(scene.batch)]


def _caption(assets: Assets, scene: Scene, row: int, camera_turns: bool, travels: list[Tensor]) -> str:
    look = int(scene.look[row])
    words = [LOOKS[look]] if look else []
    words.append(" ".join(assets.panorama_names[int(scene.panorama[row])].split()[:2]))
    if camera_turns:
        words.append("camera turns")
    for thing, travel in zip(scene.things, travels, strict=True):
        if float(thing.present[row]) == 0:
            continue
        if thing.kind == "sprite":
            name = " ".join(assets.sprite_names[int(thing.index[row])].split()[:3])
        else:
            name = f"{assets.texture_names[int(thing.index[row])].split()[0]} {SOLID_WORDS[thing.kind]}"
        words.append(f"{name} {_direction(travel[row])}")
    return ", ".join(words)


def _direction(travel: Tensor) -> str:
    x, y = travel.tolist()
    if max(abs(x), abs(y)) < 4:
        return "rests"
    side = ("right" if x > 0 else "left") if abs(x) >= abs(y) else ("down" if y > 0 else "up")
    return f"moves {side}"
