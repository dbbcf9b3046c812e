"""A stand-in for `cuda.bindings.runtime`: memory is the host's, work runs at once, captures are replayed.

Every stream has a clock of its own, which work moves on by its `cost` and waiting by the event's time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from cuda.bindings import runtime as real

Work = Callable[[], None]
OK = real.cudaError_t.cudaSuccess
ILLEGAL = real.cudaError_t.cudaErrorStreamCaptureUnjoined


@dataclass
class Capture:
    """A capture in progress: its work, the streams it has spread to, and how far each of them is."""

    origin: int
    work: list[tuple[str, Work]] = field(default_factory=list)
    done: dict[int, int] = field(default_factory=dict)
    joined: dict[int, int] = field(default_factory=dict)


class FakeCuda:
    """Implements the functions that `Cuda` calls; constants are the real module's. `calls` records all of them."""

    def __init__(self, *, devices: int = 1, capability: tuple[int, int] = (9, 0)) -> None:
        self.devices, self.capability = devices, capability
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.blocks: dict[int, np.ndarray] = {}
        self.freed: list[int] = []
        self.fail: dict[str, int] = {}
        self._fail_at: list[Any] = ["", 0]
        self.graphs: dict[int, list[tuple[str, Work]]] = {}
        self.cost: dict[str, float] = {}
        """Name of submitted work -> milliseconds that it takes."""
        self.clocks: dict[int, float] = {}
        self.replayed: list[list[str]] = []
        self._capture: Capture | None = None
        self._events: dict[int, tuple[int, int] | None] = {}
        self._times: dict[int, float] = {}
        self._timed: set[int] = set()
        self._handles = 1000

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cuda"):
            raise AttributeError(name)
        value = getattr(real, name)  # a misspelled function fails here
        if not callable(value) or isinstance(value, type):
            return value

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.calls.append((name, arguments))
            if self.fail.get(name, 0) or self._is_due(name):
                self.fail[name] = max(0, self.fail.get(name, 0) - 1)
                if name == "cudaStreamEndCapture":  # one that fails ends the capture all the same
                    self._capture = None
                return (real.cudaError_t.cudaErrorMemoryAllocation, None)
            result = getattr(self, f"_{name}")(*arguments)
            return result if isinstance(result, tuple) else (OK, result)

        return call

    def fail_at(self, name: str, number: int | None) -> None:
        """Let the call with this number from now on fail once; None: no more."""
        self._fail_at = ["" if number is None else name, number]

    def failing(self) -> bool:
        """Whether the failure is still to come."""
        return bool(self._fail_at[0])

    def _is_due(self, name: str) -> bool:
        if self._fail_at[0] != name:
            return False
        self._fail_at[1] -= 1
        if self._fail_at[1] < 0:
            self._fail_at[0] = ""
        return not self._fail_at[0]

    def submit(self, name: str, cuda_stream: int, work: Work) -> None:
        """Run work, or record it when its stream is being captured."""

        def timed() -> None:
            self.clocks[cuda_stream] = self.clocks.get(cuda_stream, 0.0) + self.cost.get(name, 0.0)
            work()

        capture = self._capture
        if capture is not None and cuda_stream in capture.done:
            capture.work.append((name, timed))
            capture.done[cuda_stream] += 1
            return
        timed()

    def _mark(self, cuda_stream: int, work: Work) -> None:
        """Run what only moves clocks, or record it without a name when the stream is being captured."""
        if self._capture is not None and cuda_stream in self._capture.done:
            self._capture.work.append(("", work))
        else:
            work()

    def _pass(self, event: int, cuda_stream: int) -> None:
        """The stream reaches the event's record."""
        self._times[event] = self.clocks.get(cuda_stream, 0.0)

    def _wait(self, cuda_stream: int, event: int) -> None:
        self.clocks[cuda_stream] = max(self.clocks.get(cuda_stream, 0.0), self._times.get(event, 0.0))

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    def _new(self) -> int:
        self._handles += 1
        return self._handles

    def _cudaGetDeviceCount(self) -> int:
        return self.devices

    def _cudaSetDevice(self, device: int) -> None:
        assert device < self.devices

    def _cudaGetErrorString(self, error: Any) -> tuple[Any, bytes]:
        return OK, error.name.encode()

    def _cudaDeviceGetAttribute(self, attribute: Any, _device: int) -> int:
        major = attribute == real.cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor
        return self.capability[0 if major else 1]

    def _allocate(self, nbytes: int) -> int:
        block = np.full(nbytes + 256, 0xAB, np.uint8)  # nobody may rely on zeros
        address = -(-int(block.ctypes.data) // 256) * 256
        self.blocks[address] = block
        return address

    _cudaMalloc = _cudaMallocHost = _allocate

    def _free(self, address: int) -> None:
        assert address in self.blocks, "freed twice or never allocated"
        self.freed.append(address)
        del self.blocks[address]

    _cudaFree = _cudaFreeHost = _free

    def _cudaMemset(self, address: int, value: int, nbytes: int) -> None:
        ctypes.memset(address, value, nbytes)

    def _cudaMemsetAsync(self, address: int, value: int, nbytes: int, cuda_stream: int) -> None:
        self.submit("memset", cuda_stream, lambda: ctypes.memset(address, value, nbytes) and None)

    def _cudaMemcpyAsync(self, target: int, source: int, nbytes: int, _kind: Any, cuda_stream: int) -> None:
        assert self.owns(target, nbytes) or self.owns(source, nbytes), "a copy between two places nobody allocated"
        self.submit("copy", cuda_stream, lambda: ctypes.memmove(target, source, nbytes) and None)

    def _cudaMemcpy2DAsync(
        self, target: int, _to: int, source: int, pitch: int, width: int, rows: int, _kind: Any, cuda_stream: int
    ) -> None:
        nbytes = pitch * (rows - 1) + width
        assert self.owns(target, nbytes), "a copy to a place nobody allocated"
        assert self.owns(source, nbytes), "a copy from a place nobody allocated"
        assert abs(target - source) >= width, "overlapping copies are undefined"

        def copy() -> None:
            for row in range(rows):
                ctypes.memmove(target + row * pitch, source + row * pitch, width)

        self.submit("move", cuda_stream, copy)

    def owns(self, address: int, nbytes: int) -> bool:
        """Whether the range lies in one allocation."""
        return any(start <= address and address + nbytes <= start + b.size - 256 for start, b in self.blocks.items())

    def _cudaStreamCreateWithFlags(self, flags: int) -> int:
        assert flags == real.cudaStreamNonBlocking
        return self._new()

    def _cudaEventCreateWithFlags(self, flags: int) -> int:
        event = self._new()
        self._events[event] = None
        if flags == real.cudaEventDefault:
            self._timed.add(event)
        return event

    def _cudaEventElapsedTime(self, start: int, end: int) -> Any:
        if not {start, end} <= self._timed:
            return (real.cudaError_t.cudaErrorInvalidResourceHandle, None)
        if not {start, end} <= self._times.keys():
            return (real.cudaError_t.cudaErrorNotReady, None)
        return (OK, self._times[end] - self._times[start])

    def _cudaEventRecordWithFlags(self, event: int, cuda_stream: int, flags: int) -> Any:
        capture = self._capture
        inside = capture is not None and cuda_stream in capture.done
        if flags == real.cudaEventRecordExternal:
            if not inside:
                return (real.cudaError_t.cudaErrorIllegalState,)
            self.submit("external event", cuda_stream, lambda: self._pass(event, cuda_stream))
            self._events[event] = None
        else:
            self._events[event] = (cuda_stream, capture.done[cuda_stream]) if capture and inside else None
            self._mark(cuda_stream, lambda: self._pass(event, cuda_stream))
        return None

    def _cudaStreamWaitEvent(self, cuda_stream: int, event: int, _flags: int) -> Any:
        place, capture = self._events[event], self._capture
        if place is not None:
            if capture is None:
                return (ILLEGAL,)
            capture.done.setdefault(cuda_stream, 0)
            if cuda_stream == capture.origin:
                capture.joined[place[0]] = place[1]
        self._mark(cuda_stream, lambda: self._wait(cuda_stream, event))
        return None

    def _cudaStreamSynchronize(self, cuda_stream: int) -> Any:
        if self._capture is not None and cuda_stream in self._capture.done:
            return (real.cudaError_t.cudaErrorStreamCaptureUnsupported,)
        return None

    def _cudaStreamBeginCapture(self, cuda_stream: int, _mode: Any) -> None:
        assert self._capture is None
        self._capture = Capture(cuda_stream, done={cuda_stream: 0})

    def _cudaStreamEndCapture(self, cuda_stream: int) -> Any:
        capture, self._capture = self._capture, None
        assert capture is not None
        assert capture.origin == cuda_stream
        loose = [s for s, n in capture.done.items() if s != capture.origin and capture.joined.get(s, -1) != n]
        if loose:
            return (ILLEGAL, None)
        return self._keep(capture.work)

    def _keep(self, work: list[tuple[str, Work]]) -> int:
        graph = self._new()
        self.graphs[graph] = work
        return graph

    def _cudaGraphInstantiate(self, graph: int, _flags: int) -> int:
        return self._keep(self.graphs[graph])

    def _cudaGraphLaunch(self, graph: int, _cuda_stream: int) -> None:
        self.replayed.append([name for name, _ in self.graphs[graph] if name])
        for _, work in self.graphs[graph]:
            work()

    def _destroy(self, handle: int) -> None:
        self.freed.append(handle)

    _cudaGraphDestroy = _cudaGraphExecDestroy = _cudaEventDestroy = _cudaStreamDestroy = _destroy
