"""Stage 5: the refiner learns, on what the student streams, what the moved first frame lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from safetensors.torch import load_file, save_file
from torch import Tensor

from ms_infer.config import RefinerConfig
from ms_infer.errors import ConfigError
from ms_infer.model.refiner import STRIDE, Refiner
from ms_infer.model.taehv import TinyVae
from ms_train import parallel
from ms_train.codec import decode_clip
from ms_train.data.clips import ClipMaker, Rendered
from ms_train.features import Features, crop_around
from ms_train.loop import Average, LoopConfig, Stage
from ms_train.muon import Muon, matrix_groups
from ms_train.precision import autocast
from ms_train.quality import ssim_map
from ms_train.sheets import save_sheet
from ms_train.stages.autoencoder import edge_loss
from ms_train.stages.rollout import generator_noise, rollout
from ms_train.students import Network, track_inputs


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """Sizes and weights of the refiner's training."""

    refiner: tyro.conf.Suppress[RefinerConfig] = field(default_factory=RefinerConfig)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=4000, learning_rate=1e-3, cooldown=1500))
    batch: int = 8
    """RGB frames a step and process."""
    edge_weight: float = 1.0
    ssim_weight: float = 0.1
    light_weight: float = 1.0
    """Of the L1 of what the refiner calls light: means of 16x16 pixels."""
    texture_weight: float = 0.0
    """Of the distance in features (`weights/taef2_encoder.pth` of the assets) where the first frame shows nothing."""
    texture_crop: int = 64
    """Side in pixels of the crop around such places whose texture is compared."""


@dataclass
class Frames:
    """RGB frames from anywhere in rendered clips, each with all that the refiner sees; uint8, batch first."""

    truth: Tensor
    """[B, 3, H, W]."""
    decoded: Tensor
    """[B, 3, H, W]: what the decoder makes of the student's latents."""
    moved: Tensor
    """[B, 3, H, W]."""
    moved_valid: Tensor
    """[B, 1, H, W]."""

    def __len__(self) -> int:
        return len(self.truth)

    def rows(self, index: Tensor) -> Frames:
        """The frames of these rows."""
        return Frames(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def inputs(self) -> tuple[Tensor, ...]:
        """Arguments of the refiner: float32 `[B, 1, C, H, W]`."""
        return as_float(self.decoded), as_float(self.moved), as_float(self.moved_valid)


def as_float(frames: Tensor) -> Tensor:
    """uint8 `[B, C, H, W]` -> float32 `[B, 1, C, H, W]` in [0, 1]."""
    return frames[:, None].float() / 255


def as_bytes(frames: Tensor) -> Tensor:
    """float in [0, 1] -> uint8."""
    return frames.clamp(0, 1).mul(255).round().byte()


@dataclass(frozen=True)
class Decoder:
    """From latents to frames as a stream shows them: decoder and, where there is one, refiner."""

    vae: TinyVae
    refiner: Refiner | None = None

    @torch.no_grad()
    def alone(self, latents: Tensor) -> Tensor:
        """Frames `[B, T, 3, H, W]` without the refiner."""
        return decode_clip(self.vae, latents).clamp(0, 1)

    @torch.no_grad()
    def __call__(self, latents: Tensor, rendered: Rendered) -> Tensor:
        """Frames `[B, T, 3, H, W]` of whole clips that `rendered` holds the tracks of."""
        decoded = self.alone(latents)
        if self.refiner is None:
            return decoded
        sources = (decoded, rendered.moved, rendered.moved_valid)
        parts = [self.refiner(*part) for part in zip(*(source.split(4, dim=1) for source in sources), strict=True)]
        return torch.cat(parts, dim=1)


@torch.no_grad()
def make_frames(maker: ClipMaker, network: Network, vae: TinyVae, number: int, clips: int, each: int) -> Frames:
    """`each` random frames of `clips` clips, as batch `number`: the student streams every clip."""
    rendered = maker.make_with_frames(number, clips)
    device = rendered.frames.device
    generator = torch.Generator(device=device).manual_seed(maker.seed_of(number))
    inputs = track_inputs(network.track_head, rendered.clips, generator)
    track = network.track_head.combine(inputs.volume, inputs.content, inputs.validity)
    keys = network.keys(rendered.clips.words)
    first = rendered.clips.latents[:, :1].float()
    decoded = Decoder(vae).alone(rollout(network, track, first, keys, generator_noise(generator)))
    draw = torch.rand(rendered.frames.shape[:2], generator=generator, device=device)
    picked = draw.argsort(1)[:, :each]
    rows = torch.arange(clips, device=device)[:, None]
    whole = (rendered.frames, decoded, rendered.moved, rendered.moved_valid)
    return Frames(*(as_bytes(source[rows, picked].flatten(0, 1)) for source in whole))


def write_frames(
    maker: ClipMaker, network: Network, vae: TinyVae, folder: Path, numbers: Iterator[int], *, clips: int, each: int
) -> None:
    """Make batches `numbers` into `folder`, one safetensors file each; done ones are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path = folder / f"frames_{number:05d}.safetensors"
        if not path.exists():
            made = make_frames(maker, network, vae, number, clips, each)
            unfinished = path.with_suffix(".unfinished")
            save_file({f.name: getattr(made, f.name).cpu().contiguous() for f in fields(made)}, unfinished)
            unfinished.replace(path)


class FrameSource:
    """Frames of a folder of shards, or one batch made once (`frames`)."""

    def __init__(self, folder: Path | None = None, frames: Frames | None = None) -> None:
        self.folder, self._frames, self._names = folder, frames, 0

    def refresh(self) -> None:
        """Read the shards again when there are new ones."""
        if self.folder is None:
            return
        paths = sorted(self.folder.glob("frames_*.safetensors"))
        if len(paths) == self._names:
            return
        parts = [load_file(path) for path in paths]
        self._frames = Frames(**{f.name: torch.cat([part[f.name] for part in parts]) for f in fields(Frames)})
        self._names = len(paths)

    def draw(self, generator: torch.Generator, count: int) -> Frames:
        """Random frames."""
        if self._frames is None:
            raise ConfigError(f"{self.folder} holds no frames_*.safetensors; run `ms_train stream-frames` first")
        index = torch.randint(len(self._frames), (count,), generator=generator, device=generator.device)
        return self._frames.rows(index.to(self._frames.truth.device))


class Refine(Stage):
    """L1, edges and SSIM of refined frames against the rendered ones."""

    def __init__(
        self, config: RefineConfig, source: FrameSource, device: torch.device, features: Features | None = None
    ) -> None:
        super().__init__(config.loop, device)
        if config.texture_weight and features is None:
            raise ConfigError("texture_weight needs weights/taef2_encoder.pth in the assets; set it to 0 without it")
        self.features = features
        torch.manual_seed(config.loop.seed)
        self.config, self.source = config, source
        self.refiner = Refiner(config.refiner).to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        parallel.broadcast_(self.refiner)
        self.trained = list(self.refiner.parameters())
        groups = matrix_groups(self.refiner.named_parameters(), config.loop.weight_decay, ("leave",))
        self.optimizer = Muon(groups, config.loop.learning_rate)
        self.average = Average(self.refiner, config.loop.ema)

    def start_from_average(self, values: dict[str, Tensor]) -> None:
        """Begin with the averaged weights of another run."""
        self.refiner.load_state_dict(values)
        self.average = Average(self.refiner, self.loop.ema)

    def parts(self) -> dict[str, Any]:
        return {"refiner": self.refiner, "optimizer": self.optimizer, "average": self.average}

    def step(self) -> dict[str, float]:
        config = self.config
        self.source.refresh()
        frames = self.source.draw(self.generator, config.batch)
        truth = as_float(frames.truth).to(self.device)
        with autocast(self.device):
            made = self.refiner.mix(*(picture.to(self.device) for picture in frames.inputs())).float()
        pixels, similar = (made - truth).abs().mean(), ssim_map(made, truth).mean()
        light = F.avg_pool2d((made - truth)[:, 0], STRIDE).abs().mean()
        loss = pixels + config.light_weight * light
        loss = loss + config.edge_weight * edge_loss(made, truth) + config.ssim_weight * (1 - similar)
        numbers = {}
        if config.texture_weight:
            texture = self._texture_loss(
                made[:, 0], truth[:, 0], 1 - as_float(frames.moved_valid)[:, 0].to(self.device)
            )
            numbers["texture"] = float(texture.detach())
            loss = loss + config.texture_weight * texture
        norm = self.optimise(self.optimizer, loss, self.trained)
        self.average.update_(self.refiner)
        error = (made.detach().clamp(0, 1) - truth).square().mean((1, 2, 3, 4)).clamp(min=1e-8)
        return numbers | {
            "loss": float(loss.detach()),
            "psnr": float((-10 * error.log10()).mean()),
            "ssim": float(similar.detach()),
            "norm": norm,
        }

    def _texture_loss(self, made: Tensor, truth: Tensor, hole: Tensor) -> Tensor:
        """Feature distance around what the first frame does not show; the truth stands elsewhere."""
        assert self.features is not None, "the constructor checked it"
        parts = crop_around(hole, self.config.texture_crop, made, truth, hole)
        mixed = parts[0] * parts[2] + parts[1] * (1 - parts[2])
        with autocast(self.device):
            return self.features.distance(mixed, parts[1], parts[2]).float().mean()

    @torch.no_grad()
    def sheet(self, path: Path) -> None:
        """Truth, decoded, moved and refined, from the averaged weights."""
        refiner = Refiner(self.config.refiner)
        refiner.load_state_dict(self.average.values)
        frames = self.source.draw(torch.Generator().manual_seed(7), 8)
        refined = refiner(*frames.inputs())[:, 0]
        shown = (frames.truth, frames.decoded, frames.moved)
        save_sheet(path, torch.stack([*(picture.float() / 255 for picture in shown), refined.float()], dim=1))
