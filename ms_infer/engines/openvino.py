"""The CPU engine: exported stages in OpenVINO."""

from __future__ import annotations

import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np

from ms_infer.bundle.manifest import EngineSpec, Manifest, load_manifest
from ms_infer.bundle.stages import rows_name
from ms_infer.engines.host import HostArrays, HostRunner, StageCaller
from ms_infer.engines.runner import cache_specs
from ms_infer.engines.saved import rounded
from ms_infer.engines.staged import StagedEngine
from ms_infer.errors import BundleError, ConfigError, DeviceError, EngineMismatchError, MissingExtraError
from ms_infer.progress import Progress, part_of, silent

logger = logging.getLogger(__name__)
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
LAZY = ("text", "encode", "encode_grey", "look", "points", "compose", "tracks", "decode", "decode_given")
"""Stages that the first frame does not need, or not always: compiled when they run first."""


def open_openvino(
    source: str | Path | Manifest,
    *,
    device: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
    progress: Progress = silent,
) -> StagedEngine:
    """The engine for a bundle folder. All its files are checked before any is used.

    precision: "fp32" or "bf16"; None takes bf16 where the CPU has it. threads: None takes all cores.
    MissingExtraError without OpenVINO; EngineMismatchError when the bundle holds no OpenVINO stages or newer ones.
    """
    if device not in (None, "cpu"):
        raise DeviceError(f"the openvino engine runs on the CPU, not on {device!r}; use engine='tensorrt' or 'torch'")
    manifest = source if isinstance(source, Manifest) else load_manifest(source)
    models = OpenVinoModels(manifest, precision=precision, threads=threads)
    manifest.check(models.file_names, part_of(progress, 0.0, 0.3))
    models.compile_first(part_of(progress, 0.3, 1.0))
    arrays = HostArrays(models.specs)
    progress("ready", 1.0)
    return StagedEngine(manifest, HostRunner(manifest.config, arrays, OpenVinoStages(models, arrays)))


class OpenVinoModels:
    """The compiled models of a bundle, each compiled when it is asked for first; streams of all threads share them."""

    def __init__(self, manifest: Manifest, *, precision: str | None, threads: int | None) -> None:
        self.openvino = _load()
        self.files = _find(manifest, self.openvino)
        self.specs = manifest.stages[self.files.dtype]
        self._manifest, self._core = manifest, self.openvino.Core()
        self.precision = precision or ("bf16" if _has_bf16(self._core) else "fp32")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision {precision!r} is not one of {sorted(PRECISIONS)} for the openvino engine")
        self._threads = threads or _cores()
        self._compiled: dict[str, Any] = {}
        self.loading = threading.Lock()
        """Held while a request is made: other threads and twins wait for what one of them compiles."""

    def __getitem__(self, stage: str) -> Any:
        if stage not in self._compiled:
            self._compiled[stage] = self._compile(stage)
        return self._compiled[stage]

    @property
    def file_names(self) -> list[str]:
        """Every file of the bundle that stages are made from."""
        graphs = self.files.stages.values()
        return [name for graph in graphs for name in (graph, str(Path(graph).with_suffix(".bin").as_posix()))]

    @property
    def eager(self) -> list[str]:
        """Stages that every chunk needs."""
        return [stage for stage in self.specs if stage not in LAZY and stage in self.files.stages]

    def compile_first(self, progress: Progress) -> None:
        """Compile the stages that every chunk needs."""
        stages = self.eager
        for index, stage in enumerate(stages):
            progress(f"compiling {stage}", index / len(stages))
            with self.loading:
                self[stage]

    def _compile(self, stage: str) -> Any:
        file = self._manifest.path(self.files.stages[stage])
        self._manifest.path(str(Path(self.files.stages[stage]).with_suffix(".bin").as_posix()))
        model = self._core.read_model(file)
        hint = PRECISIONS["fp32" if self.specs[stage].precise else self.precision]
        return self._core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": hint,  # the library's own default depends on the CPU
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": self._threads,
            },
        )


class OpenVinoStages(StageCaller):
    """One stream's requests of the models; every input and output is bound once."""

    name = "openvino"

    def __init__(self, models: OpenVinoModels, arrays: HostArrays) -> None:
        self._models, self._arrays, self.precision = models, arrays, models.precision
        self._requests: dict[tuple[str, int], Any] = {}
        for stage in models.eager:
            self._request(stage, 0)

    def twin(self, arrays: HostArrays) -> OpenVinoStages:
        return OpenVinoStages(self._models, arrays)

    def _request(self, stage: str, side: int) -> Any:
        """The request of a stage and side, bound to the host arrays."""
        if (stage, side) not in self._requests:
            with self._models.loading:
                if (stage, side) not in self._requests:
                    self._requests[stage, side] = self._new_request(stage, side)
        return self._requests[stage, side]

    def _new_request(self, stage: str, side: int) -> Any:
        specs, request = self._models.specs, self._models[stage].create_infer_request()
        bound = [(stage, tensor) for tensor in specs[stage].tensors if tensor.role != "cache"]
        if stage == "denoise":
            bound += [(stage, tensor) for tensor in cache_specs(specs)]
            if "roll" in specs:  # the first part of this model
                bound += [("roll", tensor) for tensor in specs["roll"].inputs if tensor.role == "host"]
        try:
            for owner, tensor in bound:
                array = self._arrays.of(owner, tensor, side)
                request.set_tensor(tensor.name, self._models.openvino.Tensor(array, shared_memory=True))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:160]
            raise BundleError(f"the manifest does not fit the stage '{stage}': {reason}; export again") from None
        return request

    def call(self, stage: str, side: int) -> None:
        if stage != "roll":  # the first part of `denoise`
            self._request(stage, side).infer()

    def keep_pass(self) -> None:
        request = self._request("denoise", 0)
        written, sink = (self._index(name) for name in ("write_index", "sink_index"))
        for tensor in cache_specs(self._models.specs):
            cache, made = self._arrays.of("denoise", tensor), request.get_tensor(rows_name(tensor.name)).data
            if self.precision == "bf16":  # what is computed with them is no finer, and states are half as large
                made = rounded(made)
            places = sink if tensor.name.startswith("sink_k_") else written
            for place, rows in zip(places, np.split(made, len(places), axis=2), strict=True):
                cache[:, :, place : place + rows.shape[2]] = rows

    def _index(self, name: str) -> list[int]:
        """Where rows are written; none where a stage has no such input."""
        there = any(tensor.name == name for tensor in self._models.specs["denoise"].inputs)
        return [int(place) for place in self._arrays.named("denoise", name)] if there else []

    def close(self) -> None:
        self._requests.clear()


def _load() -> Any:
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("OpenVINO is not installed: pip install 'ms-infer[cpu]'") from None
    return openvino


def _find(manifest: Manifest, openvino: Any) -> EngineSpec:
    """The OpenVINO stages of a bundle."""
    found = [engine for engine in manifest.engines.values() if engine.kind == "openvino"]
    if not found:
        kinds = sorted({engine.kind for engine in manifest.engines.values()}) or "only ONNX graphs"
        raise EngineMismatchError(
            f"{manifest.folder} holds no OpenVINO stages ({kinds}); add them with: ms-export ... --target cpu"
        )
    installed = _release(openvino.__version__)
    for engine in found:
        if _release(engine.version) > installed:
            raise EngineMismatchError(
                f"{manifest.folder} was exported with OpenVINO {engine.version}, installed is {openvino.__version__}; "
                "update OpenVINO or run ms-export again"
            )
    return found[0]


def _release(version: str) -> tuple[int, ...]:
    """(2026, 4) of "2026.4.1-22982-..."."""
    return tuple(int(part) for part in version.split("-")[0].split(".")[:2])


def _has_bf16(core: Any) -> bool:
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
