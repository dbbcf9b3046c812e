"""Frames of a chunk as a tensor where they lie, handed to other libraries without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class TensorFrames:
    """uint8 `[rgb_frames, height, width, 3]`; see `DeviceFrames`. What reads them waits on its own for the device."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

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
