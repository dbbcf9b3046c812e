"""From the source that a user names to a function that opens one more stream of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ms_infer.serve.config import ServeConfig
from ms_infer.source import find_bundle, load_source
from ms_infer.stream import Stream

if TYPE_CHECKING:
    from ms_infer.checkpoint import Student


def stream_opener(config: ServeConfig) -> Callable[[], Stream]:
    """Opens streams of `config.source`. Streams of a checkpoint share its weights; each has its own context."""
    loaded: list[Student] = []

    def open_stream() -> Stream:
        if config.engine not in ("auto", "torch") or find_bundle(config.source, config.engine, None) is not None:
            return Stream(config.source, engine=config.engine, precision=config.precision)
        if not loaded:
            loaded.append(load_source(config.source))
        return Stream(loaded[0], engine=config.engine, precision=config.precision)

    return open_stream
