"""What the engine and the kernels agree on: the `[sink | ring]` cache, the device state, the track grid."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from torch import Tensor

N_VALID = 0
"""Index of the number of valid cache tokens in the state tensor."""
FIRST_SLOT = 2
"""Index of the slot of the chunk's first latent frame; the others follow."""
SUBFRAMES = 4
"""RGB frames that one latent frame holds, packed one after the other into channels."""
INT32_MAX = 2**31 - 1


def slot_of(frame: int, sink_frames: int, ring_frames: int) -> int:
    """Cache slot of a latent frame: `frame` in the sink, then `sink + (frame - sink) % ring`."""
    return frame if frame < sink_frames else sink_frames + (frame - sink_frames) % ring_frames


@dataclass(frozen=True)
class ChunkState:
    """Where one chunk lives in the cache; `to_list` is the int32 tensor that kernels read.

    The tensor is `[n_valid_tokens, start_frame, slot_of_frame_0, ..., slot_of_frame_{F-1}]`, int32, contiguous, on the
    device of the caches. A slot holds one latent frame: its tokens are the cache rows
    `[slot * tokens_per_frame, (slot + 1) * tokens_per_frame)` of every head; the slot -1 means that the frame only
    asks and is not stored. `n_valid_tokens` counts the chunk itself:
    it is the state *after* the chunk is written, and attention reads the prefix `[0, n_valid_tokens)`.
    """

    n_valid_tokens: int
    start_frame: int
    slots: tuple[int, ...]

    def __post_init__(self) -> None:
        numbers = (self.n_valid_tokens, self.start_frame, *self.slots)
        stored = [slot for slot in self.slots if slot != -1]
        if not self.slots or min(*numbers[:2], *stored, 0) < 0 or max(numbers) > INT32_MAX:
            raise ValueError(
                f"a chunk state needs at least one slot and numbers within 0..2^31-1, got {numbers}; "
                "build it with ChunkState.of"
            )
        if len(set(stored)) != len(stored):
            raise ValueError(f"two frames of the chunk share a slot: {self.slots}; the ring is too small for it")

    @classmethod
    def of(
        cls, start_frame: int, frames: int, *, sink_frames: int, ring_frames: int, tokens_per_frame: int
    ) -> ChunkState:
        """State of the chunk that holds the latent frames `[start_frame, start_frame + frames)`."""
        end = start_frame + frames
        return cls(
            n_valid_tokens=min(end, sink_frames + ring_frames) * tokens_per_frame,
            start_frame=start_frame,
            slots=tuple(slot_of(frame, sink_frames, ring_frames) for frame in range(start_frame, end)),
        )

    @staticmethod
    def length(frames: int) -> int:
        """Numbers in the state tensor of a chunk of `frames` latent frames."""
        return FIRST_SLOT + frames

    def to_list(self) -> list[int]:
        """The numbers of the state tensor, in order."""
        return [self.n_valid_tokens, self.start_frame, *self.slots]


class Rotation(NamedTuple):
    """Cosines and sines of 3-D RoPE: `cos`, `sin` [tokens, head_dim / 2] fp32, one row a token, contiguous."""

    cos: Tensor
    sin: Tensor


class QKNorm(NamedTuple):
    """RMS norm of queries and keys over all heads together: weights [heads * head_dim] and epsilon."""

    q_weight: Tensor
    k_weight: Tensor
    eps: float = 1e-6


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer, allocated once by the engine and written in place.

    `k`, `v`: [batch, heads, slots * tokens_per_frame, head_dim], contiguous; keys are rotated.
    `sink_k`: [batch, heads, sink_tokens, head_dim], the sink's keys before rotation; None in absolute mode.
    """

    k: Tensor
    v: Tensor
    sink_k: Tensor | None
    tokens_per_frame: int

    def kept_sink(self) -> Tensor:
        """`sink_k`; ValueError in absolute mode."""
        if self.sink_k is None:
            raise ValueError("roll_sink needs the un-rotated sink_k; in absolute mode the sink is never re-rotated")
        return self.sink_k


@dataclass(frozen=True, kw_only=True)
class TrackGrid:
    """How points in pixels fall into the cells of a latent frame (MotionStream Eq. 1; open points are named)."""

    height: int
    """Picture height in pixels."""
    width: int
    """Picture width in pixels."""
    rows: int
    """Cell rows: the latent height."""
    columns: int
    """Cell columns: the latent width."""
    rounding: Literal["floor", "round"] = "floor"
    """floor(x / stride) as in Eq. 1, where points outside the picture are invisible; or WanTrack's
    round(x / width * (columns - 1)), half to even, where they fall into the cells of the border."""
    collision: Literal["sum", "last"] = "sum"
    """Two points in one cell and one subframe: add the embeddings, or keep that of the later track."""
    first_frame: Literal["repeat", "zero_pad"] = "repeat"
    """RGB frame 0 fills its latent frame four times, or only the last of its four subframes."""
    id_order: Literal["cos_sin", "sin_cos"] = "cos_sin"
    """Which half of the id embedding comes first."""
    id_period: float = 10_000.0
    """Longest period of the id embedding: angle_i = id * id_period ** (-i / half)."""

    def __post_init__(self) -> None:
        if min(dataclasses.astuple(self)[:4]) < 1 or self.height % self.rows or self.width % self.columns:
            raise ValueError(
                f"{self.height}x{self.width} pixels do not divide into {self.rows}x{self.columns} cells; "
                "give the latent height and width"
            )
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {known}, not {getattr(self, name)!r}")

    def latent_frames(self, rgb_frames: int) -> tuple[int, bool]:
        """(latent frames, whether they open the stream) for 4 F - 3 (opening) or 4 F (later) RGB frames."""
        if rgb_frames < 1 or rgb_frames % SUBFRAMES not in (0, 1):
            raise ValueError(
                f"tracks have {rgb_frames} RGB frames; a chunk of F latent frames needs 4 F - 3 (opening) or 4 F"
            )
        return (rgb_frames + SUBFRAMES - 1) // SUBFRAMES, rgb_frames % SUBFRAMES == 1


FAR_PIXELS = 1e6
"""No point is so far outside the picture: with rounding='round' those that are, and NaN, are invisible."""
_CHOICES = {
    "rounding": ("floor", "round"),
    "collision": ("sum", "last"),
    "first_frame": ("repeat", "zero_pad"),
    "id_order": ("cos_sin", "sin_cos"),
}
