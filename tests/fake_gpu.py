"""A CUDA device that computes nothing: an engine at true sizes, its tensors without values, every launch noted.

PyTorch's fake tensors carry shape, type, strides and device; kernels are launched up to the point where the GPU would
begin. `FakeGpu.faults` collects what a GPU would refuse or wait for: tensors of two devices in one operation, host
memory inside a capture, waits of the whole device, memory that a graph reads and nobody keeps.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import ms_kernels
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KERNEL_MODULES = sorted(set(ms_kernels._HOME.values()))
CUDA, META = 1, 14  # c10::DeviceType


class Seen(NamedTuple):
    """A tensor as it was, without keeping it alive."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype
    address: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Launch:
    """One operation of PyTorch, or one kernel of ours."""

    name: str
    stage: str
    """Graph that is captured, or "" outside of captures."""
    inputs: tuple[Seen, ...]
    outputs: tuple[Seen, ...]
    arguments: tuple[Any, ...] = ()
    """Of a kernel, in order."""
    options: dict[str, Any] = field(default_factory=dict)


class FakeGpu:
    """What was launched, and what a real device would not have liked."""

    def __init__(self, capability: tuple[int, int]) -> None:
        self.capability = capability
        self.launches: list[Launch] = []
        self.faults: list[str] = []
        self.capturing: Graph | None = None
        self.next_name = ""
        self.mode: FakeTensorMode
        self.streams = [Stream(self, index) for index in range(1)]
        self._addresses: dict[int, tuple[int, StorageWeakRef]] = {}
        self._end = 1 << 20

    @property
    def stage(self) -> str:
        return self.capturing.name if self.capturing is not None else ""

    def address(self, tensor: Tensor) -> int:
        """A place of its own for every storage: stays while the storage lives, is never given again."""
        storage = tensor.untyped_storage()
        if storage._cdata not in self._addresses:
            self._addresses[storage._cdata] = (self._end, StorageWeakRef(storage))
            self._end += (storage.nbytes() // 512 + 1) * 512
        return self._addresses[storage._cdata][0] + tensor.storage_offset() * tensor.element_size()

    def is_set_to(self, one: Tensor, other: Tensor) -> bool:
        return all(f(one) == f(other) for f in (self.address, Tensor.size, Tensor.stride))

    def wait(self, what: str) -> None:
        """The host waits for the device."""
        if self.capturing is not None:
            self.faults.append(f"{what} while {self.stage!r} is captured")

    def seen(self, tensor: Tensor) -> Seen:
        return Seen(tuple(tensor.shape), tensor.stride(), tensor.dtype, self.address(tensor))

    def note(self, name: str, inputs: list[Tensor], outputs: list[Tensor], *arguments: Any, **options: Any) -> None:
        if name == "aten.fill_.Tensor" and inputs[1].dim() == 0 and self.capturing is None:
            inputs = inputs[:1]  # `x[...] = 1.0`: the number goes with the launch
        devices = {str(tensor.device) for tensor in (*inputs, *outputs)}
        moves = name.startswith(("aten._to_copy", "aten.copy_"))
        if len(devices) > 1 and (self.capturing is not None or not moves):
            self.faults.append(f"{name} in {self.stage!r}: tensors on {sorted(devices)}")
        elif self.capturing is not None and devices == {"cpu"}:
            self.faults.append(f"{name} in {self.stage!r}: works on the host, which a replay does not repeat")
        if self.capturing is not None:
            self.capturing.saw(inputs, outputs)
        found = [tuple(map(self.seen, tensors)) for tensors in (inputs, outputs)]
        kept = tuple(self.seen(value) if isinstance(value, Tensor) else value for value in arguments)
        self.launches.append(Launch(name, self.stage, *found, kept, options))

    def launch(self, kernel: Any, grid: tuple[int, ...], first: Tensor, *arguments: Any, **options: Any) -> None:
        """In place of `ms_kernels.jit.launch`."""
        found = [getattr(value, "base", value) for value in (first, *arguments)]
        self.note(kernel.__name__, [value for value in found if isinstance(value, Tensor)], [], *found, **options)


class Watch(TorchDispatchMode):
    """Tells the device about every operation."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default:
            return result
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
        outputs = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        self._gpu.note(str(func), inputs, outputs)
        return result


class Fused(TorchFunctionMode):
    """Functions that are one kernel on CUDA, and many operations where fake tensors of a CPU build run them."""

    def __init__(self, gpu: FakeGpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.tensor:
            result = func(*args, **(kwargs or {}))
            return result if isinstance(result, FakeTensor) else self._gpu.mode.from_tensor(result)
        if func not in (F.scaled_dot_product_attention, F.rms_norm):
            return func(*args, **(kwargs or {}))
        result = torch.empty_like(args[0])  # laid out like the queries, as cuDNN's and flash attention's are
        self._gpu.note(func.__name__, [value for value in args if isinstance(value, Tensor)], [result])
        return result


class Graph:
    """In place of `torch.cuda.CUDAGraph`."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu, self.name, self.replays = gpu, "", 0
        self._made: set[int] = set()
        self.external: list[tuple[StorageWeakRef, str]] = []
        """Storages that the graph reads or writes and did not make."""

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        assert self._gpu.capturing is None, "PyTorch captures one graph at a time"
        assert capture_error_mode == "thread_local"
        self._gpu.capturing, self.name = self, self._gpu.next_name

    def capture_end(self) -> None:
        self._gpu.capturing = None

    def saw(self, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        known = {ref.cdata for ref, _ in self.external} | self._made
        for tensor in inputs:
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                self.external.append((StorageWeakRef(storage), f"{tuple(tensor.shape)} {tensor.dtype}"))
        self._made |= {tensor.untyped_storage()._cdata for tensor in outputs} - {ref.cdata for ref, _ in self.external}

    def replay(self) -> None:
        self.replays += 1
        lost = [words for ref, words in self.external if ref.expired()]
        if lost:
            self._gpu.faults.append(f"the graph {self.name!r} reads memory that is given back: {lost[:3]}")


class Stream:
    """In place of `torch.cuda.Stream`."""

    def __init__(self, gpu: FakeGpu, number: int = 0, priority: int = 0) -> None:
        self._gpu, self.number, self.priority = gpu, number, priority

    def synchronize(self) -> None:
        self._gpu.wait("a stream is waited for")

    def wait_stream(self, other: Stream) -> None: ...

    def wait_event(self, event: Any) -> None: ...


class Event:
    """In place of `torch.cuda.Event`."""

    def __init__(self, gpu: FakeGpu) -> None:
        self._gpu = gpu

    def record(self, stream: Any = None) -> None: ...

    def wait(self, stream: Any = None) -> None: ...

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self._gpu.wait("an event is waited for")

    def elapsed_time(self, end: Event) -> float:
        return 1.0


def _cuda_functions(gpu: FakeGpu) -> dict[str, Any]:
    """What replaces functions of `torch.cuda`."""
    current = list(gpu.streams)

    @contextmanager
    def stream(chosen: Stream) -> Iterator[None]:
        current.append(chosen)
        yield
        current.pop()

    def synchronize(device: Any = None) -> None:
        gpu.faults.append("the whole device is waited for: another stream's capture would fail")

    return {
        "is_available": lambda: True,
        "device_count": lambda: 1,
        "get_device_capability": lambda device=None: gpu.capability,
        "get_device_name": lambda device=None: "a GPU that computes nothing",
        "get_device_properties": lambda device=None: SimpleNamespace(multi_processor_count=132),
        "Stream": lambda device=None, priority=0: Stream(gpu, len(current), priority),
        "Event": lambda enable_timing=False: Event(gpu),
        "CUDAGraph": lambda: Graph(gpu),
        "graph_pool_handle": lambda: object(),
        "stream": stream,
        "current_stream": lambda device=None: current[-1],
        "synchronize": synchronize,
    }


def _as_cudnn(input: Tensor, weight: Tensor, _backend: Any) -> torch.memory_format:
    """How cuDNN lays a convolution's result out: channels-last where either side is."""
    formats = [torch._prims_common.suggest_memory_format(tensor) for tensor in (input, weight)]
    return next((form for form in formats if form != torch.contiguous_format), torch.contiguous_format)


def _apply(module: Any, change: Any, recurse: bool = True) -> Any:
    """`nn.Module._apply` without the swap of tensors that it tries with fake ones."""
    for child in module.children() if recurse else ():
        child._apply(change)
    for key, parameter in module._parameters.items():
        if parameter is not None and (new := change(parameter.data)) is not parameter.data:
            module._parameters[key] = torch.nn.Parameter(new, parameter.requires_grad)
    for key, buffer in module._buffers.items():
        if buffer is not None:
            module._buffers[key] = change(buffer)
    return module


def _named(gpu: FakeGpu, capture: Any) -> Any:
    """The capture, which also says whose it is."""

    def named(graph: Any) -> None:
        gpu.next_name = graph.name
        capture(graph)

    return named


def _register_guard() -> None:
    """PyTorch's CPU build has no guard of CUDA's current device, which indexing asks for: it gets that of "meta"."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    guards = (ctypes.c_void_p * (META + 1)).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    guards[CUDA] = guards[CUDA] or guards[META]


@contextmanager
def fake_gpu(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (9, 0)) -> Iterator[FakeGpu]:
    """Inside of the block tensors have no values and "cuda" is a device."""
    import importlib

    from ms_kernels import window_attention

    from ms_infer.engines.torch import graphs

    gpu = FakeGpu(capability)
    _register_guard()
    with monkeypatch.context() as patch, ExitStack() as stack:
        patch.setattr(FakeTensorMode, "avoid_device_init", True)
        patch.setattr(graphs.CapturedGraph, "_capture", _named(gpu, graphs.CapturedGraph._capture))
        patch.setattr("ms_infer.engines.torch.captured.check_fp8", lambda device, kernels: None)
        patch.setattr(torch.nn.Module, "_apply", _apply)
        patch.setattr("ms_infer.checkpoint.files._is_finite", lambda tensor: True)
        patch.setattr(fake_tensor, "init_gpu_context", lambda device: None)
        patch.setattr(FakeTensor, "data_ptr", lambda tensor: gpu.address(tensor), raising=False)
        patch.setattr(FakeTensor, "is_set_to", lambda one, other: gpu.is_set_to(one, other), raising=False)
        patch.setattr(torch._C, "_conv_determine_backend_memory_format", _as_cudnn)
        for name, function in _cuda_functions(gpu).items():
            patch.setattr(torch.cuda, name, function)
        for module in KERNEL_MODULES:
            loaded = importlib.import_module(f"ms_kernels.{module}")
            if hasattr(loaded, "launch"):
                patch.setattr(loaded, "launch", gpu.launch)
        gpu.mode = stack.enter_context(FakeTensorMode())
        stack.enter_context(Watch(gpu))
        stack.enter_context(Fused(gpu))
        window_attention._architecture.cache_clear()
        try:
            yield gpu
        finally:
            window_attention._architecture.cache_clear()
