"""A source, opened once: every stream of it has an engine of its own over the same weights and compiled stages."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from ms_infer.engines.base import Engine
from ms_infer.engines.open import Opened, open_named
from ms_infer.errors import ConfigError, MotionStreamError, StateError
from ms_infer.given import Given, Parts
from ms_infer.progress import Progress, silent
from ms_infer.prompts import PromptEncoder, prompt_encoder

if TYPE_CHECKING:
    from ms_infer.checkpoint import Student


class Options(Parts, total=False):
    """How a source is opened, as keywords of `Stream` and `Model`; none is needed.

    What else goes with a checkpoint comes with its own keywords (`Given`). Parts that are not named are looked for
    beside it and in the hub's cache; download=True lets the rest be downloaded.
    """

    engine: str
    """"auto", "torch", "openvino" or "tensorrt"; a named engine never falls back."""
    device: str | None
    """"cpu", "cuda", "cuda:1"; None takes the best one."""
    precision: str | None
    """"fp32", "bf16", ...; None takes the engine's default for the device."""
    threads: int | None
    """Of the engines on a CPU; None takes all cores. Torch knows only one number for the whole process."""
    text_encoder: PromptEncoder | str | Path | None
    """umT5 for models that read prompts with it: Wan's .pth, a diffusers text_encoder/ folder, or a `PromptEncoder`.
    It is loaded for prompts that the cache does not hold and freed again before streaming."""
    progress: Progress
    """Called with what is being done and how much of the opening is done (0..1); what it raises ends the opening."""


class Weights:
    """Lends engines to streams, from any thread; see `Model` and `Stream` for what the arguments mean.

    The first engine is lent first, the others are twins of one that is out. What comes back is closed, for each engine
    has contexts and caches of its own, but for the last one, which is lent again.
    """

    def __init__(
        self,
        source: str | Path | Student | Engine,
        *,
        engine: str = "auto",
        device: str | None = None,
        precision: str | None = None,
        threads: int | None = None,
        text_encoder: PromptEncoder | str | Path | None = None,
        progress: Progress = silent,
        **parts: Unpack[Parts],
    ) -> None:
        encoder = prompt_encoder(text_encoder)
        given = Given.of(parts, text_encoder=None if encoder is None else encoder.weights)

        def opened() -> Opened:
            return open_named(
                source,
                engine=engine,
                device=device,
                precision=precision,
                given=given,
                threads=threads,
                progress=progress,
            )

        first = opened()
        self._open: Callable[[], Opened] | None = None if isinstance(source, Engine) else opened
        self._first, self._strengths, self._idle, self._closed = first.engine, first.engine.strengths, True, False
        self._lent: list[Engine] = []
        self._lock = threading.Lock()
        """Held while a twin is made: nobody closes what it is made from."""
        self.config, self.notes = first.engine.config, first.notes
        self.name = f"{first.engine.name} {first.engine.precision}"
        self.prompts = encoder or prompt_encoder(first.text_encoder)

    def engine(self) -> Engine:
        """An engine for one more stream; StateError when closed, ConfigError when this source serves only one."""
        with self._lock:
            if self._closed:
                raise StateError("the model is closed; open a new one")
            lent = self._first if self._idle else self._first.twin()
            self._idle = False
            if lent is not None:
                self._lent.append(lent)
                return lent
        if self._open is None:
            raise ConfigError(
                f"the {self.name} engine computes one stream at a time: close its stream first, or give it a twin()"
            )
        opened = self._open().engine
        with self._lock:
            self._lent.append(opened)
        return opened

    def give_back(self, engine: Engine) -> None:
        """What a stream does with its engine when it is closed."""
        with self._lock:
            self._lent = [one for one in self._lent if one is not engine]
            if engine is self._first and self._lent:
                self._first = self._lent[0]
            elif engine is self._first and not self._closed:
                with suppress(MotionStreamError):  # a device that failed: the next stream opens another engine
                    engine.reset()
                    if engine.strengths != self._strengths:
                        engine.set_strengths(self._strengths)
                    self._idle = True
                    return
        engine.close()

    def close(self) -> None:
        """Lend no more engines; those that are out go on. Closing twice is fine."""
        with self._lock:
            idle, self._idle, self._closed = self._idle and not self._closed, False, True
        if idle:
            self._first.close()
