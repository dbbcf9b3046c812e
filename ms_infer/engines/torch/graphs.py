"""Static buffers and captured CUDA graphs; without CUDA the same runner calls the same work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_infer.environment import env
from ms_infer.errors import ConfigError, DeviceError, MotionStreamError

CAPTURES = threading.Lock()
"""Held while a graph is captured: PyTorch captures one at a time in a process."""
WARM_UPS = 2
"""Runs before a capture: kernels compile, libraries choose algorithms and take their workspaces."""


def graphs_enabled(device: torch.device) -> bool:
    """Whether work on this device is captured: CUDA, unless MS_INFER_NO_CUDA_GRAPH=1."""
    wanted = env("NO_CUDA_GRAPH", "0")
    if wanted not in ("0", "1"):
        raise ConfigError(f"MS_INFER_NO_CUDA_GRAPH={wanted!r} is neither 0 nor 1; set 1 to run without CUDA graphs")
    return device.type == "cuda" and wanted == "0"


class StaticBuffers:
    """Named tensors that are allocated once; graphs read and write them where they lie.

    Host values go in through `upload`: into a pinned twin, then to the device without waiting for it. The twin may
    be filled again once the work that reads the tensor is done (the engine waits for each chunk's frames).
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._tensors: dict[str, Tensor] = {}
        self._twins: dict[str, Tensor] = {}

    def add(self, name: str, shape: tuple[int, ...], dtype: torch.dtype, *, uploaded: bool = False) -> Tensor:
        """Allocate zeros `[*shape]`; `uploaded` ones get a host twin. A name is taken once."""
        if name in self._tensors:
            raise ConfigError(f"a buffer {name!r} exists already; static buffers are allocated once")
        self._tensors[name] = torch.zeros(shape, dtype=dtype, device=self.device)
        if uploaded:
            self._twins[name] = host_buffer(shape, dtype, self.device)
        return self._tensors[name]

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def upload(self, name: str, values: NDArray[Any]) -> None:
        """Put host values into the buffer, from its start along the first dimension; shape and dtype must fit."""
        target, twin, source = self._tensors[name], self._twins[name], torch.from_numpy(np.ascontiguousarray(values))
        rows = source.shape[0] if source.dim() else 0
        if source.shape[1:] != target.shape[1:] or rows > target.shape[0] or source.dtype != target.dtype:
            raise ConfigError(
                f"buffer {name!r} is {tuple(target.shape)} {target.dtype}, got {tuple(source.shape)} {source.dtype}; "
                "shapes are fixed when a stream opens: open another Stream for another size"
            )
        twin[:rows].copy_(source)
        target[:rows].copy_(twin[:rows], non_blocking=True)

    def tensors(self) -> Mapping[str, Tensor]:
        return self._tensors


def host_buffer(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros on the host, pinned where the device is CUDA."""
    return torch.zeros(shape, dtype=dtype, pin_memory=device.type == "cuda")


class CapturedGraph:
    """Work on static tensors, captured at its first call and replayed from then on.

    work: takes and returns nothing; reads and writes only `tensors` and memory that lives as long as they do; doing
    it twice must equal doing it once, because warm-up runs come before the capture. It must not wait for the device
    or read host values that change. `enabled=False` (the CPU) calls `work` each time. `pool`: memory shared with
    graphs that never run at the same time.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], None],
        tensors: Mapping[str, Tensor],
        *,
        enabled: bool,
        cuda_stream: Any = None,
        pool: Any = None,
    ) -> None:
        self.name, self._work, self._tensors = name, work, dict(tensors)
        self._enabled, self._cuda_stream, self._pool = enabled, cuda_stream, pool
        self._graph: Any = None
        self._signature = _signature(self._tensors)
        self.replays = 0

    @property
    def captured(self) -> bool:
        return self._graph is not None

    def __call__(self, tensors: Mapping[str, Tensor] | None = None) -> None:
        """Run once. `tensors`, when given, must be those of the capture: same memory, shapes and dtypes."""
        self._check(self._tensors if tensors is None else tensors)
        self.replays += 1
        if not self._enabled:
            self._work()
            return
        if self._graph is None:
            self._capture()
        self._graph.replay()

    def _check(self, tensors: Mapping[str, Tensor]) -> None:
        now = _signature(tensors)
        if now == self._signature:
            return
        changed = sorted(n for n in now.keys() | self._signature.keys() if now.get(n) != self._signature.get(n))
        details = "; ".join(f"{n}: {_words(self._signature.get(n))} -> {_words(now.get(n))}" for n in changed)
        raise ConfigError(
            f"graph {self.name!r} was captured over other tensors ({details}); write new values into the static "
            "buffers, or open another Stream for another size"
        )

    def _capture(self) -> None:
        """Not with `torch.cuda.graph`, which waits for the whole device: streams of other threads go on here."""
        for _ in range(WARM_UPS):
            self._work()
        graph = torch.cuda.CUDAGraph()
        with CAPTURES, on_stream(self._cuda_stream):
            torch.cuda.current_stream().synchronize()
            try:
                graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
                self._work()
            except BaseException as error:
                with suppress(RuntimeError):  # of a capture that is broken already
                    graph.capture_end()
                if not isinstance(error, RuntimeError):
                    raise
                raise DeviceError(
                    f"the graph {self.name!r} could not be captured: {first_line(error)}; set MS_INFER_NO_CUDA_GRAPH=1 "
                    "to run without graphs"
                ) from error
            graph.capture_end()
        self._graph = graph


def first_line(error: BaseException) -> str:
    """What an error says, without the advice that CUDA and PyTorch add in further lines."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]


@contextmanager
def told(what: str) -> Iterator[None]:
    """CUDA's and PyTorch's errors in the block as a DeviceError of one line."""
    try:
        yield
    except MotionStreamError:
        raise
    except RuntimeError as error:
        raise DeviceError(f"the GPU could not {what}: {first_line(error)}") from error


def on_stream(cuda_stream: Any) -> AbstractContextManager[Any]:
    """The CUDA stream as the current one; nothing without CUDA."""
    return nullcontext() if cuda_stream is None else torch.cuda.stream(cuda_stream)


Signature = dict[str, tuple[int, tuple[int, ...], torch.dtype]]


def _signature(tensors: Mapping[str, Tensor]) -> Signature:
    return {name: (tensor.data_ptr(), tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def _words(entry: tuple[int, tuple[int, ...], torch.dtype] | None) -> str:
    return "absent" if entry is None else f"{list(entry[1])} {entry[2]} at {entry[0]:#x}"
