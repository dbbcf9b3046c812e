"""From the source that a user names to a function that opens one more stream of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ms_infer.serve.config import ServeConfig
from ms_infer.source import MANIFEST, load_source
from ms_infer.stream import Stream


def stream_opener(config: ServeConfig) -> Callable[[], Stream]:
    """Opens streams of `config.source`. Streams of a checkpoint share its weights; each has its own context."""

    def is_bundle() -> bool:
        return (Path(config.source) / MANIFEST).is_file()

    student = None

    def open_stream() -> Stream:
        nonlocal student
        if is_bundle() or config.engine in ("openvino", "tensorrt"):
            return Stream(config.source, engine=config.engine, precision=config.precision)
        student = student or load_source(config.source)
        return Stream(student, engine=config.engine, precision=config.precision)

    return open_stream
