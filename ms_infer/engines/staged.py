"""What every engine of exported stages does on the host: buffers, inputs of a pass, order of the stages."""

from __future__ import annotations

import threading
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ms_infer.bundle.manifest import Manifest
from ms_infer.bundle.stages import Shape, StageSpec, TensorSpec, cache_name, contiguous_writes, relative_sink
from ms_infer.config import Placement
from ms_infer.engines.base import Array, ChunkPlan, Engine
from ms_infer.engines.saved import check_counters, check_packed, host_dtype, kept, packed, unpacked
from ms_infer.errors import ConfigError
from ms_infer.numerics import noise
from ms_infer.numerics.angles import RotationTables, timestep_sinusoids
from ms_infer.numerics.schedule import denoise_steps
from ms_infer.text import embed_prompt, tokenize


class StagedEngine(Engine):
    """Runs the stages of a bundle; a subclass loads them and implements `_run` and the access to the caches.

    Host arrays are made once, by `_array`. Encoder and decoder states have two sides: a stage reads one and writes
    the other, and `commit` swaps them, so a chunk that failed can be made again. The caches are written in place,
    and only in slots that the next attempt writes again.
    """

    def __init__(self, manifest: Manifest, dtype: str) -> None:
        self.manifest, self.config = manifest, manifest.config
        self.specs: Mapping[str, StageSpec] = manifest.stages[dtype]
        self.steps = denoise_steps(self.config.schedule)
        self.sink_start = 0
        self._arrays: dict[tuple[str, Shape, int], Array] = {}
        self._sides = {"encoder": 0, "decoder": 0}
        self._embedding = threading.Lock()
        self._sinusoids: dict[float, NDArray[np.float32]] = {}
        self._allocate()

    def _allocate(self) -> None:
        config = self.config
        context, model = config.context, config.model
        head_dim = model.head_dim
        denoise = self.specs["denoise"]
        self._inputs = {spec.name: spec for spec in denoise.inputs}
        self._x, self._noise = self._host("x"), self._host("noise")
        self._tables = RotationTables(self._host("cos"), self._host("sin"), config.token_grid, head_dim)
        self._rolls = relative_sink(config)
        if self._rolls:
            sink = {s.name: s for s in self.specs["roll"].inputs}
            cos, sin = (self._array("roll", sink[name]) for name in ("sink_cos", "sink_sin"))
            self._sink_tables = RotationTables(cos, sin, config.token_grid, head_dim)
        self._slots = {slot: self._host(slot) for slot, _ in model.layout if slot != "noise"}
        self._capacity = context.cache_frames + context.chunk_frames
        frame = (config.latent_height, config.latent_width)
        self._history = np.zeros((self._capacity, model.in_channels, *frame), np.float32)
        self._made = 0
        self._image_latent: NDArray[np.float32] | None = None

    def _host(self, name: str) -> Array:
        """Host array of an input of `denoise`."""
        return self._array("denoise", self._inputs[name])

    def _array(self, stage: str, spec: TensorSpec, side: int = 0) -> Array:
        """The one host array behind a tensor of a stage; stages that hand a tensor on share it.

        Arrays are shared by name and shape. `latents` are the first latent frames of `x`, and track latents land in
        the input of `denoise`. `side` tells the two sets of states (and of frames) apart.
        """
        if spec.name == "latents":
            return self._host("x")[:, : spec.shape[1]]
        if spec.name == "track" and stage.startswith("tracks"):
            return self._host("track")[:, : spec.shape[1]]
        name = "embedded" if (stage, spec.name) == ("text", "text") else spec.name
        two_sided = name.startswith(("encoder_", "decoder_")) or name == "frames"
        if name.endswith("_out"):
            name, side = name.removesuffix("_out"), 1 - side
        key = (name, spec.shape, side if two_sided else 0)
        if key not in self._arrays:
            self._arrays[key] = np.zeros(spec.shape, np.dtype(spec.dtype))
        return self._arrays[key]

    def _named(self, stage: str, name: str, side: int = 0) -> Array:
        """Host array of a tensor of a stage, by name."""
        spec = self.specs[stage]
        return self._array(stage, next(t for t in (*spec.inputs, *spec.outputs) if t.name == name), side)

    @abstractmethod
    def _run(self, stage: str, side: int = 0) -> None:
        """Run a stage on its host arrays: states are read from `side` and written to the other one."""

    @abstractmethod
    def _read_cache(self, name: str) -> Array:
        """A copy of a cache, in its own type (bfloat16 as its bits, uint16)."""

    @abstractmethod
    def _write_cache(self, name: str, cache: Array) -> None:
        """Put back what `_read_cache` returned."""

    @abstractmethod
    def _reset_caches(self) -> None:
        """Fill all caches with zeros."""

    def embed(self, prompt: str | Array) -> NDArray[np.float32]:
        text = self.config.model.text
        if not isinstance(prompt, str) or text.kind != "words":
            return embed_prompt(prompt, text, None)
        with self._embedding:
            self._named("text", "words")[0] = tokenize(prompt, text)
            self._run("text")
            embedded: NDArray[np.float32] = self._named("text", "text")[0].copy()
            return embedded

    def set_text(self, embedding: NDArray[np.float32]) -> None:
        self._named("condition", "text")[0] = embedding
        self._run("condition")

    def set_image(self, image: NDArray[np.uint8] | None) -> None:
        self._image_latent = None
        takes_image = "encode" in self.specs
        if image is not None and not self.config.model.vae.encodes:
            raise ConfigError("the autoencoder of this bundle has no encoder: start without an image, or export again")
        if image is None or not takes_image:
            if takes_image:
                self._named("encode", "image")[...] = 0.5  # what `points` moves when there is no image
            return
        if self.config.model.image_input == "prefill":
            self._check_prefill()
        self._named("encode", "image")[0] = image.transpose(2, 0, 1) / np.float32(255)
        self._run("encode")
        self._image_latent = self._named("encode", "image_latent").copy()
        if self.given_frames():
            self._prefill(self._image_latent)

    def _check_prefill(self) -> None:
        if self.manifest.writes == "chunk" and not contiguous_writes(self.config, given=1):
            raise ConfigError(
                "this bundle writes a whole chunk at one place of the cache, which a stream that begins with an "
                "image does not fit; export it with --writes frame"
            )

    def given_frames(self) -> int:
        return 1 if self.config.model.image_input == "prefill" and self._image_latent is not None else 0

    def _prefill(self, latents: NDArray[np.float32]) -> None:
        """Write the given latent frame to the context and the decoder's state."""
        self._x[...] = 0
        self._x[:, :1] = latents
        self._place(0, 1)
        self._fill_image_slots(0, 1)
        self._pass(0.0, 0.0, 0.0)
        self._run("decode_given" if "decode_given" in self.specs else "decode_first", self._sides["decoder"])
        self._sides["decoder"] ^= 1
        self._remember(0, 1)
        self._made = 1

    def begin(self, plan: ChunkPlan) -> None:
        self._plan, self._swaps = plan, {"encoder": False, "decoder": False}
        placement = plan.placement
        self._place(placement.start, placement.frames)
        self._fill_image_slots(placement.start, placement.frames)
        if self.config.model.track_head is not None and plan.tracks is not None:
            self._make_track_latents(plan)
        self._x[...] = 0
        self._fill_noise(self._x, 0)
        self._pin_image()

    def _place(self, start: int, frames: int) -> None:
        """Point tables, write indices and the number of valid keys at the latent frames [start, start + frames)."""
        context, cells = self.config.context, self.config.tokens_per_frame
        placement = context.place(start, frames, sink_start=self.sink_start)
        self._tables.move_to(start)
        self._host("write_index")[...] = np.array(self._write_slots(start, placement)) * cells
        self._host("n_valid")[0] = placement.valid_frames * cells
        if self._rolls:
            self._sink_tables.move_to(placement.sink_position)
            self._host("sink_index")[0] = min(start - self.sink_start, context.sink_frames) * cells
            self._roll()

    def _roll(self) -> None:
        """Re-rotate the sink where that is a stage of its own."""

    def _write_slots(self, start: int, placement: Placement) -> list[int]:
        """Cache slot of the chunk's first latent frame, or of each.

        A chunk shorter than the graph is filled up with frames of zeros: they land in slots that the next chunks
        write before they become valid.
        """
        context = self.config.context
        if placement.frames == context.chunk_frames:
            slots = placement.slots
        else:
            slots = context.place(start, context.chunk_frames, sink_start=self.sink_start).slots
        if self.manifest.writes == "frame":
            return list(slots)
        assert slots[-1] - slots[0] == len(slots) - 1, f"slots {slots} are not in a row: see contiguous_writes"
        return [slots[0]]

    def _fill_image_slots(self, start: int, frames: int) -> None:
        """Image latent and mask at the latent frames that carry them, zeros elsewhere."""
        latent, every = self._image_latent, self.config.model.image_at == "every"
        for j in range(frames):
            carried = latent is not None and (every or start + j == 0)
            if "image" in self._slots:
                self._slots["image"][:, j] = latent[:, 0] if carried and latent is not None else 0
            if "mask" in self._slots:
                self._slots["mask"][:, j] = float(carried)

    def _make_track_latents(self, plan: ChunkPlan) -> None:
        suffix = "_first" if plan.opening else ""
        tracks = plan.tracks
        assert tracks is not None, "begin() checked it"
        spec = self.specs[f"points{suffix}"]
        for tensor in spec.inputs:
            if tensor.name != "image":
                self._array(spec.name, tensor)[0] = getattr(tracks, tensor.name)
        self._run(f"points{suffix}")
        self._run(f"tracks{suffix}", self._sides["encoder"])
        self._swaps["encoder"] = True

    def _fill_noise(self, target: Array, denoise_pass: int) -> None:
        plan = self._plan
        frames = target[:, : plan.placement.frames]
        frames.reshape(-1)[:] = noise.normal(plan.seed, plan.index, denoise_pass, frames.size)

    def _pins_image(self) -> bool:
        pins = self.config.model.image_input == "pin" and self._image_latent is not None
        return pins and self._plan.placement.start == 0

    def _pin_image(self) -> None:
        if self._pins_image():
            assert self._image_latent is not None
            self._x[:, 0] = self._image_latent[:, 0]

    def _pass(self, timestep: float, sigma: float, next_sigma: float, *, pinned: bool = False) -> None:
        """Run `denoise` over `x` and put the result into `x`; a pinned first frame stays as it is."""
        time, sigmas, following = self._host("time"), self._host("sigma"), self._host("next_sigma")
        time[...], sigmas[...], following[...] = self._sinusoid(timestep), sigma, next_sigma
        if pinned:
            time[:, 0], sigmas[:, 0], following[:, 0] = self._sinusoid(0.0), 0, 0
        self._run("denoise")

    def _sinusoid(self, timestep: float) -> NDArray[np.float32]:
        if timestep not in self._sinusoids:
            self._sinusoids[timestep] = timestep_sinusoids(timestep, self.config.model.freq_dim)
        return self._sinusoids[timestep]

    def denoise(self, step: int) -> None:
        passes = self.steps[step]
        sigma, next_sigma = passes.sigma, passes.next_sigma
        if next_sigma and self.config.schedule.renoise == "fresh":
            self._fill_noise(self._noise, step + 1)
        elif next_sigma:  # an Euler step in the graph's own form
            sigma, next_sigma = sigma - next_sigma, 0.0
        self._pass(passes.timestep, sigma, next_sigma, pinned=self._pins_image())
        self._x[...] = self._named("denoise", "x_next")

    def decode(self) -> NDArray[np.uint8]:
        stage = "decode_first" if self._plan.opening else "decode"
        side = self._sides["decoder"]
        self._run(stage, side)
        self._swaps["decoder"] = True
        frames: NDArray[np.uint8] = self._named(stage, "frames", side)
        return frames

    def write_cache(self) -> None:
        self._pass(self.config.schedule.context_timestep, 0.0, 0.0)

    def commit(self) -> None:
        for kind, swap in self._swaps.items():
            self._sides[kind] ^= swap
        placement = self._plan.placement
        self._remember(placement.start, placement.frames)
        self._made = placement.start + placement.frames

    def _remember(self, start: int, frames: int) -> None:
        """Keep the transformer's input of the newest latent frames, for a re-encoding."""
        for j in range(frames):
            parts = [self._x if slot == "noise" else self._slots[slot] for slot, _ in self.config.model.layout]
            np.concatenate([part[0, j] for part in parts], out=self._history[(start + j) % self._capacity])

    def recache(self, *, replace_sink: bool) -> None:
        """See `Engine.recache`. Chunk by chunk with the clean pass, oldest first, where the torch engine takes one
        pass over all: a chunk sees the older ones re-encoded and the newer ones as they were."""
        context = self.config.context
        frames = min(context.cache_frames, self._made)
        start = self._made - frames
        if replace_sink and start > self.sink_start:
            self.sink_start = start
        elif start > self.sink_start:  # beside a kept sink only what the ring holds is read again
            start = max(self.sink_start + context.sink_frames, self._made - context.ring_frames)
        runs = range(self._made - context.chunk_frames, start - context.chunk_frames, -context.chunk_frames)
        earliest = start if self.sink_start == start else 0
        for first in sorted({max(earliest, run) for run in runs}):
            count = min(context.chunk_frames, self._made - first)
            self._place(first, count)
            self._recall(first, count)
            self._pass(self.config.schedule.context_timestep, 0.0, 0.0)

    def _recall(self, start: int, frames: int) -> None:
        """Put remembered latent frames into the inputs of `denoise`."""
        offset = 0
        for slot, channels in self.config.model.layout:
            target = self._x if slot == "noise" else self._slots[slot]
            for j in range(frames):
                frame = self._history[(start + j) % self._capacity]
                target[0, j] = frame[offset : offset + channels]
            offset += channels

    def reset(self) -> None:
        for (name, _, _), array in self._arrays.items():
            if name.startswith(("encoder_", "decoder_")) or name in ("x", "noise", *self._slots):
                array[...] = 0
        self._image_latent = None
        self._made = self.sink_start = 0
        self._history[...] = 0
        self._reset_caches()

    def state(self) -> dict[str, Array]:
        rows = self._kept_rows(self._made, self.sink_start)
        arrays = {f"cache.{name}": packed(self._read_cache(name)[:, :, kept]) for name, kept in rows.items()}
        arrays |= {f"state.{name}": packed(array) for name, array in self._read_states().items()}
        frames = kept(self.config, self._made, self.sink_start).frames
        order = [frame % self._capacity for frame in frames]
        arrays |= {f"history.{slot}": packed(ring[order]) for slot, ring in self._read_history().items()}
        arrays["counters"] = np.array([self._made, self.sink_start], np.int64)
        return arrays

    def check_state(self, state: Mapping[str, Array], made: int) -> None:
        made, sink_start = check_counters(state.get("counters"), made)
        for name, rows in self._kept_rows(made, sink_start).items():
            spec = self._inputs[name]
            shape = (*spec.shape[:2], len(rows), spec.shape[3])
            check_packed(state.get(f"cache.{name}"), f"cache {name}", host_dtype(spec.dtype), shape)
        for name, (dtype, shape) in self._state_shapes().items():
            check_packed(state.get(f"state.{name}"), name, dtype, shape)
        frames, config = len(kept(self.config, made, sink_start).frames), self.config
        for slot, channels in config.model.layout:
            shape = (frames, channels, config.latent_height, config.latent_width)
            check_packed(state.get(f"history.{slot}"), f"history of {slot}", np.float32, shape)

    def restore(self, state: Mapping[str, Array]) -> None:
        self._made, self.sink_start = (int(n) for n in state["counters"])
        for name, rows in self._kept_rows(self._made, self.sink_start).items():
            spec = self._inputs[name]
            cache = np.zeros(spec.shape, host_dtype(spec.dtype))
            cache[:, :, rows] = unpacked(state[f"cache.{name}"], cache.dtype)
            self._write_cache(name, cache)
        shapes = self._state_shapes()
        self._write_states({n: unpacked(state[f"state.{n}"], dtype) for n, (dtype, _) in shapes.items()})
        order = [frame % self._capacity for frame in kept(self.config, self._made, self.sink_start).frames]
        history = self._read_history()
        for slot, ring in history.items():
            ring[order] = unpacked(state[f"history.{slot}"], np.float32)
        self._write_history(history)

    def weights_digest(self) -> str:
        return str(self.manifest.checkpoint.get("sha256", ""))

    def _kept_rows(self, made: int, sink_start: int) -> dict[str, NDArray[np.int64]]:
        """Rows of each cache that the next chunk reads; the sink's keys are rotated anew from un-rotated ones."""
        rows, layers = kept(self.config, made, sink_start), range(self.config.model.layers)
        kinds = {"k": rows.window if self._rolls else rows.all, "v": rows.all}
        if self._rolls:
            kinds["sink_k"] = rows.sink
        return {cache_name(kind, layer): kind_rows for kind, kind_rows in kinds.items() for layer in layers}

    def _read_history(self) -> dict[str, Array]:
        """The remembered latent frames `[capacity, channels, height, width]` of every slot of the input, in a ring."""
        ends = np.cumsum([channels for _, channels in self.config.model.layout])
        slots = [slot for slot, _ in self.config.model.layout]
        return dict(zip(slots, np.split(self._history, ends[:-1], axis=1), strict=True))

    def _write_history(self, history: Mapping[str, Array]) -> None:
        """Put back what `_read_history` returned."""
        self._history[...] = np.concatenate(list(history.values()), axis=1)

    def _read_states(self) -> dict[str, Array]:
        """States of encoder and decoder by name."""
        return {name: self._state_array(name) for name in self._state_names()}

    def _state_shapes(self) -> dict[str, tuple[Any, Shape]]:
        """Type and shape of each of `_read_states`."""
        return {name: (array.dtype, array.shape) for name, array in self._read_states().items()}

    def _write_states(self, states: Mapping[str, Array]) -> None:
        """Put back what `_read_states` returned."""
        for name, array in states.items():
            self._state_array(name)[...] = array

    def _state_names(self) -> list[str]:
        return [old for stage in ("tracks", "decode") if stage in self.specs for old, _ in self.specs[stage].states]

    def _state_array(self, name: str) -> Array:
        kind = name.split("_")[0]
        return self._named("tracks" if kind == "encoder" else "decode", name, self._sides[kind])
