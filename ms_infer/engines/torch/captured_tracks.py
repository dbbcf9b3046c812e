"""The captured engine's track latents: points to the transformer's input, from static buffers, as one graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
import torch
from ms_kernels.layout import TrackGrid
from torch import Tensor

from ms_infer.config import TrackHeadConfig
from ms_infer.engines.base import ChunkPlan
from ms_infer.engines.torch.graphs import StaticBuffers
from ms_infer.engines.torch.plain import TorchEngine


class CapturedTracks(TorchEngine):
    """The half of the captured engine that the tracks need. What a graph reads and writes lies in static memory."""

    kernels: ModuleType
    _buffers: StaticBuffers
    _statics: dict[str, list[Tensor]]
    _main: Any
    _pools: list[Any]

    def _static(self, name: str, values: Sequence[Tensor]) -> list[Tensor]:
        raise NotImplementedError

    def _run_graph(self, name: str, work: Callable[[], None], cuda_stream: Any, pool: Any) -> None:
        raise NotImplementedError

    @property
    def _moves_image(self) -> bool:
        """Whether the track head sees the first frame, moved along the tracks."""
        head: TrackHeadConfig | None = self.config.model.track_head
        return head is not None and head.content != "none"

    def _place_tracks(self, plan: ChunkPlan) -> None:
        """Track latents into the transformer's input."""
        head = self.track_head
        assert head is not None, "_begin() checked it"
        self._points = self._track_inputs(plan)
        scatters = head.config.content == "none" and head.config.convs == 1
        self._run_graph("tracks", self._scatter_tracks if scatters else self._encode_tracks, self._main, self._pools[0])
        frames = self._points[0].shape[2]
        self._references = tuple(self._statics.get(f"references {frames}", ()))  # a replay runs no Python

    def _track_inputs(self, plan: ChunkPlan) -> tuple[Tensor, ...]:
        tracks = plan.tracks
        assert tracks is not None, "_begin() checked it"
        names = []
        for name in ("points", "visible", "ids", "anchors"):
            array = getattr(tracks, name)
            key = f"{name} {array.shape}"
            if key not in self._buffers.tensors():
                self._buffers.add(key, array.shape, torch.from_numpy(array).dtype, uploaded=True)
            self._buffers.upload(key, np.ascontiguousarray(array))
            names.append(key)
        return tuple(self._buffers[name][None] for name in names)

    def _scatter_tracks(self) -> None:
        """Captured: points to track latents without the volume of ids; one kernel, for the paper's head."""
        head, config = self.track_head, self.config
        assert head is not None, "_begin() checked it"
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

    def _encode_tracks(self) -> None:
        """Captured: the track head as it is, with the first frame moved along the tracks and encoded."""
        head = self.track_head
        assert head is not None, "_begin() checked it"
        points, visible, ids, anchors = self._points
        content = validity = None
        if self._moves_image:
            content, validity = self._moved_image(points, visible, anchors)
            self._staged_moved = self._static("staged moved", self._staged_moved)
        latents = head(points, visible, ids, opening=self._opening, content=content, validity=validity)
        self._input[:, : self._x.shape[1], self._slots["track"]] = latents

    def _keep_references(self, *references: Tensor) -> None:
        self._static(f"references {references[0].shape[1]}", [picture.to(self.dtype) for picture in references])

    def _first_picture(self) -> Tensor:
        """Where it always lies."""
        return self._static("first picture", [super()._first_picture()])[0]
