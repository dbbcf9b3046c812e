"""A stand-in for TensorRT's runtime: an engine is a stage of a student in PyTorch, run on its addresses."""

from __future__ import annotations

import ctypes
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorrt_rtx as real
import torch
from ms_export.modules import build_stage

from ms_infer.bundle.manifest import EngineSpec, FileSpec, Manifest
from ms_infer.bundle.stages import StageSpec, TensorSpec, stage_specs
from ms_infer.checkpoint import Student
from ms_infer.engines.tensorrt.library import TensorRt
from ms_infer.engines.tensorrt.stage import DTYPES
from tests.engines.fake_cuda import FakeCuda


@dataclass
class FakeTensorRt:
    """The module: constants are the real one's; `contexts` keeps what the engine under test made."""

    student: Student
    cuda: FakeCuda
    contexts: dict[str, FakeContext] = field(default_factory=dict)
    specs: dict[str, StageSpec] = field(default_factory=dict)
    refuse: int = 0
    """Diagnostics of an engine that does not run here; 0 lets all through."""
    broken: dict[str, str] = field(default_factory=dict)
    """Stage -> what its engine gets wrong: "alias", "shape", "enqueue", "context"."""

    def __getattr__(self, name: str) -> Any:
        return getattr(real, name)

    def Runtime(self, _logger: Any) -> FakeRuntime:
        return FakeRuntime(self)

    def library(self) -> TensorRt:
        return TensorRt("rtx", self)


@dataclass
class FakeRuntime:
    trt: FakeTensorRt

    def deserialize_cuda_engine(self, data: Any) -> FakeEngine | None:
        return None if self.trt.refuse else FakeEngine(self.trt, json.loads(bytes(data))["stage"])

    def get_engine_validity(self, _data: Any) -> tuple[Any, int]:
        return real.EngineValidity.INVALID, self.trt.refuse


class FakeEngine:
    """Describes a stage as `ICudaEngine` does."""

    device_memory_size_v2 = 4096

    def __init__(self, trt: FakeTensorRt, stage: str) -> None:
        self.trt, self.spec = trt, trt.specs[stage]
        self._tensors = {t.name: t for t in (*self.spec.inputs, *self.spec.outputs)}
        self.num_io_tensors = len(self._tensors)
        self.broken = trt.broken.get(stage, "")

    def get_tensor_name(self, index: int) -> str:
        return list(self._tensors)[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        shape = self._tensors[name].shape
        return (*shape, 1) if self.broken == "shape" else shape

    def get_tensor_dtype(self, name: str) -> Any:
        return getattr(real.DataType, DTYPES[self._tensors[name].dtype])

    def get_aliased_input_tensor(self, name: str) -> str | None:
        return None if self.broken == "alias" else dict((new, old) for old, new in self.spec.aliases).get(name)

    def create_runtime_config(self) -> FakeRuntimeConfig:
        return FakeRuntimeConfig()

    def create_execution_context(self, config: FakeRuntimeConfig) -> FakeContext | None:
        assert config.strategy == real.ExecutionContextAllocationStrategy.USER_MANAGED
        assert config.cuda_graph_strategy == real.CudaGraphStrategy.DISABLED, "a graph inside a graph"
        if self.broken == "context":
            return None
        context = FakeContext(self)
        self.trt.contexts[self.spec.name] = context
        return context


class FakeRuntimeConfig:
    """Has the members of `IRuntimeConfig` that are used; a test checks that those exist."""

    cuda_graph_strategy: Any = None
    strategy: Any = None

    def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
        self.strategy = strategy

    def create_runtime_cache(self) -> FakeRuntimeCache:
        return FakeRuntimeCache()

    def set_runtime_cache(self, _cache: FakeRuntimeCache) -> bool:
        return True


class FakeRuntimeCache:
    def __init__(self) -> None:
        self.loaded = b""

    def serialize(self) -> bytes:
        return b"compiled kernels"

    def deserialize(self, blob: bytes) -> bool:
        self.loaded = blob
        return True


class FakeContext:
    """Runs the stage's module on the memory at its addresses, in stream order."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.spec, self.trt = engine, engine.spec, engine.trt
        self.module = build_stage(self.spec, self.trt.student, torch.float32)
        self.addresses: dict[str, int] = {}
        self.scratch: tuple[int, int] | None = None
        self.bound = self.runs = 0

    def set_device_memory(self, address: int, nbytes: int) -> None:
        assert self.trt.cuda.owns(address, nbytes)
        self.scratch = (address, nbytes)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.bound += 1
        self.addresses[name] = address
        return address % 256 == 0

    def is_stream_capturable(self, _cuda_stream: int) -> bool:
        return self.engine.broken != "capture"

    def execute_async_v3(self, cuda_stream: int) -> bool:
        if self.engine.broken == "enqueue":
            return False
        self.trt.cuda.submit(self.spec.name, cuda_stream, self._compute)
        return True

    @torch.no_grad()
    def _compute(self) -> None:
        self.runs += 1
        inputs = [torch.from_numpy(self._view(spec).copy()) for spec in self.spec.inputs]
        for spec, tensor in zip(self.spec.outputs, self.module(*inputs), strict=True):
            self._view(spec)[...] = tensor.numpy()

    def _view(self, spec: TensorSpec) -> np.ndarray:
        address, nbytes = self.addresses[spec.name], spec.nbytes
        assert self.trt.cuda.owns(address, nbytes), f"{self.spec.name}.{spec.name} is bound outside any allocation"
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        return memory.view(np.dtype(spec.dtype)).reshape(spec.shape)


def fake_bundle(student: Student, folder: Path, **changes: Any) -> Manifest:
    """A bundle whose plans only name their stage. `changes` are fields of its EngineSpec."""
    specs = stage_specs(student.config, writes="chunk")
    files, stages = {}, {}
    (folder / "engines").mkdir(parents=True, exist_ok=True)
    for stage in specs:
        data = json.dumps({"stage": stage}).encode()
        stages[stage] = f"engines/{stage}.plan"
        (folder / stages[stage]).write_bytes(data)
        files[stages[stage]] = FileSpec(len(data), hashlib.sha256(data).hexdigest())
    options = {"library": "tensorrt_rtx", "graphs": "fp32", "attention": "native"}
    fields: dict[str, Any] = {"arch": "any", "version": real.__version__, "dtype": "fp32", "options": options}
    engine = EngineSpec(kind="tensorrt", stages=stages, **{**fields, **changes})
    return Manifest(
        config=student.config,
        writes="chunk",
        checkpoint={},
        key="",
        stages={"fp32": specs},
        graphs={},
        engines={"tensorrt": engine},
        files=files,
        folder=folder,
    )
