"""Names, shapes and types of everything that goes into and comes out of the exported stages of a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from ms_infer.config import MOTION_TERMS, RGB_FRAMES_PER_LATENT_FRAME, THINGS, StreamConfig, rgb_frames

Shape = tuple[int, ...]

GRAPH_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
"""Precision of a graph -> type of its weights, caches and states."""


ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "bool": 1, "int64": 8, "uint8": 1}
"""Every type of a tensor -> bytes of one value."""

Role = Literal["host", "pass", "state", "cache", "device"]
"""Who fills a tensor and how long it lives.

host: filled or read by the host, at most once for a chunk. pass: filled by the host for every pass over the
transformer. state: what a stage gives is what it takes in the next chunk. cache: keys and values, written in place.
device: handed from stage to stage, never seen by the host.
"""
ROLES: tuple[str, ...] = get_args(Role)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: its name, static shape, type (numpy names, and bfloat16) and role."""

    name: str
    shape: Shape
    dtype: str = "float32"
    role: Role = "host"

    @property
    def nbytes(self) -> int:
        """Bytes of the whole tensor."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]


@dataclass(frozen=True)
class StageSpec:
    """One exported graph: what goes in, what comes out, and which outputs replace which inputs."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    aliases: tuple[tuple[str, str], ...] = ()
    """(input, output) pairs written in place: the attention caches."""
    states: tuple[tuple[str, str], ...] = ()
    """(input, output) pairs where the output is the input of the next chunk: encoder and decoder states."""
    precise: bool = False
    """Whether the stage is always float32: its coordinates do not survive rounding."""

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Inputs, then outputs."""
        return self.inputs + self.outputs


def contiguous_writes(config: StreamConfig, given: int = 0) -> bool:
    """Whether every chunk of a stream lies in one run of cache slots, after `given` latent frames.

    Then one write per cache and pass is enough, which TensorRT's in-place update asks for.
    """
    context = config.context
    for index in range(2 * context.ring_frames + context.sink_frames + 2):
        slots = context.place(context.span(index, given).start, context.chunk_frames).slots
        if slots[-1] - slots[0] + 1 != len(slots):
            return False
    return True


def stage_specs(config: StreamConfig, *, dtype: str = "fp32", writes: str = "auto") -> dict[str, StageSpec]:
    """Every stage of a model, in the order of a chunk.

    dtype: fp32, bf16 or fp16, the type of weights, caches and states; what the host fills is always float32.
    writes: "chunk" (one write index per cache), "frame" (one per latent frame) or "auto".
    """
    return {spec.name: spec for spec in _Stages(config, GRAPH_DTYPES[dtype], resolve_writes(config, writes)).all()}


def resolve_writes(config: StreamConfig, writes: str) -> str:
    """ "chunk" or "frame" for "auto"."""
    if writes != "auto":
        return writes
    return "chunk" if contiguous_writes(config) else "frame"


def relative_sink(config: StreamConfig) -> bool:
    """Whether the sink is re-rotated while the stream goes on."""
    return config.context.rope == "relative" and config.sink_tokens > 0


def cache_name(kind: str, layer: int) -> str:
    """Name of a cache input; kind is "k", "v" or "sink_k" (the un-rotated keys of the sink)."""
    return f"{kind}_{layer}" if kind == "sink_k" else f"{kind}_cache_{layer}"


def rows_name(cache: str) -> str:
    """Output of an OpenVINO `denoise` in the place of a whole cache: the rows that the pass wrote there."""
    return f"{cache}_rows"


def cross_names(config: StreamConfig) -> list[str]:
    """Cross-attention keys and values in the order of the layers."""
    kinds = ["k", "v"] + (["k_image", "v_image"] if config.model.image_tokens else [])
    return [f"cross_{kind}_{layer}" for layer in range(config.model.layers) for kind in kinds]


def state_shapes(config: StreamConfig, kind: str) -> list[Shape]:
    """Shapes of the autoencoder's "encoder" or "decoder" state."""
    vae, rows, columns = config.model.vae, config.latent_height, config.latent_width
    if vae.kind != "tiny" or (kind == "encoder" and vae.encoder is not None):
        return _module_state_shapes(config, kind)
    decoder = enumerate(vae.decoder_widths[:3])
    stages = decoder if kind == "decoder" else ((s, vae.encoder_width) for s in (2, 1, 0))
    return [(1, width, rows << s, columns << s) for s, width in stages for _ in range(vae.blocks)]


def _module_state_shapes(config: StreamConfig, kind: str) -> list[Shape]:
    """The same from the modules of a Wan autoencoder, built without memory."""
    import torch

    from ms_infer.model.autoencoders import build_vae

    size = (config.latent_height, config.latent_width) if kind == "decoder" else (config.height, config.width)
    with torch.device("meta"):
        vae = build_vae(config.model.vae)
    return [tuple(t.shape) for t in getattr(vae, f"{kind}_state")(1, *size, device="meta")]


class _Stages:
    """Builds the specs of one model."""

    def __init__(self, config: StreamConfig, dtype: str, writes: str) -> None:
        self.config, self.dtype, self.writes = config, dtype, writes
        model = config.model
        self.frames = config.context.chunk_frames
        self.latent = (config.latent_height, config.latent_width)
        self.x = (1, self.frames, model.latent_channels, *self.latent)
        self.moves = model.track_head is not None and model.track_head.content != "none"

    def all(self) -> list[StageSpec]:
        model = self.config.model
        stages = [self.text()] if model.text.kind == "words" else []
        stages.append(self.condition())
        if model.vae.encodes and ("image" in dict(model.layout) or model.image_input != "slot" or self.moves):
            stages.append(self.encode())
        if model.image_at == "grey":
            stages.append(self.encode_grey())
        if model.image_encoder is not None:
            stages.append(self.look())
        if model.track_head is not None:
            stages += [self.points(True), self.points(False)]
            if self.moves:
                stages += [self.layers(), self.compose(True), self.compose(False)]
            stages += [self.tracks(True), self.tracks(False)]
        if relative_sink(self.config):
            stages.append(self.roll())
        stages += [self.denoise(), self.decode_first("decode_first", self.config.context.opening_frames)]
        if model.image_input == "prefill" and self.config.context.opening_frames != 1:
            stages.append(self.decode_first("decode_given", 1))
        stages.append(self.decode())
        return stages

    def text(self) -> StageSpec:
        text = self.config.model.text
        words = TensorSpec("words", (1, text.tokens), "int64")
        return StageSpec("text", (words,), (TensorSpec("text", (1, text.tokens, text.dim)),))

    def condition(self) -> StageSpec:
        model = self.config.model
        inputs = [TensorSpec("text", (1, model.text.tokens, model.text.dim))]
        if model.image_tokens:
            inputs.append(TensorSpec("image_tokens", (1, model.image_tokens, model.image_dim)))
        return StageSpec("condition", tuple(inputs), self._cross())

    def _cross(self) -> tuple[TensorSpec, ...]:
        model = self.config.model
        sizes = {True: model.image_tokens, False: model.text.tokens}
        shape = {image: (1, model.heads, tokens, model.head_dim) for image, tokens in sizes.items()}
        return tuple(TensorSpec(n, shape["_image_" in n], self.dtype, "device") for n in cross_names(self.config))

    def encode(self) -> StageSpec:
        return self._encode("encode", [self._image()], opening=True)

    def encode_grey(self) -> StageSpec:
        """The next latent frame of what the image slot holds: four grey frames after the first one."""
        return self._encode("encode_grey", [], opening=False)

    def _encode(self, name: str, inputs: list[TensorSpec], *, opening: bool) -> StageSpec:
        latent = TensorSpec("image_latent", (1, 1, self.config.model.latent_channels, *self.latent))
        shapes = state_shapes(self.config, "encoder") if self.config.model.image_at == "grey" else []
        return self._streaming(name, inputs, [latent], "grey", shapes, opening)

    def _image(self) -> TensorSpec:
        return TensorSpec("image", (1, 3, self.config.height, self.config.width))

    def look(self) -> StageSpec:
        """The first frame to the tokens of the image encoder."""
        model = self.config.model
        tokens = TensorSpec("image_tokens", (1, model.image_tokens, model.image_dim))
        return StageSpec("look", (self._first_frame(),), (tokens,))

    def _opening(self, opening: bool) -> tuple[str, int]:
        """Suffix of the stage's name and its latent frames."""
        return ("_first", self.config.context.opening_frames) if opening else ("", self.frames)

    def points(self, opening: bool) -> StageSpec:
        """Coordinates to maps: the scattered ids; for the layers of the first frame, the motions that tracks share."""
        config = self.config
        head = config.model.track_head
        assert head is not None, "only models with a track head have this stage"
        suffix, frames = self._opening(opening)
        count = rgb_frames(frames, first=opening)
        inputs = [
            TensorSpec("points", (1, head.max_tracks, count, 2)),
            TensorSpec("visible", (1, head.max_tracks, count), "bool"),
            TensorSpec("ids", (1, head.max_tracks), "int64"),
        ]
        packed = RGB_FRAMES_PER_LATENT_FRAME * head.id_dim
        outputs = [TensorSpec("track_ids", (1, frames, packed, *self.latent), role="device")]
        if self.moves:
            inputs.append(TensorSpec("anchors", (1, head.max_tracks, 2)))
            outputs += [*self._hints(), self._motions(count)]
        return StageSpec(f"points{suffix}", tuple(inputs), tuple(outputs), precise=True)

    def _hints(self) -> list[TensorSpec]:
        """What the layer network is told of the tracks."""
        config, head = self.config, self.config.model.track_head
        assert head is not None, "only models with a track head have this stage"
        return [
            TensorSpec("shares", (1, 1 + THINGS, head.max_tracks), role="device"),
            TensorSpec("track_maps", (1, 1 + THINGS, config.height // 2, config.width // 2), role="device"),
            TensorSpec("places", (1, head.max_tracks, 2), role="device"),
        ]

    def _motions(self, count: int) -> TensorSpec:
        return TensorSpec("motions", (1, 1 + THINGS, MOTION_TERMS, count, 2), role="device")

    def layers(self) -> StageSpec:
        """The first frame and where tracks begin to its layers, as far as they may be rounded."""
        inputs = [self._first_frame(), *self._hints()]
        return StageSpec("layers", tuple(inputs), self._found_layers())

    def _found_layers(self) -> tuple[TensorSpec, ...]:
        size = (self.config.height, self.config.width)
        logits, paint = ((name, (1, count, *size)) for name, count in (("layer_logits", 1 + THINGS), ("paint", 3)))
        return TensorSpec(*logits, role="device"), TensorSpec(*paint, role="device")

    def _first_frame(self) -> TensorSpec:
        return TensorSpec("image", self._image().shape, role="device")  # that of `encode`

    def compose(self, opening: bool) -> StageSpec:
        """The layers moved and laid over one another: the moved first frame."""
        suffix, frames = self._opening(opening)
        count = rgb_frames(frames, first=opening)
        inputs = [self._first_frame(), *self._found_layers(), self._motions(count)]
        outputs = [
            self._picture("moved", count, 3),
            TensorSpec("validity", (1, frames, 1, *self.latent), role="device"),
        ]
        if self.config.model.refiner is not None:
            outputs.append(self._picture("moved_valid", count, 1))
        return StageSpec(f"compose{suffix}", tuple(inputs), tuple(outputs), precise=True)

    def _picture(self, name: str, count: int, channels: int) -> TensorSpec:
        return TensorSpec(name, (1, count, channels, self.config.height, self.config.width), role="device")

    def tracks(self, opening: bool) -> StageSpec:
        """Maps to track latents."""
        head = self.config.model.track_head
        assert head is not None, "only models with a track head have this stage"
        suffix, frames = self._opening(opening)
        inputs = [self.points(opening).outputs[0]]
        inputs += [o for o in self.compose(opening).outputs if o.name != "moved_valid"] if self.moves else []
        outputs = [TensorSpec("track", (1, frames, head.channels, *self.latent), role="device")]
        shapes = state_shapes(self.config, "encoder") if self.moves else []
        return self._streaming(f"tracks{suffix}", inputs, outputs, "encoder", shapes, opening)

    def decode_first(self, name: str, frames: int) -> StageSpec:
        return self._decode(name, frames, True)

    def decode(self) -> StageSpec:
        return self._decode("decode", self.frames, False)

    def _decode(self, name: str, frames: int, opening: bool) -> StageSpec:
        latents = TensorSpec("latents", (1, frames, *self.x[2:]), role="device")
        count = rgb_frames(frames, first=opening)
        inputs = [latents]
        if self.config.model.refiner is not None:
            inputs += [self._picture("moved", count, 3), self._picture("moved_valid", count, 1)]
        pixels = TensorSpec("frames", (count, self.config.height, self.config.width, 3), "uint8")
        return self._streaming(name, inputs, [pixels], "decoder", state_shapes(self.config, "decoder"), opening)

    def _streaming(
        self,
        name: str,
        inputs: list[TensorSpec],
        outputs: list[TensorSpec],
        kind: str,
        shapes: list[Shape],
        opening: bool,
    ) -> StageSpec:
        """A stage with a state: an opening one starts from zeros of its own."""
        states = [TensorSpec(f"{kind}_{i}", shape, self.dtype, "state") for i, shape in enumerate(shapes)]
        news = [TensorSpec(f"{kind}_{i}_out", shape, self.dtype, "state") for i, shape in enumerate(shapes)]
        if opening:
            return StageSpec(name, tuple(inputs), tuple(outputs + news))
        pairs = tuple((old.name, new.name) for old, new in zip(states, news, strict=True))
        return StageSpec(name, tuple(inputs + states), tuple(outputs + news), states=pairs)

    def _caches(self, kinds: tuple[str, ...]) -> list[TensorSpec]:
        config = self.config
        sink = config.sink_tokens + config.chunk_tokens  # the last chunk's worth is where other chunks write
        tokens = {"k": config.cache_tokens, "v": config.cache_tokens, "sink_k": sink}
        heads, width = config.model.heads, config.model.head_dim
        return [
            TensorSpec(cache_name(kind, layer), (1, heads, tokens[kind], width), self.dtype, "cache")
            for layer in range(config.model.layers)
            for kind in kinds
        ]

    def roll(self) -> StageSpec:
        """The sink's keys at their new position, from the un-rotated ones."""
        table = (1, self.config.sink_tokens, self.config.model.head_dim // 2)
        tables = [TensorSpec("sink_cos", table), TensorSpec("sink_sin", table)]
        return _aliased("roll", tables + self._caches(("k", "sink_k")), [], self._caches(("k",)))

    def denoise(self) -> StageSpec:
        model = self.config.model
        table = (1, self.config.chunk_tokens, model.head_dim // 2)
        slots = [self._slot(slot, channels) for slot, channels in model.layout if slot != "noise"]
        relative = relative_sink(self.config)
        inputs = [
            TensorSpec("x", self.x),
            *slots,
            TensorSpec("time", (1, self.frames, model.freq_dim), role="pass"),
            TensorSpec("sigma", (1, self.frames), role="pass"),
            TensorSpec("next_sigma", (1, self.frames), role="pass"),
            TensorSpec("noise", self.x, role="pass"),
            TensorSpec("cos", table),
            TensorSpec("sin", table),
            TensorSpec("write_index", (self.frames if self.writes == "frame" else 1,), "int64"),
            *([TensorSpec("sink_index", (1,), "int64")] if relative else []),
            TensorSpec("n_valid", (1,), "int64"),
            *self._cross(),
        ]
        caches = self._caches(("k", "v", "sink_k") if relative else ("k", "v"))
        return _aliased("denoise", inputs + caches, [TensorSpec("x_next", self.x, role="device")], caches)

    def _slot(self, slot: str, channels: int) -> TensorSpec:
        """A slot of the transformer's input; that of the tracks is filled by a stage."""
        role: Role = "device" if slot == "track" else "host"
        return TensorSpec(slot, (1, self.frames, channels, *self.latent), role=role)


def _aliased(name: str, inputs: list[TensorSpec], outputs: list[TensorSpec], caches: list[TensorSpec]) -> StageSpec:
    news = [replace(cache, name=f"{cache.name}_out") for cache in caches]
    pairs = tuple((old.name, new.name) for old, new in zip(caches, news, strict=True))
    return StageSpec(name, tuple(inputs), tuple(outputs + news), aliases=pairs)
