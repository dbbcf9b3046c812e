"""Weights from an integer hash of their place, so that golden cases need no weight files."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor


def hash_weights(params: Iterable[tuple[str, Sequence[int]]]) -> dict[str, Tensor]:
    """fp32 weights (rounded to bf16) by the `weights_rule` that the JSON of golden taehv_w21 spells out."""
    return {name: _hashed(index, tuple(shape)) for index, (name, shape) in enumerate(sorted(params))}


def _hashed(index: int, shape: tuple[int, ...]) -> Tensor:
    x = np.arange(math.prod(shape), dtype=np.uint64) * np.uint64(2654435761)
    x = (x + np.uint64(index * 40503 + 12345)) & np.uint64(0xFFFFFFFF)
    for multiplier, shift in ((2246822519, 16), (3266489917, 13)):
        x ^= x >> np.uint64(shift)
        x = (x * np.uint64(multiplier)) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    bound = 0.1 if len(shape) == 1 else math.sqrt(3 / math.prod(shape[1:]))
    values = (x.astype(np.float64) / 2**32 * 2 - 1) * bound
    return torch.from_numpy(values).float().bfloat16().float().reshape(shape)
