"""What a chunk attends to: sizes in latent frames, and the placement rule of sink and ring."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ms_infer.errors import require

RGB_FRAMES_PER_LATENT_FRAME = 4  # temporal stride of every VAE here; the first latent frame gives 1

Rope = Literal["relative", "absolute"]


def rgb_frames(latent_frames: int, *, first: bool) -> int:
    """RGB frames that `latent_frames` decode to; `first` when they open the stream."""
    return latent_frames * RGB_FRAMES_PER_LATENT_FRAME - (RGB_FRAMES_PER_LATENT_FRAME - 1) * first


def latent_frames(rgb_frame_count: int) -> int:
    """Latent frames that hold an opening clip of `rgb_frame_count` = 1 + 4 k RGB frames."""
    require(
        rgb_frame_count >= 1 and rgb_frame_count % RGB_FRAMES_PER_LATENT_FRAME == 1,
        f"a clip has 1 + 4 k RGB frames (1, 5, 9, ...), not {rgb_frame_count}",
    )
    return 1 + rgb_frame_count // RGB_FRAMES_PER_LATENT_FRAME


@dataclass(frozen=True)
class Span:
    """A run of latent frames, and the RGB frames that it decodes to."""

    start: int
    frames: int

    @property
    def opening(self) -> bool:
        """Whether it opens the stream: its first latent frame decodes to one RGB frame."""
        return self.start == 0

    @property
    def first_rgb_frame(self) -> int:
        """Index in the stream of the first RGB frame."""
        return 0 if self.opening else rgb_frames(self.start, first=True)

    @property
    def rgb_frames(self) -> int:
        return rgb_frames(self.frames, first=self.opening)


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
    position that keeps the sink at a constant distance to the queries."""


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
    """Temporal positions: slot in the context, or true latent frame index."""
    recompute: bool = False
    """Encode the window again before every chunk, by itself and under the newest prompt: its keys then know of nothing
    older (Krea)."""

    def __post_init__(self) -> None:
        require(self.chunk_frames >= 1, f"chunk_frames must be at least 1, not {self.chunk_frames}")
        require(
            self.sink_frames >= 0 and self.window_frames >= 0,
            f"sink_frames ({self.sink_frames}) and window_frames ({self.window_frames}) must not "
            "be negative; 0 switches one off",
        )
        first = self.first_chunk_frames
        require(
            first is None or 1 <= first <= self.chunk_frames,
            f"first_chunk_frames must be 1..chunk_frames ({self.chunk_frames}), not {first}",
        )
        require(self.rope in ("relative", "absolute"), f"rope must be relative or absolute, not {self.rope!r}")
        require(
            not self.recompute or (self.sink_frames == 0 and self.window_frames == self.chunk_frames),
            f"recompute needs sink_frames 0 and a window of one chunk, not sink_frames {self.sink_frames} and "
            f"window_frames {self.window_frames} with chunk_frames {self.chunk_frames}; or set recompute=false",
        )

    @property
    def ring_frames(self) -> int:
        return self.window_frames + self.chunk_frames

    @property
    def cache_frames(self) -> int:
        """Latent frames held: sink + window + chunk (Self-Forcing's local_attn_size)."""
        return self.sink_frames + self.ring_frames

    @property
    def remembered_frames(self) -> int:
        """Latent frames that an engine of stages keeps for re-encoding: all that a chunk may be made from again."""
        return self.cache_frames + self.chunk_frames

    @property
    def reencoded_frames(self) -> int:
        """Newest latent frames that are encoded again where the context is."""
        return self.window_frames if self.recompute else self.cache_frames

    @property
    def opening_frames(self) -> int:
        """Latent frames of the first chunk."""
        return self.first_chunk_frames or self.chunk_frames

    def span(self, index: int, given: int = 0) -> Span:
        """Frames of chunk `index`; `given` latent frames were there before the first one."""
        if given:
            return Span(given + index * self.chunk_frames, self.chunk_frames)
        if index == 0:
            return Span(0, self.opening_frames)
        return Span(self.opening_frames + (index - 1) * self.chunk_frames, self.chunk_frames)

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
        require(
            len(written) <= self.cache_frames,
            f"{frames} latent frames do not fit a context of {self.cache_frames}",
        )
        shift = max(0, end - sink_start - self.cache_frames) if self.rope == "relative" else 0
        return Placement(
            start=start,
            frames=frames,
            slots=tuple(self.slot(frame, sink_start=sink_start) for frame in written),
            valid_frames=min(end - sink_start, self.cache_frames),
            sink_position=sink_start + shift,
        )

    def slot(self, frame: int, *, sink_start: int = 0, ring_start: int | None = None) -> int:
        """Cache slot of a latent frame: the sink, then the ring.

        `ring_start` is a latent frame in the ring's first slot; None for the one after the sink.
        """
        sink_end = sink_start + self.sink_frames
        if frame < sink_end:
            return frame - sink_start
        first = sink_end if ring_start is None else ring_start
        return self.sink_frames + (frame - first) % self.ring_frames

    def kept_slots(self, made: int, sink_start: int, ring_start: int | None = None) -> tuple[list[int], list[int]]:
        """Slots of the sink and of the window that the chunk after `made` latent frames reads and does not write."""
        sink_end = min(made, sink_start + self.sink_frames)
        frames = range(sink_start, sink_end), range(max(sink_end, made - self.window_frames), made)
        sink, window = ([self.slot(f, sink_start=sink_start, ring_start=ring_start) for f in run] for run in frames)
        return sink, window
