"""The reference engine: the student in plain PyTorch, on a CPU or a GPU, without an export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ms_infer.checkpoint import Student
from ms_infer.checkpoint.files import cast
from ms_infer.checkpoint.parts import changed, convert_, with_own
from ms_infer.engines.base import Array, ChunkPlan, DeviceFrames, Engine
from ms_infer.engines.near import rebuilding_runs
from ms_infer.engines.saved import check_counters, check_packed
from ms_infer.engines.torch.device_frames import TensorFrames
from ms_infer.engines.torch.needs import DTYPES, check_device, check_parts
from ms_infer.engines.torch.noise import host_noise
from ms_infer.engines.torch.remembered import Remembered
from ms_infer.engines.torch.saved import from_host, kept_caches, saved_dtype, to_host, weights_digest
from ms_infer.engines.torch.shared import Part, shared_part
from ms_infer.engines.torch.timesteps import Timesteps
from ms_infer.engines.torch.timing import StageTimes
from ms_infer.errors import ConfigError
from ms_infer.model.context import ContextCache
from ms_infer.model.denoise import sampler_of
from ms_infer.model.first_frame import GreyTail
from ms_infer.model.layers import move_first_frame
from ms_infer.model.transformer import PLAIN, ContextAttend, CrossKeys, Operations
from ms_infer.text import embed_prompt


class TorchEngine(Engine):
    """Runs a `Student`. fp32 on a CPU unless told otherwise, bf16 on a GPU.

    Shares the student's modules where device and dtype are right already, and one copy with the other engines of the
    student elsewhere; it keeps no other reference to the student, whose memory is free once its owner lets go of it.
    """

    name = "torch"
    dtypes: ClassVar[Mapping[str, torch.dtype]] = DTYPES
    """Precisions and the dtype of their activations."""
    operations: Operations = PLAIN

    def __init__(self, student: Student, *, device: str | None = None, precision: str | None = None) -> None:
        self.device = check_device(device)
        self.precision = precision or ("bf16" if self.device.type == "cuda" else "fp32")
        if self.precision not in self.dtypes:
            raise ConfigError(f"precision {self.precision!r} is not one of {sorted(self.dtypes)}")
        self.dtype = self.dtypes[self.precision]
        vae = check_parts(student)
        self.config, self._text_encoder = student.config, student.text_encoder
        self._image_encoder = student.image_encoder
        self.transformer = self._placed(student.transformer)
        self._adapters, self._strengths = student.adapters, student.adapters.strengths
        self._text: NDArray[np.float32] | None = None
        if self._adapters.entries:  # their strengths may change, and other engines may use the same student
            self.transformer = with_own(self.transformer, self._adapters.base)
        self.vae = self._placed(vae)
        self.track_head = self._placed(student.track_head) if student.track_head else None
        self.refiner = self._placed(student.refiner) if student.refiner else None
        self.layer_network = self._placed(student.layer_network) if student.layer_network else None
        self._references: tuple[Tensor, ...] = ()
        self._digest: str | None = None
        self._sampler = sampler_of(self.config.schedule)
        self.steps = self._sampler.steps
        self.cache = ContextCache(self.config, device=self.device, dtype=self.dtype)
        self.attend: ContextAttend = self.cache
        self._keys: CrossKeys = ()
        self._timestep = Timesteps(self.device)
        self._times = StageTimes(self.device)
        self._allocate()
        self.reset()

    def _allocate(self) -> None:
        """Static buffers of a chunk: the transformer's input with its slots, and the noise."""
        config, model = self.config, self.config.model
        frame = (config.latent_height, config.latent_width)
        self._input = self._zeros(1, config.context.chunk_frames, model.in_channels, *frame)
        self._remembered = Remembered(config, self.device, self.dtype)
        self._slots = model.slot_slices()

    def _placed(self, part: Part) -> Part:
        """The part on this engine's device and in its type, shared with the other engines of the student."""
        return shared_part(part, (self.device, self.dtype, type(self)), self._move_)

    def _move_(self, module: nn.Module) -> None:
        convert_(module, self.device, self.dtype, f"the {type(module).__name__}")

    @property
    def sink_start(self) -> int:  # type: ignore[override]
        return self.cache.sink_start

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(*shape, device=self.device, dtype=self.dtype)

    def reset(self) -> None:
        config = self.config
        self._decoder = self.vae.decoder_state(
            1, config.latent_height, config.latent_width, device=self.device, dtype=self.dtype
        )
        self._moved = self.vae.encoder_state(1, config.height, config.width, device=self.device, dtype=self.dtype)
        self._staged_decoder, self._staged_moved = self._decoder, self._moved
        self._image: Tensor | None = None
        self._image_latent: Tensor | None = None
        self._grey_tail: GreyTail | None = None
        self._image_tokens: Tensor | None = None
        self._made = 0
        self.cache.sink_start = 0
        self._remembered.reset()

    def embed(self, prompt: str | Array) -> NDArray[np.float32]:
        return embed_prompt(prompt, self.config.model.text, self._text_encoder)

    @property
    def strengths(self) -> tuple[float, ...]:
        return self._strengths

    def check_strengths(self, strengths: Sequence[float]) -> tuple[float, ...]:
        if self.precision == "fp8":
            raise ConfigError("precision='fp8' keeps quantised weights only, so no strength can change; use bf16")
        return self._adapters.checked(strengths)

    @torch.no_grad()
    def set_strengths(self, strengths: Sequence[float]) -> None:
        wanted = self.check_strengths(strengths)
        if wanted == self._strengths:
            return
        parameters = dict(self.transformer.named_parameters())
        for name, weight in self._adapters.weights(wanted, self.device):
            parameters[name].copy_(cast(weight, self.dtype, name))
        self._strengths = wanted
        if self._text is not None:
            self.set_text(self._text)  # the keys and values of the text are products of changed weights

    @torch.no_grad()
    def set_text(self, embedding: NDArray[np.float32]) -> None:
        self._text = embedding
        model = self.config.model
        text = torch.from_numpy(embedding).to(self.device, self.dtype)[None]
        image = self._image_tokens
        imageless = image is None and model.image_tokens > 0
        self._keys = self.transformer.condition(text, image, imageless=imageless)

    @torch.no_grad()
    def set_image(self, image: NDArray[np.uint8] | None) -> None:
        self._image = self._image_latent = self._grey_tail = self._image_tokens = None
        if image is None:
            return
        self._look_at(image)
        pixels = torch.from_numpy(image).to(self.device, self.dtype).permute(2, 0, 1)[None] / 255
        self._image = pixels
        tail = GreyTail(self.vae, pixels)
        self._image_latent = tail.latent(0)[:, None]
        self._grey_tail = tail if self.config.model.image_at == "grey" else None
        if self.given_frames():
            self._prefill(self._image_latent)

    def _look_at(self, image: NDArray[np.uint8]) -> None:
        """Tokens of the first frame into the cross-attention; the encoder is on the device only meanwhile."""
        if self._image_encoder is None:
            return
        encoder = changed(self._image_encoder, self._move_)
        pixels = torch.from_numpy(image).to(self.device).permute(2, 0, 1)[None] / 255
        self._image_tokens = encoder(pixels)
        if self._text is not None:
            self.set_text(self._text)

    def given_frames(self) -> int:
        prefilled = self.config.model.image_input == "prefill" and self._image_latent is not None
        return 1 if prefilled else 0

    def _prefill(self, latents: Tensor) -> None:
        """Write given latent frames `[1, 1, C, h, w]` to the context and the decoder's state."""
        _, self._decoder = self.vae.decode(latents, self._decoder, opening=True)
        self._opening = True
        self.cache.place_(0, latents.shape[1])
        self._fill_image_slots(0, latents.shape[1])
        self._x = latents
        self._write(self._timestep(0.0, latents.shape[1]))
        self._remember(0, latents.shape[1])
        self._made = latents.shape[1]

    @torch.no_grad()
    def generate(self, plan: ChunkPlan) -> None:
        with self._times.stage("begin"):
            self._begin(plan)
        with self._times.stage("denoise"):
            for step in range(len(self.steps)):
                self.check_cancelled()
                self._denoise(step)

    def _begin(self, plan: ChunkPlan) -> None:
        placement = plan.placement
        self._plan, self._opening = plan, plan.opening
        self.cache.place_(placement.start, placement.frames)
        self._fill_image_slots(placement.start, placement.frames)
        if self.track_head is not None and plan.tracks is not None:
            self._input[:, : placement.frames, self._slots["track"]] = self._track_latents(plan)
        self._x = self._noise(0)
        self._pin_image()

    def _fill_image_slots(self, start: int, frames: int) -> None:
        """Image latent and mask at the latent frames that carry them, zeros or grey elsewhere."""
        latent, slots = self._image_latent, self._slots
        for j in range(frames):
            carried = latent is not None and self.config.model.carries_image(start + j)
            if "image" in slots:
                shown = latent[:, 0] if latent is not None and carried else 0
                self._input[:, j, slots["image"]] = self._grey_tail.latent(start + j) if self._grey_tail else shown
            if "mask" in slots:
                self._input[:, j, slots["mask"]] = float(carried)

    def _track_latents(self, plan: ChunkPlan) -> Tensor:
        head = self.track_head
        assert head is not None, "_begin() checked it"
        points, visible, ids, anchors = self._track_inputs(plan)
        content = validity = None
        if head.config.content != "none":
            content, validity = self._moved_image(points, visible, anchors)
        latents: Tensor = head(points, visible, ids, opening=plan.opening, content=content, validity=validity)
        return latents

    def _track_inputs(self, plan: ChunkPlan) -> tuple[Tensor, ...]:
        """Points `[1, N, T, 2]`, visible `[1, N, T]`, ids `[1, N]` and anchors `[1, N, 2]` on the device."""
        tracks = plan.tracks
        assert tracks is not None, "_begin() checked it"
        arrays = (tracks.points, tracks.visible, tracks.ids, tracks.anchors)
        return tuple(torch.from_numpy(array).to(self.device)[None] for array in arrays)

    def _moved_image(self, points: Tensor, visible: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """The first frame moved along the tracks, encoded; and where it is valid."""
        assert self.layer_network is not None, "a head with content comes with a layer network"
        image = self._first_picture().float()
        moved, valid = move_first_frame(self.layer_network, image, points, visible, anchors)
        if self.refiner is not None:
            self._keep_references(moved, valid)
        latents, self._staged_moved = self.vae.encode(moved.to(self.dtype), self._moved, opening=self._opening)
        return latents, valid

    def _first_picture(self) -> Tensor:
        """What moves along the tracks, `[1, 3, height, width]`: the first frame, grey without one."""
        size = (self.config.height, self.config.width)
        return self._zeros(1, 3, *size) + 0.5 if self._image is None else self._image

    def _keep_references(self, *references: Tensor) -> None:
        """What the refiner sees of this chunk: moved frames, and where they are valid."""
        self._references = tuple(picture.to(self.dtype) for picture in references)

    def _noise(self, denoise_pass: int) -> Tensor:
        return host_noise(self._plan, self.config, denoise_pass).to(self.device, self.dtype)

    def _pin_image(self) -> None:
        """Models that keep the image inside the first chunk: its latent frame 0 is always clean."""
        if self._pins_image():
            assert self._image_latent is not None
            self._x[:, 0] = self._image_latent[:, 0]

    def _pins_image(self) -> bool:
        return self._image_latent is not None and self.config.model.pins_image(self._plan.placement.start)

    def _filled(self) -> Tensor:
        """The transformer's input for the current chunk."""
        frames = self._x.shape[1]
        self._input[:, :frames, self._slots["noise"]] = self._x
        return self._input[:, :frames]

    def _run(self, timestep: Tensor) -> Tensor:
        """One pass over the current chunk; `timestep` is `[1, frames]`."""
        flow: Tensor = self.transformer(self._filled(), timestep, self._keys, self.attend, self.operations)
        return flow

    def _write(self, timestep: Tensor) -> None:
        """One pass for the keys and values of the current chunk."""
        self.transformer.write(self._filled(), timestep, self._keys, self.attend, self.operations)

    def _denoise(self, step: int) -> None:
        passes = self.steps[step]
        flow = self._run(self._timestep(passes.timestep, self._x.shape[1], pinned=self._pins_image()))
        self._x = self._sampler.next(step, self._x, flow, self._noise)
        self._pin_image()

    def frames(self) -> NDArray[np.uint8]:
        return self.device_frames().numpy()

    @torch.no_grad()
    def device_frames(self) -> DeviceFrames:
        with self._times.stage("decode"):
            return TensorFrames(self._decode())

    def _decode(self) -> Tensor:
        """uint8 `[rgb_frames, height, width, 3]` in new memory."""
        frames, self._staged_decoder = self.vae.decode(self._x, self._decoder, opening=self._opening)
        if self.refiner is not None:
            frames = self.refiner(frames, *self._references)
        return frames[0].permute(0, 2, 3, 1).mul(255).round_().to(torch.uint8).contiguous()

    @torch.no_grad()
    def commit(self) -> None:
        with self._times.stage("write_cache"):
            self._clean_pass()
        self._adopt()
        self._times.close_chunk()

    def _clean_pass(self) -> None:
        self._write(self._timestep(self.config.schedule.context_timestep, self._x.shape[1]))

    def _adopt(self) -> None:
        """What the chunk staged becomes what the next one reads."""
        placement = self._plan.placement
        self._decoder, self._moved = self._staged_decoder, self._staged_moved
        self._remember(placement.start, placement.frames)
        self._made = placement.start + placement.frames

    def _remember(self, start: int, frames: int) -> None:
        """Keep the transformer's input of the newest latent frames, for a re-encoding."""
        self._remembered.keep(self._input, start, frames, self.sink_start)

    def stage_ms(self) -> Mapping[str, float]:
        return self._times.stage_ms()

    @torch.no_grad()
    def recache(self, *, replace_sink: bool) -> None:
        start = max(0, self._made - self.config.context.reencoded_frames)
        if start == self._made:
            return
        if replace_sink and start > self.cache.sink_start:
            self.cache.replace_sink_(start)
            self._remembered.open_again(start, self._made)
        self._encode_again(self._remembered.newest(range(start, self._made)), start)

    def _encode_again(self, inputs: Tensor, start: int) -> None:
        """A clean pass over finished latent frames from `start` on; `inputs` is `[1, T, C, h, w]`."""
        frames = inputs.shape[1]
        self.cache.place_(start, frames)
        given = start == 0 and frames == self.given_frames()
        timestep = self._timestep(0.0 if given else self.config.schedule.context_timestep, frames)
        self.transformer.write(inputs, timestep, self._keys, self.cache, self.operations)

    def state(self) -> dict[str, Array]:
        caches = kept_caches(self.config, self.cache, self._made, self.sink_start).items()
        return self.near_state() | {name: to_host(tensor[:, :, :, rows]) for name, (tensor, rows) in caches}

    def near_state(self) -> dict[str, Array]:
        arrays = {name: to_host(tensor) for name, tensor in self._states().items()}
        arrays["counters"] = np.array([self._made, self.sink_start], np.int64)
        return arrays | self._remembered.state(self._made, self.sink_start)

    def check_state(self, state: Mapping[str, Array], made: int) -> None:
        made, sink_start = check_counters(state.get("counters"), made)
        caches = kept_caches(self.config, self.cache, made, sink_start)
        shapes = {name: tuple(tensor.shape) for name, tensor in self._states().items()}
        if not caches.keys().isdisjoint(state):
            shapes |= {name: (*t.shape[:3], len(rows), t.shape[4]) for name, (t, rows) in caches.items()}
        for name, shape in shapes.items():
            check_packed(state.get(name), name, saved_dtype(self.dtype), shape)
        self._remembered.check_state(state, made, sink_start)

    @torch.no_grad()
    def restore(self, state: Mapping[str, Array]) -> None:
        made, sink_start = (int(n) for n in state["counters"])
        self._made, self.cache.sink_start = made, sink_start
        caches = kept_caches(self.config, self.cache, made, sink_start)
        self._remembered.restore(state, made, sink_start)
        self._decoder = [from_host(state[f"decoder.{i}"], t) for i, t in enumerate(self._decoder)]
        self._moved = [from_host(state[f"moved.{i}"], t) for i, t in enumerate(self._moved)]
        if caches.keys().isdisjoint(state):
            for run in rebuilding_runs(self.config.context, made, sink_start):
                self._encode_again(self._remembered.inputs(run, sink_start), run.start)
            return
        for name, (tensor, rows) in caches.items():
            tensor[:, :, :, rows] = from_host(state[name], tensor)
        self.cache.rotate_sink_()

    def twin(self) -> Self:
        """Shares all weights but those that adapters change; these are merged anew, with the strengths of the start."""
        parts = (self.transformer, self.track_head, self._text_encoder, self.vae, self.refiner, self.layer_network)
        shared = Student(self.config, *parts, image_encoder=self._image_encoder, adapters=self._adapters)
        twin = type(self)(shared, device=str(self.device), precision=self.precision)
        if self._adapters.entries and self.precision != "fp8":
            twin._strengths = ()
            twin.set_strengths(self._adapters.strengths)
        if self.device.type == "cuda":
            twin.warm_up()
        return twin

    def weights_digest(self) -> str:
        if self._digest is None:
            modules = [self.transformer, self.vae, self.track_head, self.refiner, self.layer_network]
            self._digest = weights_digest(modules, self._adapters.base, self._adapters.tensors())
        return self._digest

    def _states(self) -> dict[str, Tensor]:
        states = {f"decoder.{i}": tensor for i, tensor in enumerate(self._decoder)}
        return states | {f"moved.{i}": tensor for i, tensor in enumerate(self._moved)}
