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
    preset,
)

WORDS = ("a", "cat", "dog", "night", "snow")


def tiny_config(*, context: ContextConfig | None = None, size: int = 32, **model: Any) -> StreamConfig:
    """Two narrow layers, three steps, 32 x 32 pixels; `model` overrides fields of the ModelConfig.

    The first frame moves in layers, unless a track head without content is given.
    """
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
        "track_head": TrackHeadConfig(content="layers", max_tracks=24, id_dim=8),
        **model,
    }
    head = fields["track_head"]
    if head is not None and head.content == "layers":
        fields.setdefault("layer_network", LayersConfig(widths=(4, 4, 4, 4, 4), painter=(4, 4)))
    return StreamConfig(
        model=ModelConfig(**fields),
        context=context or ContextConfig(),
        schedule=ScheduleConfig(),
        height=size,
        width=size,
    )


def narrow_demo(words: tuple[str, ...], *, size: int, widths: tuple[int, ...], **model: Any) -> StreamConfig:
    """The demo with one narrow layer, a layer network of `widths` and a caption of `words`, for tests of training."""
    base = preset("demo")
    fields: dict[str, Any] = {
        "dim": 224,
        "ffn_dim": 64,
        "layers": 1,
        "freq_dim": 32,
        "text": replace(base.model.text, vocabulary=words, dim=16, tokens=4),
        "track_head": TrackHeadConfig(content="layers", max_tracks=100, id_dim=8),
        "layer_network": LayersConfig(widths=widths, painter=widths[:2]),
        "refiner": RefinerConfig(widths=(8, 16, 16)),
        **model,
    }
    return replace(base, model=replace(base.model, **fields), height=size, width=size)


def tiny_student(*, seed: int = 0, **overrides: Any) -> Student:
    return random_student(tiny_config(**overrides), seed)


def refined_student(**overrides: Any) -> Student:
    """With a refiner, and a latent pixel of 16 x 16 pixels as the demo has them; 64 x 64 pixels."""
    fields: dict[str, Any] = {
        "size": 64,
        "layers": 1,
        "vae": VaeConfig(decoder_widths=(8, 8, 8, 8), encoder_width=8, blocks=1, spatial_stride=16),
        "refiner": RefinerConfig(widths=(8, 8, 8)),
    }
    return tiny_student(**{**fields, **overrides})


def without_tracks(**overrides: Any) -> Student:
    """A plain text-to-video student: only the noise slot."""
    fields: dict[str, Any] = {"layout": (("noise", 16),), "track_head": None, "image_input": "prefill"}
    return tiny_student(**{**fields, **overrides})


def with_first_chunk(student_config: StreamConfig, frames: int) -> StreamConfig:
    return replace(student_config, context=replace(student_config.context, first_chunk_frames=frames))
