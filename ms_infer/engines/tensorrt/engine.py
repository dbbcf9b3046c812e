"""TensorRT as the runner of a bundle's stages: a chunk is one CUDA graph over memory that never moves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ms_infer.bundle.manifest import EngineSpec, Manifest, load_manifest
from ms_infer.bundle.stages import TensorSpec
from ms_infer.engines.base import Array, raise_when
from ms_infer.engines.runner import KINDS, STATEFUL, ChunkRunner, named, rolling_caches, track_stages
from ms_infer.engines.staged import StagedEngine
from ms_infer.engines.tensorrt.choose import choose, installed_library
from ms_infer.engines.tensorrt.cuda import Arena, Cuda
from ms_infer.engines.tensorrt.device_frames import Block, CudaFrames
from ms_infer.engines.tensorrt.library import TensorRt
from ms_infer.engines.tensorrt.memory import StageMemory
from ms_infer.engines.tensorrt.stage import LoadedStage, new_runtime
from ms_infer.engines.tensorrt.timing import ChunkTimes
from ms_infer.environment import cache_folder, env
from ms_infer.errors import DeviceError
from ms_infer.progress import Progress, part_of, silent

logger = logging.getLogger(__name__)
_LANES = {"text": "text", "decode_first": "decode", "decode_given": "decode", "decode": "decode"}
"""Stages that may run beside the others, which are in the lane `chunk`: a lane has a stream and scratch memory."""


def open_tensorrt(
    source: str | Path | Manifest,
    *,
    device: str | None = None,
    precision: str | None = None,
    library: TensorRt | None = None,
    cuda: Cuda | None = None,
    progress: Progress = silent,
) -> StagedEngine:
    """The engine for a bundle folder. All its files are checked before any is used.

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
        engines = choose(manifest, library, cuda.arch, precision)
        manifest.check(list(engines.stages.values()), part_of(progress, 0.0, 0.3))
        runner = TensorRtRunner(manifest, engines, library, cuda, progress=part_of(progress, 0.3, 1.0))
        progress("ready", 1.0)
        return StagedEngine(manifest, runner)
    except BaseException:
        cuda.close()
        raise


class TensorRtRunner(ChunkRunner):
    """One stream on an NVIDIA GPU.

    `start` uploads pinned host memory and launches the whole chunk, the clean pass included; `frames` waits for its
    frames alone. Addresses are given once: what changes between chunks are numbers in device memory. Twins share the
    engines, and so the weights; each has contexts, memory and a graph of its own.
    """

    name = "tensorrt"

    def __init__(
        self,
        manifest: Manifest,
        engines: EngineSpec,
        library: TensorRt,
        cuda: Cuda,
        stages: Mapping[str, LoadedStage] | None = None,
        *,
        progress: Progress = silent,
    ) -> None:
        """stages: those of another runner, whose engines this one shares."""
        self.precision, self.specs = engines.dtype, manifest.stages[str(engines.options["graphs"])]
        self._cuda = cuda
        steps = len(manifest.config.schedule.timesteps)
        self.memory = StageMemory(cuda, manifest.config, self.specs, steps + 1)
        self.passes = [self.memory.pass_inputs(index) for index in range(steps + 1)]
        self._outputs = {name: named(self.specs[name], "frames") for name in ("decode_first", "decode")}
        largest = max(tensor.nbytes for tensor in self._outputs.values())
        self._frames = [cuda.allocate_host(largest) for _ in range(2)]
        self._frames_turn = 0
        self._opened = (manifest, engines, library)
        self._stages = {name: stage.twin() for name, stage in (stages or self._loaded(progress)).items()}
        self._bind_stages(part_of(progress, 0.5, 1.0))
        self._streams = {lane: cuda.new_stream() for lane in ("chunk", *sorted(set(_LANES.values())))}
        self._latents, self._decoded = cuda.new_event(), cuda.new_event()
        self._times = ChunkTimes(cuda)
        self._graph: int | None = None
        self._cancelled: threading.Event | None = None
        self._captures = env("NO_CUDA_GRAPH", "0") != "1"
        self._opening = self._warm = self._in_flight = self._torn = False
        self.launches = 0
        """Graph launches so far."""

    def _loaded(self, progress: Progress) -> dict[str, LoadedStage]:
        """The plans, deserialised: half of the opening."""
        manifest, engines, library = self._opened
        runtime = new_runtime(library)
        stages: dict[str, LoadedStage] = {}
        for stage, file in engines.stages.items():
            progress(f"loading {stage}", 0.5 * len(stages) / len(engines.stages))
            jit = cache_folder() / "jit" / f"{self._cuda.arch}-{manifest.files[file].sha256[:32]}.bin"
            stages[stage] = LoadedStage(library, runtime, self.specs[stage], manifest.path(file), jit)
        return stages

    def _bind_stages(self, progress: Progress) -> None:
        """Contexts for all stages, which TensorRT-RTX compiles kernels for."""
        lanes: dict[str, list[LoadedStage]] = {}
        bound = 0
        for stage, loaded in self._stages.items():
            lanes.setdefault(_LANES.get(stage, "chunk"), []).append(loaded)
        for lane in lanes.values():
            needed = max(one.scratch_bytes for one in lane)
            scratch = self._cuda.allocate(max(needed, 1))
            for one in lane:
                progress(f"preparing {one.spec.name}", bound / len(self._stages))
                self._bind(one, scratch, needed)
                bound += 1

    def twin(self) -> TensorRtRunner | None:
        if not self._stages:  # closed
            return None
        cuda = self._cuda.twin()
        try:
            return TensorRtRunner(*self._opened, cuda, self._stages)
        except BaseException:
            cuda.close()
            raise

    def _bind(self, stage: LoadedStage, scratch: int, nbytes: int) -> None:
        def address_of(tensor: TensorSpec) -> int:
            return self.memory.address(stage.spec.name, tensor)

        stage.bind(address_of, scratch, nbytes)

    def array(self, stage: str, name: str) -> Array:
        """Pinned host memory."""
        return self.memory.host(stage, name)

    def run(self, stage: str) -> None:
        cuda_stream, spec = self._streams[_LANES.get(stage, "chunk")], self.specs[stage]
        self._move(stage, spec.inputs, cuda_stream, up=True)
        self._stages[stage].enqueue(cuda_stream)
        if STATEFUL.get(stage) == "grey":
            self._adopt("grey")
        self._move(stage, spec.outputs, cuda_stream, up=False)
        self._cuda.synchronize(cuda_stream)

    def hand_over(self, stage: str) -> None:
        main = self._streams["chunk"]
        self._move(stage, self.specs[stage].inputs, main, up=True)
        self._cuda.synchronize(main)

    def _move(self, stage: str, tensors: tuple[TensorSpec, ...], cuda_stream: int, *, up: bool) -> None:
        """Copy what the host fills to the device, or what it reads from there."""
        once = self.memory.once
        for key in self.memory.once_keys(tensors, stage):
            there, host = once.at(key), once.host(key)
            here = int(host.ctypes.data)
            target, source = (there, here) if up else (here, there)
            self._cuda.copy(target, source, host.nbytes, cuda_stream)

    def prepare(self) -> None:
        if self._torn:
            raise DeviceError("the GPU failed while it kept a chunk or began a stream; start the stream again")
        main = self._streams["chunk"]
        if self._in_flight:  # the last chunk failed: its upload may still read what is filled now
            self._cuda.synchronize(main)
        self._times.begin(main)

    def move_rows(self, target: int, source: int, rows: int) -> None:
        """In copies that do not overlap: no longer than the way they go."""
        step, main = source - target, self._streams["chunk"]
        for spec in rolling_caches(self.specs):
            row = spec.nbytes // (spec.shape[1] * spec.shape[2])
            cache, head = self._place_of(spec.name), row * spec.shape[2]
            for done in range(0, rows, step):
                to, width = cache + (target + done) * row, min(step, rows - done) * row
                self._cuda.copy_rows(to, to + step * row, width, spec.shape[1], head, main)

    def start(self, opening: bool, *, tracked: bool) -> None:
        """Opening chunks and the first steady one run as they come, which warms every stage up; the next one is
        captured, and from then on replayed."""
        assert tracked == ("points" in self._stages), "a chunk has tracks where the model has a head"
        raise_when(self._cancelled)
        self._opening, self._in_flight = opening, True
        main = self._streams["chunk"]
        if opening or not self._warm or not self._captures:
            self._enqueue_chunk(opening, captured=False)
            self._warm = self._warm or not opening
        else:
            self._launch_graph(main)
        self._times.end(main)

    def _launch_graph(self, cuda_stream: int) -> None:
        if self._graph is None:
            if not all(stage.capturable(cuda_stream) for stage in self._stages.values()):
                raise DeviceError("this TensorRT cannot be captured in a CUDA graph; set MS_INFER_NO_CUDA_GRAPH=1")
            self._graph = self._captured(cuda_stream)
        self._cuda.launch(self._graph, cuda_stream)
        self.launches += 1

    def _captured(self, cuda_stream: int) -> int:
        self._cuda.synchronize(cuda_stream)
        self._cuda.begin_capture(cuda_stream)
        try:
            self._enqueue_chunk(False, captured=True)
        except BaseException:
            self._cuda.abandon_capture(cuda_stream)
            raise
        return self._cuda.end_capture(cuda_stream)

    def _enqueue_chunk(self, opening: bool, *, captured: bool) -> None:
        """The work of a chunk in stream order; the decoder runs beside the clean pass."""
        cuda, main, side, memory = self._cuda, self._streams["chunk"], self._streams["decode"], self.memory
        times, suffix = self._times, "_first" if opening else ""
        cuda.copy(memory.chunk.address, memory.chunk.host_address, memory.chunk.nbytes, main)
        for stage in ("roll", *track_stages(opening)):
            self._enqueue(stage, main)
        times.record("begun", main, inside=captured)
        for index in range(len(self.passes) - 1):
            if not captured:
                raise_when(self._cancelled)
            self._enqueue_pass(index)
            x = named(self.specs["denoise"], "x")
            cuda.copy(self._place_of("x"), self._place_of("x_next"), x.nbytes, main)
        times.record("denoised", main, inside=captured)
        cuda.record(self._latents, main)
        cuda.wait(side, self._latents)
        self._enqueue(f"decode{suffix}", side)
        times.record("frames", side, inside=captured)
        cuda.record(self._decoded, side)
        self._enqueue_pass(len(self.passes) - 1)
        cuda.wait(main, self._decoded)

    def _enqueue(self, stage: str, cuda_stream: int) -> None:
        if stage in self._stages:
            self._stages[stage].enqueue(cuda_stream)

    def _enqueue_pass(self, index: int) -> None:
        memory, main = self.memory, self._streams["chunk"]
        self._cuda.copy(memory.bound.address, memory.pass_address(index), memory.bound.nbytes, main)
        self._stages["denoise"].enqueue(main)

    def _place_of(self, name: str) -> int:
        """Device address of an input or output of `denoise`."""
        return self.memory.address("denoise", named(self.specs["denoise"], name))

    def frames(self) -> NDArray[np.uint8]:
        stage = "decode_first" if self._opening else "decode"
        output, side = self._outputs[stage], self._streams["decode"]
        target = self._frames[self._frames_turn]
        self._frames_turn ^= 1
        self._times.wait("frames", side)
        self._cuda.copy(int(target.ctypes.data), self.memory.address(stage, output), output.nbytes, side)
        self._cuda.synchronize(side)
        self._in_flight = False
        return target[: output.nbytes].reshape(output.shape)

    keeps_frames = True

    def device_frames(self) -> CudaFrames:
        stage = "decode_first" if self._opening else "decode"
        output, side = self._outputs[stage], self._streams["decode"]
        block = Block(self._cuda, output.nbytes)
        self._times.wait("frames", side)
        self._cuda.copy(block.address, self.memory.address(stage, output), output.nbytes, side)
        self._cuda.synchronize(side)
        self._in_flight = False
        return CudaFrames(block, output.shape)

    def commit(self, start: int, frames: int) -> None:
        self._torn = True  # states of two chunks, unless all of this is done
        for kind in KINDS:
            self._adopt(kind)
        self._remember(start, frames)
        self._times.close_chunk()
        self._torn = False

    def _adopt(self, kind: str) -> None:
        """What the encoder or decoder wrote becomes what it reads."""
        old, new = self.memory.states[kind], self.memory.states[f"{kind}_out"]
        if old.names():
            self._cuda.copy(old.address, new.address, old.nbytes, self._streams["chunk"])

    def _remember(self, start: int, frames: int) -> None:
        for here, there, nbytes in self.memory.history_runs(start, frames):
            self._cuda.copy(there, here, nbytes, self._streams["chunk"])

    def stage_ms(self) -> Mapping[str, float]:
        return self._times.stage_ms()

    def write_given(self) -> None:
        main = self._streams["chunk"]
        self._upload()
        self._write_last(main)
        self._stages["decode_given" if "decode_given" in self._stages else "decode_first"].enqueue(main)
        self._adopt("decoder")
        self._remember(0, 1)
        self._cuda.synchronize(main)

    def write_again(self, start: int, frames: int) -> None:
        main = self._streams["chunk"]
        self._upload()
        for here, there, nbytes in self.memory.history_runs(start, frames):
            self._cuda.copy(here, there, nbytes, main)
        self._write_last(main)
        self._cuda.synchronize(main)

    def _upload(self) -> None:
        chunk = self.memory.chunk
        self._cuda.copy(chunk.address, chunk.host_address, chunk.nbytes, self._streams["chunk"])

    def _write_last(self, cuda_stream: int) -> None:
        """One clean pass outside the loop."""
        self._enqueue("roll", cuda_stream)
        self._enqueue_pass(len(self.passes) - 1)

    def reset(self) -> None:
        self._torn = True
        main = self._streams["chunk"]
        for arena in (*self.memory.states.values(), self.memory.history, self.memory.caches):
            self._cuda.zero(arena.address, arena.nbytes, main)
        self._cuda.synchronize(main)
        self._torn = False

    def read_cache(self, name: str) -> Array:
        return self.memory.caches.fetch(self._cache_key(name), self._streams["chunk"])

    def write_cache(self, name: str, cache: Array) -> None:
        self.memory.caches.put(self._cache_key(name), cache, self._streams["chunk"])

    def _cache_key(self, name: str) -> str:
        return self.memory.key("denoise", named(self.specs["denoise"], name))

    def read_states(self) -> dict[str, Array]:
        return {name: arena.fetch(key, self._streams["chunk"]) for name, (arena, key) in self._state_places().items()}

    def write_states(self, states: Mapping[str, Array]) -> None:
        for name, (arena, key) in self._state_places().items():
            arena.put(key, states[name], self._streams["chunk"])

    def _state_places(self) -> dict[str, tuple[Arena, str]]:
        """Arena and key of each state of encoder and decoder."""
        arenas = [self.memory.states[kind] for kind in KINDS]
        return {arena.spec(key).name: (arena, key) for arena in arenas for key in arena.names()}

    def read_history(self) -> dict[str, Array]:
        history = self.memory.history
        return {slot: history.fetch(slot, self._streams["chunk"]) for slot in history.names()}

    def write_history(self, history: Mapping[str, Array]) -> None:
        for slot, ring in history.items():
            self.memory.history.put(slot, ring, self._streams["chunk"])

    def watch(self, cancelled: threading.Event) -> None:
        """Looked at until a chunk is under way: nothing ends a graph that was launched."""
        self._cancelled = cancelled

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
