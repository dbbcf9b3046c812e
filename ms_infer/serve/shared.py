"""What the sessions of one server share: settings, the event loop, an encoder thread, a folder."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ms_infer.serve.metrics import Metrics
from ms_infer.serve.pictures.examples import Examples
from ms_infer.serve.pictures.layered import LayeredPicker
from ms_infer.serve.settings import ServeConfig

P = ParamSpec("P")
R = TypeVar("R")


class Context:
    """Made inside the running event loop. `folder` holds recordings and is removed by its maker."""

    def __init__(self, config: ServeConfig, folder: Path) -> None:
        self.config, self.folder = config, folder
        self.metrics, self.examples = Metrics(), Examples()
        self.layers: LayeredPicker | None = None
        """What the model itself takes for a thing, where it knows; once it is loaded."""
        self.route = ""
        """What requests about a session bring in the header x-session-id, so that a proxy sends them to this server."""
        self._loop = asyncio.get_running_loop()
        self._encoder = ThreadPoolExecutor(1, "ms-serve-encode")
        self._tasks: set[asyncio.Task[Any]] = set()

    def call_soon(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run a function in the event loop, from any thread; nothing happens once the loop has ended."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(lambda: function(*args, **kwargs))

    def spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine beside everything else."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def encode(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run in the one encoder thread."""
        return await self._loop.run_in_executor(self._encoder, lambda: function(*args, **kwargs))

    def close(self) -> None:
        """End the encoder thread."""
        self._encoder.shutdown(wait=True, cancel_futures=True)
