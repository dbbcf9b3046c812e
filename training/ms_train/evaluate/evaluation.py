"""Stage 5: how well a student follows tracks and what its pictures are worth, beside baselines."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor

from ms_infer.checkpoint import load_student
from ms_infer.config import StreamConfig
from ms_infer.demo import demo_checkpoint
from ms_infer.errors import ConfigError
from ms_infer.model.layers import LayerNetwork
from ms_infer.model.taehv import TinyVae
from ms_train.data.assets import Assets, load_assets
from ms_train.data.clips import ClipConfig, ClipMaker, Rendered
from ms_train.data.scene import SceneConfig, draw_scene
from ms_train.evaluate.ablation import ablated_rows
from ms_train.evaluate.drift import measure_drift
from ms_train.evaluate.measure import LAYERS_ALONE, held_still, measure_rows, stream_clips, without_tracks
from ms_train.evaluate.photographs import photograph_sheet
from ms_train.evaluate.regions import baselines, measure_regions, region_clips, summarise
from ms_train.evaluate.rest import measure_rest, photographs_at_rest, scenes_at_rest
from ms_train.evaluate.swaps import make_swaps, measure_swaps
from ms_train.evaluate.tables import markdown
from ms_train.evaluate.trackers import best_tracker
from ms_train.evaluate.transfer import measure_transfer
from ms_train.features import Features, load_features
from ms_train.loop import write_json
from ms_train.sheets import save_sheet
from ms_train.stages.refine import Decoder
from ms_train.stages.teacher import sample_teacher
from ms_train.students import Network, networks, read_average

logger = logging.getLogger(__name__)

CHUNKS = 3  # of a clip
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
    region_clips: int = 32
    """Clips whose things and uncovered ground are measured; 0 leaves them out."""
    panoramas: int = 4
    """Views of held-out panoramas whose main thing is dragged, beside the photographs of the assets."""
    rest_frames: int = 1000
    """RGB frames for which pictures are left alone; 0 leaves it out."""
    rest_scenes: int = 6
    """Held-out scenes among them, beside the photographs of the assets."""
    rest_bundle: Path | None = None
    """An export of the checkpoint for these streams: faster on a CPU than PyTorch in fp32."""
    drift_frames: int = 2000
    """Length of the long rollout; 0 leaves it out."""
    seed: int = 5
    threads: int = 0


DEFAULTS = EvaluateConfig()


def evaluate(checkpoint: Path, assets: Path, config: tyro.conf.OmitArgPrefixes[EvaluateConfig] = DEFAULTS) -> None:
    """Measure a student file, or "demo", on held-out assets (all of them, where the folder holds no such names)."""
    if config.threads:
        torch.set_num_threads(config.threads)
    student = load_student(student_file(checkpoint), dtype=torch.float32)
    if student.layer_network is None:
        raise ConfigError(f"{checkpoint} has no layer network; the tables compare a student with its layers alone")
    network, vae = networks(student)
    decoder = Decoder(vae, student.refiner)
    held_out = load_assets(assets, "held_out", size=student.config.height)
    tracker = best_tracker(assets)
    result: dict[str, Any] = {
        "command": "python -m ms_train " + " ".join(sys.argv[1:]),
        "tracker": tracker.name,
        "clips": config.clips,
        "sets": {},
        "ablation": {},
    }
    guide = _guide(student.config, config.teacher)
    makers = {
        name: set_maker(student.config, held_out, vae, scene, config.seed, student.layer_network)
        for name, scene in SETS.items()
    }
    for name, maker in makers.items():
        data = maker.make_with_frames(0, config.clips)
        rows = _methods(network, decoder, data, guide, config.teacher_steps)
        result["sets"][name] = measure_rows(rows, data, tracker)
        result["ablation"][name] = measure_rows(ablated_rows(network, decoder, data), data, tracker)
        if config.sheets is not None:
            _contact_sheet(config.sheets / f"{name.replace(' ', '_')}.png", data, rows)
        logger.info("%s: %s", name, result["sets"][name])
    drags = makers["object drags"]
    if config.region_clips:
        result["regions"] = _regions(drags, network, decoder, assets, config)
    result["swaps"] = measure_swaps(network, decoder, make_swaps(drags, config.clips), tracker, config.sheets)
    result["transfer"] = measure_transfer(network, decoder, drags, assets, tracker, config.sheets)
    if config.sheets is not None:
        sheet = config.sheets / "photographs.png"
        result["photographs"] = photograph_sheet(
            student, assets / "photos", held_out, config.panoramas, config.seed, sheet
        )
    if config.rest_frames:
        pictures = scenes_at_rest(held_out, student.config.height, config.rest_scenes, config.seed)
        pictures += photographs_at_rest(assets / "photos", student.config.height)
        result["rest"] = measure_rest(student, pictures, config.rest_frames, logger.info, config.rest_bundle)
    if config.drift_frames:
        result["drift"] = measure_drift(student, held_out, config.drift_frames, config.seed, config.sheets)
    _write(result, config)


def student_file(checkpoint: Path) -> Path:
    """The checkpoint given, or that of the package for "demo"."""
    return demo_checkpoint() if checkpoint == Path("demo") else checkpoint


def _regions(
    maker: ClipMaker, network: Network, decoder: Decoder, assets: Path, config: EvaluateConfig
) -> dict[str, dict[str, Any]]:
    """Numbers of regions: baselines, the layers alone and the student."""

    def methods(data: Rendered) -> dict[str, Tensor]:
        return {LAYERS_ALONE: data.moved, "student": decoder(stream_clips(network, data.clips), data)}

    return measure_set(maker, methods, load_features(assets), config)


def measure_set(
    maker: ClipMaker,
    methods: Callable[[Rendered], dict[str, Tensor]],
    features: Features | None,
    config: EvaluateConfig,
) -> dict[str, dict[str, Any]]:
    """Regions of the maker's clips, in batches of `config.clips`."""
    parts = []
    for number in range(-(-config.region_clips // config.clips)):
        generator = torch.Generator().manual_seed(maker.seed_of(number))
        scene = draw_scene(maker.assets, config.clips, generator, maker.config.scene)
        data = maker.film(scene, generator)
        clips = region_clips(maker.assets, scene, data)
        rows = {**baselines(maker.assets, clips), **methods(data)}
        parts.append(measure_regions(rows, clips, features))
        if config.sheets is not None and number == 0:
            columns = [data.frames[:, 0], data.frames[:, -1], *(frames[:, -1] for frames in rows.values())]
            save_sheet(config.sheets / "regions.png", torch.stack(columns, dim=1))
    return summarise(parts)


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


def set_maker(
    stream: StreamConfig,
    assets: Assets,
    vae: TinyVae,
    scene: SceneConfig,
    seed: int,
    layer_network: LayerNetwork | None = None,
) -> ClipMaker:
    """Makes clips of three chunks, with all their tracks, at the stream's size."""
    scene = scene.scaled(stream.height)
    config = ClipConfig(chunks=CHUNKS, scene=scene, dense_share=1.0, silent_share=0.0, whole_objects=True)
    return ClipMaker(stream, assets, vae, config, seed, layer_network)


@torch.no_grad()
def _methods(
    network: Network, decoder: Decoder, data: Rendered, guide: Network | None, teacher_steps: int
) -> dict[str, Tensor]:
    clips, mute = data.clips, without_tracks(data)
    made = stream_clips(network, clips)
    rows = {
        "truth": data.frames,
        "truth through the autoencoder": decoder.alone(clips.latents.float()),
        "first frame held still": held_still(data),
        LAYERS_ALONE: data.moved,
        "student": decoder(made, data),
        "student, decoder alone": decoder.alone(made),
        "student without sink": decoder(stream_clips(network, clips, sink=False), data),
        "student without tracks": decoder(stream_clips(network, mute.clips), mute),
    }
    if guide is not None:
        generator = torch.Generator().manual_seed(0)
        rows["teacher, joint guidance"] = decoder(sample_teacher(guide, clips, generator, steps=teacher_steps), data)
    return rows


def _contact_sheet(path: Path, data: Rendered, rows: dict[str, Tensor]) -> None:
    """Per clip: first frame, then truth, layers alone and student, midway and at the last frame."""
    last = data.frames.shape[1] - 1
    names = ("truth", LAYERS_ALONE, "student")
    columns = [data.frames[:, 0]]
    for time in (last // 2, last):
        columns += [rows[name][:, time] for name in names]
    save_sheet(path, torch.stack(columns, dim=1))
