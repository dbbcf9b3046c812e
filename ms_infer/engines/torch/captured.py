"""The `torch` engine on CUDA: fused kernels, static buffers, one graph per chunk and one for the decoder.

The chunk graph is cut once, where the latents are done: `denoise` (draw the noise, roll the sink, K passes) and
`write_cache` (the clean pass) are two captures on the main CUDA stream, so that `decode` can start between them on
a CUDA stream of its own. `generate` launches all three; the host waits once a chunk, in `frames`, while the clean pass
still runs.

Without CUDA the same class runs with graphs disabled and the kernels' PyTorch twins: that is how it is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from ms_kernels.layout import ChunkState, TrackGrid
from numpy.typing import NDArray
from torch import Tensor

from ms_infer.checkpoint import Student
from ms_infer.checkpoint.parts import changed
from ms_infer.config import rgb_frames
from ms_infer.engines.base import Array, ChunkPlan, plan_chunk
from ms_infer.engines.torch import noise as device_noise
from ms_infer.engines.torch.attention import Implementation, Measured, RingAttend, choose, implementations
from ms_infer.engines.torch.fused import Fp8Operations, FusedOperations, load_kernels
from ms_infer.engines.torch.graphs import CapturedGraph, StaticBuffers, graphs_enabled, host_buffer, on_stream
from ms_infer.engines.torch.needs import DTYPES, check_device
from ms_infer.engines.torch.plain import TorchEngine
from ms_infer.errors import ConfigError, DeviceError
from ms_infer.model.rope import Rotation
from ms_infer.tracks.player import TrackPlayer

FP8_CAPABILITY = (8, 9)


class FusedEngine(TorchEngine):
    """Runs a `Student` from static buffers. precision: bf16 (default on CUDA), fp16, fp32 or fp8 (products only).

    attention: an implementation's name to use instead of the measured choice (`implementations`).
    """

    dtypes: ClassVar[Mapping[str, torch.dtype]] = {**DTYPES, "fp8": torch.bfloat16}

    def __init__(
        self,
        student: Student,
        *,
        device: str | None = None,
        precision: str | None = None,
        attention: str | None = None,
    ) -> None:
        chosen = check_device(device)
        if precision == "fp8" and chosen.type == "cuda" and torch.cuda.get_device_capability(chosen) < FP8_CAPABILITY:
            raise DeviceError(f"precision='fp8' needs sm_89 or later, {torch.cuda.get_device_name(chosen)} is older")
        self.kernels = load_kernels(chosen)
        self._graphs: dict[Hashable, CapturedGraph] = {}
        self._statics: dict[str, list[Tensor]] = {}
        super().__init__(student, device=device, precision=precision)
        if self.device.type == "cuda":
            self.vae = changed(self.vae, _channels_last_)
            self.refiner = changed(self.refiner, _channels_last_) if self.refiner else None
        make = Fp8Operations if self.precision == "fp8" else FusedOperations
        self.operations = make(self.transformer, self.kernels)
        self.attention_measured: list[Measured] = []
        self._ring.implementation = self._choose_attention(attention)
        self._synchronize()

    def _allocate(self) -> None:
        super()._allocate()
        config, context = self.config, self.config.context
        cuda = self.device.type == "cuda"
        self._main = torch.cuda.Stream(self.device) if cuda else None
        self._side = torch.cuda.Stream(self.device) if cuda else None
        self._pools = [torch.cuda.graph_pool_handle() for _ in range(2)] if cuda else [None, None]
        self._enabled = graphs_enabled(self.device)
        self._pending = False
        self._chunk_turn = self._rotation(context.chunk_frames)
        self._sink_turn = self._rotation(context.sink_frames)
        pairs = self._chunk_turn.temporal(0).shape[-1]
        frame = (config.model.latent_channels, config.latent_height, config.latent_width)
        longest = rgb_frames(context.chunk_frames, first=False)
        buffers = self._buffers = StaticBuffers(self.device)
        buffers.add("latents", (1, context.chunk_frames, *frame), self.dtype)
        buffers.add("noise", (len(self.steps), 1, context.chunk_frames, *frame), self.dtype)
        buffers.add("frames", (longest, config.height, config.width, 3), torch.uint8)
        buffers.add("state", (ChunkState.length(context.chunk_frames),), torch.int32, uploaded=True)
        buffers.add("counters", (device_noise.COUNTERS,), torch.int64, uploaded=True)
        buffers.add("chunk_turn", (2, context.chunk_frames, pairs), self._tables, uploaded=True)
        buffers.add("sink_turn", (2, context.sink_frames, pairs), self._tables, uploaded=True)
        self._host_frames = host_buffer((longest, config.height, config.width, 3), torch.uint8, self.device)
        self._ring = RingAttend(self.cache, self.kernels, buffers["state"], self._chunk_turn)
        self.attend = self._ring

    @property
    def _tables(self) -> torch.dtype:
        return torch.float64 if self.dtype == torch.float64 else torch.float32

    def _rotation(self, frames: int) -> Rotation:
        config = self.config
        return Rotation(frames, config.token_grid, config.model.head_dim, device=self.device, dtype=self._tables)

    def _choose_attention(self, wanted: str | None) -> Implementation:
        candidates = implementations(self.device, self.kernels)
        if wanted is not None:
            named = [one for one in candidates if one.name == wanted]
            if not named:
                raise ConfigError(f"attention {wanted!r} is not one of {[one.name for one in candidates]}")
            return named[0]
        if self.device.type != "cuda":
            return candidates[0]
        chosen, self.attention_measured = choose(candidates, self.config, self.cache.k)
        return chosen

    @torch.no_grad()
    def warm_up(self) -> None:
        """Capture every graph of a stream without a pinned image: chunks until the context is full, then reset."""
        config, context = self.config, self.config.context
        self.set_text(np.zeros((config.model.text.tokens, config.model.text.dim), np.float32))
        self.set_image(None)
        player = TrackPlayer.of(config)
        index, full = 0, False
        while not full:
            plan = plan_chunk(config, index, player, seed=0)
            placement = plan.placement
            whole = placement.frames == context.chunk_frames and index > 0
            full = whole and placement.valid_frames == context.cache_frames
            self.generate(plan)
            self.frames()
            self.commit()
            index += 1
        self.reset()

    def reset(self) -> None:
        self._synchronize()
        self._pending = False
        super().reset()
        self._decoder = self._static("decoder", self._decoder)
        self._warped = self._static("warped", self._warped)
        self._staged_decoder = self._static("staged decoder", self._decoder)
        self._staged_warped = self._warped

    def _static(self, name: str, values: Sequence[Tensor]) -> list[Tensor]:
        """The same values in memory that stays where it is, allocated when the name comes first."""
        if name not in self._statics:
            self._statics[name] = [value.clone(memory_format=torch.contiguous_format) for value in values]
        else:
            for kept, value in zip(self._statics[name], values, strict=True):
                kept.copy_(value)
        return self._statics[name]

    @torch.no_grad()
    def set_text(self, embedding: NDArray[np.float32]) -> None:
        with on_stream(self._main):
            super().set_text(embedding)
            layers = [len(keys) for keys in self._keys]
            flat = iter(self._static("keys", [tensor for keys in self._keys for tensor in keys]))
            self._keys = [tuple(next(flat) for _ in range(count)) for count in layers]

    def set_strengths(self, strengths: Sequence[float]) -> None:
        with on_stream(self._main):
            super().set_strengths(strengths)

    @torch.no_grad()
    def set_image(self, image: NDArray[np.uint8] | None) -> None:
        with on_stream(self._main):
            super().set_image(image)
            if self._image is not None and self._image_latent is not None:
                self._image, self._image_latent = self._static("image", [self._image, self._image_latent])
        self._synchronize()

    def _prefill(self, latents: Tensor) -> None:
        self.attend = self.cache  # a single frame, once: no graph is worth it
        try:
            super()._prefill(latents)
        finally:
            self.attend = self._ring
        self._decoder = self._static("decoder", self._decoder)

    @torch.no_grad()
    def generate(self, plan: ChunkPlan) -> None:
        """Launch the whole chunk: the decoder starts once the latents are there, beside the clean pass."""
        if self._pending:  # a step that failed: its uploads and its decoder may still be under way
            self._synchronize()
        self._pending = True
        times, main, side = self._times, self._main, self._side
        with on_stream(main):
            with times.stage("begin", main):
                self._begin(plan)
            with times.stage("denoise", main):
                self._run_graph("denoise", self._denoise_chunk, main, self._pools[0])
        times.wait("denoise", side)
        with on_stream(side), times.stage("decode", side):
            self._run_graph("decode", self._decode_chunk, side, self._pools[1])
            count = self._rgb_frames()
            self._host_frames[:count].copy_(self._buffers["frames"][:count], non_blocking=True)
        with on_stream(main), times.stage("write_cache", main):
            self._run_graph("write_cache", self._clean_pass, main, self._pools[0])

    def _begin(self, plan: ChunkPlan) -> None:
        placement = plan.placement
        self._plan, self._opening = plan, plan.opening
        self._x = self._buffers["latents"][:, : placement.frames]
        self._upload(plan)
        self._fill_image_slots(placement.start, placement.frames)
        if self.track_head is not None and plan.tracks is not None:
            self._place_tracks(plan)

    def _rgb_frames(self) -> int:
        return rgb_frames(self._x.shape[1], first=self._opening)

    def _upload(self, plan: ChunkPlan) -> None:
        """All that the graphs read about the chunk: slots, valid keys, angles, counters of the noise."""
        placement, buffers = plan.placement, self._buffers
        valid = placement.valid_frames * self.config.tokens_per_frame
        state = ChunkState(valid, placement.start, placement.slots)
        turns = {
            "chunk_turn": (self._chunk_turn, placement.start),
            "sink_turn": (self._sink_turn, placement.sink_position),
        }
        buffers.upload("state", np.array(state.to_list(), np.int32))
        buffers.upload("counters", device_noise.counters(plan.seed, plan.index))
        for name, (rotation, position) in turns.items():
            kind = np.float64 if self._tables == torch.float64 else np.float32
            buffers.upload(name, rotation.temporal(position).astype(kind))

    def _track_inputs(self, plan: ChunkPlan) -> tuple[Tensor, ...]:
        tracks = plan.tracks
        assert tracks is not None, "_begin() checked it"
        names = []
        for name in ("points", "visible", "ids", "anchors"):
            array = getattr(tracks, name)
            key = f"{name} {array.shape}"
            if key not in self._buffers.tensors():
                self._buffers.add(key, array.shape, torch.from_numpy(array).dtype, uploaded=True)
            self._buffers.upload(key, array)
            names.append(key)
        return tuple(self._buffers[name][None] for name in names)

    def _keep_references(self, *references: Tensor) -> None:
        pictures = [picture.to(self.dtype) for picture in references]
        if pictures:  # without a refiner there are none
            self._references = tuple(self._static(f"references {len(pictures[0][0])}", pictures))

    def _place_tracks(self, plan: ChunkPlan) -> None:
        """Track latents into the transformer's input: one captured kernel for the paper's head, else the module."""
        head = self.track_head
        assert head is not None, "_begin() checked it"
        if head.config.content == "none" and head.config.convs == 1:
            self._points = self._track_inputs(plan)
            self._run_graph("tracks", self._scatter_tracks, self._main, self._pools[0])
        else:
            self._input[:, : plan.placement.frames, self._slots["track"]] = self._track_latents(plan)

    def _scatter_tracks(self) -> None:
        """Captured: points to track latents without the volume of ids."""
        head, config = self.track_head, self.config
        assert head is not None, "begin() checked it"
        conv, (points, visible, ids, _) = head.convs[0], self._points
        assert isinstance(conv, torch.nn.Conv3d), "the head's layers are 1x1x1 convolutions"
        grid = TrackGrid(
            height=config.height, width=config.width, rows=config.latent_height, columns=config.latent_width,
            rounding=head.config.rounding, collision=head.config.collision, first_frame=head.config.first_frame,
            id_order=head.config.id_order, id_period=head.config.id_period,
        )  # fmt: skip
        weight = conv.weight.flatten(1)
        latents = self.kernels.scatter_tracks(points[0], visible[0], ids[0], weight, grid, bias=conv.bias)
        self._input[:, : self._x.shape[1], self._slots["track"]] = latents

    def _noise(self, denoise_pass: int) -> Tensor:
        return self._buffers["noise"][denoise_pass, :, : self._x.shape[1]]

    def _denoise_chunk(self) -> None:
        """Captured: tables, sink, noise and the K passes; reads only static buffers."""
        latents = self._x
        self._chunk_turn.set_temporal_(self._buffers["chunk_turn"])
        self._sink_turn.set_temporal_(self._buffers["sink_turn"])
        self._ring.roll_sink(self._sink_turn)
        drawn = device_noise.normal(self._buffers["counters"], len(self.steps), latents.numel())
        self._buffers["noise"][:, :, : latents.shape[1]] = drawn.view(len(self.steps), *latents.shape)
        self._x = self._noise(0).clone()
        self._pin_image()
        for step in range(len(self.steps)):
            self._denoise(step)
        latents.copy_(self._x)
        self._x = latents

    def frames(self) -> NDArray[np.uint8]:
        """Wait for the frames: the chunk's only wait."""
        self._times.synchronize("decode")
        return self._host_frames[: self._rgb_frames()].numpy()

    def _decode_chunk(self) -> None:
        """Captured: latents and decoder state to bytes and the staged state."""
        frames, state = self.vae.decode(self._x, self._decoder, opening=self._opening)
        self._static("staged decoder", state)
        if self.refiner is not None:
            frames = self.refiner(frames, *self._references)
        packed = frames[0].contiguous()
        self.kernels.frames_to_uint8(packed, out=self._buffers["frames"][: packed.shape[0]])

    def _run_graph(self, name: str, work: Callable[[], None], cuda_stream: Any, pool: Any) -> None:
        """Replay the graph of this kind of chunk; capture it when the kind comes first."""
        implementation = self._ring.implementation
        assert implementation is not None, "chosen when the engine was made"
        self._ring.valid_tokens = self._plan.placement.valid_frames * self.config.tokens_per_frame
        attends = name in ("denoise", "write_cache")
        filled = self._ring.valid_tokens if attends and not implementation.dynamic else None
        kind = (self._x.shape[1], self._pins_image() if attends else self._opening, filled)
        tensors = self._graph_tensors(name)
        if (name, *kind) not in self._graphs:
            self._graphs[(name, *kind)] = CapturedGraph(
                name, work, tensors, enabled=self._enabled, cuda_stream=cuda_stream, pool=pool
            )
        self._graphs[(name, *kind)](tensors)

    def _graph_tensors(self, name: str = "decode") -> dict[str, Tensor]:
        """What captured work reads and writes; a graph refuses to run when any of it moved.

        References are the decoder's alone: an opening has others, and the other graphs serve it too.
        """
        tensors = {name: self._buffers[name] for name in ("latents", "noise", "frames", "state", "counters")}
        tensors |= {"input": self._input, "k": self.cache.k, "v": self.cache.v, "sink_k": self.cache.sink_k}
        tensors |= {f"decoder {i}": tensor for i, tensor in enumerate(self._decoder)}
        if name == "decode":
            tensors |= {f"reference {len(picture[0])} {i}": picture for i, picture in enumerate(self._references)}
        return tensors | {f"keys {i}": keys[0] for i, keys in enumerate(self._keys)}

    @torch.no_grad()
    def commit(self) -> None:
        """Adopt the staged states, in stream order behind the clean pass that `generate` launched."""
        with on_stream(self._side):
            for kept, staged in zip(self._decoder, self._staged_decoder, strict=True):
                kept.copy_(staged)
        with on_stream(self._main):
            if self._staged_warped is not self._warped:
                self._warped = self._static("warped", self._staged_warped)
                self._staged_warped = self._warped
            placement = self._plan.placement
            self._remember(placement.start, placement.frames)
        self._made = placement.start + placement.frames
        self._pending = False
        self._times.close_chunk()

    @torch.no_grad()
    def recache(self, *, replace_sink: bool) -> None:
        with on_stream(self._main):
            super().recache(replace_sink=replace_sink)

    def state(self) -> dict[str, Array]:
        self._synchronize()
        return super().state()

    def restore(self, state: Mapping[str, Array]) -> None:
        self._synchronize()
        super().restore(state)
        self._decoder = self._static("decoder", self._decoder)
        self._warped = self._static("warped", self._warped)
        self._staged_warped = self._warped
        self._synchronize()

    def close(self) -> None:
        self._synchronize()
        self._graphs.clear()

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _channels_last_(module: torch.nn.Module) -> None:
    """Lay 2-D convolutions out as cuDNN's tensor-core kernels read them; otherwise it transposes in every call."""
    for parameter in module.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
