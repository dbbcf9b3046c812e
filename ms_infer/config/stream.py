"""Everything that fixes a stream, in one object; sizes that follow from several parts are derived here."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ms_infer.config.context import ContextConfig
from ms_infer.config.model import (
    LAYER_STRIDE,
    PATCH,
    ImageEncoderConfig,
    LayersConfig,
    ModelConfig,
    RefinerConfig,
    TextConfig,
    TrackHeadConfig,
    VaeConfig,
)
from ms_infer.errors import ConfigError, require


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """Few-step denoising: x0 prediction, then fresh noise (Self-Forcing, CausVid)."""

    timesteps: tuple[float, ...] = (1000.0, 667.0, 333.0)
    """Denoising steps in 0..1000 before the shift is applied."""
    warp: bool = True
    """Whether `timesteps` still have to be warped by the shift."""
    shift: float = 6.0
    """Flow-matching time shift k."""
    context_timestep: float = 0.0
    """Timestep of the clean pass that writes the final keys and values."""
    shifted_twice: bool = False
    """Whether the table of sigmas ends where the shift puts 0.001, and is shifted again (FastVideo's scheduler)."""
    renoise: Literal["fresh", "none"] = "fresh"
    """"fresh": re-noise x0 between steps; "none": along the flow, as the solver does it."""
    solver: Literal["euler", "unipc"] = "euler"
    """How steps without fresh noise go along the flow: straight, or UniPC of order 2 as Wan's scheduler does it, with
    sigmas that begin at 0.999 before the shift and whole timesteps (LongLive 2; PyTorch engine only)."""

    def __post_init__(self) -> None:
        steps = self.timesteps
        require(len(steps) >= 1, "timesteps must name at least one step")
        require(
            all(0 < t <= 1000 for t in steps) and list(steps) == sorted(steps, reverse=True),
            f"timesteps must fall from at most 1000 and stay above 0, got {steps}",
        )
        require(
            self.solver == "euler" or (self.solver == "unipc" and self.renoise == "none"),
            f"solver must be euler, or unipc with renoise='none', not {self.solver!r} with {self.renoise!r}",
        )
        require(self.shift > 0, f"shift must be positive, not {self.shift}")
        require(0 <= self.context_timestep <= 1000, "context_timestep must be within 0..1000")


@dataclass(frozen=True, kw_only=True)
class StreamConfig:
    """Everything that fixes the shapes and the arithmetic of a stream."""

    model: ModelConfig
    context: ContextConfig = field(default_factory=ContextConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    height: int = 480
    width: int = 832
    fps: float = 16.0
    """Playback rate of the RGB frames."""

    def __post_init__(self) -> None:
        layered = LAYER_STRIDE if self.model.layer_network is not None else 1
        unit = math.lcm(self.model.vae.spatial_stride * PATCH, layered)
        require(
            self.height > 0 and self.width > 0 and self.height % unit == 0 and self.width % unit == 0,
            f"size {self.height}x{self.width} must be multiples of {unit}; nearest: "
            f"{max(unit, round(self.height / unit) * unit)}x{max(unit, round(self.width / unit) * unit)}",
        )
        require(self.fps > 0, f"fps must be positive, not {self.fps}")
        require(
            self.model.vae.latent_channels == self.model.latent_channels,
            f"the VAE has {self.model.vae.latent_channels} latent channels, the noise slot "
            f"{self.model.latent_channels}",
        )

    @property
    def latent_height(self) -> int:
        return self.height // self.model.vae.spatial_stride

    @property
    def latent_width(self) -> int:
        return self.width // self.model.vae.spatial_stride

    @property
    def token_grid(self) -> tuple[int, int]:
        """Token rows and columns of one latent frame."""
        return self.latent_height // PATCH, self.latent_width // PATCH

    @property
    def tokens_per_frame(self) -> int:
        rows, columns = self.token_grid
        return rows * columns

    @property
    def chunk_tokens(self) -> int:
        return self.context.chunk_frames * self.tokens_per_frame

    @property
    def sink_tokens(self) -> int:
        return self.context.sink_frames * self.tokens_per_frame

    @property
    def cache_tokens(self) -> int:
        return self.context.cache_frames * self.tokens_per_frame

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON; `from_dict` reads them back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StreamConfig:
        """Rebuild from `to_dict`; an unknown or missing field is a ConfigError."""
        model = dict(values.get("model", {}))
        head = model.get("track_head")
        model["layout"] = tuple((str(s), int(c)) for s, c in model.get("layout", ()))
        model["text"] = _build(TextConfig, _tuples(model.get("text", {}), "vocabulary"))
        model["vae"] = _vae(model.get("vae", {}))
        model["track_head"] = None if head is None else _build(TrackHeadConfig, head)
        encoder = model.get("image_encoder")
        model["image_encoder"] = None if encoder is None else _build(ImageEncoderConfig, encoder)
        refiner = model.get("refiner")
        model["refiner"] = None if refiner is None else _build(RefinerConfig, _tuples(refiner, "widths"))
        layers = model.get("layer_network")
        model["layer_network"] = None if layers is None else _build(LayersConfig, _tuples(layers, "widths", "painter"))
        rest = {k: v for k, v in values.items() if k not in ("model", "context", "schedule")}
        return _build(
            cls,
            {
                **rest,
                "model": _build(ModelConfig, model),
                "context": _build(ContextConfig, values.get("context", {})),
                "schedule": _build(ScheduleConfig, _tuples(values.get("schedule", {}), "timesteps")),
            },
        )


def _vae(values: Mapping[str, Any]) -> Any:
    encoder = values.get("encoder")
    whole = {**_tuples(values, "decoder_widths"), "encoder": None if encoder is None else _vae(encoder)}
    return _build(VaeConfig, whole)


def _tuples(values: Mapping[str, Any], *names: str) -> Any:
    if not isinstance(values, Mapping):
        return values  # `_build` says so
    return {k: tuple(v) if k in names else v for k, v in values.items()}


def _build(cls: type[Any], values: Mapping[str, Any]) -> Any:
    known = sorted(f.name for f in dataclasses.fields(cls))
    if not isinstance(values, Mapping):
        raise ConfigError(f"{cls.__name__} was given {values!r}; set one of its own fields: {known}")
    try:
        return cls(**values)
    except TypeError as error:
        raise ConfigError(f"{cls.__name__}: {error}; it has the fields {known}") from None
