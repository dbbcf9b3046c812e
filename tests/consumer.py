"""A program that uses what the package offers; it is type-checked, not run (tests/test_typed.py)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import ms_infer
from ms_infer import Cancelled, Chunk, Engine, Hand, Model, MotionStreamError, Stream, StreamState, Tracks
from ms_infer.media import Clip, open_writer


def told(doing: str, done: float) -> None:
    print(f"{doing}: {done:.0%}")


def play(picture: Image.Image | Path | NDArray[np.uint8]) -> NDArray[np.uint8]:
    with Model("demo", engine="openvino", threads=2, progress=told) as model, model.stream(seed=3) as stream:
        stream.warm_up()
        stream.start(picture, "night", Tracks.grid(8, 8).grab((0.4, 0.5), (0.7, 0.5), radius=0.15))
        hand: Hand = stream.hand()
        held: int = hand.press(1, 0.4, 0.5, at=0.0)
        hand.move(1, 0.5, 0.5, at=0.1 * held)
        stream.set_tracks(hand.tracks(0.5, frames=stream.next_rgb_frames))
        chunk: Chunk = stream.step()
        state: StreamState = stream.state()
        stream.load_state(state)
        stream.frames_on = "device"
        memory = io.BytesIO()
        with open_writer(memory, height=128, width=128, fps=stream.config.fps, kind="y4m") as writer:
            for made in stream.take(seconds=2):
                writer.write(made.frames)
        Clip(stream.take(frames=24))
        return chunk.frames


async def wait_for(stream: Stream) -> list[int]:
    numbers = []
    try:
        async for chunk in stream:
            numbers.append(chunk.index)
    except Cancelled as error:
        problem: MotionStreamError = error
        print(problem)
    return numbers


def own(engine: Engine) -> str:
    return Stream(engine, seed=1).engine + ms_infer.__version__
