"""Chunks for asyncio: the work is done in one thread, and a task that is cancelled takes its step along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from ms_infer.chunk import Chunk


class Chunks(Protocol):
    """What is iterated over: a `Stream`."""

    def __iter__(self) -> Iterator[Chunk]: ...
    def cancel(self) -> None: ...


async def chunks_of(stream: Chunks) -> AsyncIterator[Chunk]:
    """The chunks of `iter(stream)`, each made while others of the event loop's tasks run."""
    loop, steps = asyncio.get_running_loop(), iter(stream)
    with ThreadPoolExecutor(1, thread_name_prefix="ms-infer") as executor:
        while True:
            made = loop.run_in_executor(executor, next, steps, None)
            try:
                chunk = await asyncio.shield(made)
            except asyncio.CancelledError:
                stream.cancel()
                await asyncio.wait([made])
                if not made.cancelled():
                    made.exception()  # Cancelled, as asked; or the chunk came first
                raise
            if chunk is None:
                return
            yield chunk
