"""What engines save of a stream: the rows of the caches that the next chunk reads, no bit more than they hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ms_infer.config import StreamConfig
from ms_infer.engines.base import Array
from ms_infer.errors import ConfigError, require

MOST_FRAMES = 1 << 20
"""Latent frames that no context is longer than."""


@dataclass(frozen=True)
class Kept:
    """What the chunk after `made` latent frames reads of the stream so far."""

    sink: NDArray[np.int64]
    """Rows (tokens) of the caches that hold the sink."""
    window: NDArray[np.int64]
    """Rows of the window that the next chunk does not overwrite."""
    frames: range
    """Latent frames whose inputs a re-encoding may need."""

    @property
    def all(self) -> NDArray[np.int64]:
        return np.concatenate([self.sink, self.window])


def kept(config: StreamConfig, made: int, sink_start: int, ring_start: int | None = None) -> Kept:
    """The rows of a context whose sink begins at the latent frame `sink_start`; `ring_start` as in `slot`."""
    context, cells = config.context, config.tokens_per_frame

    def rows(slots: list[int]) -> NDArray[np.int64]:
        return (np.array(slots, np.int64)[:, None] * cells + np.arange(cells)).reshape(-1)

    sink, window = context.kept_slots(made, sink_start, ring_start)
    return Kept(rows(sink), rows(window), range(max(0, made - context.cache_frames), made))


def host_dtype(dtype: str) -> np.dtype[Any]:
    """How the host holds a type of the manifest: bfloat16 as its bits."""
    return np.dtype(np.uint16 if dtype == "bfloat16" else dtype)


def packed(array: Array) -> Array:
    """A copy; float32 whose values are all bfloat16 ones as their bits (uint16), which loses nothing."""
    if array.dtype != np.float32:
        return array.copy()
    bits = np.ascontiguousarray(array).view(np.uint32)
    return array.copy() if (bits & 0xFFFF).any() else (bits >> 16).astype(np.uint16)


def rounded(array: Array) -> Array:
    """float32 to the nearest bfloat16, as float32; halves to even."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) & np.uint32(0xFFFF0000)).view(np.float32)


def unpacked(array: Array, dtype: DTypeLike) -> Array:
    """What `packed` was given."""
    if array.dtype == np.uint16 and dtype == np.float32:
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def check_array(array: Any, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
    """ConfigError unless it is an array of this type and shape; `name` is what the message calls it."""
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != shape:
        found = f"{list(array.shape)} {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ConfigError(
            f"the snapshot's {name} is {found}, this stream needs {list(shape)} {np.dtype(dtype)}; restore with the "
            "source, engine and precision it was made with"
        )


def check_packed(array: Array | None, name: str, dtype: DTypeLike, shape: tuple[int, ...]) -> None:
    """ConfigError unless `unpacked` gives an array of this type and shape."""
    bits = array is not None and array.dtype == np.uint16 and dtype == np.float32
    check_array(array, name, np.uint16 if bits else dtype, shape)


def check_counters(counters: Array | None, made: int, *, more: int = 0) -> list[int]:
    """Latent frames made, first one of the sink, and `more`, int64; ConfigError unless a stream can have them."""
    check_array(counters, "counters", np.int64, (2 + more,))
    assert counters is not None, "it was checked"
    found, sink_start, *others = (int(n) for n in counters)
    require(
        found == made and 0 <= sink_start <= made,
        f"the snapshot counts {found} latent frames and begins its sink at {sink_start}; its chunks make {made} frames",
    )
    require(all(0 <= n <= made + MOST_FRAMES for n in others), f"the snapshot's counters hold {others}")
    return [found, sink_start, *others]
