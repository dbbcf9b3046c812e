"""Long rollouts: does the picture keep its place, colours and sharpness over thousands of frames?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_infer.config import rgb_frames
from ms_infer.model.context import ContextCache
from ms_infer.model.warp import motion_layers, warp_first_frame
from ms_infer.numerics.schedule import denoise_steps
from ms_train.data.assets import Assets
from ms_train.data.captions import captions
from ms_train.data.render import render
from ms_train.data.scene import Scene, SceneConfig, draw_scene
from ms_train.data.scene_tracks import draw_tracks
from ms_train.evaluate.measure import without_sink
from ms_train.evaluate.metrics import FlowTracker, offset_errors
from ms_train.pictures import save_sheet, to_bytes
from ms_train.quality import sharpness
from ms_train.stages.refine import Decoder
from ms_train.students import Network, image_slots

SEGMENT = 100
EVERY = 20  # RGB frames between two looked-at frames
ENDS = 2  # segments at either end that are compared


def measure_drift(
    network: Network, decoder: Decoder, assets: Assets, frames: int, seed: int, sheets: Path | None
) -> dict[str, Any]:
    """Per 100 frames: offset from the truth at the tracks, sharpness and mean colour; with and without the sink.

    The scene has waves only, so that objects and camera stay near for ever. The offset is the optical flow from the
    true to the made picture at visible track points (0 on the truth itself). "truth" has no offset; "summary" holds
    what `compare_ends` makes of each.
    """
    generator = torch.Generator(device=assets.device).manual_seed(seed)
    config = SceneConfig(size=network.stream.height, drag_share=0.0, look_share=0.0, solid_share=0.0)
    scene = draw_scene(assets, 1, generator, config)
    result: dict[str, Any] = {"frames": frames, "segment": SEGMENT}
    for name, sink in (("student", True), ("without sink", False)):
        tracker, looks, true_looks, kept = FlowTracker(), [], [], []
        draws = torch.Generator().manual_seed(seed)
        for first, made, truth, points, visible in stream_scene(
            network, decoder, assets, scene, frames, draws, sink=sink
        ):
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
    result["summary"] = {name: compare_ends(result[name]) for name in ("truth", "student", "without sink")}
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


@torch.no_grad()
def stream_scene(
    network: Network,
    decoder: Decoder,
    assets: Assets,
    scene: Scene,
    frames: int,
    generator: torch.Generator,
    *,
    sink: bool = True,
) -> Iterator[tuple[int, Tensor, Tensor, Tensor, Tensor]]:
    """Stream one scene chunk by chunk.

    Yields (first frame, made [T, 3, H, W], truth [T, 3, H, W], points [N, T, 2], visible [N, T]).
    """
    stream, vae = network.stream if sink else without_sink(network.stream), decoder.vae
    text = network.text_encoder.tokenize(captions(assets, scene, 57)[0]) if network.text_encoder else []
    keys = network.keys(torch.tensor([text]))
    image = render(assets, scene, torch.zeros(1, 1))[:, 0]
    size = (stream.height, stream.width)
    first_latent, _ = vae.encode(image[:, None], vae.encoder_state(1, *size), opening=True)
    moved_state = vae.encoder_state(1, *size)
    made_state = vae.decoder_state(1, stream.latent_height, stream.latent_width)
    ids = torch.randint(network.track_head.config.id_range, (1, 1024), generator=generator)
    jitter = torch.Generator(device=assets.device)
    cache = ContextCache(stream)
    chunk = start = time = 0
    while time < frames:
        length = stream.context.span(chunk).frames
        opening = start == 0
        count = rgb_frames(length, first=opening)
        times = torch.arange(time, time + count, dtype=torch.float32)[None]
        jitter.manual_seed(1)  # the same points in every chunk
        tracks = draw_tracks(assets, scene, times, jitter)
        moved, valid = warp_first_frame(image, tracks.points, tracks.visible, tracks.anchors)
        content, moved_state = vae.encode(moved, moved_state, opening=opening)
        track = network.track_head(
            tracks.points,
            tracks.visible,
            ids[:, : tracks.points.shape[1]],
            opening=opening,
            content=content,
            validity=valid,
        )
        cache.place_(start, length)
        slots = image_slots(stream, first_latent, length, start)
        x = torch.randn(1, length, *first_latent.shape[2:], generator=generator)
        for step in denoise_steps(stream.schedule):
            timestep = torch.full((1, length), step.timestep, dtype=torch.float64)
            x = x - step.sigma * network.flow(x, timestep, track, slots, keys, cache)
            if step.next_sigma:
                x = (1 - step.next_sigma) * x + step.next_sigma * torch.randn(x.shape, generator=generator)
        clean = torch.full((1, length), stream.schedule.context_timestep, dtype=torch.float64)
        network.flow(x, clean, track, slots, keys, cache)
        made, made_state = vae.decode(x, made_state, opening=opening)
        if decoder.refiner is not None:
            layers = motion_layers(image, tracks.points, tracks.visible, tracks.anchors)
            made = decoder.refiner(made, moved, valid, layers)
        truth = render(assets, scene, times)
        yield time, made[0], truth[0], tracks.points[0], tracks.visible[0]
        chunk, start, time = chunk + 1, start + length, time + count
