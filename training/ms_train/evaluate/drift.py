"""Long rollouts: does the picture keep its place, colours and sharpness over thousands of frames?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_infer import Stream, Tracks
from ms_infer.checkpoint import Student
from ms_infer.config import StreamConfig
from ms_infer.engines.torch import TorchEngine
from ms_train.data.assets import Assets
from ms_train.data.captions import captions
from ms_train.data.render import render
from ms_train.data.scene import Scene, SceneConfig, draw_scene
from ms_train.data.scene_tracks import draw_tracks
from ms_train.evaluate.layers_alone import LayersAlone
from ms_train.evaluate.measure import LAYERS_ALONE, without_sink
from ms_train.evaluate.point_errors import FlowTracker, offset_errors
from ms_train.quality import sharpness
from ms_train.sheets import save_sheet, to_bytes

SEGMENT = 100
EVERY = 20  # RGB frames between two looked-at frames
ENDS = 2  # segments at either end that are compared


def measure_drift(student: Student, assets: Assets, frames: int, seed: int, sheets: Path | None) -> dict[str, Any]:
    """Per 100 frames: offset from the truth at the tracks, sharpness and mean colour; with and without the sink, and of
    the layers alone.

    The scene has waves only, so that objects and camera stay near for ever. The offset is the optical flow from the
    true to the made picture at visible track points (0 on the truth itself). "truth" has no offset; "summary" holds
    what `compare_ends` makes of each.
    """
    generator = torch.Generator(device=assets.device).manual_seed(seed)
    config = SceneConfig(size=student.config.height, drag_share=0.0, look_share=0.0, solid_share=0.0)
    scene = draw_scene(assets, 1, generator, config)
    result: dict[str, Any] = {"frames": frames, "segment": SEGMENT}
    device = str(assets.device)
    bare = dataclasses.replace(student, config=without_sink(student.config))
    engines = {"student": TorchEngine(student, device=device), "without sink": TorchEngine(bare, device=device)}
    engines[LAYERS_ALONE] = LayersAlone(student, device=device)
    for name, engine in engines.items():
        tracker, looks, true_looks, kept = FlowTracker(), [], [], []
        for first, made, truth, points, visible in stream_scene(engine, assets, scene, frames, seed):
            for t in range((-first) % EVERY, made.shape[0], EVERY):
                pictures = to_bytes(made[t]), to_bytes(truth[t])
                offset = offset_errors(tracker, *pictures, points[:, t].numpy(), visible[:, t].numpy())
                looks.append(Look(offset, sharpness(made[t : t + 1]), made[t].mean((1, 2))))
                true_looks.append(Look(0.0, sharpness(truth[t : t + 1]), truth[t].mean((1, 2))))
                if (first + t) % max(EVERY, frames // 8) < EVERY:
                    kept.append(torch.stack([truth[t], made[t]]))
        result[name], result["truth"] = segments(looks), segments(true_looks)
        if sheets is not None:
            save_sheet(sheets / f"drift_{name.replace(' ', '_')}.png", torch.stack(kept[:9], dim=1))
    result["summary"] = {name: compare_ends(result[name]) for name in ("truth", *engines)}
    return result


@dataclass(frozen=True)
class Look:
    """Numbers of one looked-at frame."""

    offset: float
    sharpness: float
    colour: Tensor
    """Mean red, green and blue, [3]."""


def segments(looks: Sequence[Look]) -> list[dict[str, Any]]:
    """Means over every whole SEGMENT of frames."""
    size, rows = SEGMENT // EVERY, []
    for start in range(0, len(looks) - size + 1, size):
        part = looks[start : start + size]
        rows.append(
            {
                "offset": round(float(np.nanmean([look.offset for look in part])), 3),
                "sharpness": round(float(np.mean([look.sharpness for look in part])), 4),
                "colour": [round(float(c), 4) for c in torch.stack([look.colour for look in part]).mean(0)],
            }
        )
    return rows


def compare_ends(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The last 200 frames beside the first 200; empty where there are fewer than 400.

    "offset_ratio": last mean offset over the first (none on the truth); "sharpness_percent": change of the sharpness;
    "colour_percent": change of the mean red, green or blue, whichever changes most.
    """
    if len(rows) < 2 * ENDS:
        return {}
    first, last = rows[:ENDS], rows[-ENDS:]

    def change(key: str) -> NDArray[np.float64]:
        before, after = (np.mean([row[key] for row in part], axis=0) for part in (first, last))
        return np.atleast_1d(after / np.maximum(before, 1e-9))

    colour = 100 * (change("colour") - 1)
    numbers = {
        "sharpness_percent": round(float(100 * (change("sharpness")[0] - 1)), 1),
        "colour_percent": round(float(colour[np.abs(colour).argmax()]), 1),
    }
    if np.mean([row["offset"] for row in first]) > 0:
        numbers["offset_ratio"] = round(float(change("offset")[0]), 3)
    return numbers


def stream_scene(
    engine: TorchEngine, assets: Assets, scene: Scene, frames: int, seed: int
) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
    """Stream one scene as a user would: a picture, a caption, and tracks that are set anew for every chunk.

    Yields (first frame, made [T, 3, H, W], truth [T, 3, H, W], points [N, T, 2], visible [N, T]).
    """
    config = engine.config
    image = render(assets, scene, torch.zeros(1, 1))[0, 0]
    limit, ids = _limits(config, seed)
    layout = torch.Generator(device=assets.device)
    with Stream(engine, seed=seed) as stream:
        stream.start(to_bytes(image), captions(assets, scene, 57)[0])
        time = chunk = 0
        while time < frames:
            count = config.context.span(chunk).rgb_frames
            times = torch.arange(time, time + count, dtype=torch.float32)[None]
            layout.manual_seed(1)  # the same points in every chunk
            drawn = draw_tracks(assets, scene, times, layout)
            points, visible = drawn.points[0, :limit].cpu(), drawn.visible[0, :limit].cpu()
            size = (config.height, config.width)
            stream.set_tracks(Tracks(points, visible, ids[: len(points)], size=size, fps=config.fps))
            made = torch.from_numpy(stream.step().frames).permute(0, 3, 1, 2) / 255
            yield time, made, render(assets, scene, times)[0], points, visible
            chunk, time = chunk + 1, time + count


def _limits(config: StreamConfig, seed: int) -> tuple[int, NDArray[np.int64]]:
    """How many tracks the model takes, and ids for them."""
    head = config.model.track_head
    assert head is not None, "a student in training has a track head"
    ids = np.random.default_rng(seed).permutation(head.id_range)[: head.max_tracks]
    return head.max_tracks, ids
