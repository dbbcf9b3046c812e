"""Left alone: does a picture on which nothing moves stay the picture it was?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ms_infer.checkpoint import Student
from ms_infer.errors import ConfigError
from ms_infer.stream import Stream
from ms_infer.tracks import Tracks
from ms_train.data.assets import IMAGE_SUFFIXES, Assets
from ms_train.data.captions import captions
from ms_train.data.render import render
from ms_train.data.scene import SceneConfig, draw_scene
from ms_train.evaluate.layers_alone import LayersAlone

Picture = NDArray[np.uint8]

GRID = 10  # points a side
DRAG_SECONDS = 1.5
LAYER_FRAMES = 60  # for which layers alone are looked at: they remember nothing
SETTLED = 8  # RGB frames after a drag has ended at which its picture is the one to keep
LOW, HIGH = 28.0, 34.0  # dB that all, and that nine in ten, have to keep


@dataclass(frozen=True)
class Resting:
    """A picture to be left alone, with a prompt that describes it and what its main thing is dragged from and to."""

    name: str
    image: Picture
    """uint8 [H, W, 3]."""
    prompt: str
    grip: tuple[float, float]
    target: tuple[float, float]
    radius: float


def scenes_at_rest(assets: Assets, size: int, count: int, seed: int) -> list[Resting]:
    """Held-out scenes with one thing, which a drag would take a quarter of the picture aside."""
    config = SceneConfig(look_share=0.0, solid_share=0.0, still_camera=1.0, max_objects=1).scaled(size)
    scene = draw_scene(assets, count, torch.Generator().manual_seed(seed), config)
    images = render(assets, scene, torch.zeros(count, 1))[:, 0].permute(0, 2, 3, 1).mul(255).round().byte().numpy()
    texts, thing = captions(assets, scene, 57), scene.things[0]
    found = []
    for row in range(count):
        x, y = (float(c) / size + 0.5 for c in thing.ray[row, :2])
        target = (x + (0.25 if x < 0.5 else -0.25), y)
        radius = float(thing.half_size[row]) / size
        found.append(Resting(f"scene {row}", images[row], texts[row], (x, y), target, radius))
    return found


def photographs_at_rest(folder: Path, size: int) -> list[Resting]:
    """The photographs of a folder, cut square; what lies in their middle is dragged. Empty without the folder."""
    from PIL import Image, ImageOps

    found = []
    for path in sorted(p for p in folder.glob("*") if p.suffix.lower() in IMAGE_SUFFIXES) if folder.is_dir() else []:
        with Image.open(path) as image:
            square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.LANCZOS)
        name = path.stem.replace("_", " ")
        found.append(Resting(name, np.asarray(square), name, (0.5, 0.5), (0.65, 0.4), 0.2))
    return found


def controls_of(picture: Resting, most: int = GRID**2) -> dict[str, Tracks | None]:
    """No tracks, a grid of at most `most` points that stands, and a drag that ends after DRAG_SECONDS."""
    side = min(GRID, math.isqrt(most))
    grid = Tracks.grid(side, side)
    dragged = grid.grab(picture.grip, picture.target, radius=picture.radius, seconds=DRAG_SECONDS)
    return {"no tracks": None, "standing grid": grid, "drag that ended": dragged}


def prompts_of(pictures: Sequence[Resting], number: int) -> dict[str, str]:
    """Its own prompt, that of the next picture, and none."""
    return {"own": pictures[number].prompt, "other": pictures[(number + 1) % len(pictures)].prompt, "empty": ""}


def measure_rest(
    student: Student,
    pictures: Sequence[Resting],
    frames: int,
    tell: Callable[[str], None] = lambda line: None,
    bundle: Path | None = None,
) -> dict[str, Any]:
    """PSNR in dB to the picture at rest, over `frames` RGB frames, for every picture, control and prompt.

    bundle: an export of the student, whose engine then makes the frames; else PyTorch does in fp32, several times as
    slowly on a CPU.

    "runs": least and last PSNR of each; "kept": share of runs whose least is at least HIGH; "least": of all;
    "layers": least PSNR by control of the layers alone, for which no prompt and no frame before counts.
    """
    most, runs = student.config.model.require_track_head().max_tracks, []
    with Stream(student, engine="torch", precision="fp32") if bundle is None else Stream(bundle) as stream:
        for number, picture in enumerate(pictures):
            prompts = prompts_of(pictures, number)
            for (control, tracks), (prompt, text) in product(controls_of(picture, most).items(), prompts.items()):
                least, last = leave_alone(stream, picture.image, text, tracks, frames)
                run = {"picture": picture.name, "control": control, "prompt": prompt}
                runs.append({**run, "least": round(least, 2), "last": round(last, 2)})
                tell(f"{picture.name}, {control}, {prompt} prompt: least {least:.1f} dB, last {last:.1f} dB")
    layers = _layers_at_rest(student, pictures, min(frames, LAYER_FRAMES))
    return {"frames": frames, **summary(runs), "layers": layers, "runs": runs}


def _layers_at_rest(student: Student, pictures: Sequence[Resting], frames: int) -> dict[str, float]:
    """Least PSNR over all pictures by control."""
    least: dict[str, float] = {}
    for picture in pictures:
        for control, tracks in controls_of(picture, student.config.model.require_track_head().max_tracks).items():
            with Stream(LayersAlone(student)) as stream:
                value, _ = leave_alone(stream, picture.image, "", tracks, frames)
            least[control] = min(least.get(control, value), round(value, 2))
    return least


def leave_alone(stream: Stream, image: Picture, prompt: str, tracks: Tracks | None, frames: int) -> tuple[float, float]:
    """Least and last PSNR over `frames` RGB frames, to the first frame or to the one when `tracks` have ended."""
    values, kept = [], None
    stream.start(image, prompt, tracks)
    ends = 0 if tracks is None or tracks.rgb_frames == 1 else round(tracks.seconds * stream.config.fps) + SETTLED
    if ends + 1 >= frames:
        raise ConfigError(f"{frames} RGB frames are over before {ends + 2}, when the drag has ended; leave it longer")
    made = 0
    while made < frames:
        chunk = stream.step()
        made = chunk.first_rgb_frame + len(chunk.frames)
        for number, frame in enumerate(chunk.frames, start=chunk.first_rgb_frame):
            if kept is None and number >= ends:
                kept = frame.copy()
            elif kept is not None:
                values.append(psnr_of(frame, kept))
    return min(values), values[-1]


def psnr_of(made: Picture, truth: Picture) -> float:
    """PSNR in dB of two pictures; 99 for equal ones."""
    error = float(np.square(made.astype(np.float32) - truth).mean())
    return min(99.0, 10 * float(np.log10(255**2 / max(error, 1e-9))))


def summary(runs: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Share of runs that keep HIGH dB, and the least of all."""
    least = np.array([run["least"] for run in runs])
    return {"kept": round(float((least >= HIGH).mean()), 3), "least": round(float(least.min()), 2)}
