"""The CPU engine: exported stages in OpenVINO, attention caches inside it as states."""

from __future__ import annotations

import logging
import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ms_infer.bundle.manifest import EngineSpec, Manifest, load_manifest
from ms_infer.engines.base import Array
from ms_infer.engines.staged import StagedEngine
from ms_infer.errors import ConfigError, DeviceError, EngineMismatchError, MissingExtraError

logger = logging.getLogger(__name__)
PRECISIONS = {"fp32": "f32", "bf16": "bf16"}
LAZY = ("text", "encode", "points", "tracks", "decode", "decode_given")
"""Stages that the first frame does not need, or not always: compiled when they run first."""


def open_openvino(
    source: str | Path | Manifest,
    *,
    device: str | None = None,
    precision: str | None = None,
    threads: int | None = None,
) -> OpenVinoEngine:
    """The engine for a bundle folder.

    precision: "fp32" or "bf16"; None takes bf16 where the CPU has it. threads: None takes all cores.
    MissingExtraError without OpenVINO; EngineMismatchError when the bundle holds no OpenVINO stages or newer ones.
    """
    if device not in (None, "cpu"):
        raise DeviceError(f"the openvino engine runs on the CPU, not on {device!r}; use engine='tensorrt' or 'torch'")
    manifest = source if isinstance(source, Manifest) else load_manifest(source)
    return OpenVinoEngine(manifest, precision=precision, threads=threads)


@dataclass
class Models:
    """Compiled stages by name; engines that are twins share them, from any thread."""

    compiled: dict[str, Any] = field(default_factory=dict)
    loading: threading.Lock = field(default_factory=threading.Lock)


class OpenVinoEngine(StagedEngine):
    """One stream on the CPU. Each stage is one compiled model; every input and output is bound once."""

    name = "openvino"

    def __init__(
        self,
        manifest: Manifest,
        *,
        precision: str | None = None,
        threads: int | None = None,
        models: Models | None = None,
    ) -> None:
        self._openvino = _load()
        self._files = _find(manifest, self._openvino)
        self._core = self._openvino.Core()
        self.precision = precision or ("bf16" if _has_bf16(self._core) else "fp32")
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision {precision!r} is not one of {sorted(PRECISIONS)} for the openvino engine")
        self.threads = threads or _cores()
        self._models = models or Models()
        self._requests: dict[tuple[str, int], Any] = {}
        super().__init__(manifest, self._files.dtype)
        for stage in self.specs:
            if stage not in LAZY and stage in self._files.stages:
                self._request(stage, 0)

    def twin(self) -> OpenVinoEngine:
        """An engine for another stream: it shares the compiled models, weights included, and nothing else."""
        return OpenVinoEngine(self.manifest, precision=self.precision, threads=self.threads, models=self._models)

    def _compile(self, stage: str) -> Any:
        file = self.manifest.path(self._files.stages[stage])
        self.manifest.path(str(Path(self._files.stages[stage]).with_suffix(".bin").as_posix()))
        model = self._core.read_model(file)
        hint = PRECISIONS["fp32" if self.specs[stage].precise else self.precision]
        return self._core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": hint,  # the library's own default depends on the CPU
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_NUM_THREADS": self.threads,
            },
        )

    def _request(self, stage: str, side: int) -> Any:
        """The request of a stage and side, bound to the host arrays."""
        if (stage, side) not in self._requests:
            with self._models.loading:  # other threads and twins wait here for what one of them compiles
                if (stage, side) not in self._requests:
                    self._requests[stage, side] = self._new_request(stage, side)
        return self._requests[stage, side]

    def _new_request(self, stage: str, side: int) -> Any:
        compiled = self._models.compiled
        if stage not in compiled:
            compiled[stage] = self._compile(stage)
        spec, request = self.specs[stage], compiled[stage].create_infer_request()
        inside = {name for pair in spec.aliases for name in pair}
        for tensor in (*spec.inputs, *spec.outputs):
            if tensor.name not in inside:
                array = self._array(stage, tensor, side)
                request.set_tensor(tensor.name, self._openvino.Tensor(array, shared_memory=True))
        if stage == "denoise" and self._rolls:
            for tensor in self.specs["roll"].inputs[:2]:  # the roll is the first part of this model
                array = self._array("roll", tensor)
                request.set_tensor(tensor.name, self._openvino.Tensor(array, shared_memory=True))
        return request

    def _run(self, stage: str, side: int = 0) -> None:
        self._request(stage, side).infer()

    def _caches(self) -> dict[str, Any]:
        """States of `denoise` by the name of their cache; OpenVINO joins the names of input and output."""
        names = {old + new: old for old, new in self.specs["denoise"].aliases}
        return {names[state.name]: state for state in self._request("denoise", 0).query_state()}

    def _read_cache(self, name: str) -> Array:
        return np.array(self._caches()[name].state.data)

    def _write_cache(self, name: str, cache: Array) -> None:
        self._caches()[name].state = self._openvino.Tensor(cache)

    def _reset_caches(self) -> None:
        self._request("denoise", 0).reset_state()

    def close(self) -> None:
        self._requests.clear()
        self._models = Models()  # twins may still use the others


def _load() -> Any:
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("OpenVINO is not installed: pip install -e '.[cpu]' in the repository") from None
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
