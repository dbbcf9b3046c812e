"""Frames of a chunk in device memory of their own, handed to other libraries without a copy."""

from __future__ import annotations

import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.engines.tensorrt.cuda import Cuda
from ms_infer.engines.tensorrt.dlpack import CUDA, capsule_of


class Block:
    """Device memory that is freed with its last user, however long the engine lives."""

    def __init__(self, cuda: Cuda, nbytes: int) -> None:
        self.cuda, self.address = cuda, int(cuda.call("cudaMalloc", nbytes))
        weakref.finalize(self, cuda.call, "cudaFree", self.address).atexit = False


class CudaFrames:
    """uint8 `[rgb_frames, height, width, 3]`, complete when it is made; see `DeviceFrames`."""

    def __init__(self, block: Block, shape: tuple[int, ...], start: int = 0) -> None:
        self._block, self.shape, self._address = block, shape, block.address + start

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.shape, "typestr": "|u1", "data": (self._address, False), "version": 3}

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: slice) -> CudaFrames:
        first, end, step = frames.indices(len(self))
        if step != 1:
            raise IndexError("frames on a device are cut to runs: give a slice without a step")
        offset = self._address - self._block.address + first * int(np.prod(self.shape[1:]))
        return CudaFrames(self._block, (max(end - first, 0), *self.shape[1:]), offset)

    def __dlpack__(self, **_options: Any) -> Any:
        return capsule_of(self._address, self.shape, self._block, (CUDA, 0))

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, 0

    def numpy(self) -> NDArray[np.uint8]:
        frames = np.empty(self.shape, np.uint8)
        with_default = 0  # the legacy stream waits for all that could read the block
        self._block.cuda.copy(int(frames.ctypes.data), self._address, frames.nbytes, with_default)
        self._block.cuda.synchronize(with_default)
        return frames
