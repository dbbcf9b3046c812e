"""The one seam: what a stream asks of whoever computes its stages."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import Placement, StreamConfig
from ms_infer.errors import Cancelled, ConfigError
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


STAGES = ("begin", "denoise", "decode", "write_cache")
"""Stages of a chunk whose times an engine tells: what comes before the first pass (the host's inputs, the sink's roll,
the track latents), all denoising passes, latents to frames on the host, the clean pass."""


WARM_UP_CHUNKS = 3
"""The first chunk, and one for each side of the states that take turns."""


def raise_when(cancelled: threading.Event | None) -> None:
    """Cancelled when the event is set."""
    if cancelled is not None and cancelled.is_set():
        raise Cancelled("the step was cancelled; nothing changed, and the next step makes the same chunk")


class DeviceFrames(Protocol):
    """RGB frames uint8 `[rgb_frames, height, width, 3]` on a device; nothing writes into them any more."""

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, frames: slice) -> DeviceFrames: ...
    def __dlpack__(self, **options: Any) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...
    def numpy(self) -> NDArray[np.uint8]:
        """A copy on the host."""
        ...


class Engine(ABC):
    """Computes the stages of one stream; owns weights, buffers and the attention context.

    One chunk is `generate`, `frames`, `commit`. An engine on a device may have all of it under way when `generate`
    returns, one on the host does each part when it is asked for. Until `commit` has returned nothing that a later
    chunk depends on has changed, so a chunk that failed can be made again. One thread at a time.
    """

    name: str
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
    def generate(self, plan: ChunkPlan) -> None:
        """Make a chunk's latents: roll the context, track latents, noise, all denoising passes."""

    @abstractmethod
    def frames(self) -> NDArray[np.uint8]:
        """RGB frames of the chunk `[rgb_frames, height, width, 3]`, valid until the next `generate`."""

    downloads = True
    """Whether a chunk's frames are wanted on the host, by `frames`; else `device_frames` is asked for them."""

    def device_frames(self) -> DeviceFrames | None:
        """In place of `frames`: a copy of the chunk's frames where they lie; None for engines that cannot."""
        return None

    @property
    def keeps_frames(self) -> bool:
        """Whether `device_frames` gives any."""
        return type(self).device_frames is not Engine.device_frames

    def place_frames(self, place: Literal["host", "device"]) -> None:
        """Where the frames are wanted; ConfigError when this engine has them on the host only."""
        if place not in ("host", "device"):
            raise ConfigError(f"frames are wanted on the 'host' or the 'device', not on {place!r}")
        if place == "device" and not self.keeps_frames:
            raise ConfigError(f"the {self.name} engine hands out its frames on the host; leave frames_on alone")
        self.downloads = place == "host"

    @abstractmethod
    def commit(self) -> None:
        """Make the chunk part of the context: its final keys and values (the clean pass), states and latents."""

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

    @abstractmethod
    def stage_ms(self) -> Mapping[str, float]:
        """Milliseconds of `STAGES` of the chunk committed last, by the clock of whoever ran them.

        A clean pass that still runs on a device is told with the next chunk; until then `write_cache` is that of the
        chunk before, and missing after the first one.
        """

    _cancelled: threading.Event | None = None

    def watch(self, cancelled: threading.Event) -> None:
        """Look at this event between the parts of a chunk."""
        self._cancelled = cancelled

    def check_cancelled(self) -> None:
        """Cancelled when the event is set that `watch` was given."""
        raise_when(self._cancelled)

    def warm_up(self) -> None:
        """Compile, capture and allocate what chunks need, by making some of a grey picture; then `reset`."""
        config, text = self.config, self.config.model.text
        self.reset()
        self.set_text(self.embed("" if text.kind == "words" else np.zeros((1, text.dim), np.float32)))
        grey = np.full((config.height, config.width, 3), 127, np.uint8)
        self.set_image(grey if config.model.vae.encodes else None)
        player = TrackPlayer.of(config)
        for index in range(WARM_UP_CHUNKS):
            plan = plan_chunk(config, index, player, 0, given=self.given_frames(), sink_start=self.sink_start)
            self.generate(plan)
            self.frames()
            self.commit()
        self.reset()

    def twin(self) -> Engine | None:
        """An engine for another stream that shares the weights of this one, and nothing else; None where none can."""
        return None

    @abstractmethod
    def recache(self, *, replace_sink: bool) -> None:
        """Re-encode the context under the newest prompt, between two chunks (LongLive's recache)."""

    @abstractmethod
    def reset(self) -> None:
        """Forget the stream; keep weights, buffers and graphs."""

    @abstractmethod
    def state(self) -> dict[str, Array]:
        """Everything a later chunk depends on, as host arrays."""

    def near_state(self) -> dict[str, Array]:
        """The same without keys and values, which `restore` makes anew from latents; ConfigError where it cannot."""
        raise ConfigError(f"the {self.name} engine does not keep the latents of its sink; save the exact state()")

    @abstractmethod
    def check_state(self, state: Mapping[str, Array], made: int) -> None:
        """ConfigError unless `restore` can put this back, into a stream of `made` latent frames. Changes nothing."""

    @abstractmethod
    def restore(self, state: Mapping[str, Array]) -> None:
        """Put back what `state` or `near_state` returned and `check_state` has seen."""

    @abstractmethod
    def weights_digest(self) -> str:
        """Tells weights apart: a state of one engine fits no engine with other weights."""

    def close(self) -> None:  # noqa: B027  (engines without resources need nothing)
        """Free what the engine holds."""
