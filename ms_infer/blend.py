"""From one prompt's embedding to another's over several chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ms_infer.errors import require

Embedding = NDArray[np.float32]
Way = Literal["linear", "slerp"]
WAYS: tuple[str, ...] = get_args(Way)
MOST_CHUNKS = 1 << 20
_NEARLY_PARALLEL = 0.9995


@dataclass(frozen=True, eq=False)
class Blend:
    """How a prompt takes the place of the one before."""

    chunks: int = 1
    """Chunks until it is all there: the k-th has the share k / chunks of it. 1: at once."""
    way: Way = "linear"
    """"linear": the numbers in between. "slerp": every row turns from one to the other and changes its length."""

    def __post_init__(self) -> None:
        whole = isinstance(self.chunks, int) and 1 <= self.chunks <= MOST_CHUNKS
        require(whole, f"a prompt takes 1 to {MOST_CHUNKS} chunks to come, not {self.chunks!r}")
        require(self.way in WAYS, f"a blend is one of {', '.join(WAYS)}, not {self.way!r}")

    def between(self, old: Embedding, new: Embedding, chunk: int) -> Embedding:
        """Embedding `[tokens, dim]` of the `chunk`-th chunk, counted from 1."""
        share = chunk / self.chunks
        if share >= 1:
            return new
        return _slerp(old, new, share) if self.way == "slerp" else _linear(old, new, share)


def _linear(old: Embedding, new: Embedding, share: float) -> Embedding:
    return (old * np.float32(1 - share) + new * np.float32(share)).astype(np.float32)


def _slerp(old: Embedding, new: Embedding, share: float) -> Embedding:
    """Row by row; rows that are zero, parallel or opposite have no arc between them and go straight."""
    lengths = [np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in (old, new)]
    first, second = (rows / np.maximum(size, 1e-30) for rows, size in zip((old, new), lengths, strict=True))
    cosine = (first * second).sum(1, keepdims=True)
    curved = (lengths[0] > 0) & (lengths[1] > 0) & (np.abs(cosine) < _NEARLY_PARALLEL)
    angle = np.arccos(np.where(curved, cosine, 0.0))
    direction = (np.sin((1 - share) * angle) * first + np.sin(share * angle) * second) / np.sin(angle)
    length = (1 - share) * lengths[0] + share * lengths[1]
    return np.where(curved, direction * length, _linear(old, new, share)).astype(np.float32)
