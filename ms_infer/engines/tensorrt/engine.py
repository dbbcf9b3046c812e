"""The TensorRT engine: all passes of a chunk are one CUDA graph over memory that never moves."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.bundle.manifest import EngineSpec, Manifest, load_manifest
from ms_infer.bundle.stages import Shape, TensorSpec, relative_sink
from ms_infer.engines.base import Array, ChunkPlan
from ms_infer.engines.saved import host_dtype
from ms_infer.engines.staged import StagedEngine
from ms_infer.engines.tensorrt.choose import choose, installed_library
from ms_infer.engines.tensorrt.cuda import Arena, Cuda
from ms_infer.engines.tensorrt.library import TensorRt
from ms_infer.engines.tensorrt.memory import PASS_INPUTS, STATES, StageMemory
from ms_infer.engines.tensorrt.noise import NoiseAhead
from ms_infer.engines.tensorrt.stage import LoadedStage, new_runtime
from ms_infer.environment import cache_folder, env
from ms_infer.errors import DeviceError
from ms_infer.numerics.angles import RotationTables

logger = logging.getLogger(__name__)


def open_tensorrt(
    source: str | Path | Manifest,
    *,
    device: str | None = None,
    precision: str | None = None,
    library: TensorRt | None = None,
    cuda: Cuda | None = None,
) -> TensorRtEngine:
    """The engine for a bundle folder.

    precision: bf16, fp16, fp8 or fp32; None takes the first of these that the bundle holds for this GPU.
    library, cuda: stand-ins for tests. MissingExtraError without TensorRT or cuda-python, DeviceError without a GPU,
    EngineMismatchError when the bundle's engines are for another GPU, version or precision.
    """
    if device not in (None, "cuda"):
        raise DeviceError(f"the tensorrt engine runs on 'cuda', not on {device!r}; use engine='openvino' or 'torch'")
    manifest = source if isinstance(source, Manifest) else load_manifest(source)
    library = library or installed_library(manifest)
    cuda = cuda or Cuda()
    try:
        return TensorRtEngine(manifest, choose(manifest, library, cuda.arch, precision), library, cuda)
    except BaseException:
        cuda.close()
        raise


class TensorRtEngine(StagedEngine):
    """One stream on an NVIDIA GPU.

    `begin` fills pinned host memory and launches the whole chunk; `decode` waits for its frames alone, while the
    clean pass goes on. Addresses are given once: what changes between chunks are numbers in device memory.
    """

    name = "tensorrt"

    def __init__(self, manifest: Manifest, engines: EngineSpec, library: TensorRt, cuda: Cuda) -> None:
        self.precision, self._engines, self._library, self._cuda = engines.dtype, engines, library, cuda
        self._stages: dict[str, LoadedStage] = {}
        super().__init__(manifest, str(engines.options["graphs"]))
        self._load_stages()
        self._streams = {name: cuda.new_stream() for name in ("chunk", "decode", "text")}
        self._events = {name: cuda.new_event() for name in ("latents", "frames", "decoded")}
        self._graph: int | None = None
        self._warm = False
        self._captures = env("NO_CUDA_GRAPH", "0") != "1"
        self._frames_turn = 0
        self._in_flight = False
        self.launches = 0
        """Graph launches so far."""

    def _allocate(self) -> None:
        config = self.config
        self._passes = len(self.steps) + 1
        self._inputs = {spec.name: spec for spec in self.specs["denoise"].inputs}
        self._memory = StageMemory(self._cuda, config, self.specs, self._passes)
        self._tables = self._rotation("denoise", "cos", "sin")
        self._rolls = relative_sink(config)
        if self._rolls:
            self._sink_tables = self._rotation("roll", "sink_cos", "sink_sin")
        self._x = self._host("x")
        self._slots = {s: self._host(s) for s, _ in config.model.layout if s in ("image", "mask")}
        self._frames = [self._cuda.allocate_host(self._frame_bytes()) for _ in range(2)]
        self._image_latent: NDArray[np.float32] | None = None
        self._capacity = self._memory.history_frames
        self._recalled: tuple[int, int] | None = None
        fresh = config.schedule.renoise == "fresh"
        self._noise_ahead = NoiseAhead(self._x.shape[2:], len(self.steps) if fresh else 1)
        self._made = 0

    def _rotation(self, stage: str, cos: str, sin: str) -> RotationTables:
        return RotationTables(
            self._named(stage, cos), self._named(stage, sin), self.config.token_grid, self.config.model.head_dim
        )

    def _frame_bytes(self) -> int:
        """Bytes of the RGB frames of the largest chunk."""
        outputs = [t for spec in self.specs.values() for t in spec.outputs if t.name == "frames"]
        return max(t.nbytes for t in outputs)

    def _load_stages(self) -> None:
        runtime = new_runtime(self._library)
        for stage, file in self._engines.stages.items():
            path = self.manifest.path(file)
            jit = cache_folder() / "jit" / f"{self._cuda.arch}-{self.manifest.files[file].sha256[:32]}.bin"
            self._stages[stage] = LoadedStage(self._library, runtime, self.specs[stage], path, jit)
        lanes: dict[str, list[str]] = {"decode": [], "text": [], "chunk": []}  # run at the same time: own memory each
        for stage in self._stages:
            lanes[_lane(stage)].append(stage)
        for stages in lanes.values():
            needed = max((self._stages[s].scratch_bytes for s in stages), default=0)
            scratch = self._cuda.allocate(max(needed, 1))
            for stage in stages:
                self._bind(stage, scratch, needed)

    def _bind(self, stage: str, scratch: int, nbytes: int) -> None:
        def address_of(tensor: TensorSpec) -> int:
            return self._memory.address(stage, tensor)

        self._stages[stage].bind(address_of, scratch, nbytes)

    def _array(self, stage: str, spec: TensorSpec, side: int = 0) -> Array:
        """Pinned host memory of what the host fills or reads."""
        return self._memory.host(stage, spec)

    def _run(self, stage: str, side: int = 0) -> None:
        """Run a stage outside the loop: upload its inputs, run, fetch what the host reads, wait."""
        lane = _lane(stage)
        cuda_stream, spec = self._streams[lane], self.specs[stage]
        once = self._memory.once
        for tensor in spec.inputs:
            self._move(once, self._memory.key(stage, tensor), tensor, cuda_stream, up=True)
        self._stages[stage].enqueue(cuda_stream)
        for tensor in spec.outputs:
            self._move(once, self._memory.key(stage, tensor), tensor, cuda_stream, up=False)
        self._cuda.synchronize(cuda_stream)

    def _move(self, arena: Arena, key: str, tensor: TensorSpec, cuda_stream: int, *, up: bool) -> None:
        if key in arena:
            there, here = arena.at(key), int(arena.host(key).ctypes.data)
            target, source = (there, here) if up else (here, there)
            self._cuda.copy(target, source, tensor.nbytes, cuda_stream)

    def set_image(self, image: NDArray[np.uint8] | None) -> None:
        super().set_image(image)
        if "encode" in self.specs:  # `points` moves the picture, also the grey one of a stream from nothing
            tensor = self.specs["encode"].inputs[0]
            self._move(self._memory.once, self._memory.key("encode", tensor), tensor, self._streams["chunk"], up=True)
            self._cuda.synchronize(self._streams["chunk"])

    def _prefill(self, latents: NDArray[np.float32]) -> None:
        self._x[...] = 0
        self._x[:, :1] = latents
        self._place(0, 1)
        self._fill_image_slots(0, 1)
        self._pass(0.0, 0.0, 0.0)
        self._stages["decode_given" if "decode_given" in self.specs else "decode_first"].enqueue(self._streams["chunk"])
        self._adopt("decoder")
        self._remember(0, 1)
        self._cuda.synchronize(self._streams["chunk"])
        self._made = 1

    def begin(self, plan: ChunkPlan) -> None:
        if self._in_flight:  # the last chunk failed: its upload may still read what is filled now
            self._cuda.synchronize(self._streams["chunk"])
        self._plan = plan
        placement = plan.placement
        self._place(placement.start, placement.frames)
        self._fill_image_slots(placement.start, placement.frames)
        self._fill_points(plan)
        self._fill_passes()
        self._in_flight = True
        self._launch(plan.opening)

    def _fill_points(self, plan: ChunkPlan) -> None:
        if plan.tracks is None or self.config.model.track_head is None:
            return
        spec = self.specs["points_first" if plan.opening else "points"]
        for tensor in spec.inputs:
            if tensor.name != "image":
                self._array(spec.name, tensor)[0] = getattr(plan.tracks, tensor.name)

    def _fill_passes(self) -> None:
        """First noise, and timestep, sigmas and fresh noise of every pass."""
        frames, fresh = self._plan.placement.frames, self.config.schedule.renoise == "fresh"
        self._x[...] = 0
        noises = self._noise_ahead.take(self._plan.seed, self._plan.index, frames)
        self._x[:, :frames] = noises[0]
        self._pin_image()
        pinned = self._pins_image()
        for index, step in enumerate(self.steps):
            renoised = bool(step.next_sigma) and fresh
            sigma = step.sigma if renoised else step.sigma - step.next_sigma  # an Euler step in the graph's own form
            self._fill_pass(index, step.timestep, sigma, step.next_sigma if renoised else 0.0, pinned=pinned)
            if renoised:
                self._memory.pass_host(index, "noise")[:, :frames] = noises[index + 1]
        self._fill_pass(self._passes - 1, self.config.schedule.context_timestep, 0.0, 0.0, pinned=False)

    def _fill_pass(self, index: int, timestep: float, sigma: float, next_sigma: float, *, pinned: bool) -> None:
        time, sigmas, following, noise = (self._memory.pass_host(index, name) for name in PASS_INPUTS)
        time[...], sigmas[...], following[...], noise[...] = self._sinusoid(timestep), sigma, next_sigma, 0
        if pinned:
            time[:, 0], sigmas[:, 0], following[:, 0] = self._sinusoid(0.0), 0, 0

    def _launch(self, opening: bool) -> None:
        """Start a chunk. Opening chunks and the first steady one run as they come, which warms every stage up; the
        next one is captured, and from then on replayed."""
        cuda, cuda_stream = self._cuda, self._streams["chunk"]
        if opening or not self._warm or not self._captures:
            self._enqueue_chunk(opening, captured=False)
            self._warm = self._warm or not opening
            return
        if self._graph is None:
            if not all(stage.capturable(cuda_stream) for stage in self._stages.values()):
                raise DeviceError("this TensorRT cannot be captured in a CUDA graph; set MS_INFER_NO_CUDA_GRAPH=1")
            self._capture()
        assert self._graph is not None, "captured a line ago"
        cuda.launch(self._graph, cuda_stream)
        self.launches += 1

    def _capture(self) -> None:
        cuda_stream = self._streams["chunk"]
        self._cuda.synchronize(cuda_stream)
        self._cuda.begin_capture(cuda_stream)
        try:
            self._enqueue_chunk(False, captured=True)
        except BaseException:
            self._cuda.abandon_capture(cuda_stream)
            raise
        self._graph = self._cuda.end_capture(cuda_stream)

    def _enqueue_chunk(self, opening: bool, *, captured: bool) -> None:
        """The work of a chunk in stream order; the decoder runs beside the clean pass."""
        cuda, main, side, memory = self._cuda, self._streams["chunk"], self._streams["decode"], self._memory
        suffix = "_first" if opening else ""
        cuda.copy(memory.chunk.address, memory.chunk.host_address, memory.chunk.nbytes, main)
        self._enqueue("roll", main)
        self._enqueue(f"points{suffix}", main)
        self._enqueue(f"tracks{suffix}", main)
        for index in range(self._passes - 1):
            self._enqueue_pass(index)
            cuda.copy(self._place_of("x"), self._place_of("x_next"), self._inputs["x"].nbytes, main)
        cuda.record(self._events["latents"], main)
        cuda.wait(side, self._events["latents"])
        self._enqueue(f"decode{suffix}", side)
        cuda.record(self._events["frames"], side, external=captured)
        cuda.record(self._events["decoded"], side)
        self._enqueue_pass(self._passes - 1)
        cuda.wait(main, self._events["decoded"])

    def _enqueue(self, stage: str, cuda_stream: int) -> None:
        if stage in self._stages:
            self._stages[stage].enqueue(cuda_stream)

    def _enqueue_pass(self, index: int) -> None:
        memory, main = self._memory, self._streams["chunk"]
        self._cuda.copy(memory.bound.address, memory.pass_address(index), memory.bound.nbytes, main)
        self._stages["denoise"].enqueue(main)

    def _place_of(self, name: str) -> int:
        """Device address of an input or output of `denoise`."""
        spec = self.specs["denoise"]
        return self._memory.address("denoise", next(t for t in (*spec.inputs, *spec.outputs) if t.name == name))

    def denoise(self, step: int) -> None:
        """Part of the chunk that `begin` launched."""

    def decode(self) -> NDArray[np.uint8]:
        stage = "decode_first" if self._plan.opening else "decode"
        output = self.specs[stage].outputs[0]
        side = self._streams["decode"]
        target = self._frames[self._frames_turn]
        self._frames_turn ^= 1
        self._cuda.wait(side, self._events["frames"])
        self._cuda.copy(int(target.ctypes.data), self._memory.address(stage, output), output.nbytes, side)
        self._noise_ahead.prepare(self._plan.seed, self._plan.index + 1, self.config.context.chunk_frames)
        self._cuda.synchronize(side)
        self._in_flight = False
        return target[: output.nbytes].reshape(output.shape)

    def write_cache(self) -> None:
        """Part of the chunk that `begin` launched."""

    def commit(self) -> None:
        placement = self._plan.placement
        for kind in STATES:
            self._adopt(kind)
        self._remember(placement.start, placement.frames)
        self._made = placement.start + placement.frames

    def _adopt(self, kind: str) -> None:
        """What the encoder or decoder wrote becomes what it reads."""
        old, new = self._memory.states[kind], self._memory.states[f"{kind}_out"]
        if old.names():
            self._cuda.copy(old.address, new.address, old.nbytes, self._streams["chunk"])

    def _remember(self, start: int, frames: int) -> None:
        for here, there, nbytes in self._history_runs(start, frames):
            self._cuda.copy(there, here, nbytes, self._streams["chunk"])

    def _recall(self, start: int, frames: int) -> None:
        self._recalled = (start, frames)  # after the upload of the next pass

    def _history_runs(self, start: int, frames: int) -> list[tuple[int, int, int]]:
        """(address in the input, address in the history, bytes) of runs of latent frames in a row."""
        memory, capacity = self._memory, self._memory.history_frames
        first = start % capacity
        runs = [(0, first, min(frames, capacity - first))]
        if runs[0][2] < frames:
            runs.append((runs[0][2], 0, frames - runs[0][2]))
        found = []
        for slot, _ in self.config.model.layout:
            size = memory.frame_bytes(slot)
            for source, target, count in runs:
                here, there = memory.slot_address(slot) + source * size, memory.history.at(slot) + target * size
                found.append((here, there, count * size))
        return found

    def _pass(self, timestep: float, sigma: float, next_sigma: float, *, pinned: bool = False) -> None:
        """One pass outside the loop: given latent frames and re-encoding."""
        cuda, main, memory = self._cuda, self._streams["chunk"], self._memory
        self._fill_pass(0, timestep, sigma, next_sigma, pinned=pinned)
        cuda.copy(memory.chunk.address, memory.chunk.host_address, memory.chunk.nbytes, main)
        if self._recalled is not None:
            for here, there, nbytes in self._history_runs(*self._recalled):
                cuda.copy(here, there, nbytes, main)
            self._recalled = None
        self._enqueue("roll", main)
        self._enqueue_pass(0)
        cuda.synchronize(main)

    def reset(self) -> None:
        main = self._streams["chunk"]
        for arena in (*self._memory.states.values(), self._memory.history):
            self._cuda.zero(arena.address, arena.nbytes, main)
        self._image_latent = None
        self._made = self.sink_start = 0
        self._reset_caches()
        self._cuda.synchronize(main)

    def _reset_caches(self) -> None:
        caches = self._memory.caches
        self._cuda.zero(caches.address, caches.nbytes, self._streams["chunk"])

    def _read_cache(self, name: str) -> Array:
        return self._memory.caches.fetch(self._memory.key("denoise", self._inputs[name]), self._streams["chunk"])

    def _write_cache(self, name: str, cache: Array) -> None:
        self._memory.caches.put(self._memory.key("denoise", self._inputs[name]), cache, self._streams["chunk"])

    def _read_states(self) -> dict[str, Array]:
        return {name: arena.fetch(key, self._streams["chunk"]) for name, (arena, key) in self._state_places().items()}

    def _state_shapes(self) -> dict[str, tuple[Any, Shape]]:
        specs = [(name, arena.spec(key)) for name, (arena, key) in self._state_places().items()]
        return {name: (host_dtype(spec.dtype), spec.shape) for name, spec in specs}

    def _write_states(self, states: Mapping[str, Array]) -> None:
        for name, (arena, key) in self._state_places().items():
            arena.put(key, states[name], self._streams["chunk"])

    def _state_places(self) -> dict[str, tuple[Arena, str]]:
        """Arena and key of each state of encoder and decoder."""
        states = self._memory.states
        return {key.split()[0]: (states[kind], key) for kind in STATES for key in states[kind].names()}

    def _read_history(self) -> dict[str, Array]:
        history = self._memory.history
        return {slot: history.fetch(slot, self._streams["chunk"]) for slot in history.names()}

    def _write_history(self, history: Mapping[str, Array]) -> None:
        for slot in history:
            self._memory.history.put(slot, history[slot], self._streams["chunk"])

    def close(self) -> None:
        for stage in self._stages.values():
            stage.save_jit_cache()
        if self._stages:
            for cuda_stream in self._streams.values():
                self._cuda.synchronize(cuda_stream)
        for stage in self._stages.values():
            stage.close()
        self._stages.clear()
        self._cuda.close()


def _lane(stage: str) -> str:
    """Which of three streams and scratch memories a stage uses: what may run at the same time differs."""
    if stage == "text":
        return "text"
    return "decode" if stage.startswith("decode") else "chunk"
