"""Models in training: one module that holds transformer, track head and text encoder, and its files."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ms_infer.checkpoint import Student, load_student, save_student
from ms_infer.config import PATCH, StreamConfig
from ms_infer.errors import CheckpointError, ConfigError
from ms_infer.model.layers import LayerNetwork
from ms_infer.model.refiner import Refiner
from ms_infer.model.taehv import TinyVae
from ms_infer.model.track_head import TrackHead
from ms_infer.model.transformer import Attend, CrossKeys, Transformer
from ms_infer.model.word_encoder import WordEncoder
from ms_train.data.clips import Clips
from ms_train.loop import CHECKPOINT

LATENT_VARIANCE = 0.25  # of the tiny autoencoder's latents (analytic.py)


class Network(nn.Module):
    """What a stage trains: the three parts that make a flow out of clips."""

    def __init__(self, stream: StreamConfig) -> None:
        super().__init__()
        self.stream = stream
        self.transformer = Transformer(stream.model)
        self.track_head = TrackHead(stream)
        self.text_encoder = WordEncoder(stream.model.text) if stream.model.text.kind == "words" else None

    def keys(self, text: Tensor) -> CrossKeys:
        """Cross-attention keys of word rows int `[B, tokens]`, or of ready embeddings `[B, tokens, dim]`."""
        if self.text_encoder is not None and not text.is_floating_point():
            text = self.text_encoder(text.long())
        image = None
        if self.stream.model.image_tokens:
            model = self.stream.model
            image = text.new_zeros(len(text), model.image_tokens, model.image_dim)
        return self.transformer.condition(text, image)

    def flow(
        self, noisy: Tensor, timestep: Tensor, track: Tensor, image: Tensor, keys: CrossKeys, attend: Attend
    ) -> Tensor:
        """noisy, track, image: `[B, F, C, h, w]`; timestep `[B, F]`. Returns the flow `[B, F, C, h, w]`."""
        slots = {"noise": noisy, "track": track, "image": image}
        slots["mask"] = image.new_ones(*image.shape[:2], 4, *image.shape[3:]) * (image != 0).any(2, keepdim=True)
        x = torch.cat([slots[slot].to(noisy.dtype) for slot, _ in self.stream.model.layout], dim=2)
        flow: Tensor = self.transformer(x, timestep, keys, attend)
        return flow


def networks(student: Student) -> tuple[Network, TinyVae]:
    """A student's parts as the training code sees them; ConfigError without autoencoder or track head."""
    if student.track_head is None or not isinstance(student.vae, TinyVae):
        raise ConfigError(f"a track head and a tiny autoencoder are needed; {student.source} lacks one")
    network = Network(student.config)
    network.transformer, network.track_head = student.transformer, student.track_head
    network.text_encoder = student.text_encoder
    return network.eval().requires_grad_(False), student.vae.eval().requires_grad_(False)


def is_student(path: Path) -> bool:
    """Whether this is a student file, not the folder of a stage."""
    return path.suffix == ".safetensors"


def read_networks(path: Path) -> tuple[Network, TinyVae]:
    """The parts of a student file in float32, as `networks` gives them."""
    return networks(load_student(path, dtype=torch.float32))


def read_average(path: Path, part: str = "average") -> dict[str, Tensor]:
    """Averaged weights of a stage checkpoint, or those of a student file; CheckpointError when there are none."""
    if is_student(path):
        return dict(read_networks(path)[0].state_dict())
    file = path / CHECKPOINT if path.is_dir() else path
    if not file.exists():
        raise CheckpointError(f"{file} does not exist; run the stage that makes it first")
    state = torch.load(file, map_location="cpu", weights_only=True)
    if part not in state:
        raise CheckpointError(f"{file} holds {sorted(state)}, no {part!r}: it is of another stage")
    values: dict[str, Tensor] = state[part]["values"]
    return values


def image_slots(stream: StreamConfig, first: Tensor, frames: int, start: int = 0) -> Tensor:
    """The image slot `[B, frames, C, h, w]` of latent frames from `start` on, out of `first` `[B, 1, C, h, w]`."""
    if stream.model.image_at == "every":
        return first.expand(-1, frames, -1, -1, -1)
    zeros = torch.zeros_like(first).expand(-1, frames - (start == 0), -1, -1, -1)
    return torch.cat([first, zeros], dim=1) if start == 0 else zeros


@torch.no_grad()
def warm_start_(network: Network) -> None:
    """Begin as "the video is the moved first frame": blocks add nothing, the head reads noise minus track.

    The patch embedding becomes an isometry without a mean, so that the head's norm keeps what it needs. Only for
    models whose input fits their width and whose head carries content; others keep their initialisation.
    """
    transformer, model = network.transformer, network.stream.model
    inputs, cells = PATCH * PATCH * model.in_channels, PATCH * PATCH
    last = transformer.time_projection[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    for block in transformer.blocks:
        nn.init.zeros_(block.cross_attn.o.weight)  # type: ignore[union-attr,arg-type]
        nn.init.zeros_(block.cross_attn.o.bias)  # type: ignore[union-attr,arg-type]
    nn.init.zeros_(transformer.head.modulation)
    if inputs >= model.dim or model.slot_channels("track") != model.latent_channels:
        return
    frame = torch.randn(model.dim, inputs)
    basis, _ = torch.linalg.qr(frame - frame.mean(0))
    transformer.patch_embedding.weight.copy_(basis.view_as(transformer.patch_embedding.weight))
    nn.init.zeros_(transformer.patch_embedding.bias)  # type: ignore[arg-type]
    # Rows of `basis.T` are (channel, row, column); the head's outputs are (row, column, channel).
    back = basis.T.view(model.in_channels, cells, model.dim)
    offsets = {}
    total = 0
    for slot, channels in model.layout:
        offsets[slot] = total
        total += channels
    count = model.latent_channels
    difference = back[offsets["noise"] :][:count] - back[offsets["track"] :][:count]
    weight = difference.transpose(0, 1).reshape(cells * count, model.dim)
    variance = cells * (count + LATENT_VARIANCE * (model.in_channels - count))
    spread = (variance / model.dim) ** 0.5  # deviation of a token once the noise is pure
    transformer.head.head.weight.copy_(weight * spread)
    nn.init.zeros_(transformer.head.head.bias)


@dataclass(frozen=True)
class TrackInputs:
    """Inputs of the track head for a run of latent frames, ready for `TrackHead.combine`."""

    volume: Tensor
    content: Tensor
    validity: Tensor


def pick_chunks(clips: Clips, chunks: Tensor, chunk_frames: int) -> Clips:
    """The chunks named by `chunks` [B, K] (the first one 0) of every clip, joined in time."""
    frames = (chunks[..., None] * chunk_frames + torch.arange(chunk_frames, device=chunks.device)).flatten(1)
    rgb = torch.stack([4 * frames - 3 + j for j in range(4)], dim=-1).flatten(1)[:, 3:]
    rows = torch.arange(len(frames), device=frames.device)[:, None]
    return replace(
        clips,
        latents=clips.latents[rows, frames],
        content=clips.content[rows, frames],
        validity=clips.validity[rows, frames],
        points=clips.points.transpose(1, 2)[rows, rgb].transpose(1, 2),
        visible=clips.visible.transpose(1, 2)[rows, rgb].transpose(1, 2),
    )


def silence(clips: Clips, silent: Tensor) -> Clips:
    """Take the tracks away at latent frames `silent` bool [B, F]: the first frame stands still there."""
    mask = silent[:, :, None, None, None]
    return replace(
        clips,
        content=torch.where(mask, _still(clips), clips.content),
        validity=torch.where(mask, torch.zeros_like(clips.validity), clips.validity),
        visible=clips.visible & ~_rgb(silent)[:, None],
    )


def at_rest(clips: Clips, start: Tensor, standing: Tensor, words: Tensor) -> Clips:
    """Clips that come to rest: from latent frame `start` [B] on they show the first frame, all of it valid.

    standing: bool [B], whether tracks stay at their places in the first frame, or none is seen; words: int
    `[B, tokens]`, the prompt of the clips that rest at any time (`start` < F).
    """
    frames = clips.latents.shape[1]
    rests = torch.arange(frames, device=start.device) >= start[:, None]
    mask, rgb, still = rests[:, :, None, None, None], _rgb(rests)[:, None], _still(clips)
    return replace(
        clips,
        latents=torch.where(mask, still, clips.latents),
        content=torch.where(mask, still, clips.content),
        validity=torch.where(mask, torch.ones_like(clips.validity), clips.validity),
        points=torch.where(rgb[..., None], clips.points[:, :, :1], clips.points),
        visible=torch.where(rgb, clips.visible[:, :, :1] & standing[:, None, None], clips.visible),
        words=torch.where((start < frames)[:, None], words, clips.words),
    )


def _still(clips: Clips) -> Tensor:
    """Latents `[B, F, C, h, w]` of the first frame held for the length of the clips."""
    frames = clips.latents.shape[1]
    later = clips.still[:, -1:].expand(-1, max(0, frames - clips.still.shape[1]), -1, -1, -1)
    return torch.cat([clips.still[:, :frames], later], dim=1)


def _rgb(mask: Tensor) -> Tensor:
    """RGB frames `[B, 4 F - 3]` of latent frames `[B, F]`."""
    return torch.cat([mask[:, :1], mask[:, 1:].repeat_interleave(4, dim=1)], dim=1)


def track_inputs(head: TrackHead, clips: Clips, generator: torch.Generator) -> TrackInputs:
    """Random ids scattered along the tracks, with the moved first frame."""
    shape = clips.points.shape[:2]
    ids = torch.randint(head.config.id_range, shape, generator=generator, device=generator.device)
    with torch.no_grad():
        volume = head.pack_ids(clips.points.float(), clips.visible, ids, opening=True)
    return TrackInputs(volume, clips.content.float(), clips.validity.float())


def export(
    network: Network,
    vae: TinyVae,
    values: dict[str, Tensor] | None,
    path: Path,
    refiner: Refiner | None = None,
    layer_network: LayerNetwork | None = None,
) -> None:
    """Write a student file in bf16, with averaged weights `values` where given; without a refiner it names none."""
    network = copy.deepcopy(network)
    if values is not None:
        network.load_state_dict(values)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_student(as_student(network, vae, refiner, layer_network), path, dtype=torch.bfloat16)


def as_student(
    network: Network,
    vae: TinyVae,
    refiner: Refiner | None = None,
    layer_network: LayerNetwork | None = None,
) -> Student:
    """The parts of a student, not copied; without a refiner its settings name none."""
    model = replace(network.stream.model, refiner=None if refiner is None else refiner.config)
    stream = replace(network.stream, model=model)
    parts = (network.transformer, network.track_head, network.text_encoder, vae, refiner, layer_network)
    return Student(stream, *parts)
