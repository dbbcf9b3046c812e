"""The transformer's inputs of finished latent frames, from which keys and values can be made anew."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ms_infer.config import StreamConfig
from ms_infer.engines.base import Array
from ms_infer.engines.near import opening_frames
from ms_infer.engines.saved import check_packed, kept
from ms_infer.engines.torch.saved import from_host, saved_dtype, to_host


class Remembered:
    """The newest `cache_frames` latent frames, a ring, and apart from them those of the chunks that hold the sink.

    Every frame is `[in_channels, latent_height, latent_width]`; both are allocated once.
    """

    def __init__(self, config: StreamConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.config = config
        frame = (config.model.in_channels, config.latent_height, config.latent_width)
        self._newest = torch.zeros(1, config.context.cache_frames, *frame, device=device, dtype=dtype)
        self._opening = torch.zeros(1, opening_frames(config.context), *frame, device=device, dtype=dtype)

    def reset(self) -> None:
        self._newest.zero_()
        self._opening.zero_()

    def keep(self, inputs: Tensor, start: int, frames: int, sink_start: int) -> None:
        """Keep the first `frames` of `inputs` `[1, T, C, h, w]` as the latent frames from `start` on."""
        for j in range(frames):
            self._newest[:, (start + j) % self._newest.shape[1]] = inputs[:, j]
            if 0 <= start + j - sink_start < self._opening.shape[1]:
                self._opening[:, start + j - sink_start] = inputs[:, j]

    def open_again(self, sink_start: int, made: int) -> None:
        """The sink begins with another frame, one of the newest."""
        for place in range(min(self._opening.shape[1], made - sink_start)):
            self._opening[:, place] = self._newest[:, (sink_start + place) % self._newest.shape[1]]

    def newest(self, run: range) -> Tensor:
        """Inputs `[1, T, C, h, w]` of latent frames among the newest."""
        return self._newest[:, [frame % self._newest.shape[1] for frame in run]]

    def inputs(self, run: range, sink_start: int) -> Tensor:
        """Inputs `[1, T, C, h, w]` of latent frames that lie all among the sink's, or all among the newest."""
        if run.start - sink_start < self.config.context.sink_frames:
            return self._opening[:, run.start - sink_start : run.stop - sink_start]
        return self.newest(run)

    def state(self, made: int, sink_start: int) -> dict[str, Array]:
        """What is remembered after `made` latent frames: `history`, oldest first, and `opening`."""
        newest, opening = self._rows(made, sink_start)
        return {"history": to_host(self._newest[:, newest]), "opening": to_host(self._opening[:, :opening])}

    def check_state(self, state: Mapping[str, Array], made: int, sink_start: int) -> None:
        """ConfigError unless `restore` can put this back."""
        newest, opening = self._rows(made, sink_start)
        for name, frames in (("history", len(newest)), ("opening", opening)):
            shape = (1, frames, *self._newest.shape[2:])
            check_packed(state.get(name), name, saved_dtype(self._newest.dtype), shape)

    def restore(self, state: Mapping[str, Array], made: int, sink_start: int) -> None:
        """Put back what `state` returned."""
        newest, opening = self._rows(made, sink_start)
        self._newest[:, newest] = from_host(state["history"], self._newest)
        self._opening[:, :opening] = from_host(state["opening"], self._opening)

    def _rows(self, made: int, sink_start: int) -> tuple[list[int], int]:
        newest = [frame % self._newest.shape[1] for frame in kept(self.config, made, sink_start).frames]
        return newest, min(made - sink_start, self._opening.shape[1])
