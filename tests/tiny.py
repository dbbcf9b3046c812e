"""A whole student with random weights that makes a chunk in milliseconds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ms_infer.checkpoint import Student, random_student
from ms_infer.config import (
    ContextConfig,
    LayersConfig,
    ModelConfig,
    RefinerConfig,
    ScheduleConfig,
    StreamConfig,
    TextConfig,
    TrackHeadConfig,
    VaeConfig,
)

WORDS = ("a", "cat", "dog", "night", "snow")


def tiny_config(*, context: ContextConfig | None = None, size: int = 32, **model: Any) -> StreamConfig:
    """Two narrow layers, three steps, 32 x 32 pixels; `model` overrides fields of the ModelConfig."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "dim": 24,
        "ffn_dim": 32,
        "heads": 2,
        "layers": 2,
        "layout": (("noise", 16), ("track", 16), ("image", 16)),
        "image_at": "every",
        "freq_dim": 16,
        "text": TextConfig(kind="words", tokens=6, dim=8, vocabulary=WORDS),
        "vae": VaeConfig(decoder_widths=(8, 8, 8, 8), encoder_width=8, blocks=1),
        "track_head": TrackHeadConfig(content="warp", max_tracks=24, id_dim=8),
    }
    return StreamConfig(
        model=ModelConfig(**{**fields, **model}),
        context=context or ContextConfig(),
        schedule=ScheduleConfig(),
        height=size,
        width=size,
    )


def tiny_student(*, seed: int = 0, **overrides: Any) -> Student:
    return random_student(tiny_config(**overrides), seed)


def layered_student(**overrides: Any) -> Student:
    """Its first frame moves in layers, at half the autoencoder's resolution; 64 x 64 pixels."""
    fields: dict[str, Any] = {
        "size": 64,
        "layers": 1,
        "vae": VaeConfig(decoder_widths=(8, 8, 8, 8), encoder_width=8, blocks=1, spatial_stride=16),
        "track_head": TrackHeadConfig(content="layers", max_tracks=24, id_dim=8),
        "layer_network": LayersConfig(widths=(8, 8, 8, 8, 8)),
        "refiner": RefinerConfig(widths=(8, 8, 8)),
    }
    return tiny_student(**{**fields, **overrides})


def without_tracks(**overrides: Any) -> Student:
    """A plain text-to-video student: only the noise slot."""
    fields: dict[str, Any] = {"layout": (("noise", 16),), "track_head": None, "image_input": "prefill"}
    return tiny_student(**{**fields, **overrides})


def with_first_chunk(student_config: StreamConfig, frames: int) -> StreamConfig:
    return replace(student_config, context=replace(student_config.context, first_chunk_frames=frames))
