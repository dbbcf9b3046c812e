"""Long rollouts: does the picture keep its place, colours and sharpness over thousands of frames?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ms_infer.config import rgb_frames
from ms_infer.context import ContextCache
from ms_infer.model.warp import motion_layers, warp_first_frame
from ms_infer.schedule import denoise_steps
from ms_train.assets import Assets
from ms_train.captions import captions
from ms_train.measure import without_sink
from ms_train.metrics import FlowTracker, offset_errors, sharpness
from ms_train.pictures import save_sheet, to_bytes
from ms_train.refine import Decoder
from ms_train.render import render
from ms_train.scene import Scene, SceneConfig, draw_scene
from ms_train.students import Network, image_slots
from ms_train.tracks import draw_tracks

SEGMENT = 100
EVERY = 20  # RGB frames between two looked-at frames


def measure_drift(
    network: Network, decoder: Decoder, assets: Assets, frames: int, seed: int, sheets: Path | None
) -> dict[str, Any]:
    """Per 100 frames: offset from the truth at the tracks, sharpness and mean colour; with and without the sink.

    The scene has waves only, so that objects and camera stay near for ever. The offset is the optical flow from the
    true to the made picture at visible track points (0 on the truth itself).
    """
    generator = torch.Generator(device=assets.device).manual_seed(seed)
    scene = draw_scene(assets, 1, generator, SceneConfig(drag_share=0.0, look_share=0.0, solid_share=0.0))
    result: dict[str, Any] = {"frames": frames, "segment": SEGMENT}
    for name, sink in (("student", True), ("without sink", False)):
        tracker, kept, segments = FlowTracker(), [], []
        draws = torch.Generator().manual_seed(seed)
        numbers: list[tuple[float, float, Tensor]] = []
        for first, made, truth, points, visible in stream_scene(
            network, decoder, assets, scene, frames, draws, sink=sink
        ):
            for t in range((-first) % EVERY, made.shape[0], EVERY):
                pictures = to_bytes(made[t]), to_bytes(truth[t])
                offset = offset_errors(tracker, *pictures, points[:, t].numpy(), visible[:, t].numpy())
                numbers.append((offset, sharpness(made[t : t + 1]), made[t].mean((1, 2))))
                if (first + t) % (frames // 8) < EVERY:
                    kept.append(torch.stack([truth[t], made[t]]))
        size = SEGMENT // EVERY
        for start in range(0, len(numbers) - size + 1, size):
            part = numbers[start : start + size]
            segments.append(
                {
                    "offset": round(float(np.nanmean([n[0] for n in part])), 3),
                    "sharpness": round(float(np.mean([n[1] for n in part])), 4),
                    "colour": [round(float(c), 4) for c in torch.stack([n[2] for n in part]).mean(0)],
                }
            )
        result[name] = segments
        if sheets is not None:
            save_sheet(sheets / f"drift_{name.replace(' ', '_')}.png", torch.stack(kept[:9], dim=1))
    return result


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
        length = stream.context.frames_of_chunk(chunk)
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
