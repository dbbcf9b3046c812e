"""All that a later chunk of a stream depends on, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamState:
    """A stream between two chunks; with the same weights and settings the next frames are bit-equal."""

    index: int
    """Of the next chunk."""
    given: int
    """Latent frames that the image put before the first chunk."""
    seed: int
    control_id: int
    """Newest control that a chunk was made with."""
    text: NDArray[np.float32]
    """Embedding `[tokens, dim]` of the prompt."""
    image: NDArray[np.uint8] | None
    """First frame `[height, width, 3]`."""
    engine: Arrays
    """`Engine.state()`."""
    player: Arrays
    """`TrackPlayer.state()`."""
