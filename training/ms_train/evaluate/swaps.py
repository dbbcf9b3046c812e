"""Two motions from one first frame: does each made video follow its own tracks and not the other's?"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ms_train.data.clips import ClipMaker, Rendered
from ms_train.data.paths import scaled
from ms_train.data.scene import Scene, draw_scene
from ms_train.evaluate.measure import (
    LAYERS_ALONE,
    TRUSTED_PIXELS,
    Table,
    error_numbers,
    follow,
    object_points,
    stream_clips,
    wanted,
)
from ms_train.evaluate.point_errors import Floats, track_errors
from ms_train.evaluate.trackers import Tracker
from ms_train.sheets import save_sheet
from ms_train.stages.refine import Decoder
from ms_train.students import Network

APART_PIXELS = 4.0  # a point counts at a frame where the two motions want it at least this far apart


def opposite(scene: Scene) -> Scene:
    """The same scene with every object on the mirrored way: equal at frame 0 only."""
    things = []
    for thing in scene.things:
        back = -torch.ones_like(thing.travel.drag)
        things.append(dataclasses.replace(thing, travel=scaled(thing.travel, back)))
    return dataclasses.replace(scene, things=tuple(things))


def make_swaps(maker: ClipMaker, count: int) -> tuple[Rendered, Rendered]:
    """`count` pairs of clips: one first frame, one caption, the same points on opposite ways."""

    def generator(number: int) -> torch.Generator:
        return torch.Generator(maker.assets.device).manual_seed(maker.seed_of(number))

    scene = draw_scene(maker.assets, count, generator(0), maker.config.scene)
    first, second = (maker.film(part, generator(1)) for part in (scene, opposite(scene)))
    clips = dataclasses.replace(second.clips, words=first.clips.words)
    return first, dataclasses.replace(second, clips=clips)


def measure_swaps(
    network: Network, decoder: Decoder, pair: tuple[Rendered, Rendered], tracker: Tracker, sheets: Path | None
) -> Table:
    """Per method: EPE of object points against the tracks it was given ("own") and against the swapped ("other")."""
    rows = {
        "truth": [data.frames for data in pair],
        LAYERS_ALONE: [data.moved for data in pair],
        "student": [decoder(stream_clips(network, data.clips), data) for data in pair],
    }
    if sheets is not None:
        _sheet(sheets / "tracks_swapped.png", rows)
    table = {}
    for name, (first, second) in rows.items():
        errors: dict[str, list[float]] = {"own": [], "other": []}
        for data, other, frames, truth in ((*pair, first, pair[0].frames), (*pair[::-1], second, pair[1].frames)):
            for row in range(len(frames)):
                own, swapped = swapped_errors(tracker, data, other, row, frames, truth)
                errors["own"] += own.tolist()
                errors["other"] += swapped.tolist()
        table[name] = error_numbers("own", errors["own"]) | error_numbers("other", errors["other"])
    return table


def swapped_errors(
    tracker: Tracker, data: Rendered, other: Rendered, row: int, frames: Tensor, truth: Tensor
) -> tuple[Floats, Floats]:
    """Distances of object points in `frames` from the points of `data` and from those of `other`, one each [K].

    Points count where both motions show them, want them apart, and the tracker is right on `truth`.
    """
    found = follow(tracker, data, row, frames)
    points, visible = wanted(tracker, data, row)
    elsewhere, shown = wanted(tracker, other, row)
    on_truth, _ = track_errors(follow(tracker, data, row, truth), points, visible)
    apart = np.linalg.norm(points - elsewhere, axis=-1) > APART_PIXELS
    allowed = (on_truth < TRUSTED_PIXELS) & apart & shown & object_points(data, row)[:, None]
    own, counts = track_errors(found, points, visible, allowed)
    swapped, _ = track_errors(found, elsewhere, shown)
    return own[counts], swapped[counts]


def _sheet(path: Path, rows: dict[str, list[Tensor]]) -> None:
    """Per scene: first frame, then truth and student at the last frame, for either motion."""
    columns = [rows["truth"][0][:, 0]]
    for motion in (0, 1):
        columns += [rows[name][motion][:, -1] for name in ("truth", "student")]
    save_sheet(path, torch.stack(columns, dim=1))
