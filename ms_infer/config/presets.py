"""Settings of the models that are known by name."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ms_infer.config.context import ContextConfig
from ms_infer.config.model import (
    ImageEncoderConfig,
    LayersConfig,
    ModelConfig,
    RefinerConfig,
    TextConfig,
    TrackHeadConfig,
    VaeConfig,
)
from ms_infer.config.stream import ScheduleConfig, StreamConfig
from ms_infer.errors import ConfigError

_VAE_5B = VaeConfig(kind="wan2.2", latent_channels=48, spatial_stride=16, base_dim=160, decoder_dim=256)
_DEMO_TEXT = TextConfig(kind="words", tokens=16, dim=128)
_DEMO_VAE = VaeConfig(decoder_widths=(96, 64, 32, 32), encoder_width=32, blocks=1, spatial_stride=16)

_DEMO = ModelConfig(
    name="demo",
    dim=256,
    ffn_dim=1024,
    heads=4,
    layers=7,
    layout=(("noise", 16), ("track", 16), ("image", 16)),
    image_at="every",
    text=_DEMO_TEXT,
    vae=_DEMO_VAE,
    track_head=TrackHeadConfig(content="layers", max_tracks=256),
    layer_network=LayersConfig(),
    refiner=RefinerConfig(),
    rests=True,
)

MODELS: dict[str, ModelConfig] = {
    config.name: config
    for config in (
        ModelConfig(name="wan2.1-1.3b", dim=1536, ffn_dim=8960, heads=12, layers=30, image_input="prefill"),
        ModelConfig(name="wan2.1-14b", dim=5120, ffn_dim=13824, heads=40, layers=40, image_input="prefill"),
        ModelConfig(
            name="wan2.2-5b",
            dim=3072,
            ffn_dim=14336,
            heads=24,
            layers=30,
            layout=(("noise", 48),),
            image_input="pin",
            vae=_VAE_5B,
        ),
        ModelConfig(
            name="motionstream-1.3b",
            dim=1536,
            ffn_dim=8960,
            heads=12,
            layers=30,
            layout=(("noise", 16), ("track", 16), ("image", 16)),
            image_tokens=257,
            track_head=TrackHeadConfig(),
        ),
        ModelConfig(
            name="track-v0",
            dim=1536,
            ffn_dim=8960,
            heads=12,
            layers=30,
            layout=(("noise", 16), ("mask", 4), ("image", 16), ("track", 16)),
            image_tokens=257,
            image_encoder=ImageEncoderConfig(),
            image_at="grey",
            track_head=TrackHeadConfig(rounding="round", first_frame="zero_pad", bias=False, convs=2),
        ),
        _DEMO,
    )
}

_FEW_STEP = ScheduleConfig(timesteps=(1000.0, 750.0, 500.0, 250.0), shift=5.0)
_SELF_FORCING = ContextConfig(sink_frames=0, window_frames=18, rope="absolute")

PRESETS: dict[str, StreamConfig] = {
    "wan2.1-1.3b": StreamConfig(model=MODELS["wan2.1-1.3b"], context=_SELF_FORCING, schedule=_FEW_STEP),
    "wan2.1-14b": StreamConfig(model=MODELS["wan2.1-14b"], context=_SELF_FORCING, schedule=_FEW_STEP),
    "wan2.2-5b": StreamConfig(model=MODELS["wan2.2-5b"], schedule=_FEW_STEP, height=704, width=1280, fps=24.0),
    "motionstream-1.3b": StreamConfig(model=MODELS["motionstream-1.3b"]),
    "track-v0": StreamConfig(
        model=MODELS["track-v0"],
        context=ContextConfig(sink_frames=1, window_frames=2, first_chunk_frames=1),
        schedule=ScheduleConfig(timesteps=(1000.0, 750.0, 500.0, 250.0), shifted_twice=True),
    ),
    "demo": StreamConfig(model=MODELS["demo"], height=256, width=256),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a published student is run: models of equal sizes differ in this alone."""

    model: str
    context: ContextConfig
    schedule: ScheduleConfig

    @property
    def latent_channels(self) -> int:
        return MODELS[self.model].latent_channels


_UNWARPED = ScheduleConfig(timesteps=(1000.0, 757.0, 522.0), warp=False, shift=8.0)
_KREA = ScheduleConfig(timesteps=(1000.0, 937.0, 833.0, 625.0), warp=False, shift=5.0)
_UNIPC = ScheduleConfig(timesteps=(1000.0, 750.0, 500.0, 250.0), shift=5.0, renoise="none", solver="unipc")

RECIPES: dict[str, Recipe] = {
    "self-forcing": Recipe(model="wan2.1-1.3b", context=_SELF_FORCING, schedule=_FEW_STEP),
    "longlive": Recipe(
        model="wan2.1-1.3b",
        context=ContextConfig(sink_frames=3, window_frames=6, rope="absolute"),
        schedule=_FEW_STEP,
    ),
    "longlive-2": Recipe(
        model="wan2.2-5b",
        context=ContextConfig(chunk_frames=8, sink_frames=8, window_frames=16),
        schedule=_UNIPC,
    ),
    "causvid": Recipe(model="wan2.1-1.3b", context=_SELF_FORCING, schedule=_UNWARPED),
    "causvid-4step": Recipe(
        model="wan2.1-1.3b",
        context=_SELF_FORCING,
        schedule=ScheduleConfig(timesteps=(1000.0, 750.0, 500.0, 250.0), shift=8.0),
    ),
    "krea-14b": Recipe(
        model="wan2.1-14b",
        context=ContextConfig(sink_frames=0, window_frames=3, recompute=True),
        schedule=_KREA,
    ),
}
"""Name of a published student -> how it is run."""


def preset(name: str) -> StreamConfig:
    """The settings of a named model or published student; ConfigError lists the names."""
    if name in RECIPES:
        recipe = RECIPES[name]
        return replace(PRESETS[recipe.model], context=recipe.context, schedule=recipe.schedule)
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; known: {', '.join([*PRESETS, *RECIPES])}")
    return PRESETS[name]
