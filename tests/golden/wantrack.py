"""The stored rollout of FastVideo's causal WanTrack, played through a whole `Stream` of any engine.

Nothing is put into the model's input by hand: the checkpoint is opened as every user's is, tracks go through the
stream's player, and an autoencoder and an image encoder stand in whose results are those that the case stores.
"""

from __future__ import annotations

import dataclasses
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ms_infer import Stream, Tracks
from ms_infer.checkpoint import Student, load_student
from ms_infer.checkpoint.parts import part_shapes
from ms_infer.config import TextConfig, VaeConfig, preset
from ms_infer.engines.base import Engine
from ms_infer.model.vae import Shape, State, Vae
from ms_infer.numerics import noise
from tests.diffusers_names import to_diffusers

FOLDER = Path(__file__).parent
META = json.loads((FOLDER / "wantrack_c3s1w2.json").read_text())
STRIDE = 8


def stored() -> dict[str, Tensor]:
    return load_file(FOLDER / "wantrack_c3s1w2.safetensors")


class StoredVae(Vae):
    """Encodes whatever comes to the stored latents, one after the other; its state counts them."""

    def __init__(self, latents: Tensor) -> None:
        """latents: `[F, C, h, w]`."""
        super().__init__(VaeConfig())
        self.latents = nn.Parameter(latents, requires_grad=False)

    def _encode(self, frames: Tensor, state: State, opening: bool) -> tuple[Tensor, State]:
        place = state[0] * 0 if opening else state[0]
        index = place.long().clamp(max=len(self.latents) - 1)
        return self.latents.index_select(0, index)[None], [place + 1]

    def _decode(self, latents: Tensor, state: State, opening: bool) -> tuple[Tensor, State]:
        count = latents.shape[1] * 4 - 3 * opening
        grey = latents[:, :1, :1, :1, :1] * 0 + 0.5
        return grey.expand(-1, count, 3, STRIDE * latents.shape[3], STRIDE * latents.shape[4]), [state[0] + 1]

    def _encoder_shapes(self, batch: int, height: int, width: int) -> list[Shape]:
        return [(1,)]

    def _decoder_shapes(self, batch: int, latent_height: int, latent_width: int) -> list[Shape]:
        return [(1,)]


class StoredTokens(nn.Module):
    """Sees the stored tokens in every picture."""

    def __init__(self, tokens: Tensor) -> None:
        """tokens: `[257, 1280]`."""
        super().__init__()
        self.tokens = nn.Parameter(tokens, requires_grad=False)

    def forward(self, image: Tensor) -> Tensor:
        return self.tokens[None] + 0 * image.mean()


def weights() -> dict[str, Tensor]:
    """The checkpoint's tensors under the names of FastVideo's export, by the rule in the case's JSON."""
    layers = META["config"]["num_layers"]
    model = dataclasses.replace(preset("track-v0").model, name="case", dim=256, ffn_dim=512, heads=2, layers=layers)
    model = dataclasses.replace(model, text=TextConfig(dim=META["config"]["text_dim"]))
    shapes = part_shapes("transformer", dataclasses.replace(preset("track-v0"), model=model))
    made = {to_diffusers(name): _drawn(name, tuple(like.shape)) for name, like in shapes.items()}
    return made | {name: tensor for name, tensor in stored().items() if name.startswith("track_encoder.")}


def _drawn(name: str, shape: tuple[int, ...]) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(f"0{name}".encode())))
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "weight" and len(shape) == 1:
        x = 1 + 0.05 * x
    elif leaf == "modulation" or len(shape) == 1:
        x = (0.5 if leaf == "modulation" else 0.02) * x
    else:
        x = x / math.prod(shape[1:]) ** 0.5
    return x.bfloat16()


def student(folder: Path) -> Student:
    """The case's checkpoint, opened from a folder laid out as FastVideo's export is."""
    transformer = folder / "transformer"
    transformer.mkdir(parents=True)
    (transformer / "config.json").write_text(json.dumps(META["config"]))
    save_file(weights(), transformer / "diffusion_pytorch_model.safetensors")
    opened = load_student(folder, dtype=torch.float32)
    data, config = stored(), opened.config
    assert opened.track_head is not None
    height, width = (side * STRIDE for side in META["latent_hw"])
    schedule = dataclasses.replace(config.schedule, shifted_twice=False)  # as the case was made
    config = dataclasses.replace(config, height=height, width=width, schedule=schedule)
    opened.track_head.stream = config
    return dataclasses.replace(
        opened,
        config=config,
        vae=StoredVae(data["image_latent"][0].transpose(0, 1).contiguous()),
        image_encoder=StoredTokens(data["clip"][0]),
    )


def use_stored_noise(patch: pytest.MonkeyPatch) -> None:
    data = stored()
    starts = np.cumsum([0, *META["blocks"]])

    def normal(seed: int, chunk: int, denoise_pass: int, count: int) -> Any:
        if chunk >= len(META["blocks"]):  # drawn ahead, never used
            return np.zeros(count, np.float32)
        if denoise_pass:
            return data[f"renoise.{chunk}.{denoise_pass - 1}"].numpy().reshape(-1)
        return data["noise"][:, :, starts[chunk] : starts[chunk + 1]].transpose(1, 2).numpy().reshape(-1)

    patch.setattr(noise, "normal", normal)


def play(engine: Engine) -> list[float]:
    """Largest difference of every block's latents to the stored ones."""
    data, config = stored(), engine.config
    tracks = Tracks(
        data["track_points_normalised"][0].transpose(0, 1).numpy(),
        data["track_visibility"][0].T.numpy() > 0,
        data["track_ids"][0].numpy(),
        fps=config.fps,
    )
    image = np.zeros((config.height, config.width, 3), np.uint8)
    differences = []
    with Stream(engine) as stream:
        stream.start(image, data["text"][0].numpy(), tracks)
        for block, frames in enumerate(META["blocks"]):
            stream.step()
            made = newest_latents(engine, frames)
            expected = data[f"x0.{block}"][0].numpy()
            differences.append(float(np.abs(made - expected).max()))
    return differences


def newest_latents(engine: Engine, frames: int) -> Any:
    """The last `frames` latent frames `[frames, C, h, w]` of what the engine remembers."""
    state = engine.state()
    rows = state["history"][0] if "history" in state else state["history.noise"]
    return rows[-frames:, : engine.config.model.latent_channels]
