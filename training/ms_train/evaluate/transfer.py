"""Motion transfer: real clips, made again from their first frame and the tracks found in them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_infer.config import StreamConfig
from ms_infer.media import read_video
from ms_infer.tracks import Tracks
from ms_train.data.clips import ClipMaker, Rendered
from ms_train.data.scene_tracks import BACKGROUND, SceneTracks
from ms_train.evaluate.measure import LAYERS_ALONE, Table, held_still, measure_rows, stream_clips
from ms_train.evaluate.trackers import Tracker
from ms_train.sheets import save_sheet
from ms_train.stages.refine import Decoder
from ms_train.students import Network

logger = logging.getLogger(__name__)

FOLDER = "clips"
GRID = 12  # points a side
MOST_FRAMES = 33
LOOKED_AT = 6  # frames of a clip in the contact sheet


def measure_transfer(
    network: Network, decoder: Decoder, maker: ClipMaker, assets: Path, tracker: Tracker, sheets: Path | None
) -> dict[str, Any]:
    """Per real clip of `assets`/clips and as a mean over them: PSNR, SSIM and EPE; empty without such clips."""
    tables: dict[str, Table] = {}
    for path in sorted((assets / FOLDER).glob("*.mp4")):
        frames = read_clip(path, network.stream)
        if frames is None:
            logger.warning("%s is shorter than a chunk and left out", path)
            continue
        data = as_rendered(maker, frames)
        rows = {
            "truth": data.frames,
            "first frame held still": held_still(data),
            LAYERS_ALONE: data.moved,
            "student": decoder(stream_clips(network, data.clips), data),
        }
        tables[path.stem] = measure_rows(rows, data, tracker)
        if sheets is not None:
            _sheet(sheets / f"transfer_{path.stem}.png", rows)
    return {"clips": tables, "mean": mean_table(list(tables.values()))} if tables else {}


def read_clip(path: Path, stream: StreamConfig) -> NDArray[np.uint8] | None:
    """The first frames of a video at the stream's size and rate, whole chunks and at most 33; None when too short."""
    frames, _ = read_video(path, stream.height, stream.width, MOST_FRAMES, fps=stream.fps)
    chunk = 4 * stream.context.chunk_frames  # RGB frames; the first chunk has three fewer
    whole = (len(frames) + 3) // chunk * chunk - 3
    return frames[:whole] if whole > 0 else None


def as_rendered(maker: ClipMaker, frames: NDArray[np.uint8]) -> Rendered:
    """A real clip uint8 [T, H, W, 3] as the evaluation's data: a grid that optical flow follows, no caption."""
    tracks = Tracks.from_video(frames, GRID, GRID, fps=maker.stream.fps)
    points, visible = torch.tensor(tracks.points)[None], torch.tensor(tracks.visible)[None]
    owner = torch.full(points.shape[:2], BACKGROUND)
    found = SceneTracks(points, visible, points[:, :, 0], owner, visible[:, :, 0])
    pictures = torch.tensor(frames).permute(0, 3, 1, 2)[None].float() / 255
    return maker.assemble(pictures, found, [""])


def mean_table(tables: list[Table]) -> Table:
    """The mean of every number over tables of the same methods; points that count are summed."""
    mean: Table = {}
    for method in tables[0] if tables else ():
        mean[method] = {}
        for key in tables[0][method]:
            values = [table[method][key] for table in tables if key in table[method]]
            mean[method][key] = sum(values) if key.startswith("points") else round(float(np.mean(values)), 4)
    return mean


def _sheet(path: Path, rows: dict[str, Tensor]) -> None:
    """One line a method: frames at equal distances in time."""
    lines = []
    for frames in rows.values():
        picked = torch.linspace(0, frames.shape[1] - 1, LOOKED_AT).round().long()
        lines.append(frames[0, picked])
    save_sheet(path, torch.stack(lines))
