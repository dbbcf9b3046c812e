"""An engine without a model that makes thousands of chunks a second and remembers what it was told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.engines.base import ChunkPlan, Engine
from tests.tiny import tiny_config

Array = NDArray[Any]
HEIGHT = WIDTH = 32


class QuickEngine(Engine):
    """Frames `[rgb_frames, 32, 32, 3]` whose first pixel is x and y of track 0, and the text's first number."""

    name, precision = "quick", "fp32"

    def __init__(self, when_text_is_set: Callable[[], object] = lambda: time.sleep(0)) -> None:
        self.config, self.sink_start = tiny_config(size=HEIGHT), 0
        self.when_text_is_set = when_text_is_set
        self.text, self.made = 0.0, 0

    def embed(self, prompt: str | Array) -> NDArray[np.float32]:
        text = self.config.model.text
        return np.full((text.tokens, text.dim), float(prompt or 0) if isinstance(prompt, str) else 0, np.float32)

    def set_text(self, embedding: NDArray[np.float32]) -> None:
        self.when_text_is_set()
        self.text = float(embedding[0, 0])

    def set_image(self, image: NDArray[np.uint8] | None) -> None:
        pass

    def given_frames(self) -> int:
        return 0

    def generate(self, plan: ChunkPlan) -> None:
        self.plan = plan

    def frames(self) -> NDArray[np.uint8]:
        tracks = self.plan.tracks
        assert tracks is not None
        frames = np.zeros((tracks.points.shape[1], HEIGHT, WIDTH, 3), np.uint8)
        frames[:, 0, 0, :2] = tracks.points[0] * tracks.visible[0][:, None]
        frames[:, 0, 0, 2] = self.text
        return frames

    def commit(self) -> None:
        self.made += 1

    def stage_ms(self) -> dict[str, float]:
        return {}

    def recache(self, *, replace_sink: bool) -> None:
        pass

    def reset(self) -> None:
        self.made = 0

    def state(self) -> dict[str, Array]:
        return {"made": np.array([self.made])}

    def check_state(self, state: Mapping[str, Array], made: int) -> None:
        pass

    def restore(self, state: Mapping[str, Array]) -> None:
        self.made = int(state["made"][0])

    def weights_digest(self) -> str:
        return "none"
