"""Real photographs whose main thing is picked by a click, as on the page, and dragged: a sheet to be looked at."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ms_infer.checkpoint import Student
from ms_infer.serve.pictures.layered import LayeredPicker
from ms_infer.serve.pictures.masks import Place
from ms_infer.serve.pictures.thing import Thing, find_thing
from ms_infer.stream import Stream
from ms_infer.tracks import Tracks
from ms_train.data.assets import Assets
from ms_train.data.render import render
from ms_train.data.scene import SceneConfig, draw_scene
from ms_train.evaluate.rest import GRID, Picture, photographs_at_rest
from ms_train.sheets import save_sheet

MAIN: dict[str, tuple[tuple[Place, ...], Place]] = {
    "astronaut": (((0.75, 0.85),), (-0.2, -0.1)),
    "chelsea": (((0.33, 0.38),), (0.12, -0.08)),
    "china": (((0.22, 0.6), (0.22, 0.28)), (0.25, -0.05)),
    "coffee": (((0.43, 0.3), (0.45, 0.55)), (0.1, 0.2)),
    "flower": (((0.47, 0.52), (0.27, 0.5), (0.68, 0.5), (0.47, 0.3), (0.47, 0.75)), (0.2, 0.05)),
    "hubble deep field": (((0.755, 0.54),), (-0.15, 0.15)),
    "rocket": (((0.5, 0.7), (0.5, 0.4)), (0.12, -0.15)),
}
"""Name of a photograph -> clicks on its main thing, and how far it is dragged; shares of the picture."""
SECONDS, AFTER = 1.5, 1.0  # of the drag, and of the rest after it
NEAR = 0.06  # of the picture: points of the grid so near to the thing's are left out
ACROSS = (0.3, 0.5, 0.7)  # where things are looked for in a crop
SMALL, LARGE = 0.01, 0.15  # of the picture: what can be the main thing of a crop


@dataclass(frozen=True)
class Dragged:
    """A photograph, its main thing and how far that is dragged, in shares of the picture."""

    name: str
    image: Picture
    """uint8 [H, W, 3]."""
    thing: Thing
    by: Place


def photograph_sheet(
    student: Student, photographs: Path, assets: Assets, crops: int, seed: int, path: Path
) -> list[str]:
    """Write the sheet: first frame, the picked thing, halfway, the end, and AFTER seconds later. Returns the names.

    photographs: a folder, which may be missing; crops: how many views of the panoramas of `assets` come after them.
    """
    assert student.layer_network is not None, "evaluate() checked it"
    picker = LayeredPicker(student.layer_network)
    size = student.config.height
    pictures = _photographs(photographs, size, picker) + _crops(assets, size, crops, seed, picker)
    if pictures:
        rows = [np.concatenate([_shown(picture), _streamed(student, picture)]) for picture in pictures]
        save_sheet(path, torch.from_numpy(np.stack(rows)).permute(0, 1, 4, 2, 3).float() / 255)
    return [picture.name for picture in pictures]


def tracks_of(picture: Dragged, most: int) -> Tracks:
    """At most `most`: the thing's points, dragged, on a grid that stands around it."""
    thing = np.array(picture.thing.points[: most // 2])
    side = min(GRID, math.isqrt(most - len(thing)))
    grid = Tracks.grid(side, side).points[:, 0]
    apart = np.linalg.norm(grid[:, None] - thing[None], axis=-1).min(1) > NEAR
    middle = (float(thing[:, 0].mean()), float(thing[:, 1].mean()))
    target = (middle[0] + picture.by[0], middle[1] + picture.by[1])
    moved = Tracks.empty().static(thing).grab(middle, target, radius=1.0, seconds=SECONDS)
    return moved.static(grid[apart])


def _photographs(folder: Path, size: int, picker: LayeredPicker) -> list[Dragged]:
    found = []
    for picture in photographs_at_rest(folder, size):
        clicks, by = MAIN.get(picture.name, (((0.5, 0.5),), (0.15, -0.1)))
        thing = find_thing(picture.image, clicks, layers=picker)
        if thing is not None:
            found.append(Dragged(picture.name, picture.image, thing, by))
    return found


def _crops(assets: Assets, size: int, count: int, seed: int, picker: LayeredPicker) -> list[Dragged]:
    """Views of held-out panoramas and the largest thing that clicks find in them."""
    config = SceneConfig(look_share=0.0, solid_share=0.0, still_camera=1.0, max_objects=1).scaled(size)
    scene = draw_scene(assets, max(1, count), torch.Generator().manual_seed(seed), config)
    bare = replace(scene, things=())
    images = (
        render(assets, bare, torch.zeros(max(1, count), 1))[:, 0].permute(0, 2, 3, 1).mul(255).round().byte().numpy()
    )
    found = []
    for number, image in enumerate(images[:count]):
        things = (find_thing(image, [place], layers=picker) for place in itertools.product(ACROSS, ACROSS))
        fitting = [thing for thing in things if thing is not None and SMALL < thing.mask.mean() < LARGE]
        if fitting:
            thing = max(fitting, key=lambda thing: float(thing.mask.mean()))
            found.append(Dragged(f"panorama {number}", image, thing, _inwards(thing)))
    return found


def _inwards(thing: Thing) -> Place:
    x, y = np.mean(thing.points, axis=0)
    length = max(math.hypot(0.5 - x, 0.5 - y), 1e-3)
    return 0.2 * (0.5 - x) / length, 0.2 * (0.5 - y) / length


def _shown(picture: Dragged) -> Picture:
    """The first frame, and the same with all but the thing dimmed: uint8 [2, H, W, 3]."""
    import cv2

    height, width = picture.image.shape[:2]
    mask = cv2.resize(picture.thing.mask.astype(np.float32), (width, height))[..., None]
    dimmed = picture.image * (0.25 + 0.75 * mask)
    return np.stack([picture.image, dimmed.round().astype(np.uint8)])


def _streamed(student: Student, picture: Dragged) -> Picture:
    """Frames halfway, at the end of the drag and AFTER seconds later: uint8 [3, H, W, 3]."""
    wanted = [round(seconds * student.config.fps) for seconds in (SECONDS / 2, SECONDS + 0.1, SECONDS + AFTER)]
    tracks = tracks_of(picture, student.config.model.require_track_head().max_tracks)
    frames: list[Picture] = []
    with Stream(student, engine="torch", precision="fp32") as stream:
        stream.start(picture.image, "", tracks)
        while len(frames) <= wanted[-1]:
            frames.extend(frame.copy() for frame in stream.step().frames)
    return np.stack([frames[number] for number in wanted])
