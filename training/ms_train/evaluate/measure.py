"""What the sections of the evaluation share: clips that a student streams, and a table of methods beside the truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_infer.config import StreamConfig
from ms_train.data.clips import Clips, Rendered
from ms_train.evaluate.point_errors import Floats, summary, track_errors
from ms_train.evaluate.trackers import Tracker
from ms_train.quality import psnr, sharpness, ssim
from ms_train.sheets import to_bytes
from ms_train.stages.rollout import generator_noise, rollout
from ms_train.students import Network, silence, track_inputs

TRUSTED_PIXELS = 1.0  # a point counts at a frame where the tracker's own error on the true video is below this
LAYERS_ALONE = "layers alone, no student"  # the first frame as its layers move: what a student adds to
Row = dict[str, float]
Table = dict[str, Row]


def without_sink(stream: StreamConfig) -> StreamConfig:
    """The same number of latent frames in the context, all of them window."""
    context, wide = stream.context, stream.context.sink_frames + stream.context.window_frames
    return dataclasses.replace(stream, context=dataclasses.replace(context, sink_frames=0, window_frames=wide))


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


def held_still(data: Rendered) -> Tensor:
    """Baseline [B, T, 3, H, W]: the first frame at all times."""
    return data.frames[:, :1].expand_as(data.frames)


def without_tracks(data: Rendered) -> Rendered:
    """The same clips with no track visible: the first frame stands still."""
    silent = torch.ones(data.clips.latents.shape[:2], dtype=torch.bool)
    clips, nowhere = silence(data.clips, silent), torch.zeros_like(data.moved_valid)
    return dataclasses.replace(data, clips=clips, moved=held_still(data), moved_valid=nowhere)


def measure_rows(rows: dict[str, Tensor], data: Rendered, tracker: Tracker) -> Table:
    """Per method: PSNR, SSIM, sharpness, and EPE of object and background points (mean, median, points that count).

    rows: frames [B, T, 3, H, W] by method, those of "truth" among them. A kind without points has no numbers.
    """
    followed = {
        name: [follow(tracker, data, row, frames) for row in range(len(frames))] for name, frames in rows.items()
    }
    table = {}
    for name, frames in rows.items():
        table[name] = picture_numbers(frames[:, 1:], data.frames[:, 1:])
        errors: dict[str, list[float]] = {"object": [], "background": []}
        for row in range(len(frames)):
            points, visible = wanted(tracker, data, row)
            own, _ = track_errors(followed["truth"][row], points, visible)
            distances, counts = track_errors(followed[name][row], points, visible, own < TRUSTED_PIXELS)
            belongs = object_points(data, row)
            errors["object"] += distances[belongs][counts[belongs]].tolist()
            errors["background"] += distances[~belongs][counts[~belongs]].tolist()
        for kind, values in errors.items():
            table[name] |= error_numbers(kind, values)
    return table


def picture_numbers(made: Tensor, truth: Tensor) -> Row:
    """PSNR, SSIM and sharpness of frames [..., 3, H, W], rounded."""
    return {
        "psnr": round(psnr(made, truth), 2),
        "ssim": round(ssim(made, truth), 4),
        "sharpness": round(sharpness(made), 4),
    }


def error_numbers(kind: str, values: list[float]) -> Row:
    """Mean and median of end-point errors under names that end in `kind`; nothing without values."""
    if not values:
        return {}
    median = round(float(np.median(values)), 3)
    return {f"epe_{kind}": summary(values), f"epe_{kind}_median": median, f"points_{kind}": len(values)}


def wanted(tracker: Tracker, data: Rendered, row: int) -> tuple[Floats, NDArray[np.bool_]]:
    """Wanted points [N, hops, 2] and visibility of the tracks that start visible, at the looked-at frames."""
    starts = _starts(data, row)
    points = data.clips.points[row, starts][:, :: tracker.hop].float().numpy()
    visible = np.logical_and.accumulate(data.clips.visible[row, starts].numpy(), axis=1)
    return points, visible[:, :: tracker.hop]


def object_points(data: Rendered, row: int) -> NDArray[np.bool_]:
    """Which of the tracks that start visible lie on an object, [N]."""
    belongs: NDArray[np.bool_] = data.owner[row][_starts(data, row)].numpy() >= 0
    return belongs


def follow(tracker: Tracker, data: Rendered, row: int, frames: Tensor) -> Floats:
    """Points [N, hops, 2] of the tracks that start visible, as the tracker finds them in frames [B, T, 3, H, W]."""
    points, _ = wanted(tracker, data, row)
    return tracker.follow(to_bytes(frames[row]), points[:, 0])


def _starts(data: Rendered, row: int) -> Tensor:
    return data.clips.visible[row, :, 0]
