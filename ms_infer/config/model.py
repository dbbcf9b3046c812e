"""Sizes of the transformer, its input layout and its helpers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field
from typing import Literal

from ms_infer.errors import ConfigError, require

PATCH = 2  # spatial patch of the transformer: 2 x 2 latent pixels are one token
SLOTS = ("noise", "mask", "image", "track")


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
    """Cell of a point: floor(x / stride) as in Eq. 1, points outside the picture being invisible; or as WanTrack does
    it, round(x / W * (cells - 1)), half to even, points outside falling into the cells of the border."""
    first_frame: Literal["repeat", "zero_pad"] = "repeat"
    """RGB frame 0 fills its latent frame four times, or only the last of four subframes."""
    bias: bool = True
    """Whether the 1x1x1 convolutions have a bias."""
    convs: int = 1
    """Number of 1x1x1 convolutions (2 in WanTrack)."""
    content: Literal["none", "layers"] = "none"
    """"layers" adds, beside the ids, the first frame moved along the tracks and encoded: its layers, which the model's
    layer network finds."""

    def __post_init__(self) -> None:
        require(self.id_dim > 0 and self.id_dim % 2 == 0, f"id_dim must be even, not {self.id_dim}")
        require(
            self.content in ("none", "layers"),
            f"content must be 'none' or 'layers', not {self.content!r}; a student that was trained with another one "
            "has to be trained again",
        )
        require(self.convs in (1, 2), f"convs must be 1 or 2, not {self.convs}")
        require(self.channels > 0, f"channels must be positive, not {self.channels}")
        require(0 < self.id_range <= 1 << 24, f"id_range must be within 1..2^24, not {self.id_range}")

    @property
    def hides_outside(self) -> bool:
        """Whether points outside the picture are invisible."""
        return self.rounding == "floor"


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
    decoder: Literal["base", "super"] = "base"
    """Blocks of a tiny autoencoder's decoder: TAEHV's own, or those of its larger super decoders."""
    decoder_widths: tuple[int, int, int, int] = (256, 128, 64, 64)
    encoder_width: int = 64
    blocks: int = 3
    """Memory blocks per stage of a tiny autoencoder."""
    base_dim: int = 96
    """First width of a Wan VAE."""
    decoder_dim: int | None = None
    """The same of its decoder where it differs; None means base_dim."""
    latents: Literal["normalised", "raw"] = "normalised"
    """What a tiny autoencoder reads and writes: the transformer's latents, or Wan's before normalisation (LightTAE)."""
    part: Literal["both", "encoder", "decoder"] = "both"
    """What of it there is."""
    encoder: VaeConfig | None = None
    """Another autoencoder, whose encoder goes with this one's decoder: the full one beside a tiny decoder."""

    def __post_init__(self) -> None:
        require(0 <= self.blocks <= 64, f"blocks must be within 0..64, not {self.blocks}")
        require(self.decoder in ("base", "super"), f"a tiny decoder is base or super, not {self.decoder!r}")
        require(self.latents in ("normalised", "raw"), f"latents are normalised or raw, not {self.latents!r}")
        require(self.part in ("both", "encoder", "decoder"), f"part is both, encoder or decoder, not {self.part!r}")
        pair = self.encoder
        require(
            pair is None or (self.part, pair.part, pair.encoder) == ("decoder", "encoder", None),
            "an autoencoder with another one's encoder has part='decoder', and the other one part='encoder'",
        )
        require(
            pair is None or (pair.latent_channels, pair.spatial_stride) == (self.latent_channels, self.spatial_stride),
            f"encoder and decoder differ: {pair and pair.latent_channels} latent channels and "
            f"{self.latent_channels}; use those of one Wan version",
        )

    @property
    def encodes(self) -> bool:
        """Whether pictures can be encoded."""
        return self.part != "decoder" or self.encoder is not None


GREY_LATENT_FRAMES = 32
"""Latent frames after which every autoencoder here has forgotten a first frame that only grey ones follow."""


@dataclass(frozen=True, kw_only=True)
class ImageEncoderConfig:
    """The vision transformer whose tokens of the first frame a second cross-attention reads (CLIP ViT-H/14)."""

    width: int = 1280
    ffn_dim: int = 5120
    heads: int = 16
    layers: int = 31
    """Blocks in use: the tokens are those after the last but one of CLIP's 32."""
    patch: int = 14
    pixels: int = 224
    """Side of the square picture that it sees."""
    fit: Literal["crop", "squash"] = "crop"
    """How the first frame becomes square: its middle, as CLIP's own processor does it in 8-bit steps (FastVideo,
    diffusers), or all of it (Wan)."""

    def __post_init__(self) -> None:
        require(self.layers >= 1, f"an image encoder needs at least 1 block, not {self.layers}")
        require(
            self.heads > 0 and self.width % self.heads == 0,
            f"the image encoder's width ({self.width}) must be a multiple of its heads ({self.heads})",
        )
        require(
            self.patch > 0 and self.pixels % self.patch == 0,
            f"the image encoder's picture ({self.pixels}) must be a multiple of its patch ({self.patch})",
        )

    @property
    def tokens(self) -> int:
        """Tokens that it makes: the class token, then one per patch."""
        return 1 + (self.pixels // self.patch) ** 2


LAYER_STRIDE = 32
"""Pixels that a side of the frame is a multiple of where a layer network sees it."""
THINGS = 3
"""Layers of the first frame over its backdrop: things that move apart from it."""
MOTION_TERMS = 6
"""Terms of a motion: 1, x, y, x^2, x y, y^2 of the place in the first frame."""


@dataclass(frozen=True, kw_only=True)
class LayersConfig:
    """The network that finds the layers of the first frame: what moves with which tracks, and what lies behind."""

    widths: tuple[int, ...] = (32, 64, 96, 128, 160)
    """Channels at a half of the frame's size, a quarter, and so on."""
    painter: tuple[int, int] = (48, 72)
    """Channels of the painter of what lies behind, at a quarter of the frame's size and an eighth."""

    def __post_init__(self) -> None:
        painter = self.painter
        require(len(painter) == 2 and min(painter) > 0, f"painter must be 2 positive sizes, not {painter}")
        require(len(self.widths) == 5 and min(self.widths) > 0, f"widths must be 5 positive sizes, not {self.widths}")


@dataclass(frozen=True, kw_only=True)
class RefinerConfig:
    """Adds the light and the new things of the decoded frame to the first frame, moved in layers."""

    widths: tuple[int, int, int] = (32, 56, 80)
    """Channels at a quarter of the frame's size, an eighth and a sixteenth."""

    def __post_init__(self) -> None:
        require(len(self.widths) == 3 and min(self.widths) > 0, f"widths must be 3 positive sizes, not {self.widths}")


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
    image_encoder: ImageEncoderConfig | None = None
    """Makes the image tokens; without one they are zeros, as in training without an image encoder."""
    image_at: Literal["first", "every", "grey"] = "first"
    """What the image slot holds: the image latent at the first latent frame and zeros at the others, or at every one;
    or the encoding of the image followed by grey frames (Wan image-to-video, WanTrack)."""
    image_input: Literal["slot", "prefill", "pin"] = "slot"
    """How a first frame enters: through the image slot; as a given latent frame written to the
    context before the first chunk (Self-Forcing); or pinned inside the first chunk (TI2V-5B)."""
    text: TextConfig = field(default_factory=TextConfig)
    vae: VaeConfig = field(default_factory=VaeConfig)
    track_head: TrackHeadConfig | None = None
    refiner: RefinerConfig | None = None
    """Works on decoded frames; needs a track head with content="layers"."""
    layer_network: LayersConfig | None = None
    """Moves the first frame for a track head with content="layers"."""
    rests: bool = False
    """Whether its picture stands still while no track moves; a large model's water goes on flowing."""

    def __post_init__(self) -> None:
        require(
            self.heads > 0 and self.dim % self.heads == 0 and self.head_dim % 2 == 0,
            f"dim ({self.dim}) must be heads ({self.heads}) times an even head size",
        )
        names = [slot for slot, _ in self.layout]
        unknown = sorted(set(names) - set(SLOTS))
        require(not unknown, f"layout names unknown slots {unknown}; known: {list(SLOTS)}")
        require(
            names.count("noise") == 1 and len(set(names)) == len(names),
            f"layout needs the noise slot once and no slot twice, got {names}",
        )
        require(
            ("track" in names) == (self.track_head is not None),
            "a track slot in the layout and a track_head come together or not at all",
        )
        if self.image_encoder is not None:
            own = (self.image_encoder.tokens, self.image_encoder.width)
            require(
                own == (self.image_tokens, self.image_dim),
                f"the image encoder makes {own[0]} tokens of {own[1]}, the model reads {self.image_tokens} of "
                f"{self.image_dim}",
            )
        require(self.image_at != "grey" or "image" in names, "image_at='grey' needs an image slot in the layout")
        if self.track_head is not None:
            require(
                self.slot_channels("track") == self.track_head.channels,
                f"track slot has {self.slot_channels('track')} channels, track_head makes {self.track_head.channels}",
            )
        content = self.track_head.content if self.track_head is not None else "none"
        require(
            self.refiner is None or (content == "layers" and self.image_input == "slot"),
            "a refiner needs a track head with content='layers' and image_input='slot'",
        )
        require(
            (self.layer_network is not None) == (content == "layers"),
            "a layer_network and a track head with content='layers' come together or not at all",
        )

    def require_track_head(self) -> TrackHeadConfig:
        """The track head; ConfigError for a model that follows no tracks."""
        if self.track_head is None:
            raise ConfigError(f"the model {self.name!r} has no track head; it cannot follow tracks")
        return self.track_head

    def slot_slices(self) -> dict[str, slice]:
        """Where each slot of the layout lies among the input channels."""
        ends = list(itertools.accumulate(channels for _, channels in self.layout))
        return {slot: slice(end - channels, end) for (slot, channels), end in zip(self.layout, ends, strict=True)}

    def slot_channels(self, slot: str) -> int:
        """Channels of one slot of the layout, 0 when absent."""
        return dict(self.layout).get(slot, 0)

    def carries_image(self, latent_frame: int) -> bool:
        """Whether image and mask slot of a latent frame carry the first frame."""
        return self.image_at == "every" or latent_frame == 0

    def pins_image(self, start: int) -> bool:
        """Whether a chunk from latent frame `start` begins with the first frame, pinned before every pass."""
        return self.image_input == "pin" and start == 0

    @property
    def latent_channels(self) -> int:
        return self.slot_channels("noise")

    @property
    def in_channels(self) -> int:
        return sum(channels for _, channels in self.layout)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads
