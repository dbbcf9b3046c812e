"""onnxruntime as an engine of stages: slow, but it runs the very graphs of a bundle, for checks and tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from ms_infer.bundle.manifest import Manifest
from ms_infer.engines.base import Array
from ms_infer.engines.staged import StagedEngine
from ms_infer.errors import ConfigError, MissingExtraError


class OnnxEngine(StagedEngine):
    """One stream through the ONNX graphs of a bundle; caches are host arrays."""

    name = "onnxruntime"

    def __init__(self, manifest: Manifest, *, precision: str = "fp32", threads: int | None = None) -> None:
        if precision not in manifest.graphs or precision == "bf16":
            raise ConfigError(
                f"onnxruntime runs fp32 and fp16 graphs on the CPU; this bundle holds {sorted(manifest.graphs)}, "
                f"asked for {precision}"
            )
        self.precision, self.threads = precision, threads
        self._sessions: dict[str, Any] = {}
        super().__init__(manifest, precision)
        self._caches: dict[str, Array] = {}
        self._reset_caches()

    def _session(self, stage: str) -> Any:
        if stage not in self._sessions:
            path = self.manifest.path(self.manifest.graphs[self.precision][stage])
            self._sessions[stage] = open_session(str(path), self.threads)
        return self._sessions[stage]

    def _run(self, stage: str, side: int = 0) -> None:
        spec = self.specs[stage]
        feeds = {i.name: self._caches.get(i.name, None) for i in spec.inputs}
        for tensor in spec.inputs:
            if feeds[tensor.name] is None:
                feeds[tensor.name] = self._array(stage, tensor, side)
        results = self._session(stage).run([o.name for o in spec.outputs], feeds)
        for tensor, result in zip(spec.outputs, results, strict=True):
            cache = tensor.name.removesuffix("_out")
            if cache in self._caches:
                self._caches[cache] = result
            else:
                self._array(stage, tensor, side)[...] = result

    def _roll(self) -> None:
        self._run("roll")

    def _read_cache(self, name: str) -> Array:
        return self._caches[name].copy()

    def _write_cache(self, name: str, cache: Array) -> None:
        self._caches[name] = cache

    def _reset_caches(self) -> None:
        aliased = {old for old, _ in self.specs["denoise"].aliases}
        self._caches = {
            i.name: np.zeros(i.shape, np.dtype(i.dtype)) for i in self.specs["denoise"].inputs if i.name in aliased
        }


def open_session(path: str, threads: int | None = None) -> Any:
    """A CPU session of one graph; MissingExtraError without onnxruntime."""
    try:
        import onnxruntime
    except ImportError:
        raise MissingExtraError("onnxruntime is not installed: pip install -e '.[export]' in the repository") from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
