"""A model, opened once, for any number of streams."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ms_infer.config import StreamConfig
from ms_infer.engines.base import Engine
from ms_infer.stream import Stream
from ms_infer.weights import Options, Weights

if TYPE_CHECKING:
    from ms_infer.checkpoint import Student


class Model:
    """Weights and compiled stages, opened once; `stream()` makes streams that share them, each with its own context.

    The arguments are those of `Stream`. May be used from any thread: several may make streams, which may run at the
    same time, each in a thread of its own. A stage is compiled once, by the first stream that needs it; others wait.

        with Model("demo") as model:
            one, two = model.stream(), model.stream(seed=1)

    A model that is closed makes no more streams; those that are open go on until they are closed.
    """

    def __init__(
        self,
        source: str | Path | Student | Engine = "demo",
        **options: Unpack[Options],
    ) -> None:
        self._weights = Weights(source, **options)

    @property
    def config(self) -> StreamConfig:
        return self._weights.config

    @property
    def engine(self) -> str:
        """Name of the engine that runs, with its precision."""
        return self._weights.name

    @property
    def notes(self) -> tuple[str, ...]:
        """What was taken for a checkpoint and why, a line each."""
        return self._weights.notes

    def stream(self, *, seed: int = 0) -> Stream:
        """One more stream. StateError when the model is closed."""
        return Stream(self._weights, seed=seed)

    def close(self) -> None:
        """Make no more streams; the weights are freed when the last one is closed. Closing twice is fine."""
        self._weights.close()

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
