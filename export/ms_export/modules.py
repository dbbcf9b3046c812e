"""The stages of a student as modules that torch.export can trace: static shapes, one flat list of tensors each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ms_infer.bundle.stages import StageSpec, cross_names, relative_sink
from ms_infer.checkpoint import Student
from ms_infer.config import RGB_FRAMES_PER_LATENT_FRAME as STRIDE
from ms_infer.config import StreamConfig
from ms_infer.model.first_frame import GREY
from ms_infer.model.layers import LayerNetwork, TrackHints, compose, layers_of, shared_motions, track_hints
from ms_infer.model.refiner import Refiner
from ms_infer.model.track_head import TrackHead
from ms_infer.model.transformer import Residual, SelfAttention, Transformer, merge_heads
from ms_infer.model.vae import Vae

DOMAIN = "ms_infer"
ATTENTION = "SinkWindowAttention"


class Stage(nn.Module):
    """Takes the tensors of its spec's inputs in order and returns those of the outputs."""

    def __init__(self, spec: StageSpec, config: StreamConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        named = dict(zip((i.name for i in self.spec.inputs), inputs, strict=True))
        results = self.compute(named)
        return tuple(results[o.name] for o in self.spec.outputs)

    def compute(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Outputs by name."""
        raise NotImplementedError


def scatter_tokens(cache: Tensor, update: Tensor, index: Tensor) -> Tensor:
    """Write `update` `[1, heads, tokens, head_dim]` into the cache from token `index` `[1]` on (TensorScatter-24)."""
    if torch.onnx.is_in_onnx_export():
        written: Tensor = torch.onnx.ops.symbolic(
            "TensorScatter",
            [cache, update, index],
            {"axis": 2, "mode": "linear"},
            dtype=cache.dtype,
            shape=cache.shape,
            version=24,
        )
        return written
    tokens = index + torch.arange(update.shape[2], device=index.device)
    return cache.index_copy(2, tokens, update)


def attend_to_valid(q: Tensor, keys: Tensor, values: Tensor, n_valid: Tensor) -> Tensor:
    """Attention to the first `n_valid` `[1]` tokens of the caches: the custom node of the exported graph."""
    if torch.onnx.is_in_onnx_export():
        mixed: Tensor = torch.onnx.ops.symbolic(
            f"{DOMAIN}::{ATTENTION}",
            [q, keys, values, n_valid],
            {"plugin_namespace": DOMAIN, "aot": 1},
            dtype=q.dtype,
            shape=q.shape,
            version=1,
        )
        return mixed
    valid = int(n_valid)
    return nn.functional.scaled_dot_product_attention(q, keys[:, :, :valid], values[:, :, :valid])


def rotate_heads(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `[1, heads, tokens, head_dim]` in float32, interleaved pairs."""
    turned: Tensor = torch.onnx.ops.rotary_embedding(x.float(), cos, sin, interleaved=True)
    return turned.to(x.dtype)


class TextStage(Stage):
    """Rows of the prompt's words to their embedding."""

    def __init__(self, spec: StageSpec, config: StreamConfig, text_encoder: nn.Module) -> None:
        super().__init__(spec, config)
        self.text_encoder = text_encoder

    def compute(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"text": self.text_encoder(inputs["words"]).float()}


class ConditionStage(Stage):
    """Text embedding to the cross-attention keys and values of all layers."""

    def __init__(self, spec: StageSpec, config: StreamConfig, transformer: Transformer, dtype: torch.dtype) -> None:
        super().__init__(spec, config)
        self.transformer, self.dtype = transformer, dtype

    def compute(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        image = inputs.get("image_tokens")
        keys = self.transformer.condition(
            inputs["text"].to(self.dtype), None if image is None else image.to(self.dtype)
        )
        flat = [tensor for layer in keys for tensor in layer]
        return dict(zip((o.name for o in self.spec.outputs), flat, strict=True))


class EncodeStage(Stage):
    """The first frame, or four grey ones after it, to their latent frame."""

    def __init__(self, spec: StageSpec, config: StreamConfig, vae: Vae, dtype: torch.dtype) -> None:
        super().__init__(spec, config)
        self.vae, self.dtype = vae, dtype

    def compute(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        size = (self.config.height, self.config.width)
        old = _state(inputs, "grey", self.vae.encoder_state, size, self.dtype)
        opening = "image" in inputs
        if opening:
            frames = inputs["image"].to(self.dtype)[:, None]
        else:
            frames = torch.full((1, STRIDE, 3, *size), GREY, dtype=self.dtype)
        latent, state = self.vae.encode(frames, old, opening=opening)
        return {"image_latent": latent.float()} | {f"grey_{i}_out": tensor for i, tensor in enumerate(state)}


class LookStage(Stage):
    """The first frame to the tokens of the image encoder."""

    def __init__(self, spec: StageSpec, config: StreamConfig, image_encoder: nn.Module) -> None:
        super().__init__(spec, config)
        self.image_encoder = image_encoder

    def compute(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"image_tokens": self.image_encoder(inputs["image"]).float()}


class PointsStage(Stage):
    """Coordinates to maps in float32: scattered ids; motions that tracks share, and hints for the layer network."""

    def __init__(self, spec: StageSpec, config: StreamConfig, track_head: TrackHead, opening: bool) -> None:
        super().__init__(spec, config)
        self.track_head, self.opening = track_head, opening

    def compute(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        points, visible = inputs["points"], inputs["visible"]
        outputs = {"track_ids": self.track_head.pack_ids(points, visible, inputs["ids"], opening=self.opening)}
        if "anchors" in inputs:
            anchors, size = inputs["anchors"], (self.config.height, self.config.width)
            motions = shared_motions(points, visible, anchors, *size)
            hints = track_hints(motions.shares, anchors, *size)
            outputs |= {"shares": hints.shares, "track_maps": hints.maps, "places": hints.places}
            outputs["motions"] = motions.terms
        return outputs


class LayersStage(Stage):
    """The layer network and its painter, in the model's type."""

    def __init__(self, spec: StageSpec, config: StreamConfig, network: LayerNetwork) -> None:
        super().__init__(spec, config)
        self.layer_network = network

    def compute(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        hints = TrackHints(inputs["shares"], inputs["track_maps"], inputs["places"])
        logits, paint = self.layer_network.predict(inputs["image"], hints)
        return {"layer_logits": logits, "paint": paint}


class ComposeStage(Stage):
    """Layers to the moved first frame and where it is valid, in float32."""

    def __init__(self, spec: StageSpec, config: StreamConfig, track_head: TrackHead, opening: bool) -> None:
        super().__init__(spec, config)
        self.track_head, self.opening = track_head, opening

    def compute(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        image = inputs["image"]
        layers = layers_of(image, inputs["layer_logits"], inputs["paint"])
        moved, valid = compose(image, layers, inputs["motions"])
        validity = self.track_head.pool_validity(valid, opening=self.opening)
        return {"moved": moved, "moved_valid": valid, "validity": validity}


class TracksStage(Stage):
    """Maps to track latents, with the moved first frame encoded on the way."""

    def __init__(
        self, spec: StageSpec, config: StreamConfig, track_head: TrackHead, vae: Vae | None, dtype: torch.dtype
    ) -> None:
        super().__init__(spec, config)
        self.track_head, self.vae, self.dtype = track_head, vae, dtype

    def compute(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        latents: Tensor | None = None
        state: list[Tensor] = []
        if self.vae is not None:
            opening = "encoder_0" not in inputs
            old = _state(inputs, "encoder", self.vae.encoder_state, (self.config.height, self.config.width), self.dtype)
            latents, state = self.vae.encode(inputs["moved"].to(self.dtype), old, opening=opening)
        outputs = {"track": self.track_head.combine(inputs["track_ids"], latents, inputs.get("validity")).float()}
        return outputs | {f"encoder_{i}_out": tensor for i, tensor in enumerate(state)}


class DecodeStage(Stage):
    """Latents to RGB frames as bytes, refined where the student has a refiner."""

    def __init__(
        self,
        spec: StageSpec,
        config: StreamConfig,
        vae: Vae,
        refiner: Refiner | None,
        dtype: torch.dtype,
    ) -> None:
        super().__init__(spec, config)
        self.vae, self.refiner, self.dtype = vae, refiner, dtype

    def compute(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        opening = "decoder_0" not in inputs
        size = (self.config.latent_height, self.config.latent_width)
        old = _state(inputs, "decoder", self.vae.decoder_state, size, self.dtype)
        frames, state = self.vae.decode(inputs["latents"].to(self.dtype), old, opening=opening)
        if self.refiner is not None:
            frames = self.refiner(frames, *(inputs[name].to(self.dtype) for name in ("moved", "moved_valid")))
        pixels = frames[0].permute(0, 2, 3, 1).float().mul(255).round().to(torch.uint8)
        return {"frames": pixels} | {f"decoder_{i}_out": tensor for i, tensor in enumerate(state)}


def _state(
    inputs: dict[str, Tensor], kind: str, zeros: Callable[..., list[Tensor]], size: tuple[int, int], dtype: torch.dtype
) -> list[Tensor]:
    """The state among the inputs, or zeros for an opening stage."""
    given = [tensor for name, tensor in inputs.items() if name.startswith(f"{kind}_")]
    return given or zeros(1, *size, dtype=dtype)


class RollStage(Stage):
    """Rotate the sink's keys to their new position; runs once per chunk, before the passes."""

    def compute(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        start = torch.zeros(1, dtype=torch.int64)
        outputs = {}
        for layer in range(self.config.model.layers):
            raw = inputs[f"sink_k_{layer}"][:, :, : self.config.sink_tokens]
            turned = rotate_heads(raw, inputs["sink_cos"], inputs["sink_sin"])
            outputs[f"k_cache_{layer}_out"] = scatter_tokens(inputs[f"k_cache_{layer}"], turned, start)
        return outputs


class DenoiseStage(Stage):
    """One pass: the transformer over the chunk and the cache, then the sampler's arithmetic in float32.

    x_next = (1 - next_sigma) * (x - sigma * flow) + next_sigma * noise, each `[1, frames]` per latent frame. A clean
    pass and a pinned frame have sigma = next_sigma = 0; an Euler step has sigma - next_sigma and 0.
    """

    def __init__(self, spec: StageSpec, config: StreamConfig, transformer: Transformer, dtype: torch.dtype) -> None:
        super().__init__(spec, config)
        self.transformer, self.dtype = transformer, dtype

    def compute(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        attend = _CacheAttention(inputs, self.config)
        x = inputs["x"]
        flow = self._flow(x, inputs, attend).float()
        sigma, following = (inputs[name][..., None, None, None] for name in ("sigma", "next_sigma"))
        x_next = (1 - following) * (x - sigma * flow) + following * inputs["noise"]
        return {"x_next": x_next, **attend.caches}

    def _flow(self, x: Tensor, inputs: dict[str, Tensor], attend: _CacheAttention) -> Tensor:
        """`Transformer.forward` with ready sinusoids of the timestep: float64 stays on the host."""
        transformer = self.transformer
        slots = [x if slot == "noise" else inputs[slot] for slot, _ in self.config.model.layout]
        embedded_time = transformer.time_embedding(inputs["time"].to(self.dtype))
        modulation = transformer.time_projection(embedded_time).unflatten(-1, (6, -1))
        rest = Residual(transformer.patchify(torch.cat(slots, dim=2).to(self.dtype)))
        cross = [inputs[name] for name in cross_names(self.config)]
        each = len(cross) // self.config.model.layers
        for layer, block in enumerate(transformer.blocks):
            keys = cross[layer * each : (layer + 1) * each]
            rest = block(rest, modulation, keys, layer, attend)
        return transformer.unpatchify(transformer.head(rest, embedded_time), x.shape[-2:])


class _CacheAttention:
    """Self-attention over the caches among a stage's inputs; collects the written caches."""

    def __init__(self, inputs: dict[str, Tensor], config: StreamConfig) -> None:
        self.inputs, self.config = inputs, config
        self.keeps_sink = relative_sink(config)
        self.caches: dict[str, Tensor] = {}

    def __call__(self, layer: int, attention: SelfAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = attention.normed_heads(q, k, v)
        cos, sin = self.inputs["cos"], self.inputs["sin"]
        if self.keeps_sink:
            name = f"sink_k_{layer}"
            self.caches[f"{name}_out"] = scatter_tokens(self.inputs[name], k, self.inputs["sink_index"])
        keys = self._write(f"k_cache_{layer}", rotate_heads(k, cos, sin))
        values = self._write(f"v_cache_{layer}", v)
        return merge_heads(attend_to_valid(rotate_heads(q, cos, sin), keys, values, self.inputs["n_valid"]))

    def _write(self, name: str, update: Tensor) -> Tensor:
        """One write for the chunk, or one per latent frame where its slots are not in a row."""
        index, cache = self.inputs["write_index"], self.inputs[name]
        for slot, part in zip(index.split(1), update.chunk(len(index), dim=2), strict=True):
            cache = scatter_tokens(cache, part, slot)
        self.caches[f"{name}_out"] = cache
        return cache


def build_stage(spec: StageSpec, student: Student, dtype: torch.dtype) -> Stage:
    """The module of one stage around the student's own parts, which must be of `dtype` (float32 if `precise`)."""
    config, name = student.config, spec.name
    if name == "roll":
        return RollStage(spec, config)
    if name == "text":
        assert student.text_encoder is not None, "plan_stages checked it"
        return TextStage(spec, config, student.text_encoder)
    if name in ("condition", "denoise"):
        kind = ConditionStage if name == "condition" else DenoiseStage
        return kind(spec, config, student.transformer, dtype)
    if name == "look":
        assert student.image_encoder is not None, "plan_stages checked it"
        return LookStage(spec, config, student.image_encoder)
    if name.startswith(("points", "layers", "compose", "tracks")):
        return _track_stage(spec, student, dtype)
    assert student.vae is not None, "plan_stages checked it"
    if name.startswith("encode"):
        return EncodeStage(spec, config, student.vae, dtype)
    return DecodeStage(spec, config, student.vae, student.refiner, dtype)


def _track_stage(spec: StageSpec, student: Student, dtype: torch.dtype) -> Stage:
    head = student.track_head
    assert head is not None, "plan_stages checked it"
    if spec.name == "layers":
        assert student.layer_network is not None, "plan_stages checked it"
        return LayersStage(spec, student.config, student.layer_network)
    if spec.precise:
        kind = PointsStage if spec.name.startswith("points") else ComposeStage
        return kind(spec, student.config, head, spec.name.endswith("_first"))
    vae = student.vae if head.config.content != "none" else None
    return TracksStage(spec, student.config, head, vae, dtype)
