"""The one seam: what a stream asks of whoever computes its stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import Placement, StreamConfig
from ms_infer.errors import ConfigError
from ms_infer.tracks.player import TrackChunk, TrackPlayer

Array = NDArray[Any]


@dataclass(frozen=True)
class ChunkPlan:
    """All that the host decides about one chunk before any stage runs."""

    index: int
    """Counts chunks from 0."""
    opening: bool
    """Whether the chunk's first latent frame is the stream's first: it decodes to one RGB frame."""
    placement: Placement
    """Latent frames of the chunk and their slots in the context."""
    tracks: TrackChunk | None
    """Points of the chunk's RGB frames; None for models without a track head."""
    seed: int
    """Seed of the counter-based noise."""


def plan_chunk(
    config: StreamConfig, index: int, player: TrackPlayer | None, seed: int, *, given: int = 0, sink_start: int = 0
) -> ChunkPlan:
    """The plan of chunk `index`, with the tracks that `player` plays; `given` as in `ContextConfig.span`."""
    span = config.context.span(index, given)
    placement = config.context.place(span.start, span.frames, sink_start=sink_start)
    tracks = None
    if player is not None and config.model.track_head is not None:
        tracks = player.chunk(span.first_rgb_frame, span.rgb_frames)
    return ChunkPlan(index, span.opening, placement, tracks, seed)


class Engine(ABC):
    """Computes the stages of one stream; owns weights, buffers and the attention context.

    One chunk is `begin`, `denoise(0..steps-1)`, `decode`, `write_cache`, `commit`. Until `commit`
    nothing that a later chunk depends on has changed, so a chunk that failed can be made again.
    One thread at a time.
    """

    name: ClassVar[str]
    config: StreamConfig
    sink_start: int
    """First latent frame of the sink: 0 unless `recache` replaced it."""
    precision: str
    """Arithmetic of the transformer: fp32, bf16, fp16 or fp8."""

    @abstractmethod
    def embed(self, prompt: str | Array) -> NDArray[np.float32]:
        """Text embedding `[tokens, dim]` of a prompt, or of a ready embedding `[<= tokens, dim]`.

        Touches nothing of the stream: any thread may call it while a chunk is made.
        """

    @abstractmethod
    def set_text(self, embedding: NDArray[np.float32]) -> None:
        """Text embedding `[tokens, dim]` to cross-attention keys."""

    @abstractmethod
    def set_image(self, image: NDArray[np.uint8] | None) -> None:
        """First frame `[height, width, 3]`, or None for a stream from nothing."""

    @abstractmethod
    def given_frames(self) -> int:
        """Latent frames that `set_image` puts before the first chunk (0 where a slot carries it)."""

    @abstractmethod
    def begin(self, plan: ChunkPlan) -> None:
        """Roll the context, make the track latents and the first noise of a chunk."""

    @abstractmethod
    def denoise(self, step: int) -> None:
        """One denoising pass of the current chunk."""

    @abstractmethod
    def decode(self) -> NDArray[np.uint8]:
        """RGB frames `[rgb_frames, height, width, 3]`, valid until the next `decode`."""

    @abstractmethod
    def write_cache(self) -> None:
        """The clean pass: the chunk's final keys and values."""

    @abstractmethod
    def commit(self) -> None:
        """Adopt the states staged since `begin`."""

    @property
    def strengths(self) -> tuple[float, ...]:
        """Strengths of the adapters (LoRA) that can be changed; empty where the weights are fixed."""
        return ()

    def check_strengths(self, strengths: Sequence[float]) -> tuple[float, ...]:
        """The strengths as numbers; ConfigError where they do not fit or this engine cannot change them."""
        raise ConfigError(
            f"the {self.name} engine runs exported weights, whose adapters are fixed; open the checkpoint with "
            "engine='torch', or export again with --lora FILE:strength"
        )

    def set_strengths(self, strengths: Sequence[float]) -> None:
        """Change the strengths of the adapters, between two chunks; the context stays as it is."""
        self.check_strengths(strengths)

    def stage_ms(self) -> Mapping[str, float]:
        """Device milliseconds of stages of the last chunk that the host's clock cannot see; none by default."""
        return {}

    @abstractmethod
    def recache(self, *, replace_sink: bool) -> None:
        """Re-encode the context under the newest prompt, between two chunks (LongLive's recache)."""

    @abstractmethod
    def reset(self) -> None:
        """Forget the stream; keep weights, buffers and graphs."""

    @abstractmethod
    def state(self) -> dict[str, Array]:
        """Everything a later chunk depends on, as host arrays."""

    @abstractmethod
    def check_state(self, state: Mapping[str, Array], made: int) -> None:
        """ConfigError unless `restore` can put this back, into a stream of `made` latent frames. Changes nothing."""

    @abstractmethod
    def restore(self, state: Mapping[str, Array]) -> None:
        """Put back what `state` returned and `check_state` has seen."""

    @abstractmethod
    def weights_digest(self) -> str:
        """Tells weights apart: a state of one engine fits no engine with other weights."""

    def close(self) -> None:  # noqa: B027  (engines without resources need nothing)
        """Free what the engine holds."""
