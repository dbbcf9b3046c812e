"""All that a later chunk of a stream depends on, as one value."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import Span, StreamConfig
from ms_infer.controls import Control
from ms_infer.engines.base import Engine
from ms_infer.engines.saved import check_array
from ms_infer.errors import ConfigError, require
from ms_infer.tracks.player import TrackPlayer

Arrays = Mapping[str, NDArray[Any]]
MOST_CHUNKS = 1 << 40
MOST_IDS = 1 << 62


@dataclass(frozen=True, kw_only=True, eq=False)
class StreamState:
    """A stream between two chunks: `Stream.load_state` goes on from it, bit for bit (from a near one: closely).

    Loading takes copies: one state may be loaded often, and into many streams (a fork).
    """

    digest: str
    """Of what a stream must share with it: settings, engine, precision, weights."""
    index: int
    """Of the next chunk."""
    given: int
    """Latent frames that the image put before the first chunk."""
    seed: int
    applied: Control
    """What the newest chunk was made with; its prompt's embedding is never None."""
    pending: Control
    """What the next chunk will be made with: `applied`, or newer."""
    image: NDArray[np.uint8] | None
    """First frame `[height, width, 3]`."""
    engine: Arrays
    """`Engine.state()`, or `Engine.near_state()`."""
    player: Arrays
    """`TrackPlayer.state()`."""

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays that a snapshot holds."""
        prompt = self.applied.prompt
        own = [array for array in (self.image, prompt.text, prompt.origin) if array is not None]
        return sum(array.nbytes for array in (*own, *self.engine.values(), *self.player.values()))

    def check(self, config: StreamConfig) -> None:
        """ConfigError unless counters, image and controls are such as a stream of these settings can have.

        Engine and player check their own parts.
        """
        require(0 <= self.index < MOST_CHUNKS, f"the state's next chunk is {self.index}; expected 0 to 2**40")
        prefilled = config.model.image_input == "prefill" and self.image is not None
        require(self.given == int(prefilled), f"the state has {self.given} given latent frames, not {int(prefilled)}")
        checked_seed(self.seed)
        for kind in ("tracks", "prompt", "strengths"):
            applied, pending = getattr(self.applied, kind).id, getattr(self.pending, kind).id
            order = 0 <= applied <= pending < MOST_IDS
            require(order, f"the state's {kind} have the ids {applied} (applied) and {pending}: they only grow")
        if self.image is not None:
            check_array(self.image, "image", np.uint8, (config.height, config.width, 3))
        origin = self.applied.prompt.origin
        for text in (self.applied.prompt.text, self.pending.prompt.text, *([] if origin is None else [origin])):
            check_array(text, "text", np.float32, (config.model.text.tokens, config.model.text.dim))
            require(text is not None and bool(np.isfinite(text).all()), "the state's text holds NaN or infinite values")


def player_of(state: StreamState, config: StreamConfig, engine: Engine, digest: str) -> TrackPlayer:
    """A player in the state's place; ConfigError unless a stream of this engine and digest can go on from the state."""
    if state.digest != digest:
        raise ConfigError(
            f"the state was made with other settings or another engine, precision or weights than this stream "
            f"({engine.name} {engine.precision}); open the same source with the same engine and precision"
        )
    state.check(config)
    player = TrackPlayer.of(config)
    player.restore(state.player)
    span = config.context.span(state.index, state.given)
    if player.start > span.first_rgb_frame:
        raise ConfigError(f"the state's tracks start at RGB frame {player.start}, after its next chunk")
    if state.pending.tracks.tracks is not None:
        player.fitted(state.pending.tracks.tracks)
    for control in (state.applied, state.pending):
        if control.strengths.values or engine.strengths:
            engine.check_strengths(control.strengths.values)
    engine.check_state(state.engine, span.start)
    return player


@dataclass(frozen=True, eq=False)
class Run:
    """Where a started stream stands; every chunk makes a new one, when it is done."""

    index: int
    given: int
    seed: int
    image: NDArray[np.uint8] | None
    control: Control
    """What the newest chunk was made with."""
    player: TrackPlayer

    def span(self, config: StreamConfig) -> Span:
        """Frames of the next chunk."""
        return config.context.span(self.index, self.given)


def state_of(run: Run, digest: str, pending: Control, engine: Arrays) -> StreamState:
    """The state of a stream that stands at `run`."""
    return StreamState(
        digest=digest,
        index=run.index,
        given=run.given,
        seed=run.seed,
        applied=run.control,
        pending=pending,
        image=run.image,
        engine=engine,
        player=run.player.state(),
    )


def checked_seed(seed: Any) -> int:
    """A seed as an int; ConfigError unless it is a whole number of 64 bits."""
    try:
        number = operator.index(seed)
    except TypeError:
        raise ConfigError(f"a seed is a whole number from 0 to 2**64 - 1, not {seed!r}") from None
    require(0 <= number < 1 << 64, f"a seed is a whole number from 0 to 2**64 - 1, not {number}")
    return number


def state_digest(config: StreamConfig, engine: str, weights: str) -> str:
    """sha256 of what a state must agree with: settings, engine with its precision, digest of the weights."""
    text = json.dumps(config.to_dict(), sort_keys=True) + engine + weights
    return hashlib.sha256(text.encode()).hexdigest()
