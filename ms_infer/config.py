"""Frozen settings of a stream, validated once. Every derived size is computed here and only here."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ms_infer.errors import ConfigError

RGB_FRAMES_PER_LATENT_FRAME = 4  # temporal stride of every VAE here; the first latent frame gives 1
PATCH = 2  # spatial patch of the transformer: 2 x 2 latent pixels are one token

Rope = Literal["relative", "absolute"]
SLOTS = ("noise", "mask", "image", "track")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


def rgb_frames(latent_frames: int, *, first: bool) -> int:
    """RGB frames that `latent_frames` decode to; `first` when they open the stream."""
    return latent_frames * RGB_FRAMES_PER_LATENT_FRAME - (RGB_FRAMES_PER_LATENT_FRAME - 1) * first


def latent_frames(rgb_frame_count: int) -> int:
    """Latent frames that hold an opening clip of `rgb_frame_count` = 1 + 4 k RGB frames."""
    _require(
        rgb_frame_count >= 1 and rgb_frame_count % RGB_FRAMES_PER_LATENT_FRAME == 1,
        f"a clip has 1 + 4 k RGB frames (1, 5, 9, ...), not {rgb_frame_count}",
    )
    return 1 + rgb_frame_count // RGB_FRAMES_PER_LATENT_FRAME


@dataclass(frozen=True, kw_only=True)
class TrackHeadConfig:
    """How points become track latents (MotionStream Eq. 1 and section D; open points are named)."""

    channels: int = 16
    """Channels of the track latents that the transformer reads."""
    max_tracks: int = 2500
    """Tracks that the exported `tracks` stage takes; fewer are padded with invisible ones."""
    id_dim: int = 64
    """Width of the sinusoidal embedding of a track's id."""
    id_range: int = 100_000
    """Ids are drawn from [0, id_range)."""
    id_period: float = 10_000.0
    """Longest period of the id embedding."""
    id_order: Literal["cos_sin", "sin_cos"] = "cos_sin"
    """Which half of the id embedding comes first."""
    collision: Literal["sum", "last"] = "sum"
    """Two points in one cell: add the embeddings, or keep that of the later track."""
    rounding: Literal["floor", "round"] = "floor"
    """Cell of a point: floor(x / stride) as in Eq. 1, or round(x / (W - 1) * (cells - 1))."""
    first_frame: Literal["repeat", "zero_pad"] = "repeat"
    """RGB frame 0 fills its latent frame four times, or only the last of four places."""
    bias: bool = True
    """Whether the 1x1x1 convolutions have a bias."""
    convs: int = 1
    """Number of 1x1x1 convolutions (2 in WanTrack)."""
    content: Literal["none", "warp"] = "none"
    """"warp" adds the first frame, moved along the tracks and encoded, beside the ids."""

    def __post_init__(self) -> None:
        _require(self.id_dim > 0 and self.id_dim % 2 == 0, f"id_dim must be even, not {self.id_dim}")
        _require(self.convs in (1, 2), f"convs must be 1 or 2, not {self.convs}")
        _require(self.channels > 0, f"channels must be positive, not {self.channels}")
        _require(0 < self.id_range <= 1 << 24, f"id_range must be within 1..2^24, not {self.id_range}")


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Where text embeddings come from."""

    kind: Literal["umt5", "words"] = "umt5"
    """umT5-XXL through transformers, or the small word-level encoder inside the checkpoint."""
    tokens: int = 512
    """Length of the (zero-padded, never masked) text embedding."""
    dim: int = 4096
    """Width of the text embedding."""
    vocabulary: tuple[str, ...] = ()
    """Words of the word-level encoder, in the order of its table."""


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """Autoencoder between RGB frames and latent frames."""

    kind: Literal["tiny", "wan2.1", "wan2.2"] = "tiny"
    """tiny: the TAEHV family; the others are Wan's own."""
    latent_channels: int = 16
    spatial_stride: int = 8
    decoder_widths: tuple[int, int, int, int] = (256, 128, 64, 64)
    encoder_width: int = 64
    blocks: int = 3
    """Memory blocks per stage of a tiny autoencoder."""
    base_dim: int = 96
    """First width of a Wan VAE."""
    decoder_dim: int | None = None
    """The same of its decoder where it differs; None means base_dim."""

    def __post_init__(self) -> None:
        _require(0 <= self.blocks <= 64, f"blocks must be within 0..64, not {self.blocks}")


MOTION_LAYERS = 3
"""Motions of a track set that the refiner sees apart: the backdrop's, then those of two things."""
LAYER_CHANNELS = 4
"""A picture and a weight."""


@dataclass(frozen=True, kw_only=True)
class RefinerConfig:
    """Sharpens decoded frames with what the first frame, moved along the tracks, still shows."""

    widths: tuple[int, int, int] = (32, 56, 80)
    """Channels at a half, a quarter and an eighth of the frame's size."""

    def __post_init__(self) -> None:
        _require(len(self.widths) == 3 and min(self.widths) > 0, f"widths must be 3 positive sizes, not {self.widths}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A causal Wan student: sizes of the transformer, its input layout and its helpers."""

    name: str
    dim: int
    ffn_dim: int
    heads: int
    layers: int
    layout: tuple[tuple[str, int], ...] = (("noise", 16),)
    """Input channels in order: (slot, channels) with slots noise, mask, image, track."""
    freq_dim: int = 256
    """Width of the sinusoidal timestep embedding."""
    eps: float = 1e-6
    image_tokens: int = 0
    """Tokens of the image encoder for the second cross-attention (257 with CLIP, else 0)."""
    image_dim: int = 1280
    image_at: Literal["first", "every"] = "first"
    """Latent frames that carry the image latent in the image slot; the others hold zeros."""
    image_input: Literal["slot", "prefill", "pin"] = "slot"
    """How a first frame enters: through the image slot; as a given latent frame written to the
    context before the first chunk (Self-Forcing); or pinned inside the first chunk (TI2V-5B)."""
    text: TextConfig = field(default_factory=TextConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    track_head: TrackHeadConfig | None = None
    refiner: RefinerConfig | None = None
    """Works on decoded frames; needs a track head with content="warp"."""

    def __post_init__(self) -> None:
        _require(
            self.heads > 0 and self.dim % self.heads == 0 and self.head_dim % 2 == 0,
            f"dim ({self.dim}) must be heads ({self.heads}) times an even head size",
        )
        names = [slot for slot, _ in self.layout]
        unknown = sorted(set(names) - set(SLOTS))
        _require(not unknown, f"layout names unknown slots {unknown}; known: {list(SLOTS)}")
        _require(
            names.count("noise") == 1 and len(set(names)) == len(names),
            f"layout needs the noise slot once and no slot twice, got {names}",
        )
        _require(
            ("track" in names) == (self.track_head is not None),
            "a track slot in the layout and a track_head come together or not at all",
        )
        if self.track_head is not None:
            _require(
                self.slot_channels("track") == self.track_head.channels,
                f"track slot has {self.slot_channels('track')} channels, track_head makes {self.track_head.channels}",
            )
        warps = self.track_head is not None and self.track_head.content == "warp"
        _require(
            self.refiner is None or (warps and self.image_input == "slot"),
            "a refiner needs a track head with content='warp' and image_input='slot'",
        )

    def slot_channels(self, slot: str) -> int:
        """Channels of one slot of the layout, 0 when absent."""
        return dict(self.layout).get(slot, 0)

    @property
    def latent_channels(self) -> int:
        return self.slot_channels("noise")

    @property
    def in_channels(self) -> int:
        return sum(channels for _, channels in self.layout)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where one pass over `frames` latent frames from `start` reads and writes the cache."""

    start: int
    """First latent frame; queries and keys are rotated at true latent frame indices."""
    frames: int
    slots: tuple[int, ...]
    """Cache slots of the last len(slots) frames; any frames before them are queries only."""
    valid_frames: int
    """Slots [0, valid_frames) are attended to."""
    sink_position: int
    """Temporal position of the sink's first key: 0 in absolute mode, and in relative mode the
    place that keeps the sink at a constant distance to the queries."""


@dataclass(frozen=True, kw_only=True)
class ContextConfig:
    """What a chunk attends to. All sizes are latent frames."""

    chunk_frames: int = 3
    """Latent frames made per step."""
    sink_frames: int = 3
    """First latent frames of the stream, never evicted."""
    window_frames: int = 3
    """Latest finished latent frames kept before the current chunk."""
    first_chunk_frames: int | None = None
    """Latent frames of the first chunk; None means chunk_frames."""
    rope: Rope = "relative"
    """Temporal positions: place in the context, or true latent frame index."""

    def __post_init__(self) -> None:
        _require(self.chunk_frames >= 1, f"chunk_frames must be at least 1, not {self.chunk_frames}")
        _require(
            self.sink_frames >= 0 and self.window_frames >= 0,
            f"sink_frames ({self.sink_frames}) and window_frames ({self.window_frames}) must not "
            "be negative; 0 switches one off",
        )
        first = self.first_chunk_frames
        _require(
            first is None or 1 <= first <= self.chunk_frames,
            f"first_chunk_frames must be 1..chunk_frames ({self.chunk_frames}), not {first}",
        )
        _require(self.rope in ("relative", "absolute"), f"rope must be relative or absolute, not {self.rope!r}")

    @property
    def ring_frames(self) -> int:
        return self.window_frames + self.chunk_frames

    @property
    def cache_frames(self) -> int:
        """Latent frames held: sink + window + chunk (Self-Forcing's local_attn_size)."""
        return self.sink_frames + self.ring_frames

    @property
    def opening_frames(self) -> int:
        """Latent frames of the first chunk."""
        return self.first_chunk_frames or self.chunk_frames

    def frames_of_chunk(self, index: int) -> int:
        return self.opening_frames if index == 0 else self.chunk_frames

    def start_of_chunk(self, index: int) -> int:
        """Latent frame at which chunk `index` begins (streams without given latent frames)."""
        return 0 if index == 0 else self.opening_frames + (index - 1) * self.chunk_frames

    def place(self, start: int, frames: int, *, sink_start: int = 0) -> Placement:
        """Where the latent frames [start, start + frames) go and what they attend to.

        `sink_start` is the first latent frame of the sink (0 unless the sink was replaced).
        A run longer than a chunk (re-caching) that begins after a kept sink leaves the sink alone;
        its frames that the ring cannot hold are queries only.
        """
        end = start + frames
        written = range(start, end)
        if frames > self.chunk_frames and start > sink_start:  # re-caching beside a kept sink
            written = range(max(start, sink_start + self.sink_frames, end - self.ring_frames), end)
        _require(
            len(written) <= self.cache_frames,
            f"{frames} latent frames do not fit a context of {self.cache_frames}",
        )
        shift = max(0, end - sink_start - self.cache_frames) if self.rope == "relative" else 0
        return Placement(
            start=start,
            frames=frames,
            slots=tuple(self._slot(frame - sink_start) for frame in written),
            valid_frames=min(end - sink_start, self.cache_frames),
            sink_position=sink_start + shift,
        )

    def _slot(self, frame: int) -> int:
        """Cache slot of the `frame`-th latent frame from the sink's start: the sink, then the ring."""
        if frame < self.sink_frames:
            return frame
        return self.sink_frames + (frame - self.sink_frames) % self.ring_frames


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
    renoise: Literal["fresh", "none"] = "fresh"
    """"fresh": re-noise x0 between steps; "none": Euler along the flow."""

    def __post_init__(self) -> None:
        steps = self.timesteps
        _require(len(steps) >= 1, "timesteps must name at least one step")
        _require(
            all(0 < t <= 1000 for t in steps) and list(steps) == sorted(steps, reverse=True),
            f"timesteps must fall from at most 1000 and stay above 0, got {steps}",
        )
        _require(self.shift > 0, f"shift must be positive, not {self.shift}")
        _require(0 <= self.context_timestep <= 1000, "context_timestep must be within 0..1000")


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
        unit = self.model.vae.spatial_stride * PATCH
        _require(
            self.height > 0 and self.width > 0 and self.height % unit == 0 and self.width % unit == 0,
            f"size {self.height}x{self.width} must be multiples of {unit}; nearest: "
            f"{max(unit, round(self.height / unit) * unit)}x{max(unit, round(self.width / unit) * unit)}",
        )
        _require(self.fps > 0, f"fps must be positive, not {self.fps}")
        _require(
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

    def chunk_rgb_frames(self, index: int) -> int:
        """RGB frames of chunk `index`."""
        return rgb_frames(self.context.frames_of_chunk(index), first=index == 0)

    def chunk_first_rgb_frame(self, index: int) -> int:
        """Index of the first RGB frame of chunk `index`."""
        start = self.context.start_of_chunk(index)
        return 0 if start == 0 else rgb_frames(start, first=True)

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
        model["vae"] = _build(VaeConfig, _tuples(model.get("vae", {}), "decoder_widths"))
        model["track_head"] = None if head is None else _build(TrackHeadConfig, head)
        refiner = model.get("refiner")
        model["refiner"] = None if refiner is None else _build(RefinerConfig, _tuples(refiner, "widths"))
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


def _tuples(values: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {k: tuple(v) if k == name else v for k, v in values.items()}


def _build(cls: type[Any], values: Mapping[str, Any]) -> Any:
    try:
        return cls(**values)
    except TypeError as error:
        known = sorted(f.name for f in dataclasses.fields(cls))
        raise ConfigError(f"{cls.__name__}: {error}; it has the fields {known}") from None


_VAE_5B = VaeConfig(kind="wan2.2", latent_channels=48, spatial_stride=16, base_dim=160, decoder_dim=256)
_DEMO_TEXT = TextConfig(kind="words", tokens=16, dim=128)
_DEMO_VAE = VaeConfig(decoder_widths=(96, 64, 32, 32), encoder_width=32, blocks=1)

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
            track_head=TrackHeadConfig(rounding="round", first_frame="zero_pad", bias=False, convs=2),
        ),
        ModelConfig(
            name="demo",
            dim=256,
            ffn_dim=1024,
            heads=4,
            layers=7,
            layout=(("noise", 16), ("track", 16), ("image", 16)),
            image_at="every",
            text=_DEMO_TEXT,
            vae=_DEMO_VAE,
            track_head=TrackHeadConfig(content="warp", max_tracks=256),
            refiner=RefinerConfig(),
        ),
    )
}

_FEW_STEP = ScheduleConfig(timesteps=(1000.0, 750.0, 500.0, 250.0), shift=5.0)
_SELF_FORCING = ContextConfig(sink_frames=0, window_frames=18, rope="absolute")

PRESETS: dict[str, StreamConfig] = {
    "wan2.1-1.3b": StreamConfig(model=MODELS["wan2.1-1.3b"], context=_SELF_FORCING, schedule=_FEW_STEP),
    "wan2.1-14b": StreamConfig(model=MODELS["wan2.1-14b"], context=_SELF_FORCING, schedule=_FEW_STEP),
    "wan2.2-5b": StreamConfig(model=MODELS["wan2.2-5b"], height=704, width=1280, fps=24.0),
    "motionstream-1.3b": StreamConfig(model=MODELS["motionstream-1.3b"]),
    "track-v0": StreamConfig(
        model=MODELS["track-v0"],
        context=ContextConfig(sink_frames=1, window_frames=2, first_chunk_frames=1),
        schedule=ScheduleConfig(timesteps=(1000.0, 750.0, 500.0, 250.0)),
    ),
    "demo": StreamConfig(model=MODELS["demo"], height=128, width=128),
}


def preset(name: str) -> StreamConfig:
    """The settings of a named model; ConfigError lists the names."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; known: {', '.join(PRESETS)}")
    return PRESETS[name]


def env(name: str, default: str = "") -> str:
    """Value of MS_INFER_<name>; the only place that reads the environment."""
    return os.environ.get(f"MS_INFER_{name}", default)
