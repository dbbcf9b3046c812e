"""Frozen settings, validated once; every derived size is computed here. May import: errors."""

from ms_infer.config.context import (
    RGB_FRAMES_PER_LATENT_FRAME,
    ContextConfig,
    Placement,
    Span,
    latent_frames,
    rgb_frames,
)
from ms_infer.config.model import (
    GREY_LATENT_FRAMES,
    LAYER_STRIDE,
    MOTION_TERMS,
    PATCH,
    THINGS,
    ImageEncoderConfig,
    LayersConfig,
    ModelConfig,
    RefinerConfig,
    TextConfig,
    TrackHeadConfig,
    VaeConfig,
)
from ms_infer.config.presets import MODELS, PRESETS, RECIPES, Recipe, preset
from ms_infer.config.stream import ScheduleConfig, StreamConfig

__all__ = [
    "GREY_LATENT_FRAMES",
    "LAYER_STRIDE",
    "MODELS",
    "MOTION_TERMS",
    "PATCH",
    "PRESETS",
    "RECIPES",
    "RGB_FRAMES_PER_LATENT_FRAME",
    "THINGS",
    "ContextConfig",
    "ImageEncoderConfig",
    "LayersConfig",
    "ModelConfig",
    "Placement",
    "Recipe",
    "RefinerConfig",
    "ScheduleConfig",
    "Span",
    "StreamConfig",
    "TextConfig",
    "TrackHeadConfig",
    "VaeConfig",
    "latent_frames",
    "preset",
    "rgb_frames",
]
