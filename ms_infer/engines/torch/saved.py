"""Tensors of a state on their way to the host and back, and the digest of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ms_infer.config import StreamConfig
from ms_infer.engines.base import Array
from ms_infer.engines.saved import kept, packed, unpacked
from ms_infer.model.context import ContextCache

_PIECE = 1 << 22
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def saved_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """How the host holds a type: bfloat16 as its bits."""
    return np.dtype(np.uint16) if dtype == torch.bfloat16 else torch.empty(0, dtype=dtype).numpy().dtype


def to_host(tensor: Tensor) -> Array:
    """A copy on the host; bfloat16, and float32 that holds no more than it, as bits."""
    host = tensor.detach().cpu().contiguous()
    if host.dtype == torch.bfloat16:
        return host.view(torch.int16).numpy().view(np.uint16).copy()
    return packed(host.numpy())


def from_host(array: Array, like: Tensor) -> Tensor:
    """The tensor that `to_host` was given, on the device of another one of its type."""
    values = np.ascontiguousarray(unpacked(array, saved_dtype(like.dtype)))
    bits = like.dtype == torch.bfloat16
    host = torch.from_numpy(values.view(np.int16)).view(torch.bfloat16) if bits else torch.from_numpy(values)
    return host.to(like.device).clone()


def kept_caches(
    config: StreamConfig, cache: ContextCache, made: int, sink_start: int
) -> dict[str, tuple[Tensor, NDArray[np.int64]]]:
    """Each cache, and its rows that the next chunk reads.

    The sink's keys are rotated anew from un-rotated ones, where the cache has these.
    """
    rows = kept(config, made, sink_start)
    rolls = cache.sink_k.shape[3] > 0
    return {
        "k": (cache.k, rows.window if rolls else rows.all),
        "v": (cache.v, rows.all),
        "sink_k": (cache.sink_k, rows.sink if rolls else rows.sink[:0]),
    }


@torch.no_grad()
def weights_digest(modules: Sequence[nn.Module | None], base: Mapping[str, Tensor], added: Iterable[Tensor]) -> str:
    """sha256 over names, types, shapes and a checksum of every tensor of the modules; computed on their device.

    The checksum adds up the tensor's words, each times an odd number of its place, modulo 2**64: any single changed
    weight changes it, and so do swapped ones. base: tensors of the first module to take instead of its own, whose
    adapters change them; added: the tensors of the adapters.
    """
    digest = hashlib.sha256()
    for place, module in enumerate(modules):
        state = module.state_dict() if module else {}
        for name, tensor in ({**state, **base} if place == 0 else state).items():
            digest.update(f"{place} {name} {tensor.dtype} {list(tensor.shape)} {_checksum(tensor)};".encode())
    for tensor in added:
        digest.update(f"{list(tensor.shape)} {_checksum(tensor)};".encode())
    return digest.hexdigest()


def _checksum(tensor: Tensor) -> int:
    words = tensor.detach().contiguous().reshape(-1).view(_WORDS[tensor.element_size()])
    total = 0
    for start in range(0, words.numel(), _PIECE):
        piece = words[start : start + _PIECE].to(torch.int64)
        odd = torch.arange(start, start + piece.numel(), device=piece.device) * 2 + 1
        total += int((piece * odd).sum())
    return total % (1 << 64)
