"""From the source that a user names to a function that opens one more stream of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ms_infer.cli.model import say_notes
from ms_infer.models import Model
from ms_infer.serve.settings import ServeConfig
from ms_infer.stream import Stream


def stream_opener(config: ServeConfig) -> Callable[[], Stream]:
    """Opens streams of `config.source`, whose model is opened with the first one; from any thread."""
    models: list[Model] = []
    lock = threading.Lock()

    def open_stream() -> Stream:
        with lock:
            if not models:
                made = Model(
                    config.source,
                    engine=config.engine,
                    precision=config.precision,
                    text_encoder=config.text_encoder,
                    **config.parts(),
                )
                models.append(made)
                say_notes("ms-serve", made.notes if config.source != "demo" else ())
        return models[0].stream()

    return open_stream
