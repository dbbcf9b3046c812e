"""An engine without a model: the first frame moves as its tracks do on average. own_engine.py [OUT]."""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer import ConfigError, Stream, StreamConfig, Tracks, preset
from ms_infer.demo import demo_examples
from ms_infer.engines.base import ChunkPlan, Engine
from ms_infer.media import open_writer


class Mover(Engine):
    """Shifts the first frame; keeps nothing from chunk to chunk."""

    name = "mover"

    def __init__(self, config: StreamConfig) -> None:
        self.config = config
        self.precision = "uint8"
        self.sink_start = 0
        self.reset()

    def reset(self) -> None:
        self._image = np.zeros((self.config.height, self.config.width, 3), np.uint8)

    def embed(self, prompt: Any) -> NDArray[np.float32]:
        return np.zeros((self.config.model.text.tokens, self.config.model.text.dim), np.float32)

    def set_text(self, embedding: NDArray[np.float32]) -> None:
        """This engine reads no words."""

    def set_image(self, image: NDArray[np.uint8] | None) -> None:
        if image is not None:
            self._image = image

    def given_frames(self) -> int:
        return 0

    def generate(self, plan: ChunkPlan) -> None:
        """A model would take its denoising passes here."""
        self._tracks = plan.tracks

    def frames(self) -> NDArray[np.uint8]:
        assert self._tracks is not None, "the demo's settings have a track head"
        seen = self._tracks.visible[..., None]
        moved = (self._tracks.points - self._tracks.anchors[:, None]) * seen  # [tracks, rgb_frames, 2] in pixels
        shifts = moved.sum(0) / np.maximum(seen.sum(0), 1)
        return np.stack([np.roll(self._image, (round(y), round(x)), axis=(0, 1)) for x, y in shifts])

    def commit(self) -> None:
        """The clean pass, and states that a later chunk depends on, would change here and nowhere else."""

    def stage_ms(self) -> dict[str, float]:
        return {}

    def recache(self, *, replace_sink: bool) -> None:
        """There is no context to re-encode."""

    def state(self) -> dict[str, NDArray[Any]]:
        return {"image": self._image}

    def check_state(self, state: Mapping[str, NDArray[Any]], made: int) -> None:
        if np.shape(state.get("image")) != self._image.shape:
            raise ConfigError(f"the state holds no image of {self._image.shape}; restore with the same settings")

    def weights_digest(self) -> str:
        return "none"

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._image = np.asarray(state["image"])


tracks = Tracks.grid(8, 8).camera(pan=(0.25, 0.0), seconds=1)
config = preset("demo")
with Stream(Mover(config)) as stream:
    stream.start(demo_examples()[0].image, tracks=tracks)
    out = sys.argv[1] if len(sys.argv) > 1 else "moved.gif"
    with open_writer(out, height=config.height, width=config.width, fps=config.fps) as writer:
        for chunk in stream.take(seconds=1):
            writer.write(chunk.frames)
print(stream.engine, "made", out)
