"""One deserialized TensorRT engine: checked against its stage, bound once, enqueued."""

from __future__ import annotations

import copy
import mmap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ms_infer.bundle.stages import StageSpec, TensorSpec
from ms_infer.engines.tensorrt.library import DTYPES, TensorRt, errors_of, listening, log_of
from ms_infer.errors import DeviceError, EngineMismatchError
from ms_infer.files import whole_file


class LoadedStage:
    """A stage's engine with one execution context whose memory and addresses are given once, by `bind`."""

    def __init__(self, library: TensorRt, runtime: Any, spec: StageSpec, plan: Path, jit_cache: Path) -> None:
        self.library, self.spec, self._jit_cache = library, spec, jit_cache
        self._engine = _deserialize(library, runtime, plan)
        self._check()
        self.scratch_bytes = int(self._engine.device_memory_size_v2)
        self._runtime_cache: Any = None
        self._context: Any = None

    def twin(self) -> LoadedStage:
        """The same engine, weights included, for a context of its own."""
        twin = copy.copy(self)
        twin._context = twin._runtime_cache = None
        return twin

    def _check(self) -> None:
        """EngineMismatchError when inputs, outputs or the caches written in place are not those of the stage."""
        engine, types = self._engine, self.library.module.DataType
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        have = {n: (tuple(engine.get_tensor_shape(n)), engine.get_tensor_dtype(n)) for n in names}
        tensors = (*self.spec.inputs, *self.spec.outputs)
        expected = {t.name: (t.shape, getattr(types, DTYPES[t.dtype])) for t in tensors}
        wrong = sorted(n for n in have.keys() | expected.keys() if have.get(n) != expected.get(n))
        wrong += [new for old, new in self.spec.aliases if engine.get_aliased_input_tensor(new) != old]
        if wrong:
            raise EngineMismatchError(
                f"the engine of {self.spec.name} is not that of this bundle: {', '.join(wrong[:4])} differ; "
                "run ms-export again"
            )

    def bind(self, address_of: Callable[[TensorSpec], int], scratch: int, scratch_bytes: int) -> None:
        """Make the context and give it all its addresses. An aliased output gets the address of its input."""
        self._context = self._new_context()
        self._context.set_device_memory(scratch, scratch_bytes)
        inputs = dict((new, old) for old, new in self.spec.aliases)
        specs = {tensor.name: tensor for tensor in (*self.spec.inputs, *self.spec.outputs)}
        for name in specs:
            if not self._context.set_tensor_address(name, address_of(specs[inputs.get(name, name)])):
                raise EngineMismatchError(f"{self.library.name} refuses an address for {self.spec.name}.{name}")

    def _new_context(self) -> Any:
        trt, engine = self.library.module, self._engine
        strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if not hasattr(trt, "IRuntimeCache"):
            context = engine.create_execution_context(strategy)
        else:  # TensorRT-RTX compiles kernels on this GPU; what it compiled is kept for the next start
            config = engine.create_runtime_config()
            config.set_execution_context_allocation_strategy(strategy)
            config.cuda_graph_strategy = trt.CudaGraphStrategy.DISABLED  # the whole chunk is captured by us
            self._runtime_cache = config.create_runtime_cache()
            if self._jit_cache.is_file():
                self._runtime_cache.deserialize(self._jit_cache.read_bytes())  # refused for another GPU or driver
            config.set_runtime_cache(self._runtime_cache)
            context = engine.create_execution_context(config)
        if context is None:
            raise DeviceError(
                f"{self.library.name} cannot make a context for {self.spec.name}; is the GPU's memory full?"
            )
        return context

    def capturable(self, cuda_stream: int) -> bool:
        """Whether the stage may be part of a CUDA graph."""
        ask = getattr(self._context, "is_stream_capturable", None)
        return True if ask is None else bool(ask(cuda_stream))

    def enqueue(self, cuda_stream: int) -> None:
        """Start the stage in stream order."""
        with listening(self.library.kind) as messages:
            if not self._context.execute_async_v3(cuda_stream):
                raise DeviceError(f"{self.library.name} failed to start {self.spec.name}: {errors_of(messages)}")

    def save_jit_cache(self) -> None:
        """Keep the kernels compiled on this GPU; a read-only cache folder only means a slower next start."""
        if self._runtime_cache is None:
            return
        try:
            self._jit_cache.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(self._jit_cache) as unfinished:
                unfinished.write_bytes(bytes(self._runtime_cache.serialize()))
        except OSError:
            return

    def close(self) -> None:
        self._context = self._runtime_cache = self._engine = None


def new_runtime(library: TensorRt) -> Any:
    """TensorRT's deserializer."""
    runtime = library.module.Runtime(log_of(library.kind))
    if runtime is None:
        raise DeviceError(f"{library.name} cannot start its runtime; check the driver with nvidia-smi")
    return runtime


def _deserialize(library: TensorRt, runtime: Any, plan: Path) -> Any:
    with (
        listening(library.kind) as messages,
        open(plan, "rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        engine = runtime.deserialize_cuda_engine(data)
        reason = "" if engine is not None else _why_not(library, runtime, data)
    if engine is None:
        raise EngineMismatchError(
            f"{library.name} {library.version} refuses {plan} ({reason or errors_of(messages)}); build it again on "
            f"this machine: ms-export ... --target {library.kind}"
        )
    return engine


def _why_not(library: TensorRt, runtime: Any, data: Any) -> str:
    """TensorRT-RTX can tell why an engine does not run here."""
    if not hasattr(runtime, "get_engine_validity"):
        return ""
    _, found = runtime.get_engine_validity(data)
    diagnostics = library.module.EngineInvalidityDiagnostics
    names = [name for name, flag in diagnostics.__members__.items() if int(found) & int(flag)]
    return ", ".join(names)
