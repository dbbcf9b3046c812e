"""From the source that a user names to a function that opens one more stream of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ms_infer.cli.model import say_notes
from ms_infer.engines.base import Engine
from ms_infer.engines.open import find_bundle, load_source, open_engine
from ms_infer.prompts import PromptEncoder, prompt_encoder
from ms_infer.serve.settings import ServeConfig
from ms_infer.stream import Stream

if TYPE_CHECKING:
    from ms_infer.checkpoint import Student


def stream_opener(config: ServeConfig) -> Callable[[], Stream]:
    """Opens streams of `config.source`: they share the weights, each has its own context.

    Streams of a checkpoint share its modules on every device, those of a bundle the compiled models or TensorRT's
    engines.
    """
    engine, precision = config.engine, config.precision
    weights: list[Student | Engine] = []
    text: list[PromptEncoder | None] = [prompt_encoder(config.text_encoder)]

    def open_stream() -> Stream:
        if not weights and (engine not in ("auto", "torch") or find_bundle(config.source, engine, None) is not None):
            made = open_engine(config.source, engine=engine, precision=precision)
            twin = made.twin()
            if twin is None:
                return Stream(made, text_encoder=text[0])
            weights.append(made)
            return Stream(twin, text_encoder=text[0])
        if not weights:
            complete = load_source(config.source, config.given())
            weights.append(complete.student)
            text[0] = text[0] or prompt_encoder(complete.text_encoder)
            say_notes("ms-serve", complete.notes if config.source != "demo" else ())
        shared = weights[0]
        source = shared.twin() if isinstance(shared, Engine) else shared
        assert source is not None, "an engine is kept because it has twins"
        return Stream(source, engine=engine, precision=precision, text_encoder=text[0])

    return open_stream
