"""How pictures and kernels of 2-D convolutions lie in memory: channels last, as tensor-core kernels read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def channels_last_(module: nn.Module) -> None:
    """Lay 2-D convolutions out as cuDNN's tensor-core kernels read them; otherwise it transposes in every call."""
    for parameter in module.parameters():
        parameter.data = as_channels_last(parameter.data)


def as_channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def layout_of(tensor: Tensor) -> torch.memory_format:
    """Channels-last where a tensor is, else without gaps."""
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not tensor.is_contiguous() else torch.contiguous_format
