"""What the host's half of a bundle's engine asks of whoever runs the stages of a chunk."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ms_infer.bundle.stages import StageSpec, TensorSpec
from ms_infer.engines.base import Array, DeviceFrames

STATEFUL = {
    "tracks_first": "encoder",
    "tracks": "encoder",
    "decode_first": "decoder",
    "decode_given": "decoder",
    "decode": "decoder",
    "encode": "grey",
    "encode_grey": "grey",
}
"""Stage -> the half of the autoencoder whose state it moves on."""
KINDS = ("encoder", "decoder")
ALL_KINDS = (*KINDS, "grey")
"""Beside those of a chunk, the encoder that fills the image slot: it goes on whenever it runs."""
_WINDOWS = {"latents": "x", "track": "track"}


@dataclass(frozen=True)
class PassInputs:
    """What the host fills for one pass: the inputs of `denoise` with the role `pass`."""

    time: NDArray[np.float32]
    sigma: NDArray[np.float32]
    next_sigma: NDArray[np.float32]
    noise: NDArray[np.float32]


PASS_INPUTS = tuple(PassInputs.__dataclass_fields__)


class ChunkRunner(ABC):
    """Runs the stages of one stream over memory of its own; owns caches, autoencoder states and remembered latents.

    The host fills arrays, then one chunk is `prepare` (before the host fills them), `start`, `frames`, `commit`. What a
    chunk writes before `commit` is written again by the next attempt. One thread at a time, but `run("text")` may come
    from another one.
    """

    name: str
    precision: str
    specs: Mapping[str, StageSpec]
    passes: Sequence[PassInputs]
    """Inputs of the passes of a chunk; the clean one comes last."""

    @abstractmethod
    def array(self, stage: str, name: str) -> Array:
        """The array through which the host fills an input or reads an output with the role `host`."""

    @abstractmethod
    def run(self, stage: str) -> None:
        """One stage outside of chunks, from the host's arrays to the host's arrays: text, condition, encode."""

    @abstractmethod
    def hand_over(self, stage: str) -> None:
        """Let other stages see what the host filled for this stage, without running it."""

    @abstractmethod
    def prepare(self) -> None:
        """Get ready for the host to fill the inputs of a chunk; what a failed one left under way is waited for."""

    @abstractmethod
    def move_rows(self, target: int, source: int, rows: int) -> None:
        """Copy rows (tokens) of all keys and values to lower ones, before the host fills a chunk: the window moves."""

    @abstractmethod
    def start(self, opening: bool, *, tracked: bool) -> None:
        """Run a chunk, or set it going: roll, points and track latents (`tracked`), all denoising passes."""

    @abstractmethod
    def frames(self) -> NDArray[np.uint8]:
        """Frames of the chunk `[rgb_frames, height, width, 3]`, valid until the next `start`."""

    keeps_frames = False
    """Whether `device_frames` gives any."""

    def device_frames(self) -> DeviceFrames | None:
        """In place of `frames`: a copy of the frames where they lie."""
        return None

    @abstractmethod
    def commit(self, start: int, frames: int) -> None:
        """The clean pass, if it is not under way; adopt states, remember the latent frames [start, start + frames)."""

    @abstractmethod
    def stage_ms(self) -> Mapping[str, float]:
        """See `Engine.stage_ms`."""

    @abstractmethod
    def write_given(self) -> None:
        """Take the latent frame that the host put into `x` as the stream's first: last pass, decoder state, memory."""

    @abstractmethod
    def write_again(self, start: int, frames: int) -> None:
        """The last pass over remembered latent frames [start, start + frames)."""

    @abstractmethod
    def reset(self) -> None:
        """Forget the stream."""

    @abstractmethod
    def read_cache(self, name: str) -> Array:
        """A copy of one cache (bfloat16 as its bits), by the name of its input."""

    @abstractmethod
    def write_cache(self, name: str, cache: Array) -> None:
        """Put a cache back."""

    @abstractmethod
    def read_states(self) -> dict[str, Array]:
        """What encoder and decoder read next, by the names of `state_specs`."""

    @abstractmethod
    def write_states(self, states: Mapping[str, Array]) -> None:
        """Put back what `read_states` returned."""

    @abstractmethod
    def read_history(self) -> dict[str, Array]:
        """Remembered latent frames `[remembered_frames, channels, height, width]` of each slot of the input: a ring."""

    @abstractmethod
    def write_history(self, history: Mapping[str, Array]) -> None:
        """Put back what `read_history` returned."""

    def watch(self, cancelled: threading.Event) -> None:  # noqa: B027  (a runner of one call a chunk cannot stop)
        """Give `raise_when` this event between the passes of a chunk."""

    def twin(self) -> ChunkRunner | None:
        """A runner of another stream with the same weights; None where there is none to be had."""
        return None

    def close(self) -> None:  # noqa: B027  (runners without resources need nothing)
        """Free what the runner holds."""


def followers(specs: Mapping[str, StageSpec]) -> dict[str, str]:
    """Output -> the input that it becomes, of all caches and states."""
    return {new: old for spec in specs.values() for old, new in (*spec.aliases, *spec.states)}


def state_specs(specs: Mapping[str, StageSpec]) -> list[TensorSpec]:
    """The inputs of all encoder and decoder states."""
    stages = [specs[stage] for stage in ("tracks", "decode") if stage in specs]
    return [named(spec, old) for spec in stages for old, _ in spec.states]


def window_of(specs: Mapping[str, StageSpec], stage: str, tensor: TensorSpec) -> TensorSpec | None:
    """The input of `denoise` whose first latent frames a tensor of another stage is: `x`, or the slot of tracks."""
    if stage == "denoise" or tensor.role != "device" or tensor.name not in _WINDOWS:
        return None
    return named(specs["denoise"], _WINDOWS[tensor.name])


def longest(specs: Mapping[str, StageSpec]) -> dict[str, TensorSpec]:
    """Name -> the longest tensor that stages hand on under it, or hand out as frames.

    No stream makes an opening chunk and another at once.
    """
    handed = [tensor for spec in specs.values() for tensor in spec.tensors if tensor.role == "device"]
    handed += [named(spec, "frames") for stage, spec in specs.items() if STATEFUL.get(stage) == "decoder"]
    return {tensor.name: tensor for tensor in sorted(handed, key=lambda tensor: tensor.nbytes)}


def cache_specs(specs: Mapping[str, StageSpec]) -> list[TensorSpec]:
    """The inputs of all attention caches."""
    return [tensor for tensor in specs["denoise"].inputs if tensor.role == "cache"]


def rolling_caches(specs: Mapping[str, StageSpec]) -> list[TensorSpec]:
    """The caches that hold sink and ring: rotated keys, and values."""
    return [tensor for tensor in cache_specs(specs) if tensor.name.startswith(("k_cache_", "v_cache_"))]


def track_stages(opening: bool) -> tuple[str, ...]:
    """The stages of a chunk from points to track latents; a plain track head has the first and the last alone."""
    suffix = "_first" if opening else ""
    return f"points{suffix}", "layers", f"compose{suffix}", f"tracks{suffix}"


def named(spec: StageSpec, name: str) -> TensorSpec:
    """The tensor of a stage."""
    return next(tensor for tensor in spec.tensors if tensor.name == name)
