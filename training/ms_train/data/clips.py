"""Rendered clips as the later stages see them: latents, moved first frame, tracks and caption words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ms_infer.config import StreamConfig, rgb_frames
from ms_infer.errors import ConfigError
from ms_infer.model.layers import LayerNetwork, move_first_frame
from ms_infer.model.taehv import TinyVae
from ms_infer.model.track_head import TrackHead
from ms_infer.model.word_encoder import WordEncoder
from ms_train.analytic import encode_directly, is_analytic
from ms_train.codec import encode_clip
from ms_train.data.assets import Assets
from ms_train.data.captions import captions
from ms_train.data.paths import chance, uniform
from ms_train.data.render import render
from ms_train.data.scene import Scene, SceneConfig, draw_scene
from ms_train.data.scene_tracks import BACKGROUND, SceneTracks, TrackLayout, draw_tracks
from ms_train.precision import autocast


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What a rendered clip holds."""

    chunks: int = 5
    scene: SceneConfig = field(default_factory=SceneConfig)
    layout: TrackLayout = field(default_factory=TrackLayout)
    dense_share: float = 0.6
    """Share of clips that keep every background track; the others keep a random part."""
    silent_share: float = 0.04
    """Share of objects without any track."""
    whole_objects: bool = False
    """Keep every track of every object."""


@dataclass
class Clips:
    """A batch of clips of F latent frames and T RGB frames; every field has the batch first."""

    latents: Tensor
    """bf16 [B, F, C, h, w]."""
    content: Tensor
    """bf16 [B, F, C, h, w]: the moved first frame, encoded."""
    validity: Tensor
    """bf16 [B, F, 1, h, w]."""
    still: Tensor
    """bf16 [B, 3, C, h, w]: the first frame held still, encoded; the last one also stands for later ones."""
    points: Tensor
    """fp16 [B, N, T, 2]."""
    visible: Tensor
    """bool [B, N, T]."""
    words: Tensor
    """int16 [B, tokens]."""

    def __len__(self) -> int:
        return len(self.latents)

    def tensors(self) -> dict[str, Tensor]:
        """All fields by name."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def rows(self, index: Tensor) -> Clips:
        """The clips of these rows."""
        return Clips(**{name: tensor[index] for name, tensor in self.tensors().items()})

    def to(self, device: torch.device) -> Clips:
        """The same clips on another device."""
        return Clips(**{name: tensor.to(device) for name, tensor in self.tensors().items()})


@dataclass(frozen=True)
class Rendered:
    """Clips with the pictures behind them."""

    clips: Clips
    frames: Tensor
    """float32 [B, T, 3, H, W]: the truth."""
    moved: Tensor
    """float32 [B, T, 3, H, W]: the first frame moved along the tracks."""
    moved_valid: Tensor
    """float32 [B, T, 1, H, W]."""
    anchors: Tensor
    """float32 [B, N, 2]: points of the tracks in the first frame."""
    owner: Tensor
    """int64 [B, N]: object number, or -1 for the background."""


def join(parts: list[Clips]) -> Clips:
    """One batch out of several."""
    return Clips(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Clips)})


class ClipMaker:
    """Renders clip number i from seed and i alone, whatever was made before."""

    def __init__(
        self,
        stream: StreamConfig,
        assets: Assets,
        vae: TinyVae,
        config: ClipConfig,
        seed: int = 0,
        layer_network: LayerNetwork | None = None,
    ) -> None:
        if (layer_network is None) != (stream.model.layer_network is None):
            raise ConfigError(f"the model {stream.model.name!r} and the layer network come together; give both or none")
        self.stream, self.assets, self.vae, self.config, self.seed = stream, assets, vae, config, seed
        self.layer_network = layer_network
        self.words = WordEncoder(stream.model.text)
        self.head = TrackHead(stream)
        self.direct = is_analytic(vae)

    def seed_of(self, number: int) -> int:
        """Seed of batch `number`, below 2^32: a CPU's generator drops higher bits."""
        return (self.seed * 1_000_003 + number) % 2**32

    def make(self, number: int, count: int) -> Clips:
        """`count` clips drawn together, as batch `number`; chunk by chunk where the encoder has no memory."""
        if not self.direct:
            return self.make_with_frames(number, count).clips
        return self._film_by_chunks(*self._scene(number, count))

    def make_with_frames(self, number: int, count: int) -> Rendered:
        """As `make`, with the pictures."""
        return self.film(*self._scene(number, count))

    def _scene(self, number: int, count: int) -> tuple[Scene, torch.Generator]:
        generator = torch.Generator(device=self.assets.device).manual_seed(self.seed_of(number))
        return draw_scene(self.assets, count, generator, self.config.scene), generator

    @torch.no_grad()
    def film(self, scene: Scene, generator: torch.Generator) -> Rendered:
        """Clips of given scenes, with tracks that `generator` draws."""
        times, tracks = self._times(scene.batch), self._tracks(scene, generator)
        texts = captions(self.assets, scene, times.shape[1])
        return self.assemble(render(self.assets, scene, times), tracks, texts)

    @torch.no_grad()
    def _film_by_chunks(self, scene: Scene, generator: torch.Generator) -> Clips:
        """The clips of `film` without keeping the pictures of more than a chunk."""
        times, tracks = self._times(scene.batch), self._tracks(scene, generator)
        image, parts, start = render(self.assets, scene, times[:, :1])[:, 0], [], 0
        while start < times.shape[1]:
            opening = start == 0
            span = slice(start, start + rgb_frames(self.stream.context.chunk_frames, first=opening))
            pictures = render(self.assets, scene, times[:, span])
            moved, valid = self._moved(image, tracks.part(span), opening=opening)
            latents, content = self._encode(torch.cat([pictures, moved]), opening=opening).chunk(2)
            parts.append((latents, content, self.head.pool_validity(valid, opening=opening)))
            start = span.stop
        latents, content, validity = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
        return self._clips(latents, content, validity, image, tracks, captions(self.assets, scene, start))

    def _times(self, batch: int) -> Tensor:
        frames = rgb_frames(self.config.chunks * self.stream.context.chunk_frames, first=True)
        return torch.arange(frames, device=self.assets.device, dtype=torch.float32).expand(batch, -1)

    def _tracks(self, scene: Scene, generator: torch.Generator) -> SceneTracks:
        tracks = draw_tracks(self.assets, scene, self._times(scene.batch), generator, self.config.layout)
        return tracks.only(self._kept(tracks, generator))

    @torch.no_grad()
    def assemble(self, pictures: Tensor, tracks: SceneTracks, texts: Sequence[str]) -> Rendered:
        """Clips of ready pictures `[B, T, 3, H, W]` from anywhere, with their tracks and captions."""
        moved, valid = self._moved(pictures[:, 0], tracks)
        latents, content = self._encode(torch.cat([pictures, moved])).chunk(2)
        validity = self.head.pool_validity(valid, opening=True)
        clips = self._clips(latents, content, validity, pictures[:, 0], tracks, texts)
        return Rendered(clips, pictures, moved, valid, tracks.anchors, tracks.owner)

    def _clips(
        self,
        latents: Tensor,
        content: Tensor,
        validity: Tensor,
        image: Tensor,
        tracks: SceneTracks,
        texts: Sequence[str],
    ) -> Clips:
        words = [self.words.tokenize(text) for text in texts]
        return Clips(
            latents=latents,
            content=content,
            validity=validity.to(torch.bfloat16),
            still=self._encode(image[:, None].expand(-1, 9, -1, -1, -1)),
            points=tracks.points.half(),
            visible=tracks.visible,
            words=torch.tensor(words, dtype=torch.int16, device=image.device),
        )

    def _moved(self, image: Tensor, tracks: SceneTracks, *, opening: bool = True) -> tuple[Tensor, Tensor]:
        """The first frame `[B, 3, H, W]` moved along the tracks of a clip, or of a later chunk of it."""
        if self.layer_network is None:  # no track head asks for it
            still = image[:, None].expand(-1, tracks.points.shape[2], -1, -1, -1)
            return still, torch.zeros_like(still[:, :, :1])
        start, parts = 0, []
        while start < tracks.points.shape[2]:
            length = rgb_frames(self.stream.context.chunk_frames, first=opening and start == 0)
            part = tracks.part(slice(start, start + length))
            parts.append(move_first_frame(self.layer_network, image, part.points, part.visible, part.anchors))
            start += length
        moved, valid = zip(*parts, strict=True)
        return torch.cat(moved, dim=1), torch.cat(valid, dim=1)

    def _encode(self, frames: Tensor, *, opening: bool = True) -> Tensor:
        if self.direct:
            return encode_directly(self.vae, frames, opening=opening).to(torch.bfloat16)
        assert opening, "an encoder with a memory sees whole clips"
        with autocast(frames.device):
            return encode_clip(self.vae, frames).to(torch.bfloat16)

    def _kept(self, tracks: SceneTracks, generator: torch.Generator) -> Tensor:
        """bool [B, N]: a random subset, by background density and by object."""
        batch, count = tracks.owner.shape
        draw = uniform(generator, (batch, count), 0.0, 1.0)
        dense = chance(generator, (batch, 1), self.config.dense_share)
        share = torch.where(dense > 0, torch.ones_like(dense), uniform(generator, (batch, 1), 0.08, 0.7))
        objects = int(tracks.owner.max()) + 1
        object_share = uniform(generator, (batch, objects), 0.15, 1.3)
        object_share = object_share * (1 - chance(generator, (batch, objects), self.config.silent_share))
        if self.config.whole_objects:
            object_share = torch.ones_like(object_share)
        own = object_share.gather(1, tracks.owner.clamp(min=0))
        return draw < torch.where(tracks.owner == BACKGROUND, share, own)


def write_shards(maker: ClipMaker, folder: Path, numbers: Iterator[int], count: int) -> None:
    """Render batches `numbers` of `count` clips into `folder`, one safetensors file each; done ones are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path = folder / f"clips_{number:05d}.safetensors"
        if not path.exists():
            unfinished = path.with_suffix(".unfinished")
            tensors = maker.make(number, count).tensors()
            save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, unfinished)
            unfinished.replace(path)


class ClipSource:
    """Where a stage draws its clips from: shards on disk, or a pool that a GPU keeps refilling."""

    def __init__(self, folder: Path | None, maker: ClipMaker | None, *, pool: int = 64, batch: int = 16) -> None:
        if folder is None and maker is None:
            raise ConfigError("clips come from a folder of shards or from a maker; give one")
        self.folder, self.maker, self.pool, self.batch = folder, maker, pool, batch
        self._parts: dict[str, Clips] = {}
        self._joined: Clips | None = None

    def refresh(self, step: int) -> None:
        """Read new shards, or make the batch that is due at `step`; the pool depends on `step` alone."""
        names = self._wanted(step)
        if not names:
            raise ConfigError(f"{self.folder} holds no clips_*.safetensors; run `ms_train render` first")
        if list(self._parts) == names:
            return
        self._parts = {name: self._parts.get(name) or self._load(name) for name in names}
        self._joined = join(list(self._parts.values()))

    def draw(self, generator: torch.Generator, count: int) -> Clips:
        """Random clips."""
        assert self._joined is not None, "refresh() comes before draw()"
        index = torch.randint(len(self._joined), (count,), generator=generator, device=generator.device)
        return self._joined.rows(index.to(self._joined.latents.device))

    def _wanted(self, step: int) -> list[str]:
        if self.folder is not None:
            return sorted(path.name for path in self.folder.glob("clips_*.safetensors"))
        return [str(number) for number in range(step, step + self.pool)]

    def _load(self, name: str) -> Clips:
        if self.folder is not None:
            return Clips(**load_file(self.folder / name))
        assert self.maker is not None
        return self.maker.make(int(name), self.batch)
