"""Stage 5: how well a student follows tracks and what its pictures are worth, beside baselines."""

from __future__ import annotations

import dataclasses
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from ms_infer.checkpoint import load_student
from ms_infer.config import StreamConfig
from ms_infer.model.taehv import TinyVae
from ms_train.assets import Assets, load_assets
from ms_train.clips import ClipConfig, ClipMaker, Clips, Rendered
from ms_train.commands import read_average
from ms_train.drift import measure_drift, without_sink
from ms_train.loop import write_json
from ms_train.metrics import psnr, sharpness, ssim, summary, track_errors
from ms_train.pictures import save_sheet, to_bytes
from ms_train.refine import Decoder
from ms_train.report import markdown
from ms_train.rollout import generator_noise, rollout
from ms_train.scene import SceneConfig
from ms_train.students import Network, networks, silence, track_inputs
from ms_train.teacher import sample_teacher
from ms_train.trackers import Tracker, best_tracker

logger = logging.getLogger(__name__)

TRUSTED_PIXELS = 1.0  # a point counts at a frame where the tracker's own error on the true video is below this
SETS = {
    "object drags": SceneConfig(still_camera=1.0, drag_share=1.0, look_share=0.0, solid_share=0.0),
    "camera moves": SceneConfig(still_camera=0.0, object_speed=0.01, look_share=0.0, solid_share=0.0),
}


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """What is measured and where it is written."""

    json: Path | None = None
    report: Path | None = None
    """Markdown file for the tables."""
    sheets: Path | None = None
    """Folder for contact sheets."""
    teacher: Path | None = None
    """Stage checkpoint of the teacher, for its row."""
    teacher_steps: int = 16
    clips: int = 8
    """Clips a set."""
    drift_frames: int = 2000
    """Length of the long rollout; 0 leaves it out."""
    seed: int = 5
    threads: int = 0


DEFAULTS = EvaluateConfig()


def evaluate(checkpoint: Path, assets: Path, config: tyro.conf.OmitArgPrefixes[EvaluateConfig] = DEFAULTS) -> None:
    """Measure a student file on held-out assets (all of them, where the folder holds no held-out names)."""
    if config.threads:
        torch.set_num_threads(config.threads)
    student = load_student(checkpoint, dtype=torch.float32)
    network, vae = networks(student)
    decoder = Decoder(vae, student.refiner)
    held_out = load_assets(assets, "held_out")
    tracker = best_tracker(assets)
    result: dict[str, Any] = {
        "command": "python -m ms_train " + " ".join(sys.argv[1:]),
        "tracker": tracker.name,
        "clips": config.clips,
        "sets": {},
    }
    guide = _guide(student.config, config.teacher)
    for name, scene in SETS.items():
        data = make_set(student.config, held_out, vae, scene, config.clips, config.seed)
        rows = _methods(network, decoder, data, guide, config.teacher_steps)
        result["sets"][name] = _measure(rows, data, tracker)
        if config.sheets is not None:
            _contact_sheet(config.sheets / f"{name.replace(' ', '_')}.png", data, rows)
        logger.info("%s: %s", name, result["sets"][name])
    if config.drift_frames:
        result["drift"] = measure_drift(network, decoder, held_out, config.drift_frames, config.seed, config.sheets)
    _write(result, config)


def _guide(stream: StreamConfig, path: Path | None) -> Network | None:
    if path is None:
        return None
    guide = Network(stream)
    guide.load_state_dict(read_average(path))
    return guide.eval()


def _write(result: dict[str, Any], config: EvaluateConfig) -> None:
    text = markdown(result)
    if config.json is not None:
        write_json(config.json, result)
    if config.report is not None:
        config.report.parent.mkdir(parents=True, exist_ok=True)
        config.report.write_text(text, encoding="utf-8")
    print(text)


def make_set(
    stream: StreamConfig, assets: Assets, vae: TinyVae, scene: SceneConfig, count: int, seed: int, chunks: int = 3
) -> Rendered:
    """`count` clips of `chunks` chunks with all their tracks."""
    config = ClipConfig(chunks=chunks, scene=scene, dense_share=1.0, silent_share=0.0, whole_objects=True)
    maker = ClipMaker(stream, assets, vae, config, seed)
    return maker.make_with_frames(0, count)


@torch.no_grad()
def stream_clips(network: Network, clips: Clips, *, sink: bool = True, seed: int = 0) -> Tensor:
    """Latents [B, F, C, h, w] that the student streams for these clips."""
    generator = torch.Generator().manual_seed(seed)
    inputs = track_inputs(network.track_head, clips, generator)
    track = network.track_head.combine(inputs.volume, inputs.content, inputs.validity)
    first, keys = clips.latents[:, :1].float(), network.keys(clips.words)
    stream = network.stream
    try:
        network.stream = stream if sink else without_sink(stream)
        return rollout(network, track, first, keys, generator_noise(generator))
    finally:
        network.stream = stream


def without_tracks(data: Rendered) -> Rendered:
    """The same clips with no track visible: the first frame stands still."""
    silent = torch.ones(data.clips.latents.shape[:2], dtype=torch.bool)
    still = data.frames[:, :1].expand_as(data.frames)
    return dataclasses.replace(
        data, clips=silence(data.clips, silent), moved=still, moved_valid=torch.zeros_like(data.moved_valid)
    )


@torch.no_grad()
def _methods(
    network: Network, decoder: Decoder, data: Rendered, guide: Network | None, teacher_steps: int
) -> dict[str, Tensor]:
    clips, mute = data.clips, without_tracks(data)
    made = stream_clips(network, clips)
    rows = {
        "truth": data.frames,
        "truth through the autoencoder": decoder.alone(clips.latents.float()),
        "first frame held still": data.frames[:, :1].expand_as(data.frames),
        "first frame warped": data.moved,
        "student": decoder(made, data),
        "student, decoder alone": decoder.alone(made),
        "student without sink": decoder(stream_clips(network, clips, sink=False), data),
        "student without tracks": decoder(stream_clips(network, mute.clips), mute),
    }
    if guide is not None:
        generator = torch.Generator().manual_seed(0)
        rows["teacher, joint guidance"] = decoder(sample_teacher(guide, clips, generator, steps=teacher_steps), data)
    return rows


def _measure(rows: dict[str, Tensor], data: Rendered, tracker: Tracker) -> dict[str, dict[str, float]]:
    """Per method: PSNR, SSIM, sharpness, and EPE of object and background points (mean and median)."""
    followed = {
        name: [_follow(tracker, data, row, frames) for row in range(len(frames))] for name, frames in rows.items()
    }
    table: dict[str, dict[str, float]] = {}
    for name, frames in rows.items():
        table[name] = {
            "psnr": round(psnr(frames[:, 1:], data.frames[:, 1:]), 2),
            "ssim": round(ssim(frames[:, 1:], data.frames[:, 1:]), 4),
            "sharpness": round(sharpness(frames[:, 1:]), 4),
        }
        errors: dict[str, list[float]] = {"object": [], "background": []}
        for row in range(len(frames)):
            wanted, visible = _wanted(tracker, data, row)
            own, _ = track_errors(followed["truth"][row], wanted, visible)
            distances, counts = track_errors(followed[name][row], wanted, visible, own < TRUSTED_PIXELS)
            belongs = data.owner[row][_starts(data, row)].numpy() >= 0
            errors["object"] += distances[belongs][counts[belongs]].tolist()
            errors["background"] += distances[~belongs][counts[~belongs]].tolist()
        for kind, values in errors.items():
            table[name][f"epe_{kind}"] = summary(values)
            table[name][f"epe_{kind}_median"] = round(float(np.median(values)), 3) if values else float("nan")
            table[name][f"points_{kind}"] = len(values)
    return table


def _starts(data: Rendered, row: int) -> Tensor:
    return data.clips.visible[row, :, 0]


def _wanted(tracker: Tracker, data: Rendered, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Wanted places [N, hops, 2] and visibility of the tracks that start visible, at the looked-at frames."""
    starts = _starts(data, row)
    points = data.clips.points[row, starts][:, :: tracker.hop].float().numpy()
    visible = np.logical_and.accumulate(data.clips.visible[row, starts].numpy(), axis=1)
    return points, visible[:, :: tracker.hop]


def _follow(tracker: Tracker, data: Rendered, row: int, frames: Tensor) -> np.ndarray:
    wanted, _ = _wanted(tracker, data, row)
    return tracker.follow(to_bytes(frames[row]), wanted[:, 0])


def _contact_sheet(path: Path, data: Rendered, rows: dict[str, Tensor]) -> None:
    """Per clip: first frame, then truth, warped, student and student without tracks at the last frame, and midway."""
    last = data.frames.shape[1] - 1
    names = ("truth", "first frame warped", "student")
    columns = [data.frames[:, 0]]
    for time in (last // 2, last):
        columns += [rows[name][:, time] for name in names]
    save_sheet(path, torch.stack(columns, dim=1))
