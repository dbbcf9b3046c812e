"""The engine of a bundle: its host's half, the same for every library, over a runner of the stages."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from ms_infer.bundle.manifest import Manifest
from ms_infer.bundle.stages import StageSpec, cache_name, relative_sink
from ms_infer.config import GREY_LATENT_FRAMES
from ms_infer.engines.base import Array, ChunkPlan, DeviceFrames, Engine
from ms_infer.engines.ring import Ring
from ms_infer.engines.runner import ChunkRunner, PassInputs, named, state_specs
from ms_infer.engines.saved import check_counters, check_packed, host_dtype, kept, packed, unpacked
from ms_infer.errors import ConfigError
from ms_infer.numerics.angles import RotationTables, timestep_sinusoids
from ms_infer.numerics.noise import NoiseAhead
from ms_infer.numerics.schedule import DenoiseStep, denoise_steps
from ms_infer.text import embed_prompt, tokenize

RECACHE_ROUNDS = {"fp32": 4}
"""Precision -> passes over every chunk of the context when it is encoded again. Four leave float32's own rounding."""
FEWER_ROUNDS = 3
"""In every other precision: what is missing then (4e-6 with the demo's weights) is far below its rounding."""


class StagedEngine(Engine):
    """Fills the inputs of a chunk on the host and lets a runner do the rest.

    Rotation tables, cache slots, image slots, points, noise, timesteps and sigmas are the host's: made from float64
    and counters, the same for every library. Where and when stages run is the runner's.
    """

    def __init__(self, manifest: Manifest, runner: ChunkRunner) -> None:
        self.manifest, self.config, self.runner = manifest, manifest.config, runner
        self.name, self.precision = runner.name, runner.precision
        self.specs: Mapping[str, StageSpec] = runner.specs
        self.steps = denoise_steps(self.config.schedule)
        self._ring = Ring(self.config.context, in_a_row=manifest.writes == "chunk")
        self._made = 0
        self._image_latents: list[NDArray[np.float32]] = []
        self._embedding = threading.Lock()
        self._sinusoids: dict[float, NDArray[np.float32]] = {}
        self._x = self._input("x")
        self._tables = self._rotation("denoise", "cos", "sin")
        self._rolls = relative_sink(self.config)
        if self._rolls:
            self._sink_tables = self._rotation("roll", "sink_cos", "sink_sin")
        self._slots = {slot: self._input(slot) for slot, _ in self.config.model.layout if slot in ("image", "mask")}
        self._fresh = self.config.schedule.renoise == "fresh"
        self._noise = NoiseAhead(self._x.shape[2:], len(self.steps) if self._fresh else 1)

    @property
    def sink_start(self) -> int:  # type: ignore[override]
        return self._ring.sink_start

    def _input(self, name: str) -> Array:
        return self.runner.array("denoise", name)

    def _rotation(self, stage: str, *names: str) -> RotationTables:
        cos, sin = (self.runner.array(stage, name) for name in names)
        return RotationTables(cos, sin, self.config.token_grid, self.config.model.head_dim)

    def embed(self, prompt: str | Array) -> NDArray[np.float32]:
        text = self.config.model.text
        if not isinstance(prompt, str) or text.kind != "words":
            return embed_prompt(prompt, text, None)
        with self._embedding:
            self.runner.array("text", "words")[0] = tokenize(prompt, text)
            self.runner.run("text")
            embedded: NDArray[np.float32] = self.runner.array("text", "text")[0].copy()
            return embedded

    def set_text(self, embedding: NDArray[np.float32]) -> None:
        self.runner.array("condition", "text")[0] = embedding
        self.runner.run("condition")

    def set_image(self, image: NDArray[np.uint8] | None) -> None:
        self._image_latents = []
        if image is not None and not self.config.model.vae.encodes:
            raise ConfigError("the autoencoder of this bundle has no encoder: start without an image, or export again")
        if "encode" not in self.specs:
            return
        pixels = self.runner.array("encode", "image")
        if image is None:
            pixels[...] = 0.5  # what `points` moves when there is no image
            self.runner.hand_over("encode")
            return
        pixels[0] = image.transpose(2, 0, 1) / np.float32(255)
        self._encode_image("encode")
        if "look" in self.specs:
            self.runner.run("look")
            self.runner.array("condition", "image_tokens")[...] = self.runner.array("look", "image_tokens")
            self.runner.run("condition")  # under the prompt that was set last
        if self.given_frames():
            self._write_given(self._image_latents[0][None])

    def _encode_image(self, stage: str) -> None:
        """Add the next latent frame of the image slot."""
        self.runner.run(stage)
        self._image_latents.append(self.runner.array(stage, "image_latent")[0].copy())

    def _image_slot(self, frame: int) -> NDArray[np.float32] | None:
        """What the image slot holds at a latent frame, `[C, h, w]`; None for zeros."""
        rule, latents = self.config.model.image_at, self._image_latents
        if not latents or (rule == "first" and frame):
            return None
        place = min(frame, GREY_LATENT_FRAMES) if rule == "grey" else 0
        while len(latents) <= place:
            self._encode_image("encode_grey")
        return latents[place][0]

    def given_frames(self) -> int:
        return 1 if self.config.model.image_input == "prefill" and self._image_latents else 0

    def _write_given(self, latents: NDArray[np.float32]) -> None:
        self.runner.prepare()
        self._x[...] = 0
        self._x[:, :1] = latents
        self._place(0, until=1)
        self._fill_image_slots(0, 1)
        self._fill_clean_pass(0.0)
        self.runner.write_given()
        self._made = 1

    def generate(self, plan: ChunkPlan) -> None:
        self.runner.prepare()
        self._plan = plan
        placement, tracked = plan.placement, plan.tracks is not None and self.config.model.track_head is not None
        self._make_room(placement.start)
        self._place(placement.start, until=placement.start + placement.frames)
        self._fill_image_slots(placement.start, placement.frames)
        if tracked:
            self._fill_points(plan)
        self._fill_passes(plan)
        self.runner.start(plan.opening, tracked=tracked)

    def _make_room(self, start: int) -> None:
        """Move the window in the caches where the chunk's slots would not be in a row."""
        move = self._ring.make_room(start)
        if move is not None:
            cells = self.config.tokens_per_frame
            self.runner.move_rows(move.target * cells, move.source * cells, move.slots * cells)

    def _place(self, start: int, *, until: int) -> None:
        """Point tables and write indices at the chunk from `start` on, and let it see all before the frame `until`.

        A chunk shorter than the graph is filled up with frames of zeros: they land in slots that the next chunks
        write before they become valid.
        """
        context, cells, sink_start = self.config.context, self.config.tokens_per_frame, self.sink_start
        placement = context.place(until, 0, sink_start=sink_start)
        self._tables.move_to(start)
        write_index = self._input("write_index")
        write_index[...] = np.array(self._ring.slots(start)[: write_index.size]) * cells
        self._input("n_valid")[0] = placement.valid_frames * cells
        if self._rolls:
            self._sink_tables.move_to(placement.sink_position)
            self._input("sink_index")[0] = min(start - sink_start, context.sink_frames) * cells

    def _fill_image_slots(self, start: int, frames: int) -> None:
        """Image latent and mask at the latent frames that carry them, zeros or grey elsewhere."""
        for j in range(frames):
            carried = bool(self._image_latents) and self.config.model.carries_image(start + j)
            if "image" in self._slots:
                shown = self._image_slot(start + j)
                self._slots["image"][:, j] = 0 if shown is None else shown
            if "mask" in self._slots:
                self._slots["mask"][:, j] = float(carried)

    def _fill_points(self, plan: ChunkPlan) -> None:
        spec = self.specs["points_first" if plan.opening else "points"]
        for tensor in spec.inputs:
            if tensor.role == "host":
                self.runner.array(spec.name, tensor.name)[0] = getattr(plan.tracks, tensor.name)

    def _fill_passes(self, plan: ChunkPlan) -> None:
        """First noise, and timestep, sigmas and fresh noise of every pass."""
        frames, latents = plan.placement.frames, self._image_latents
        noises = self._noise.take(plan.seed, plan.index, frames)
        pinned = bool(latents) and self.config.model.pins_image(plan.placement.start)
        self._x[...] = 0
        self._x[:, :frames] = noises[0]
        if pinned:
            self._x[:, 0] = latents[0]
        for index, step in enumerate(self.steps):
            inputs = self.runner.passes[index]
            renoised = bool(step.next_sigma) and self._fresh
            self._fill_pass(inputs, step if renoised else _euler(step), pinned=pinned)
            if renoised:
                inputs.noise[:, :frames] = noises[index + 1]
        self._fill_clean_pass(self.config.schedule.context_timestep)

    def _fill_clean_pass(self, timestep: float) -> None:
        """The pass that writes the final keys and values of what `x` holds."""
        self._fill_pass(self.runner.passes[-1], DenoiseStep(timestep, 0.0, 0.0), pinned=False)

    def _fill_pass(self, inputs: PassInputs, step: DenoiseStep, *, pinned: bool) -> None:
        """Numbers of one pass, without noise; a pinned first frame stays as it is."""
        inputs.time[...], inputs.sigma[...] = self._sinusoid(step.timestep), step.sigma
        inputs.next_sigma[...], inputs.noise[...] = step.next_sigma, 0
        if pinned:
            inputs.time[:, 0], inputs.sigma[:, 0], inputs.next_sigma[:, 0] = self._sinusoid(0.0), 0, 0

    def _sinusoid(self, timestep: float) -> NDArray[np.float32]:
        if timestep not in self._sinusoids:
            self._sinusoids[timestep] = timestep_sinusoids(timestep, self.config.model.freq_dim)
        return self._sinusoids[timestep]

    def frames(self) -> NDArray[np.uint8]:
        plan = self._plan
        self._noise.prepare(plan.seed, plan.index + 1, self.config.context.chunk_frames)  # while a device works
        return self.runner.frames()

    @property
    def keeps_frames(self) -> bool:
        return self.runner.keeps_frames

    def device_frames(self) -> DeviceFrames | None:
        plan = self._plan
        self._noise.prepare(plan.seed, plan.index + 1, self.config.context.chunk_frames)
        return self.runner.device_frames()

    def commit(self) -> None:
        placement = self._plan.placement
        self.runner.commit(placement.start, placement.frames)
        self._made = placement.start + placement.frames

    def stage_ms(self) -> Mapping[str, float]:
        return self.runner.stage_ms()

    def recache(self, *, replace_sink: bool) -> None:
        """See `Engine.recache`. The torch engine takes one pass over the whole context; here a pass takes a chunk.

        In that one pass the keys and values of a layer depend on the layers below alone. Those of the first layer are
        right after one round over all chunks, and each round makes one more layer right, whatever was there before.
        What the layers above still lack falls by orders of magnitude with every round: 2e-2, 8e-4, 1e-6, 3e-7 with
        the demo's weights.
        """
        context, made = self.config.context, self._made
        start = max(self.sink_start, made - context.reencoded_frames)
        if start > self.sink_start and replace_sink:
            self._ring.reset(start)
        elif start > self.sink_start:  # beside a kept sink only what the ring holds is read again
            start = max(self.sink_start + context.sink_frames, made - context.ring_frames)
        self._ring.unroll(made)
        runs = range(made - context.chunk_frames, start - context.chunk_frames, -context.chunk_frames)
        firsts = sorted({max(start, run) for run in runs})
        needed = min(RECACHE_ROUNDS.get(self.precision, FEWER_ROUNDS), self.config.model.layers)
        rounds = needed if len(firsts) > 1 else 1  # a chunk alone depends on no other that is made anew
        for first in firsts * rounds:
            self.runner.prepare()
            self._place(first, until=made)
            self._fill_clean_pass(self.config.schedule.context_timestep)
            self.runner.write_again(first, min(context.chunk_frames, made - first))

    def reset(self) -> None:
        self._image_latents = []
        self._made = 0
        self._ring.reset()
        self.runner.reset()

    def state(self) -> dict[str, Array]:
        runner, rows = self.runner, self._kept_rows(self._made, self._ring)
        arrays = {f"cache.{name}": packed(runner.read_cache(name)[:, :, kept]) for name, kept in rows.items()}
        arrays |= {f"state.{name}": packed(array) for name, array in runner.read_states().items()}
        order = self._remembered(self._made, self.sink_start)
        arrays |= {f"history.{slot}": packed(ring[order]) for slot, ring in runner.read_history().items()}
        arrays["counters"] = np.array([self._made, self.sink_start, self._ring.start], np.int64)
        return arrays

    def check_state(self, state: Mapping[str, Array], made: int) -> None:
        made, sink_start, ring_start = check_counters(state.get("counters"), made, more=1)
        ring = Ring(self.config.context, in_a_row=False)
        ring.reset(sink_start, ring_start)
        for name, rows in self._kept_rows(made, ring).items():
            spec = named(self.specs["denoise"], name)
            shape = (*spec.shape[:2], len(rows), spec.shape[3])
            check_packed(state.get(f"cache.{name}"), f"cache {name}", host_dtype(spec.dtype), shape)
        for spec in state_specs(self.specs):
            check_packed(state.get(f"state.{spec.name}"), spec.name, host_dtype(spec.dtype), spec.shape)
        frames, config = len(self._remembered(made, sink_start)), self.config
        for slot, channels in config.model.layout:
            shape = (frames, channels, config.latent_height, config.latent_width)
            check_packed(state.get(f"history.{slot}"), f"history of {slot}", np.float32, shape)

    def restore(self, state: Mapping[str, Array]) -> None:
        self._made, sink_start, ring_start = (int(n) for n in state["counters"])
        self._ring.reset(sink_start, ring_start)
        for name, rows in self._kept_rows(self._made, self._ring).items():
            spec = named(self.specs["denoise"], name)
            cache = np.zeros(spec.shape, host_dtype(spec.dtype))
            cache[:, :, rows] = unpacked(state[f"cache.{name}"], cache.dtype)
            self.runner.write_cache(name, cache)
        specs = state_specs(self.specs)
        self.runner.write_states({s.name: unpacked(state[f"state.{s.name}"], host_dtype(s.dtype)) for s in specs})
        order, history = self._remembered(self._made, self.sink_start), self.runner.read_history()
        for slot, ring in history.items():
            ring[order] = unpacked(state[f"history.{slot}"], np.float32)
        self.runner.write_history(history)

    def watch(self, cancelled: threading.Event) -> None:
        super().watch(cancelled)
        self.runner.watch(cancelled)

    def weights_digest(self) -> str:
        return str(self.manifest.checkpoint.get("sha256", ""))

    def _kept_rows(self, made: int, ring: Ring) -> dict[str, NDArray[np.int64]]:
        """Rows of each cache that the next chunk reads; the sink's keys are rotated anew from un-rotated ones."""
        rows = kept(self.config, made, ring.sink_start, ring.start)
        layers = range(self.config.model.layers)
        kinds = {"k": rows.window if self._rolls else rows.all, "v": rows.all}
        if self._rolls:
            kinds["sink_k"] = rows.sink
        return {cache_name(kind, layer): kind_rows for kind, kind_rows in kinds.items() for layer in layers}

    def _remembered(self, made: int, sink_start: int) -> list[int]:
        """Where the history holds the latent frames that a re-encoding may need, oldest first."""
        capacity = self.config.context.remembered_frames
        return [frame % capacity for frame in kept(self.config, made, sink_start).frames]

    def twin(self) -> StagedEngine | None:
        runner = self.runner.twin()
        return None if runner is None else StagedEngine(self.manifest, runner)

    def close(self) -> None:
        self.runner.close()


def _euler(step: DenoiseStep) -> DenoiseStep:
    """An Euler step in the graph's own form: no fresh noise, a shorter way along the flow."""
    return DenoiseStep(step.timestep, step.sigma - step.next_sigma, 0.0)
