"""The loop. Read this file first: everything else exists to keep it short."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.config import Span, StreamConfig
from ms_infer.controls import Control, Controls
from ms_infer.engines.base import Engine, plan_chunk
from ms_infer.engines.open import open_engine
from ms_infer.errors import ConfigError
from ms_infer.media.pictures import load_image
from ms_infer.snapshot import load_snapshot, save_snapshot
from ms_infer.state import StreamState
from ms_infer.tracks import Tracks
from ms_infer.tracks.player import TrackPlayer

if TYPE_CHECKING:
    from ms_infer.checkpoint import Student

Prompt = str | NDArray[Any]


@dataclass(frozen=True)
class Chunk:
    """What one step made."""

    index: int
    """Counts chunks from 0."""
    frames: NDArray[np.uint8]
    """RGB frames `[rgb_frames, height, width, 3]`, valid until the next step; `numpy()` copies."""
    first_rgb_frame: int
    """Index of the first frame in the stream."""
    control_id: int
    """Newest control the chunk was made with."""
    timings: dict[str, float]
    """Milliseconds of this chunk: begin, denoise, decode, write_cache, chunk."""

    def numpy(self) -> NDArray[np.uint8]:
        """A copy of the frames that outlives the next step."""
        return self.frames.copy()


class Stream:
    """Makes video chunk by chunk, for ever, from an image, a prompt and tracks.

    source: "demo", a checkpoint file or folder, a bundle folder, a loaded `Student`, or an engine of your own.
    engine: "auto", "torch", "openvino" or "tensorrt"; a named engine never falls back.
    precision: "fp32", "bf16", ...; None takes the engine's default for the device.

    Controls may be set from any thread; they take effect at the next chunk boundary.

        with Stream("demo") as stream:
            stream.start("photo.jpg", tracks=Tracks.grid(8, 8).drag((0.4, 0.5), (0.7, 0.5)))
            for chunk in stream.take(seconds=5):
                writer.write(chunk.frames)
    """

    def __init__(
        self,
        source: str | Path | Student | Engine = "demo",
        *,
        engine: str = "auto",
        device: str | None = None,
        precision: str | None = None,
        seed: int = 0,
    ) -> None:
        self._engine: Engine = open_engine(source, engine=engine, device=device, precision=precision)
        self.config: StreamConfig = self._engine.config
        self.seed = seed
        self._controls = Controls()
        self._paused = threading.Event()
        self._started = self._closed = False
        self._index = self._given = 0
        self._image: NDArray[np.uint8] | None = None
        self._player = TrackPlayer.of(self.config)
        self._applied = Control()

    @property
    def engine(self) -> str:
        """Name of the engine that runs, with its precision."""
        return f"{self._engine.name} {self._engine.precision}"

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(
        self, image: Any = None, prompt: Prompt | None = None, tracks: Tracks | None = None, *, seed: int | None = None
    ) -> None:
        """Begin a new stream.

        image: path, bytes, PIL image or uint8 array; cropped and scaled to the stream's size.
        prompt: text, or a ready embedding `[<= tokens, dim]`; None is the empty prompt.
        tracks: points to follow from RGB frame 0 on.
        """
        self._check_open()
        first_frame = None
        if image is not None:
            first_frame = load_image(image, self.config.height, self.config.width)
        text = self._engine.embed("" if prompt is None else prompt)
        player = TrackPlayer.of(self.config)
        self._check_tracks(player, tracks)
        self.seed = self.seed if seed is None else seed
        self._forget()
        self._engine.reset()
        self._engine.set_text(text)
        self._engine.set_image(first_frame)
        self._image = first_frame
        self._given = self._engine.given_frames()
        self._controls.reset(Control(tracks=tracks, text=text))
        if tracks is not None:
            self._player.set(tracks, self._span.first_rgb_frame)
        self._applied = self._controls.newest()
        self._started = True

    def step(self) -> Chunk:
        """Make the next chunk with the newest control. A step that fails changes nothing."""
        self._check_open()
        if not self._started:
            self.start()
        if self._paused.is_set():
            raise ConfigError("the stream is paused; call resume() before step()")
        clock = _Clock()
        control, player = self._apply_controls()
        engine = self._engine
        plan = plan_chunk(self.config, self._index, player, self.seed, given=self._given, sink_start=engine.sink_start)
        engine.begin(plan)
        clock.lap("begin")
        for denoise_step in range(len(self.config.schedule.timesteps)):
            engine.denoise(denoise_step)
        clock.lap("denoise")
        frames = engine.decode()
        clock.lap("decode")
        engine.write_cache()  # clean pass: later chunks must not attend to noisy keys
        clock.lap("write_cache")
        engine.commit()
        timings = {**clock.total(), **engine.stage_ms()}
        chunk = Chunk(self._index, frames, self._span.first_rgb_frame, control.id, timings)
        self._index += 1
        self._applied, self._player = control, player
        return chunk

    def __iter__(self) -> Iterator[Chunk]:
        """Chunks until the stream is paused or closed; iterate again after `resume`."""
        while not (self._paused.is_set() or self._closed):
            yield self.step()

    def take(self, *, seconds: float | None = None, frames: int | None = None) -> Iterator[Chunk]:
        """Chunks that hold the given length of video; the last one is cut to fit."""
        if (seconds is None) == (frames is None):
            raise ConfigError("take() needs either seconds or frames")
        left = frames if frames is not None else round((seconds or 0) * self.config.fps)
        while left > 0:
            chunk = self.step()
            kept = min(left, len(chunk.frames))
            left -= kept
            yield chunk if kept == len(chunk.frames) else replace(chunk, frames=chunk.frames[:kept])

    def set_tracks(self, tracks: Tracks | None) -> int:
        """Follow these tracks from the next chunk on; frame 0 of the tracks is its first RGB frame.

        A track id that was there before goes on; None releases all points. Returns the control's id.
        """
        self._check_open()
        self._check_tracks(self._player, tracks)
        return self._controls.set_tracks(tracks)

    def set_prompt(self, prompt: Prompt, *, recache: bool = False, replace_sink: bool = False) -> int:
        """Change the prompt from the next chunk on. Returns the control's id.

        recache: also re-encode the context under the new prompt, so that it lets go of the old
        one at once; replace_sink: let the oldest re-encoded latent frames become the new sink.
        """
        self._check_open()
        text = self._engine.embed(prompt)  # in the caller's thread: a slow text encoder delays no chunk
        return self._controls.set_text(text, recache=recache or replace_sink, replace_sink=replace_sink)

    def pause(self) -> None:
        """Stop making chunks: iteration ends, `step` refuses. Controls may still be set."""
        self._paused.set()

    def resume(self) -> None:
        """Allow chunks again."""
        self._paused.clear()

    @property
    def paused(self) -> bool:
        return self._paused.is_set()

    def reset(self) -> None:
        """Start over with the same image, prompt, tracks and seed."""
        newest = self._controls.newest()
        self.start(self._image, newest.text, newest.tracks)

    def snapshot(self, path: str | Path) -> None:
        """Write everything the next chunk depends on to a safetensors file."""
        self._check_open()
        save_snapshot(Path(path), self._state(), self.config, self.engine)

    def restore(self, path: str | Path) -> None:
        """Go on where `snapshot` stood: the next frames are bit-equal on the same engine.

        A `reset` then starts over with the image, prompt, tracks and seed of the snapshot.
        """
        self._check_open()
        self._adopt(load_snapshot(Path(path), self.config, self.engine))

    def close(self) -> None:
        """Free the engine. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._engine.close()

    def _state(self) -> StreamState:
        if not self._started:
            raise ConfigError("nothing to snapshot: call start() or step() first")
        assert self._applied.text is not None, "a started stream has a text"
        return StreamState(
            index=self._index,
            given=self._given,
            seed=self.seed,
            control_id=self._applied.id,
            text=self._applied.text,
            image=self._image,
            engine=self._engine.state(),
            player=self._player.state(),
        )

    def _adopt(self, state: StreamState) -> None:
        self._engine.reset()
        self._engine.set_text(state.text)
        self._engine.set_image(state.image)
        self._engine.restore(state.engine)
        self._player.restore(state.player)
        self._image, self.seed = state.image, state.seed
        self._index, self._given = state.index, state.given
        control = Control(id=state.control_id, tracks=self._player.tracks, text=state.text)
        self._controls.reset(control)
        self._applied, self._started = control, True

    def _apply_controls(self) -> tuple[Control, TrackPlayer]:
        """The newest control and a player that plays it; the current ones stay as they are."""
        control, player = self._controls.newest(), self._player.copy()
        if control.tracks_id != self._applied.tracks_id:
            player.set(control.tracks, self._span.first_rgb_frame)
        if control.text is not None and control.prompt_id != self._applied.prompt_id:
            self._engine.set_text(control.text)
            if control.recache:
                self._engine.recache(replace_sink=control.replace_sink)
        return control, player

    @property
    def _span(self) -> Span:
        """Frames of the next chunk."""
        return self.config.context.span(self._index, self._given)

    def _forget(self) -> None:
        self._index = self._given = 0
        self._image = None
        self._player = TrackPlayer.of(self.config)
        self._applied = Control()

    def _check_tracks(self, player: TrackPlayer, tracks: Tracks | None) -> None:
        """Refuse tracks at once that the next chunk could not use."""
        if tracks is None:
            return
        if self.config.model.track_head is None:
            raise ConfigError(f"the model {self.config.model.name!r} has no track head; it cannot follow tracks")
        player.copy().set(tracks, self._span.first_rgb_frame)

    def _check_open(self) -> None:
        if self._closed:
            raise ConfigError("the stream is closed; open a new Stream")


class _Clock:
    """Wall-clock milliseconds between laps."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name] = (now - self._last) * 1e3
        self._last = now

    def total(self) -> dict[str, float]:
        return {**self._laps, "chunk": (time.perf_counter() - self._start) * 1e3}
