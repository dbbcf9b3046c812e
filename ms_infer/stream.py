"""The loop. Read this file first: everything else exists to keep it short."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import numpy as np
from numpy.typing import NDArray

from ms_infer.aio import chunks_of
from ms_infer.blend import Blend, Way
from ms_infer.chunk import Chunk
from ms_infer.config import StreamConfig
from ms_infer.controls import Control, Controls, PromptControl, StrengthsControl, TracksControl
from ms_infer.engines.base import Engine, plan_chunk
from ms_infer.errors import ConfigError, StateError
from ms_infer.hand import Hand
from ms_infer.snapshot import load_snapshot, save_snapshot
from ms_infer.state import Arrays, Run, StreamState, checked_seed, player_of, state_digest, state_of
from ms_infer.tracks import Tracks
from ms_infer.tracks.player import TrackPlayer
from ms_infer.weights import Options, Weights

if TYPE_CHECKING:
    from ms_infer.checkpoint import Student
    from ms_infer.media.pictures import Picture

Prompt = str | NDArray[Any]
MAX_HAND_POINTS = 1024  # of a hand, where the model takes more


class Stream:
    """Makes video chunk by chunk, for ever, from an image, a prompt and tracks.

    source: "demo", a checkpoint (file, folder, repository or OWNER/NAME of the hub), a bundle folder, a loaded
    `Student`, or an engine of your own. For several streams of one source open a `Model`.
    options: engine=, device=, precision=, threads=, text_encoder=, progress=, and what goes with a checkpoint: vae=,
    image_encoder=, lora=, preset=, settings=, download= (see `Options`); `notes` says what was taken.

    Controls may be set from any thread; they take effect at the next chunk boundary.

        with Stream("demo") as stream:
            stream.start("photo.jpg", tracks=Tracks.grid(12, 12).grab((0.4, 0.5), (0.7, 0.5), radius=0.15))
            for chunk in stream.take(seconds=5):
                writer.write(chunk.frames)
    """

    def __init__(
        self, source: str | Path | Student | Engine | Weights = "demo", *, seed: int = 0, **options: Unpack[Options]
    ) -> None:
        self._first_seed = checked_seed(seed)
        self._owned: Weights | None = None
        if not isinstance(source, Weights):
            source = self._owned = Weights(source, **options)
        self._weights = source
        self._engine: Engine = source.engine()
        self._prompts, self.notes = source.prompts, source.notes
        self.config: StreamConfig = self._engine.config
        self._controls = Controls()
        self._paused = threading.Event()
        self._turn = threading.Lock()  # of the one thread that may use the engine
        self._run: Run | None = None
        self._closed = self._lost = False
        self._cancelled = threading.Event()
        self._engine.watch(self._cancelled)
        self._engine.place_frames("host")

    @property
    def engine(self) -> str:
        """Name of the engine that runs, with its precision."""
        return f"{self._engine.name} {self._engine.precision}"

    @property
    def seed(self) -> int:
        """Seed of the stream that runs, or of the first one."""
        return self._run.seed if self._run else self._first_seed

    @property
    def next_rgb_frames(self) -> int:
        """RGB frames of the next chunk."""
        return (self._run.span(self.config) if self._run else self.config.context.span(0)).rgb_frames

    def hand(self, rows: int = 10, cols: int = 10) -> Hand:
        """A live hand that fits this stream, over a grid of rows x cols points; see `Hand`.

        ConfigError when the model does not follow tracks.
        """
        capacity = min(self.config.model.require_track_head().max_tracks, MAX_HAND_POINTS)
        return Hand(rows, cols, aspect=self.config.width / self.config.height, fps=self.config.fps, capacity=capacity)

    @property
    def frames_on(self) -> Literal["host", "device"]:
        """Where chunks have their frames: "device" leaves them where they are made until `Chunk.frames` is read."""
        return "host" if self._engine.downloads else "device"

    @frames_on.setter
    def frames_on(self, place: Literal["host", "device"]) -> None:
        with self._alone():
            self._engine.place_frames(place)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(
        self,
        image: Picture | None = None,
        prompt: Prompt | None = None,
        tracks: Tracks | None = None,
        *,
        seed: int | None = None,
    ) -> None:
        """Begin a new stream.

        image: path, bytes, PIL image or uint8 array; cropped and scaled to the stream's size.
        prompt: text, or a ready embedding `[<= tokens, dim]`; None is the empty prompt.
        tracks: points to follow from RGB frame 0 on.
        """
        if image is None and self.config.model.image_encoder is not None:
            raise ConfigError(f"the model {self.config.model.name!r} needs a first frame: give image=")
        with self._alone():
            shift = self._controls.reserve()
            first_frame = None
            if image is not None:
                from ms_infer.media import load_image

                first_frame = load_image(image, self.config.height, self.config.width)
            text = self.embed("" if prompt is None else prompt)
            fitted = self._fitted(tracks)
            number = self.seed if seed is None else checked_seed(seed)
            control = Control(TracksControl(0, fitted), PromptControl(0, text), self._kept_strengths())
            self._begin(control.shifted(shift), first_frame, number)

    def step(self) -> Chunk:
        """Make the next chunk with the newest control. A step that fails changes nothing.

        StateError while the stream is paused, closed, or in use by another thread.
        """
        with self._alone():
            if self._paused.is_set():
                raise StateError("the stream is paused; call resume() before step()")
            return self._make_chunk()

    def cancel(self) -> None:
        """Let the step that is under way raise Cancelled, at the next pass; from any thread.

        Nothing has changed then: the next step makes the same chunk. Without a step under way nothing happens.
        """
        self._cancelled.set()

    def warm_up(self) -> None:
        """Do now, before the first start, what the first chunks would: compile, capture, allocate. StateError later."""
        with self._alone():
            if self._run is not None:
                raise StateError("warm_up() belongs before start(): the stream runs already")
            self._engine.warm_up()

    def __aiter__(self) -> AsyncIterator[Chunk]:
        """As iteration, with the work in a thread of its own; a task that is cancelled cancels its step."""
        return chunks_of(self)

    def __iter__(self) -> Iterator[Chunk]:
        """Chunks until the stream is paused or closed; iterate again after `resume`."""
        while not self._closed:
            with self._alone():
                if self._paused.is_set():
                    return
                chunk = self._make_chunk()
            yield chunk

    def take(self, *, seconds: float | None = None, frames: int | None = None) -> Iterator[Chunk]:
        """Chunks that hold the given length of video; the last one is cut to fit."""
        if (seconds is None) == (frames is None):
            raise ConfigError("take() needs either seconds or frames")
        left = frames if frames is not None else round((seconds or 0) * self.config.fps)
        while left > 0:
            chunk = self.step()
            kept = min(left, len(chunk.pixels))
            left -= kept
            yield chunk.first(kept)

    def set_tracks(self, tracks: Tracks | None) -> int:
        """Follow these tracks from the next chunk on; frame 0 of the tracks is its first RGB frame.

        A track id that was there before goes on; None releases all points. Returns the control's id.
        """
        self._check_open()
        return self._controls.set_tracks(self._fitted(tracks))

    def set_prompt(
        self, prompt: Prompt, *, recache: bool = False, replace_sink: bool = False, over: int = 1, way: Way = "linear"
    ) -> int:
        """Change the prompt from the next chunk on. Returns the control's id.

        over: chunks until it is all there, on the `way` "linear" or "slerp". recache: re-encode the context once it is,
        so that it lets go of the old prompt; replace_sink: let the oldest re-encoded latent frames be the new sink.
        """
        self._check_open()
        blend, text = Blend(over, way), self.embed(prompt)  # in the caller's thread: a slow encoder delays no chunk
        return self._controls.set_prompt(PromptControl(0, text, recache or replace_sink, replace_sink, blend))

    def set_strengths(self, *strengths: float) -> int:
        """Change how strongly the model's adapters (LoRA) act, one number each, from the next chunk on.

        0 leaves the exact base. Needs the torch engine: exported weights are fixed. Returns the control's id.
        """
        self._check_open()
        return self._controls.set_strengths(self._engine.check_strengths(strengths))

    def embed(self, prompt: Prompt) -> NDArray[np.float32]:
        """Embedding `[tokens, dim]` of a prompt, which `start` and `set_prompt` take too; from any thread."""
        if self._prompts is not None and isinstance(prompt, str) and self.config.model.text.kind == "umt5":
            prompt = self._prompts.embed(prompt, self.config.model.text.tokens)
            self._prompts.free()
        return self._engine.embed(prompt)

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
        with self._alone():
            newest, image, seed = self._controls.newest(), self._run.image if self._run else None, self.seed
            shift = self._controls.reserve()
            text = self.embed("") if newest.prompt.text is None else newest.prompt.text
            control = Control(TracksControl(0, newest.tracks.tracks), PromptControl(0, text), self._kept_strengths())
            self._begin(control.shifted(shift), image, seed)

    def state(self) -> StreamState:
        """Everything the next chunk depends on, controls that no chunk has played yet included.

        StateError before the first start.
        """
        with self._alone():
            return self._saved(self._engine.state)

    def near_state(self) -> StreamState:
        """A small state: latents of sink and window in place of keys and values, which `load_state` makes anew.

        The stream then goes on close to this one, not bit-equal. ConfigError where the engine has no such state.
        """
        with self._alone():
            return self._saved(self._engine.near_state)

    def load_state(self, state: StreamState) -> None:
        """Go on where `state()` stood: the next frames are bit-equal on the same engine; after `near_state()`, close.

        Everything is checked first: a state that is refused (ConfigError) leaves the stream as it was. A `reset` then
        starts over with the state's image, prompt, tracks and seed.
        """
        with self._alone():
            player = player_of(state, self.config, self._engine, self._digest)
            shift = self._controls.reserve(state.applied.id, state.pending.id)
            applied, pending = state.applied.shifted(shift), state.pending.shifted(shift)
            with self._replacing():
                self._engine.reset()
                self._use_strengths(applied)
                self._engine.set_text(applied.prompt.shown)
                self._engine.set_image(state.image)
                self._engine.restore(state.engine)
                self._run = Run(state.index, state.given, state.seed, state.image, applied, player)
            self._controls.begin(pending)

    def snapshot(self, path: str | Path) -> None:
        """Write `state()` to a safetensors file."""
        save_snapshot(Path(path), self.state())

    def restore(self, path: str | Path) -> None:
        """`load_state` of what `snapshot` wrote; a file that is refused (ConfigError) changes nothing."""
        self._check_open()
        self.load_state(load_snapshot(Path(path), self.config))

    def close(self) -> None:
        """Free the engine, once a chunk that another thread makes is done. Closing twice is fine."""
        with self._turn:
            if not self._closed:
                self._closed = True
                self._weights.give_back(self._engine)
                if self._owned is not None:
                    self._owned.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Use the engine; StateError while another thread does."""
        if not self._turn.acquire(blocking=False):
            raise StateError(
                "another thread uses this stream; step, start and save it from one thread, or open one for each"
            )
        try:
            self._check_open()
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _replacing(self) -> Iterator[None]:
        """Give up the stream that ran for another one; when that fails, there is none until the next start."""
        self._lost = self._lost or self._run is not None
        self._run = None
        yield
        self._lost = False

    def _begin(self, control: Control, image: NDArray[np.uint8] | None, seed: int) -> None:
        with self._replacing():
            self._engine.reset()
            self._use_strengths(control)
            self._engine.set_text(control.prompt.shown)
            self._engine.set_image(image)
            run = Run(0, self._engine.given_frames(), seed, image, control, TrackPlayer.of(self.config))
            if control.tracks.tracks is not None:
                run.player.set(control.tracks.tracks, run.span(self.config).first_rgb_frame)
            self._run = run
        self._controls.begin(control)

    def _saved(self, engine: Callable[[], Arrays]) -> StreamState:
        if self._run is None:
            raise StateError("nothing to snapshot: call start() or step() first")
        return state_of(self._run, self._digest, self._controls.newest(), engine())

    def _running(self) -> Run:
        """The stream that runs; the first step starts one from nothing, below the controls that were set before."""
        if self._lost:
            raise StateError("the stream was lost when a start or a restore failed; start or restore it again")
        if self._run is None:
            strengths = StrengthsControl(0, self._engine.strengths)
            self._begin(Control(prompt=PromptControl(text=self.embed("")), strengths=strengths), None, self._first_seed)
        assert self._run is not None, "it was begun a line ago"
        return self._run

    def _make_chunk(self) -> Chunk:
        self._cancelled.clear()
        run = self._running()
        began, engine = time.perf_counter(), self._engine
        control, player = self._apply_controls(run)
        if self.config.context.recompute:
            engine.recache(replace_sink=True)
        plan = plan_chunk(self.config, run.index, player, run.seed, given=run.given, sink_start=engine.sink_start)
        engine.generate(plan)
        engine.check_cancelled()
        frames = engine.frames().copy() if engine.downloads else engine.device_frames()
        assert frames is not None, "frames_on asked whether it can"
        engine.check_cancelled()
        engine.commit()  # with the clean pass: later chunks must not attend to noisy keys
        timings = {**engine.stage_ms(), "chunk": (time.perf_counter() - began) * 1e3}
        self._run = replace(run, index=run.index + 1, control=control, player=player)
        return Chunk(run.index, frames, run.span(self.config).first_rgb_frame, control.id, timings, self.config.fps)

    def _apply_controls(self, run: Run) -> tuple[Control, TrackPlayer]:
        """The newest control and a player that plays it; the current ones stay as they are."""
        control, player = self._controls.newest(), run.player.copy()
        if control.tracks.id != run.control.tracks.id:
            player.set(control.tracks.tracks, run.span(self.config).first_rgb_frame)
        if control.strengths.id != run.control.strengths.id:
            self._use_strengths(control)
        prompt = run.control.prompt.followed_by(control.prompt)
        if prompt is not run.control.prompt:
            self._engine.set_text(prompt.shown)
            if prompt.recache and prompt.origin is None:
                self._engine.recache(replace_sink=prompt.replace_sink)
        return replace(control, prompt=prompt), player

    def _kept_strengths(self) -> StrengthsControl:
        """The newest strengths, which a new start keeps."""
        return StrengthsControl(0, self._controls.newest().strengths.values or self._engine.strengths)

    def _use_strengths(self, control: Control) -> None:
        if control.strengths.values:
            self._engine.set_strengths(control.strengths.values)

    def _fitted(self, tracks: Tracks | None) -> Tracks | None:
        """Tracks as the player plays them; refuses at once what the next chunk could not use."""
        if tracks is None:
            return None
        self.config.model.require_track_head()
        return TrackPlayer.of(self.config).fitted(tracks)

    @property
    def _digest(self) -> str:
        return state_digest(self.config, self.engine, self._engine.weights_digest())

    def _check_open(self) -> None:
        if self._closed:
            raise StateError("the stream is closed; open a new Stream")
