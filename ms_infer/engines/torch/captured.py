"""The `torch` engine on CUDA: fused kernels, static buffers, one graph per chunk and one for the decoder.

The chunk graph is cut once, where the latents are done: `denoise` (draw the noise, roll the sink, K passes) and
`write_cache` (the clean pass) are two captures on the main CUDA stream, so that `decode` can start between them on
a CUDA stream of its own. `generate` launches all three; the host waits once a chunk, in `frames`, while the clean pass
still runs.

Without CUDA the same class runs with graphs disabled and the kernels' PyTorch twins: that is how it is tested.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import torch
from ms_kernels.layout import ChunkState
from numpy.typing import NDArray
from torch import Tensor

from ms_infer.checkpoint import Student
from ms_infer.config import rgb_frames
from ms_infer.engines.base import Array, ChunkPlan, plan_chunk
from ms_infer.engines.torch import noise as device_noise
from ms_infer.engines.torch.attention import Implementation, Measured, RingAttend, choose, implementations
from ms_infer.engines.torch.captured_tracks import CapturedTracks
from ms_infer.engines.torch.device_frames import TensorFrames
from ms_infer.engines.torch.fused import Fp8Operations, FusedOperations, load_kernels
from ms_infer.engines.torch.graphs import (
    CapturedGraph,
    StaticBuffers,
    graphs_enabled,
    host_buffer,
    on_stream,
    told,
)
from ms_infer.engines.torch.layouts import as_channels_last, channels_last_, layout_of
from ms_infer.engines.torch.needs import DTYPES, check_device, check_fp8
from ms_infer.engines.torch.shared import shared_operations
from ms_infer.errors import ConfigError, DeviceError
from ms_infer.model.rope import Rotation
from ms_infer.tracks.player import TrackPlayer


class FusedEngine(CapturedTracks):
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
        self.kernels = load_kernels(chosen)
        if precision == "fp8":
            check_fp8(chosen, self.kernels)
        self._graphs: dict[Hashable, CapturedGraph] = {}
        self._statics: dict[str, list[Tensor]] = {}
        self._torn: set[str] = set()
        super().__init__(student, device=device, precision=precision)
        kind = Fp8Operations if self.precision == "fp8" else FusedOperations
        self.operations: FusedOperations = shared_operations(self.transformer, kind, self.kernels)
        self.attention_measured: list[Measured] = []
        self.cross_measured: list[Measured] = []
        self._ring.implementation = self._choose_attention(attention)
        self._choose_cross_attention(attention)
        self._synchronize()

    def _allocate(self) -> None:
        super()._allocate()
        config, context = self.config, self.config.context
        cuda = self.device.type == "cuda"
        self._main = torch.cuda.Stream(self.device) if cuda else None
        self._side = torch.cuda.Stream(self.device, priority=-1) if cuda else None  # frames are waited for
        self._pools: list[Any] = [torch.cuda.graph_pool_handle() for _ in range(2)] if cuda else [None, None]
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

    def _move_(self, module: torch.nn.Module) -> None:
        super()._move_(module)
        if self.device.type == "cuda":
            channels_last_(module)

    def _choose_cross_attention(self, wanted: str | None) -> None:
        """Text tokens are always all valid, so every implementation will do; one that is named goes for the context."""
        if self.device.type != "cuda" or wanted is not None or self.operations.cross is not None:
            return  # graphs of another engine of the student hold what was chosen
        tokens = self.config.model.text.tokens
        candidates = implementations(self.device, self.kernels)
        chosen, self.cross_measured = choose(candidates, self.config, self.cache.k, keys=tokens)
        state = torch.tensor([tokens, 0, 0], dtype=torch.int32, device=self.device)
        self.operations.cross = lambda q, k, v: chosen.run(q, k, v, state, k.shape[2])

    @torch.no_grad()
    def warm_up(self) -> None:
        """Capture every graph of a stream, with and without a first frame, then reset."""
        config = self.config
        self._warm_up_with(None)
        if config.model.vae.encodes and (config.model.image_input != "slot" or self._image_encoder is not None):
            self._warm_up_with(np.zeros((config.height, config.width, 3), np.uint8))
        self.reset()

    def _warm_up_with(self, image: NDArray[np.uint8] | None) -> None:
        """Chunks of a stream until the context is full."""
        config, context = self.config, self.config.context
        self.reset()
        self.set_text(np.zeros((config.model.text.tokens, config.model.text.dim), np.float32))
        self.set_image(image)
        player = TrackPlayer.of(config)
        index, full = 0, False
        while not full:
            plan = plan_chunk(config, index, player, seed=0, given=self.given_frames())
            placement = plan.placement
            whole = placement.frames == context.chunk_frames and index > 0
            full = whole and placement.valid_frames == context.cache_frames
            self.generate(plan)
            self.frames()
            self.commit()
            index += 1

    @torch.no_grad()
    def reset(self) -> None:
        self._synchronize()
        self._pending = False
        with on_stream(self._main), self._changing("stream"):
            super().reset()
            if self.device.type == "cuda":  # as the convolutions read and write them
                self._decoder, self._moved = (
                    [as_channels_last(tensor) for tensor in state] for state in (self._decoder, self._moved)
                )
            self._decoder = self._static("decoder", self._decoder)
            self._moved = self._static("moved", self._moved)
            self._staged_decoder = self._static("staged decoder", self._decoder)
            self._staged_moved = self._static("staged moved", self._moved)
            if self._moves_image:
                self._first_picture()
        self._synchronize()

    @contextmanager
    def _changing(self, what: str) -> Iterator[None]:
        """The block replaces what later chunks read: one that fails midway must not be followed by a chunk."""
        self._torn.add(what)
        with told(f"change the {what}"):
            yield
        self._torn.discard(what)

    def _static(self, name: str, values: Sequence[Tensor]) -> list[Tensor]:
        """The same values in memory that stays where it is, allocated when the name comes first."""
        if name not in self._statics:
            self._statics[name] = [value.clone(memory_format=layout_of(value)) for value in values]
        else:
            for kept, value in zip(self._statics[name], values, strict=True):
                kept.copy_(value)
        return self._statics[name]

    @torch.no_grad()
    def set_text(self, embedding: NDArray[np.float32]) -> None:
        with on_stream(self._main), self._changing("prompt"):
            super().set_text(embedding)
            count = len(self._keys[0])  # of a layer: without image tokens there are fewer
            flat = self._static(f"keys {count}", [tensor for keys in self._keys for tensor in keys])
            self._keys = [tuple(flat[i : i + count]) for i in range(0, len(flat), count)]

    def set_strengths(self, strengths: Sequence[float]) -> None:
        with on_stream(self._main), self._changing("strengths"):
            super().set_strengths(strengths)

    @torch.no_grad()
    def set_image(self, image: NDArray[np.uint8] | None) -> None:
        with on_stream(self._main), self._changing("image"):
            super().set_image(image)
            if self._image_latent is not None:
                (self._image_latent,) = self._static("image latent", [self._image_latent])
            if self._moves_image:
                picture = self._first_picture()
                self._image = None if self._image is None else picture
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
        if self._torn:
            raise DeviceError(
                f"the GPU failed while it changed the {' and the '.join(sorted(self._torn))}; start the stream again"
            )
        with told("make a chunk"):
            self._launch(plan)

    def _launch(self, plan: ChunkPlan) -> None:
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
            if self.downloads:
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
        with told("make a chunk"):
            self._times.synchronize("decode")
            return self._host_frames[: self._rgb_frames()].numpy()

    def device_frames(self) -> TensorFrames:
        self.frames()  # waits
        return TensorFrames.behind(self._side, self._buffers["frames"][: self._rgb_frames()])

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
        shown = len(self._keys[0]) if attends else None  # with image tokens there are keys of two kinds
        kind = (self._x.shape[1], self._pins_image() if attends else self._opening, filled, shown)
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
        tensors |= {f"moved {i}": tensor for i, tensor in enumerate(self._moved)}
        if name == "decode":
            tensors |= {f"reference {len(picture[0])} {i}": picture for i, picture in enumerate(self._references)}
        if name in ("denoise", "write_cache"):
            tensors |= {f"keys {i}": keys[0] for i, keys in enumerate(self._keys)}
        return tensors

    @torch.no_grad()
    def commit(self) -> None:
        """Adopt the staged states, in stream order behind the clean pass that `generate` launched."""
        with self._changing("stream"):
            with on_stream(self._side):
                for kept, staged in zip(self._decoder, self._staged_decoder, strict=True):
                    kept.copy_(staged)
            placement = self._plan.placement
            with on_stream(self._main):
                for kept, staged in zip(self._moved, self._staged_moved, strict=True):
                    kept.copy_(staged)
                self._remember(placement.start, placement.frames)
            self._made = placement.start + placement.frames
            self._times.close_chunk()
        self._pending = False

    @torch.no_grad()
    def recache(self, *, replace_sink: bool) -> None:
        with on_stream(self._main), told("re-encode the context"):
            super().recache(replace_sink=replace_sink)

    def state(self) -> dict[str, Array]:
        self._synchronize()
        return super().state()

    def restore(self, state: Mapping[str, Array]) -> None:
        self._synchronize()
        with on_stream(self._main), self._changing("stream"):
            super().restore(state)
            self._decoder = self._static("decoder", self._decoder)
            self._moved = self._static("moved", self._moved)
        self._synchronize()

    def close(self) -> None:
        self._synchronize()
        self._graphs.clear()

    def _synchronize(self) -> None:
        """Wait for this engine's work and for what its thread launched, never for the device: others may capture."""
        if self.device.type == "cuda":
            used: list[Any] = [torch.cuda.current_stream(self.device), self._main, self._side]
            for cuda_stream in used:
                cuda_stream.synchronize()
