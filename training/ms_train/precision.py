"""The type that training computes in."""

from __future__ import annotations

import torch


def compute_dtype(device: torch.device) -> torch.dtype:
    """bfloat16; float32 on a CPU without AVX-512, which emulates bfloat16 at a sixth of float32's speed and less."""
    slow = device.type == "cpu" and not torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.float32 if slow else torch.bfloat16


def autocast(device: torch.device, *, cache_enabled: bool = True) -> torch.autocast:
    """Autocast to `compute_dtype`; weights, losses and optimisers stay float32."""
    enabled = compute_dtype(device) == torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled, cache_enabled=cache_enabled)
