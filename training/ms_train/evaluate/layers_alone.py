"""A stream of the layers alone: the first frame as they move, without transformer, decoder and refiner."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from ms_infer.checkpoint import Student
from ms_infer.engines.base import ChunkPlan
from ms_infer.engines.torch import TorchEngine
from ms_infer.errors import ConfigError
from ms_infer.model.layers import move_first_frame


class LayersAlone(TorchEngine):
    """Shows what the student is given; ConfigError for a student without a layer network. fp32."""

    def __init__(self, student: Student, *, device: str | None = None) -> None:
        if student.layer_network is None:
            raise ConfigError(f"the model {student.config.model.name!r} has no layer network to be shown alone")
        super().__init__(student, device=device, precision="fp32")

    @torch.no_grad()
    def generate(self, plan: ChunkPlan) -> None:
        assert self.layer_network is not None, "the constructor checked it"
        self._plan = plan
        points, visible, _, anchors = self._track_inputs(plan)
        self._shown, _ = move_first_frame(self.layer_network, self._first_picture(), points, visible, anchors)

    def frames(self) -> NDArray[np.uint8]:
        shown: NDArray[np.uint8] = self._shown[0].permute(0, 2, 3, 1).mul(255).round().byte().cpu().numpy()
        return shown

    def commit(self) -> None:
        self._made = self._plan.placement.start + self._plan.placement.frames
