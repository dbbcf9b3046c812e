"""onnxruntime as an engine of stages: slow, but it runs the very graphs of a bundle, for checks and tests."""

from __future__ import annotations

import threading
from typing import Any

from ms_infer.bundle.manifest import Manifest
from ms_infer.engines.host import HostArrays, HostRunner, StageCaller
from ms_infer.engines.staged import StagedEngine
from ms_infer.errors import ConfigError, MissingExtraError


def open_onnx(manifest: Manifest, *, precision: str = "fp32", threads: int | None = None) -> StagedEngine:
    """An engine over the ONNX graphs of a bundle, on the CPU. precision: fp32 or fp16, as the bundle holds them."""
    if precision not in manifest.graphs or precision == "bf16":
        raise ConfigError(
            f"onnxruntime runs fp32 and fp16 graphs on the CPU; this bundle holds {sorted(manifest.graphs)}, "
            f"asked for {precision}"
        )
    arrays = HostArrays(manifest.stages[precision])
    stages = OnnxStages(OnnxModels(manifest, precision, threads), arrays)
    return StagedEngine(manifest, HostRunner(manifest.config, arrays, stages))


class OnnxModels:
    """The sessions of a bundle's graphs, each opened when it is asked for first; streams of all threads share them."""

    def __init__(self, manifest: Manifest, precision: str, threads: int | None) -> None:
        self.precision, self._manifest, self._threads = precision, manifest, threads
        self._sessions: dict[str, Any] = {}
        self._loading = threading.Lock()

    def __getitem__(self, stage: str) -> Any:
        with self._loading:
            if stage not in self._sessions:
                path = self._manifest.path(self._manifest.graphs[self.precision][stage])
                self._sessions[stage] = open_session(str(path), self._threads)
            return self._sessions[stage]


class OnnxStages(StageCaller):
    """One stream's half: host arrays."""

    name = "onnxruntime"

    def __init__(self, models: OnnxModels, arrays: HostArrays) -> None:
        self.precision, self._models, self._arrays = models.precision, models, arrays

    def twin(self, arrays: HostArrays) -> OnnxStages:
        return OnnxStages(self._models, arrays)

    def call(self, stage: str, side: int) -> None:
        spec = self._arrays.specs[stage]
        feeds = {tensor.name: self._arrays.of(stage, tensor, side) for tensor in spec.inputs}
        results = self._models[stage].run([tensor.name for tensor in spec.outputs], feeds)
        inputs = {new: old for old, new in spec.aliases}
        for tensor, result in zip(spec.outputs, results, strict=True):
            if tensor.role == "cache":
                self._arrays.named(stage, inputs[tensor.name])[...] = result
            else:
                self._arrays.of(stage, tensor, side)[...] = result

    def keep_pass(self) -> None:
        """Every pass writes whole caches."""


def open_session(path: str, threads: int | None = None) -> Any:
    """A CPU session of one graph; MissingExtraError without onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime is not installed: pip install 'ms-infer[export]'") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
