"""The few CUDA runtime calls of the TensorRT engine, with errors that say what to do."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.bundle.stages import TensorSpec
from ms_infer.engines.saved import host_dtype
from ms_infer.errors import DeviceError, MissingExtraError

ALIGNMENT = 256
"""Bytes; what TensorRT asks of addresses."""


class Cuda:
    """One device through `cuda.bindings.runtime` (or a stand-in of it). Frees everything when closed.

    Handles and addresses are ints. DeviceError when there is no device or a call fails; MissingExtraError when
    cuda-python is not installed.
    """

    def __init__(self, runtime: Any = None) -> None:
        self._runtime = runtime or _bindings()
        self._device: list[int] = []
        self._host: list[int] = []
        self._streams: dict[int, Any] = {}
        self._events: dict[int, Any] = {}
        self._graphs: dict[int, Any] = {}
        count = self._find_devices()
        if not count:
            raise DeviceError("TensorRT engines run on an NVIDIA GPU, and CUDA sees none; use engine='openvino'")
        self.call("cudaSetDevice", 0)

    def twin(self) -> Cuda:
        """The same device with memory, streams and graphs of its own."""
        return Cuda(self._runtime)

    def __enter__(self) -> Cuda:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _find_devices(self) -> int:
        try:
            error, count = self._runtime.cudaGetDeviceCount()
        except RuntimeError as missing:  # no driver library at all
            raise DeviceError(f"the NVIDIA driver is not installed ({missing}); use engine='openvino'") from None
        if int(error) != 0:
            raise DeviceError(f"CUDA cannot start: {self._words(error)}; update the driver or use engine='openvino'")
        return int(count)

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a runtime function; its result without the error code. DeviceError when it fails."""
        result = getattr(self._runtime, name)(*arguments)
        if int(result[0]) != 0:
            raise DeviceError(f"{name} failed: {self._words(result[0])}")
        return result[1] if len(result) > 1 else None

    def _words(self, error: Any) -> str:
        text = self._runtime.cudaGetErrorString(error)[1]
        return f"{text.decode() if isinstance(text, bytes) else text} (error {int(error)})"

    @property
    def arch(self) -> str:
        """sm_90 of compute capability 9.0."""
        names = ("cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor")
        attributes = self._runtime.cudaDeviceAttr
        major, minor = (self.call("cudaDeviceGetAttribute", getattr(attributes, name), 0) for name in names)
        return f"sm_{major}{minor}"

    def allocate(self, nbytes: int) -> int:
        """Address of zeroed device memory."""
        address = int(self.call("cudaMalloc", nbytes))
        self._device.append(address)
        self.call("cudaMemset", address, 0, nbytes)
        return address

    def allocate_host(self, nbytes: int) -> NDArray[np.uint8]:
        """Zeroed pinned host memory."""
        address = int(self.call("cudaMallocHost", nbytes))
        self._host.append(address)
        memory = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))
        memory[:] = 0
        return memory

    def new_stream(self) -> int:
        """A CUDA stream that does not wait for the default one."""
        handle = self.call("cudaStreamCreateWithFlags", self._runtime.cudaStreamNonBlocking)
        self._streams[int(handle)] = handle
        return int(handle)

    def new_event(self, *, timed: bool = False) -> int:
        flags = self._runtime.cudaEventDefault if timed else self._runtime.cudaEventDisableTiming
        handle = self.call("cudaEventCreateWithFlags", flags)
        self._events[int(handle)] = handle
        return int(handle)

    def copy(self, target: int, source: int, nbytes: int, cuda_stream: int) -> None:
        """Copy between any two addresses, host or device, in stream order."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDefault
        self.call("cudaMemcpyAsync", target, source, nbytes, kind, cuda_stream)

    def copy_rows(self, target: int, source: int, nbytes: int, count: int, pitch: int, cuda_stream: int) -> None:
        """`count` copies of `nbytes` on the device, each `pitch` bytes after the one before on both sides."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self.call("cudaMemcpy2DAsync", target, pitch, source, pitch, nbytes, count, kind, cuda_stream)

    def zero(self, target: int, nbytes: int, cuda_stream: int) -> None:
        self.call("cudaMemsetAsync", target, 0, nbytes, cuda_stream)

    def record(self, event: int, cuda_stream: int, *, external: bool = False) -> None:
        """Mark a point of the stream. `external`: inside a capture, for waiters outside of the graph."""
        flags = self._runtime.cudaEventRecordExternal if external else self._runtime.cudaEventRecordDefault
        self.call("cudaEventRecordWithFlags", event, cuda_stream, flags)

    def wait(self, cuda_stream: int, event: int) -> None:
        """Let later work of the stream wait for the event."""
        self.call("cudaStreamWaitEvent", cuda_stream, event, self._runtime.cudaEventWaitDefault)

    def elapsed_ms(self, start: int, end: int) -> float:
        """Milliseconds between two timed events that the device has passed."""
        return float(self.call("cudaEventElapsedTime", start, end))

    def synchronize(self, cuda_stream: int) -> None:
        """Let the host wait for the stream."""
        self.call("cudaStreamSynchronize", cuda_stream)

    def begin_capture(self, cuda_stream: int) -> None:
        modes = self._runtime.cudaStreamCaptureMode
        self.call("cudaStreamBeginCapture", cuda_stream, modes.cudaStreamCaptureModeThreadLocal)

    def end_capture(self, cuda_stream: int) -> int:
        """The captured work as a graph that can be launched."""
        graph = self.call("cudaStreamEndCapture", cuda_stream)
        try:
            executable = self.call("cudaGraphInstantiate", graph, 0)
        finally:
            self._runtime.cudaGraphDestroy(graph)
        self._graphs[int(executable)] = executable
        return int(executable)

    def abandon_capture(self, cuda_stream: int) -> None:
        """Leave capture mode after an error, whatever state it is in."""
        self._runtime.cudaStreamEndCapture(cuda_stream)

    def launch(self, graph: int, cuda_stream: int) -> None:
        self.call("cudaGraphLaunch", graph, cuda_stream)

    def close(self) -> None:
        """Wait for the work and free everything. Closing twice is fine."""
        for stream in self._streams:
            self._runtime.cudaStreamSynchronize(stream)
        for destroy, handles in (
            ("cudaGraphExecDestroy", self._graphs),
            ("cudaEventDestroy", self._events),
            ("cudaStreamDestroy", self._streams),
            ("cudaFree", dict.fromkeys(self._device)),
            ("cudaFreeHost", dict.fromkeys(self._host)),
        ):
            for handle in handles:
                getattr(self._runtime, destroy)(handle)
        for owned in (self._graphs, self._events, self._streams, self._device, self._host):
            owned.clear()


def _bindings() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise MissingExtraError(
            f"cuda-python is not installed ({error}): pip install 'ms-infer[rtx]' or 'ms-infer[trt]'"
        ) from None
    return runtime


class Arena:
    """Named tensors in one device allocation, and in a pinned twin of the same layout where the host fills them."""

    def __init__(self, cuda: Cuda, specs: Iterable[tuple[str, TensorSpec]], *, twin: bool = False) -> None:
        self._cuda = cuda
        self._offsets: dict[str, tuple[int, TensorSpec]] = {}
        end = 0
        for name, spec in specs:
            if name not in self._offsets:
                self._offsets[name] = (end, spec)
                end += -(-spec.nbytes // ALIGNMENT) * ALIGNMENT
        self.nbytes = max(end, ALIGNMENT)
        self.address = cuda.allocate(self.nbytes)
        self._twin = cuda.allocate_host(self.nbytes) if twin else None

    def __contains__(self, name: str) -> bool:
        return name in self._offsets

    def names(self) -> list[str]:
        return list(self._offsets)

    def at(self, name: str) -> int:
        """Device address of a tensor."""
        return self.address + self._offsets[name][0]

    @property
    def host_address(self) -> int:
        """Address of the twin."""
        assert self._twin is not None, "only arenas with a twin are filled by the host"
        return int(self._twin.ctypes.data)

    def host(self, name: str) -> NDArray[Any]:
        """The tensor in the twin, as an array of its type."""
        assert self._twin is not None, "only arenas with a twin are filled by the host"
        start, spec = self._offsets[name]
        view = self._twin[start : start + spec.nbytes].view(np.dtype(spec.dtype))
        return view.reshape(spec.shape)

    def spec(self, name: str) -> TensorSpec:
        """Shape and type of a tensor."""
        return self._offsets[name][1]

    def fetch(self, name: str, cuda_stream: int) -> NDArray[Any]:
        """A copy of a tensor (bfloat16 as its bits), when the work of the stream is done."""
        spec = self.spec(name)
        array = np.empty(spec.shape, host_dtype(spec.dtype))
        self._cuda.copy(int(array.ctypes.data), self.at(name), array.nbytes, cuda_stream)
        self._cuda.synchronize(cuda_stream)
        return array

    def put(self, name: str, array: NDArray[Any], cuda_stream: int) -> None:
        """Put back what `fetch` returned."""
        contiguous = np.ascontiguousarray(array)
        self._cuda.copy(self.at(name), int(contiguous.ctypes.data), contiguous.nbytes, cuda_stream)
        self._cuda.synchronize(cuda_stream)
