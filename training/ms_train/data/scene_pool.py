"""Batches of drawn scenes that are used several times before newer ones take their place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

import torch
from torch import Tensor

Batch = TypeVar("Batch")
"""A dataclass of tensors with the batch first."""


@dataclass
class ScenePool(Generic[Batch]):
    """The scenes of the last `steps` steps; each depends on seed and step alone, so a resumed run draws the same."""

    draw: Callable[[torch.Generator], Batch]
    """Makes `fresh` scenes, on the CPU."""
    fresh: int
    steps: int
    seed: int

    def __post_init__(self) -> None:
        self._drawn: dict[int, Batch] = {}

    def refresh(self, step: int) -> None:
        """Draw the scenes of `step`, and of those before it that are missing."""
        wanted = range(max(0, step - self.steps + 1), step + 1)
        for old in [step for step in self._drawn if step not in wanted]:
            del self._drawn[old]
        for step in wanted:
            if step not in self._drawn:
                generator = torch.Generator().manual_seed((self.seed * 1_000_003 + step) % 2**32)
                self._drawn[step] = changed(self.draw(generator), Tensor.half)

    def batch(
        self, count: int, generator: torch.Generator, device: torch.device, mirror: Callable[[Batch], Batch]
    ) -> Batch:
        """`count` random scenes in float32 on `device`, half of them mirrored; `generator` lives there too."""
        steps, rows = sorted(self._drawn), []
        for _ in range(count):
            step = steps[_below(len(steps), generator, device)]
            scene = self._scene(step, _below(self.fresh, generator, device), device)
            mirrored = torch.rand((), generator=generator, device=device).item() < 0.5
            rows.append(mirror(scene) if mirrored else scene)
        kind = type(rows[0])
        return kind(*(torch.cat([getattr(row, f.name) for row in rows]) for f in fields(rows[0])))  # type: ignore[arg-type]

    def _scene(self, step: int, row: int, device: torch.device) -> Batch:
        return changed(self._drawn[step], lambda t: t[row : row + 1].to(device).float())


def changed(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    """The batch with `change` done to all of its tensors."""
    return type(batch)(*(change(getattr(batch, f.name)) for f in fields(batch)))  # type: ignore[arg-type]


def _below(count: int, generator: torch.Generator, device: torch.device) -> int:
    return int(torch.randint(count, (), generator=generator, device=device))
