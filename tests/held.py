"""The state of streams without a model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.controls import Control, PromptControl, TracksControl
from ms_infer.state import StreamState
from ms_infer.tracks import Tracks


def held(
    stream: Any,
    own: Mapping[str, NDArray[Any]],
    *,
    tracks: Tracks | None = None,
    image: NDArray[np.uint8] | None = None,
    player: Mapping[str, NDArray[Any]] | None = None,
) -> StreamState:
    """With what is the stream's own in the place of an engine's; `digest` and `index` are read from it."""
    text = stream.config.model.text
    control = Control(TracksControl(0, tracks), PromptControl(0, np.zeros((text.tokens, text.dim), np.float32)))
    return StreamState(
        digest=stream.digest,
        index=stream.index,
        given=0,
        seed=0,
        applied=control,
        pending=control,
        image=image,
        engine=own,
        player=player or {},
    )
