"""What every stage shares: a loop that can be stopped and resumed, checkpoints, curves, ETA."""

from __future__ import annotations

import csv
import json
import logging
import math
import os
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ms_infer.errors import CheckpointError
from ms_train import parallel

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.pt"


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Length and habits of one stage."""

    steps: int = 1000
    """Optimiser steps in all; the learning rate falls over the last `cooldown` of them."""
    learning_rate: float = 3e-4
    warmup: int = 50
    cooldown: int = 300
    clip_norm: float = 1.0
    weight_decay: float = 0.01
    ema: float = 0.995
    """Decay of the averaged weights, lower in the first steps."""
    save_minutes: float = 4.0
    sheet_steps: int = 200
    """Steps between two sample sheets; 0 for none."""
    seed: int = 0
    stop_minutes: float = 0.0
    """Save and stop after so long; 0 for never. The run goes on where it stopped."""


class Stage(ABC):
    """One stage of the recipe: modules, optimisers and a step over its own data."""

    def __init__(self, config: LoopConfig, device: torch.device) -> None:
        self.loop = config
        self.device = device
        self.generator = torch.Generator(device=device)
        self.common = torch.Generator()
        """Draws that all processes share: those that say how many passes a step takes."""
        self.step_index = 0
        self.reseed_(-1)

    def reseed_(self, step: int) -> None:
        """Seed all draws of a step from seed, step and process, so that a resumed run draws the same."""
        seed = (self.loop.seed * 1_000_003 + step + 1) << 8
        self.generator.manual_seed(seed + parallel.rank())
        self.common.manual_seed(seed + 255)

    @abstractmethod
    def step(self) -> dict[str, float]:
        """One optimiser step; returns the numbers to log."""

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """Everything with `state_dict` and `load_state_dict` that a resumed run needs."""

    def sheet(self, path: Path) -> None:  # noqa: B027  (stages without pictures draw none)
        """Draw samples of the present state into a PNG; all processes compute, process 0 writes."""

    def scheduled_rate(self) -> float:
        """Learning rate of this step: warm-up, constant, linear fall to a twentieth."""
        config, step = self.loop, self.step_index
        rate = config.learning_rate * min(1.0, (step + 1) / max(1, config.warmup))
        left = (config.steps - step) / max(1, config.cooldown)
        return rate * min(1.0, max(0.05, left))

    def optimise(self, optimizer: torch.optim.Optimizer, loss: Tensor, parameters: list[nn.Parameter]) -> float:
        """Backward, clip, update; returns the gradient norm."""
        for group in optimizer.param_groups:
            group["lr"] = self.scheduled_rate() * group.get("rate", 1.0)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        parallel.average_gradients_(parameters)
        norm = parallel.clip_gradients_(parameters, self.loop.clip_norm)
        optimizer.step()
        return norm

    def save(self, path: Path) -> None:
        """Write everything to one file, whole or not at all; all processes must ask, process 0 writes.

        Sharded tensors are put together, so that any number of processes can go on from the file.
        """
        state = {name: parallel.gathered(part.state_dict()) for name, part in self.parts().items()}
        if parallel.rank() == 0:
            state["step"] = self.step_index
            temporary = path.with_suffix(".tmp")
            torch.save(state, temporary)
            os.replace(temporary, path)
        parallel.any_process(False)  # nobody leaves before the file is there

    def load(self, path: Path) -> None:
        """Go on from `save`; CheckpointError when the file belongs to another stage."""
        state = torch.load(path, map_location="cpu", mmap=parallel.world() > 1, weights_only=True)
        missing = [name for name in self.parts() if name not in state]
        if missing:
            raise CheckpointError(f"{path} lacks {missing}: it is of another stage or version; choose a new --out")
        for name, part in self.parts().items():
            parallel.load_state_(part, state[name])
        self.step_index = int(state["step"])


class Average:
    """Exponential moving average of a module's parameters, in float32."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.updates = 0
        self.values = {name: p.detach().float().clone() for name, p in module.state_dict().items()}

    @torch.no_grad()
    def update_(self, module: nn.Module) -> None:
        """Move towards the module's present parameters."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in module.state_dict().items():
            self.values[name].lerp_(value.float(), 1 - decay)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "values": self.values}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.updates = int(state["updates"])
        for name, value in state["values"].items():
            self.values[name].copy_(value)


def run(stage: Stage, folder: Path) -> None:
    """Train until the last step, or until `stop_minutes`; resumes by itself when `folder` holds a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / CHECKPOINT).exists():
        stage.load(folder / CHECKPOINT)
        logger.info("resumed %s at step %d", folder, stage.step_index)
    curves = _Curves(folder, stage.step_index) if parallel.rank() == 0 else None
    began = saved = time.monotonic()
    first = stage.step_index
    while stage.step_index < stage.loop.steps:
        stage.reseed_(stage.step_index)
        numbers = stage.step()
        stage.step_index += 1
        if not all(math.isfinite(value) for value in numbers.values()):
            raise CheckpointError(f"step {stage.step_index} of {folder}: {numbers}; resume with a lower learning rate")
        now = time.monotonic()
        if curves is not None:
            curves.add(stage.step_index, numbers, now - began)
        if curves is not None and stage.step_index % 20 == 0:
            _report(stage, numbers, (now - began) / (stage.step_index - first))
        if stage.loop.sheet_steps and stage.step_index % stage.loop.sheet_steps == 0:
            stage.sheet(folder / "latest.png")
        if parallel.any_process(now - saved > 60 * stage.loop.save_minutes):
            stage.save(folder / CHECKPOINT)
            saved = now
        if parallel.any_process(stage.loop.stop_minutes > 0 and now - began > 60 * stage.loop.stop_minutes):
            logger.info("stopped after %.0f minutes; the same command goes on", stage.loop.stop_minutes)
            break
    stage.save(folder / CHECKPOINT)
    if curves is not None:
        curves.close()


def _report(stage: Stage, numbers: dict[str, float], seconds: float) -> None:
    text = " ".join(f"{name} {value:.4f}" for name, value in numbers.items())
    left = (stage.loop.steps - stage.step_index) * seconds / 60
    logger.info("step %d/%d  %s  %.2f s/step  ETA %.0f min", stage.step_index, stage.loop.steps, text, seconds, left)


class _Curves:
    """A CSV and a TensorBoard log beside each other."""

    def __init__(self, folder: Path, step: int) -> None:
        self._file = (folder / "curves.csv").open("a", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file)
        self._started = step > 0
        self._board = _board(folder)

    def add(self, step: int, numbers: dict[str, float], seconds: float) -> None:
        if not self._started:
            self._writer.writerow(["step", "seconds", *numbers])
            self._started = True
        self._writer.writerow([step, f"{seconds:.1f}", *(f"{value:.6g}" for value in numbers.values())])
        if step % 10 == 0:
            self._file.flush()
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()


def _board(folder: Path) -> Any:
    """A TensorBoard writer, or None where the extra [train] is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(log_dir=str(folder / "tensorboard"))  # type: ignore[no-untyped-call]


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Pretty JSON with a final newline."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", encoding="utf-8")
