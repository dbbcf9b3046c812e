"""Works out the model settings of a foreign checkpoint from the shapes of its tensors."""

from __future__ import annotations

import dataclasses
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from torch import Tensor

from ms_infer import config as settings
from ms_infer.checkpoint.names import listed
from ms_infer.config import PATCH, ImageEncoderConfig, ModelConfig, StreamConfig, TextConfig, VaeConfig
from ms_infer.errors import CheckpointError, ConfigError

logger = logging.getLogger(__name__)
_Number = TypeVar("_Number", int, float)

HEAD_DIMS = (128, 64, 32)
"""Head sizes to assume, in this order, where nothing tells the number of heads: published Wan models have 128."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a transformer that its tensors show; `heads` is None where nothing tells it."""

    dim: int
    ffn_dim: int
    layers: int
    in_channels: int
    latent_channels: int
    freq_dim: int
    text_dim: int
    image_dim: int
    """0 without a second cross-attention."""
    heads: int | None

    @classmethod
    def of_model(cls, model: ModelConfig) -> Sizes:
        """The sizes that a model's settings ask for."""
        return cls(
            dim=model.dim,
            ffn_dim=model.ffn_dim,
            layers=model.layers,
            in_channels=model.in_channels,
            latent_channels=model.latent_channels,
            freq_dim=model.freq_dim,
            text_dim=model.text.dim,
            image_dim=model.image_dim if model.image_tokens else 0,
            heads=model.heads,
        )

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> Sizes:
        """Read the sizes off tensors under original names; their shapes do not tell the heads."""
        dim = _size(tensors, "blocks.0.self_attn.q.weight", 0)
        has_image = "img_emb.proj.1.weight" in tensors
        return cls(
            dim=dim,
            ffn_dim=_size(tensors, "blocks.0.ffn.0.weight", 0),
            layers=_layers(tensors),
            in_channels=_size(tensors, "patch_embedding.weight", 1),
            latent_channels=_size(tensors, "head.head.weight", 0) // PATCH**2,
            freq_dim=_size(tensors, "time_embedding.0.weight", 1),
            text_dim=_size(tensors, "text_embedding.0.weight", 1),
            image_dim=_size(tensors, "img_emb.proj.1.weight", 1) if has_image else 0,
            heads=None,
        )

    def with_heads(self, described: Mapping[str, Any]) -> Sizes:
        """The same with the heads that a configuration names; CheckpointError when they cannot be."""
        heads = described.get("num_attention_heads", described.get("num_heads"))
        if heads is not None and (not isinstance(heads, int) or heads < 1 or self.dim % heads):
            raise CheckpointError(
                f"the configuration names {heads!r} heads, the weights have width {self.dim}; correct it"
            )
        return dataclasses.replace(self, heads=heads)

    def differences(self, wanted: Sizes) -> list[str]:
        """Sizes that differ, as `dim 96 (wanted 1536)`; an unknown number of heads differs from none."""
        pairs = [(f.name, getattr(self, f.name), getattr(wanted, f.name)) for f in dataclasses.fields(self)]
        return [f"{name} {own} (wanted {other})" for name, own, other in pairs if own != other and own is not None]


def stream_config(sizes: Sizes, described: Mapping[str, Any], preset: str | StreamConfig | None) -> StreamConfig:
    """Settings of a checkpoint: the preset asked for, else the preset of exactly these sizes, else custom ones.

    Input channels are read in this order, C being the latent channels: C is noise; 3 C is noise | track | image
    (MotionStream, VideoX-Fun Control); 3 C + 4 is noise | mask | image | track (WanTrack); 2 C + 4 is
    noise | mask | image (Wan 2.1 image-to-video). Give `preset` where a file means something else.
    CheckpointError: sizes that are not those of the preset, an unknown layout, an unknown number of heads.
    """
    if preset is not None:
        config = settings.preset(preset) if isinstance(preset, str) else preset
        check_sizes(sizes, config)
        return config
    for config in settings.PRESETS.values():
        if not sizes.differences(Sizes.of_model(config.model)):
            return config
    try:
        return _custom(sizes, described)
    except ConfigError as error:
        raise CheckpointError(f"the sizes of the checkpoint do not fit together: {error}") from None


def check_sizes(sizes: Sizes, config: StreamConfig) -> None:
    """Raise CheckpointError naming every size of a checkpoint that is not the one its settings ask for."""
    differences = sizes.differences(Sizes.of_model(config.model))
    if differences:
        raise CheckpointError(
            f"the checkpoint is no {config.model.name}: {', '.join(differences)}; give another preset, or none"
        )


def with_head_of(config: StreamConfig, head: Mapping[str, Tensor], described: object) -> StreamConfig:
    """The same settings with the numbers of a WanTrack head: its shapes, and `track_config` of its config.json."""
    assert config.model.track_head is not None
    own = described if isinstance(described, Mapping) else {}
    id_range = own.get("max_track_id")
    try:
        changed = dataclasses.replace(
            config.model.track_head,
            id_dim=_size(head, "temporal_conv.weight", 1),
            bias="temporal_conv.bias" in head,
            convs=2,
            id_range=id_range if isinstance(id_range, int) else config.model.track_head.id_range,
        )
    except ConfigError as error:
        raise CheckpointError(f"the track encoder's sizes do not fit together: {error}") from None
    return dataclasses.replace(config, model=dataclasses.replace(config.model, track_head=changed))


def with_image_encoder(config: StreamConfig, fit: Literal["crop", "squash"]) -> StreamConfig:
    """The same settings with the encoder of the image tokens that the model reads; its file tells the other sizes.

    fit: "squash" for checkpoints under Wan's own names, "crop" for those of diffusers and FastVideo.
    """
    model = config.model
    known = ImageEncoderConfig(width=model.image_dim, heads=math.gcd(model.image_dim, 16), fit=fit)
    if model.image_encoder is not None or model.image_tokens != known.tokens:
        return config
    return dataclasses.replace(config, model=dataclasses.replace(model, image_encoder=known))


def _custom(sizes: Sizes, described: Mapping[str, Any]) -> StreamConfig:
    layout = _layout(sizes)
    base = _relative(layout)
    head = base.model.track_head if "track" in dict(layout) else None
    model = dataclasses.replace(
        base.model,
        name="custom",
        dim=sizes.dim,
        ffn_dim=sizes.ffn_dim,
        heads=_heads(sizes),
        layers=sizes.layers,
        layout=layout,
        freq_dim=sizes.freq_dim,
        eps=_stated(described, "eps", base.model.eps),
        image_tokens=settings.MODELS["motionstream-1.3b"].image_tokens if sizes.image_dim else 0,
        image_dim=sizes.image_dim or base.model.image_dim,
        image_encoder=None,
        image_input="slot" if "image" in dict(layout) else base.model.image_input,
        image_at="grey" if "mask" in dict(layout) else base.model.image_at,
        text=TextConfig(tokens=_stated(described, "text_len", base.model.text.tokens), dim=sizes.text_dim),
        vae=_vae(sizes.latent_channels),
        track_head=dataclasses.replace(head, channels=sizes.latent_channels) if head else None,
    )
    return dataclasses.replace(base, model=model)


def _relative(layout: tuple[tuple[str, int], ...]) -> StreamConfig:
    """The preset that an unknown size takes its context, schedule and rules from: the one most like it."""
    slots = [slot for slot, _ in layout]
    latent = dict(layout)["noise"]
    alike = [config for config in settings.PRESETS.values() if [slot for slot, _ in config.model.layout] == slots]
    same_latent = [config for config in alike if config.model.latent_channels == latent]
    return (same_latent or alike or [settings.preset("wan2.1-1.3b")])[0]


def _stated(described: Mapping[str, Any], name: str, default: _Number) -> _Number:
    """A positive number from the file's own configuration, where it has one of the default's type."""
    value = described.get(name)
    return value if type(value) is type(default) and value > 0 else default


def _heads(sizes: Sizes) -> int:
    if sizes.heads is not None:
        return sizes.heads
    head_dim = next((size for size in HEAD_DIMS if sizes.dim % size == 0), None)
    if head_dim is None:
        raise CheckpointError(
            f"the number of heads is unknown: no config.json or metadata tells it, and the width {sizes.dim} is no "
            f"multiple of {HEAD_DIMS[-1]}; give preset= a StreamConfig"
        )
    if head_dim != HEAD_DIMS[0]:
        logger.warning("nothing tells the number of heads: taking %d of %d", sizes.dim // head_dim, head_dim)
    return sizes.dim // head_dim


def _layout(sizes: Sizes) -> tuple[tuple[str, int], ...]:
    latent, mask = sizes.latent_channels, settings.RGB_FRAMES_PER_LATENT_FRAME
    layouts = (
        (("noise", latent),),
        (("noise", latent), ("track", latent), ("image", latent)),
        (("noise", latent), ("mask", mask), ("image", latent), ("track", latent)),
        (("noise", latent), ("mask", mask), ("image", latent)),
    )
    for layout in layouts:
        if sum(channels for _, channels in layout) == sizes.in_channels:
            return layout
    raise CheckpointError(
        f"{sizes.in_channels} input channels with {latent} latent channels are no known layout "
        f"(C, 3 C, 3 C + 4 or 2 C + 4); give preset= a StreamConfig that names the layout"
    )


def _vae(latent_channels: int) -> VaeConfig:
    """The autoencoder of a preset with this many latent channels, else a tiny one."""
    known = (config.model.vae for config in settings.PRESETS.values())
    fitting = (vae for vae in known if vae.latent_channels == latent_channels)
    return next(fitting, VaeConfig(latent_channels=latent_channels))


def _layers(tensors: Mapping[str, Tensor]) -> int:
    """Number of blocks; CheckpointError when one is left out."""
    found = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    indices = sorted(int(index) for index in found if index.isdecimal())
    absent = sorted(set(range(indices[-1] + 1)) - set(indices))[:8] if indices and indices[-1] < 10_000 else []
    if not indices or indices[-1] >= 10_000 or absent:
        raise CheckpointError(
            f"the checkpoint lacks the blocks {listed(map(str, absent))}; it is incomplete"
            if absent
            else "the checkpoint has no usable block numbers; expected blocks.0, blocks.1, ..."
        )
    return len(indices)


def _size(tensors: Mapping[str, Tensor], name: str, axis: int) -> int:
    if name not in tensors:
        held = listed(sorted(tensors)) or "nothing"
        raise CheckpointError(f"{name} is missing, so this is no checkpoint of a Wan student; it holds {held}")
    shape = tensors[name].shape
    if len(shape) <= axis:
        raise CheckpointError(f"{name} has shape {list(shape)}; expected at least {axis + 1} dimensions")
    return int(shape[axis])
