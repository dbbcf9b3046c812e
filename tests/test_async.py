"""`async for chunk in stream`: the event loop goes on, and what is cancelled leaves the stream usable."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from ms_infer import Cancelled, Stream
from ms_infer.engines.base import ChunkPlan
from tests.quick import QuickEngine


class Gate(QuickEngine):
    """Each chunk waits for a word, or until it is cancelled."""

    def __init__(self) -> None:
        super().__init__()
        self.entered, self.go = threading.Event(), threading.Event()
        self.threads: set[str] = set()

    def generate(self, plan: ChunkPlan) -> None:
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        while not self.go.wait(0.002):
            self.check_cancelled()
        super().generate(plan)


def test_the_loop_goes_on_while_a_chunk_is_made() -> None:
    engine = Gate()

    async def play() -> list[int]:
        made, stream = [], Stream(engine)

        async def open_the_gate() -> None:
            while not engine.entered.is_set():  # runs only because the loop is free
                await asyncio.sleep(0)
            engine.go.set()

        gate = asyncio.create_task(open_the_gate())
        async for chunk in stream:
            made.append(chunk.index)
            if len(made) == 3:
                stream.pause()
        await gate
        return made

    assert asyncio.run(play()) == [0, 1, 2]
    assert len(engine.threads) == 1
    assert threading.current_thread().name not in engine.threads


def test_chunks_are_those_of_the_plain_loop() -> None:
    async def play() -> list[np.ndarray]:
        with Stream(QuickEngine()) as stream:
            frames = []
            async for chunk in stream:
                frames.append(chunk.frames)
                if len(frames) == 3:
                    return frames
        return []

    with Stream(QuickEngine()) as stream:
        for expected, made in zip([stream.step().frames for _ in range(3)], asyncio.run(play()), strict=True):
            np.testing.assert_array_equal(made, expected)


def test_a_cancelled_task_takes_its_step_along() -> None:
    async def play() -> None:
        engine = Gate()
        stream = Stream(engine)

        async def consume() -> None:
            async for _ in stream:
                pass

        task = asyncio.create_task(consume())
        while not engine.entered.is_set():
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        engine.go.set()
        assert stream.step().index == 0  # nothing was lost, and the stream is free

    asyncio.run(play())


def test_cancelling_the_stream_ends_the_iteration_with_a_word() -> None:
    async def play() -> None:
        engine = Gate()
        stream = Stream(engine)

        async def cancel() -> None:
            while not engine.entered.is_set():
                await asyncio.sleep(0)
            stream.cancel()

        stop = asyncio.create_task(cancel())
        with pytest.raises(Cancelled):
            async for _ in stream:
                pass
        await stop

    asyncio.run(play())


def test_three_streams_side_by_side() -> None:
    async def frames(stream: Stream) -> int:
        total = 0
        async for chunk in stream:
            total += len(chunk.frames)
            if total > 40:
                break
        return total

    async def play() -> list[int]:
        return await asyncio.gather(*(frames(Stream(QuickEngine())) for _ in range(3)))

    assert asyncio.run(play()) == [45, 45, 45]
