"""Frames of a chunk as a tensor where they lie, handed to other libraries without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ms_infer.engines.torch.graphs import on_stream


class TensorFrames:
    """uint8 `[rgb_frames, height, width, 3]`; see `DeviceFrames`. What reads them waits on its own for the device."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    @classmethod
    def behind(cls, cuda_stream: Any, frames: Tensor) -> TensorFrames:
        """A copy of frames made on a CUDA stream; torch's current CUDA stream, and so who reads them, waits for it."""
        with on_stream(cuda_stream):
            kept = frames.clone()
        if cuda_stream is not None:
            current = torch.cuda.current_stream(frames.device)
            current.wait_stream(cuda_stream)
            kept.record_stream(current)
        return cls(kept)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return dict(self.tensor.__cuda_array_interface__)

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, frames: slice) -> TensorFrames:
        return TensorFrames(self.tensor[frames])

    def __dlpack__(self, **options: Any) -> Any:
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        kind, number = self.tensor.__dlpack_device__()
        return int(kind), int(number)

    def numpy(self) -> NDArray[np.uint8]:
        return self.tensor.cpu().numpy()
