"""Stage by stage on the host: the runner of engines whose work is done when a call returns."""

from __future__ import annotations

import math
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ms_infer.bundle.stages import Shape, StageSpec, TensorSpec
from ms_infer.config import StreamConfig
from ms_infer.engines.base import Array, raise_when
from ms_infer.engines.runner import (
    ALL_KINDS,
    PASS_INPUTS,
    STATEFUL,
    ChunkRunner,
    PassInputs,
    followers,
    longest,
    named,
    rolling_caches,
    track_stages,
    window_of,
)


class HostArrays:
    """The one host array behind every tensor of the stages, made when it is asked for first.

    Stages that hand a tensor on share its array, by name and shape; that of an opening chunk, and its frames, are the
    beginning of the longest. Autoencoder states have two sides: a stage reads those of one side and writes those of the
    other, so a chunk can be made again. Caches have one: what a chunk writes there is out of its context until then.
    """

    def __init__(self, specs: Mapping[str, StageSpec]) -> None:
        self.specs = specs
        self._followers, self._longest = followers(specs), longest(specs)
        self._arrays: dict[tuple[str, Shape, int], Array] = {}
        self._kept: list[Array] = []

    def of(self, stage: str, tensor: TensorSpec, side: int = 0) -> Array:
        """Array of a tensor of a stage."""
        whole = window_of(self.specs, stage, tensor)
        if whole is not None:
            return self.of("denoise", whole)[:, : tensor.shape[1]]
        name, decoded = tensor.name, tensor.name == "frames"
        room = self._longest[name] if tensor.role == "device" or decoded else tensor
        if tensor.role != "state":
            side = 0
        elif name in self._followers:
            name, side = self._followers[name], 1 - side
        if tensor.role == "host" and tensor in self.specs[stage].outputs and not decoded:
            name = f"{stage}.{name}"  # another stage may have an input of this name
        key = (name, room.shape, side)
        if key not in self._arrays:
            self._arrays[key] = np.zeros(room.shape, np.dtype(tensor.dtype))
            if tensor.role in ("state", "cache"):
                self._kept.append(self._arrays[key])
        return self._arrays[key].reshape(-1)[: math.prod(tensor.shape)].reshape(tensor.shape)

    def named(self, stage: str, name: str, side: int = 0) -> Array:
        """Array of a tensor of a stage, by name."""
        return self.of(stage, named(self.specs[stage], name), side)

    def clear(self) -> None:
        """Fill the states of both sides and the caches with zeros."""
        for array in self._kept:
            array[...] = 0


class StageCaller(ABC):
    """Computes stages over host arrays."""

    name: str
    precision: str

    @abstractmethod
    def call(self, stage: str, side: int) -> None:
        """Run a stage: it reads states of this side and writes those of the other."""

    @abstractmethod
    def keep_pass(self) -> None:
        """Let the caches hold the keys and values of the chunk as the pass that ran last made them."""

    @abstractmethod
    def twin(self, arrays: HostArrays) -> StageCaller:
        """A caller of another stream over other arrays, with the same weights and compiled stages."""

    def close(self) -> None:  # noqa: B027  (callers without resources need nothing)
        """Free what the caller holds."""


class HostRunner(ChunkRunner):
    """Composes a chunk from single calls."""

    def __init__(self, config: StreamConfig, arrays: HostArrays, stages: StageCaller) -> None:
        self._config, self._arrays, self._stages = config, arrays, stages
        self.name, self.precision, self.specs = stages.name, stages.precision, arrays.specs
        self._bound = {name: arrays.named("denoise", name) for name in PASS_INPUTS}
        self.passes = [self._new_pass() for _ in range(len(config.schedule.timesteps) + 1)]
        self._x, self._x_next = (arrays.named("denoise", name) for name in ("x", "x_next"))
        self._slots = [self._x if s == "noise" else arrays.named("denoise", s) for s, _ in config.model.layout]
        self._capacity = config.context.remembered_frames
        self._history = np.zeros((self._capacity, config.model.in_channels, *self._x.shape[3:]), np.float32)
        self._sides = dict.fromkeys(ALL_KINDS, 0)
        self._opening = self._tracked = False
        self._times = _Laps()
        self._cancelled: threading.Event | None = None

    def _new_pass(self) -> PassInputs:
        return PassInputs(**{name: np.zeros_like(array) for name, array in self._bound.items()})

    def array(self, stage: str, name: str) -> Array:
        return self._arrays.named(stage, name)

    def run(self, stage: str) -> None:
        if STATEFUL.get(stage) != "grey" or not any(tensor.role == "state" for tensor in self.specs[stage].outputs):
            self._stages.call(stage, 0)
            return
        self._stages.call(stage, self._sides["grey"])
        self._sides["grey"] ^= 1

    def hand_over(self, stage: str) -> None:
        """Stages share their arrays already."""

    def prepare(self) -> None:
        self._times.start()

    def move_rows(self, target: int, source: int, rows: int) -> None:
        for spec in rolling_caches(self.specs):
            cache = self._arrays.of("denoise", spec)
            cache[:, :, target : target + rows] = cache[:, :, source : source + rows]

    def start(self, opening: bool, *, tracked: bool) -> None:
        self._opening, self._tracked = opening, tracked
        self._call("roll")
        for stage in track_stages(opening) if tracked else ():
            self._call(stage)
        self._times.lap("begin")
        for inputs in self.passes[:-1]:
            raise_when(self._cancelled)
            self._pass(inputs)
            self._x[...] = self._x_next
        self._times.lap("denoise")

    def _call(self, stage: str) -> None:
        if stage in self.specs:
            self._stages.call(stage, self._sides.get(STATEFUL.get(stage, ""), 0))

    def _pass(self, inputs: PassInputs) -> None:
        for name, bound in self._bound.items():
            bound[...] = getattr(inputs, name)
        self._stages.call("denoise", 0)

    def _clean_pass(self) -> None:
        self._pass(self.passes[-1])
        self._stages.keep_pass()

    def frames(self) -> NDArray[np.uint8]:
        self._times.start()
        stage = "decode_first" if self._opening else "decode"
        self._call(stage)
        frames: NDArray[np.uint8] = self._arrays.named(stage, "frames")
        self._times.lap("decode")
        return frames

    def commit(self, start: int, frames: int) -> None:
        self._times.start()
        self._clean_pass()
        self._times.lap("write_cache")
        self._sides["encoder"] ^= self._tracked
        self._sides["decoder"] ^= 1
        self._remember(start, frames)

    def stage_ms(self) -> Mapping[str, float]:
        return dict(self._times.ms)

    def write_given(self) -> None:
        self._call("roll")
        self._clean_pass()
        self._call("decode_given" if "decode_given" in self.specs else "decode_first")
        self._sides["decoder"] ^= 1
        self._remember(0, 1)

    def write_again(self, start: int, frames: int) -> None:
        offsets = np.cumsum([0, *(channels for _, channels in self._config.model.layout)])
        for slot, first, end in zip(self._slots, offsets[:-1], offsets[1:], strict=True):
            for j in range(frames):
                slot[0, j] = self._history[(start + j) % self._capacity, first:end]
        self._call("roll")
        self._clean_pass()

    def _remember(self, start: int, frames: int) -> None:
        """Keep the transformer's input of the newest latent frames, for `write_again`."""
        for j in range(frames):
            parts = [slot[0, j] for slot in self._slots]
            np.concatenate(parts, out=self._history[(start + j) % self._capacity])

    def reset(self) -> None:
        self._arrays.clear()
        for array in (self._bound["noise"], self._history, *self._slots):
            array[...] = 0

    def read_cache(self, name: str) -> Array:
        return self._arrays.named("denoise", name).copy()

    def write_cache(self, name: str, cache: Array) -> None:
        self._arrays.named("denoise", name)[...] = cache

    def read_states(self) -> dict[str, Array]:
        stages = [stage for stage in ("tracks", "decode") if stage in self.specs]
        pairs = [(stage, old) for stage in stages for old, _ in self.specs[stage].states]
        return {old: self._arrays.named(stage, old, self._sides[STATEFUL[stage]]) for stage, old in pairs}

    def write_states(self, states: Mapping[str, Array]) -> None:
        for name, array in self.read_states().items():
            array[...] = states[name]

    def read_history(self) -> dict[str, Array]:
        layout = self._config.model.layout
        ends = np.cumsum([channels for _, channels in layout])
        parts = np.split(self._history, ends[:-1], axis=1)
        return {slot: part for (slot, _), part in zip(layout, parts, strict=True)}

    def write_history(self, history: Mapping[str, Array]) -> None:
        self._history[...] = np.concatenate(list(history.values()), axis=1)

    def watch(self, cancelled: threading.Event) -> None:
        self._cancelled = cancelled

    def twin(self) -> HostRunner:
        arrays = HostArrays(self.specs)
        return HostRunner(self._config, arrays, self._stages.twin(arrays))

    def close(self) -> None:
        self._stages.close()


class _Laps:
    """Wall-clock milliseconds of the stages of a chunk."""

    def __init__(self) -> None:
        self.ms: dict[str, float] = {}
        self._last = 0.0

    def start(self) -> None:
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.ms[name] = (now - self._last) * 1e3
        self._last = now
