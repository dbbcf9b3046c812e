"""Two processes on the CPU: shards of FSDP2 train as whole weights do, and their checkpoint is that of one process."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from ms_train import parallel
from ms_train.data.clips import Clips, ClipSource
from ms_train.loop import CHECKPOINT, LoopConfig, Stage, run
from ms_train.stages.distill import Distill, DistillConfig
from ms_train.stages.teacher import FlowConfig, Teacher
from ms_train.students import Network
from torch import nn
from torch.distributed.tensor import DTensor

from ms_infer.model.taehv import TinyVae

from .test_train_stages import CPU, SIZE, tiny_stream

PROCESSES = 2


class Ready:
    """A maker of the same random clips whatever is asked for."""

    def make(self, number: int, count: int) -> Clips:
        generator = torch.Generator().manual_seed(0)
        latents = [torch.randn(count, frames, 16, 4, 4, generator=generator).bfloat16() for frames in (9, 9, 3)]
        points = torch.rand(count, 5, 33, 2, generator=generator).half() * SIZE
        return Clips(
            latents=latents[0],
            content=latents[1],
            validity=torch.ones(count, 9, 1, 4, 4).bfloat16(),
            still=latents[2],
            points=points,
            visible=torch.ones(count, 5, 33, dtype=torch.bool),
            words=torch.zeros(count, 4, dtype=torch.int16),
        )


def clips() -> ClipSource:
    return ClipSource(None, Ready(), pool=1, batch=4)  # type: ignore[arg-type]


def loop(steps: int, **more: Any) -> LoopConfig:
    return LoopConfig(steps=steps, learning_rate=3e-3, warmup=2, cooldown=1, sheet_steps=0, **more)


def teacher(steps: int, *, fsdp: bool = True, **more: Any) -> Teacher:
    return Teacher(FlowConfig(stream=tiny_stream(), loop=loop(steps, **more), batch=2, fsdp=fsdp), clips(), CPU)


def in_two_processes(folder: Path) -> None:
    """Start `_process` twice and wait; a failure of either fails the test."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_process, (port, folder), nprocs=PROCESSES)


def _process(rank: int, port: int, folder: Path) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    os.environ["WORLD_SIZE"] = str(PROCESSES)
    torch.set_num_threads(1)
    parallel.start(CPU)
    numbers = {
        "whole": _numbers(teacher(3, fsdp=False)),
        "sharded": _numbers(teacher(3)),
        "distill": _numbers(_distill()),
    }
    run(teacher(3), folder / "uninterrupted")
    run(teacher(3, stop_minutes=1e-9), folder / "parts")
    run(teacher(3), folder / "parts")
    alone = teacher(1)
    alone.load(folder / "alone" / CHECKPOINT)
    alone.save(folder / "again.pt")
    started = teacher(1)
    started.start_from_average(torch.load(folder / "alone" / CHECKPOINT)["average"]["values"])
    started.vae = TinyVae(started.stream.model.vae)
    started.sheet(folder / f"sheet_{rank}.png")
    numbers["sharded weights"] = _sharded(started.network)
    numbers["whole weights"] = _sharded(teacher(1, fsdp=False).network)
    torch.save(numbers, folder / f"numbers_{rank}.pt")
    parallel.finish()


def _numbers(stage: Stage) -> dict[str, float]:
    """Those of one step, the same draws for every stage."""
    stage.reseed_(0)
    return stage.step()


def _distill() -> Distill:
    config = DistillConfig(
        stream=tiny_stream(),
        loop=loop(1),
        batch=2,
        rollout_chunks=3,
        critic_updates=1,
        regression_weight=1.0,
        fsdp=True,
    )
    stage, start = Distill(config, clips(), CPU), Network(tiny_stream())
    stage.start_from(start.state_dict(), start.state_dict())
    return stage


def _sharded(module: nn.Module) -> int:
    return sum(isinstance(parameter, DTensor) for parameter in module.parameters())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left, and beside it the run of one."""
    folder = tmp_path_factory.mktemp("processes")
    run(teacher(2), folder / "alone")
    in_two_processes(folder)
    return folder


def read(path: Path) -> dict[str, Any]:
    return torch.load(path, weights_only=True)  # type: ignore[no-any-return]


def flat(state: Any, name: str = "") -> dict[str, Any]:
    """Every leaf by its place."""
    pairs = state.items() if isinstance(state, dict) else enumerate(state) if isinstance(state, list) else ()
    inner = [flat(value, f"{name}/{key}") for key, value in pairs]
    return {key: value for part in inner for key, value in part.items()} if inner else {name: state}


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    ours, theirs = flat(ours), flat(theirs)
    assert list(ours) == list(theirs)
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name], name


def test_shards_have_the_gradient_of_whole_weights(folder: Path) -> None:
    for rank in range(PROCESSES):
        numbers = read(folder / f"numbers_{rank}.pt")
        assert numbers["sharded weights"] > 20
        assert numbers["whole weights"] == 0
        assert numbers["sharded"]["loss"] == pytest.approx(numbers["whole"]["loss"], rel=1e-5)
        assert numbers["sharded"]["norm"] == pytest.approx(numbers["whole"]["norm"], rel=1e-3)
    losses = [read(folder / f"numbers_{rank}.pt")["sharded"] for rank in range(PROCESSES)]
    assert losses[0]["loss"] != losses[1]["loss"]  # own draws
    assert losses[0]["norm"] == losses[1]["norm"]  # one gradient


def test_a_sheet_of_shards_is_drawn_by_all_and_written_by_one(folder: Path) -> None:
    assert [path.name for path in folder.glob("sheet_*.png")] == ["sheet_0.png"]


def test_self_forcing_runs_on_shards(folder: Path) -> None:
    numbers = read(folder / "numbers_0.pt")["distill"]
    assert {"critic", "dmd", "regression", "loss"} <= set(numbers)
    assert all(value == value for value in numbers.values())


def test_a_resumed_sharded_run_equals_an_uninterrupted_one(folder: Path) -> None:
    whole = read(folder / "uninterrupted" / CHECKPOINT)
    assert whole["step"] == 3
    assert_same(whole, read(folder / "parts" / CHECKPOINT))


def test_a_sharded_checkpoint_is_the_file_of_one_process(folder: Path) -> None:
    ours, alone = (flat(read(folder / name / CHECKPOINT)) for name in ("uninterrupted", "alone"))
    assert list(ours) == list(alone)
    for name, value in ours.items():
        assert type(value) is type(alone[name]), name
        if isinstance(value, torch.Tensor):
            assert (value.shape, value.dtype) == (alone[name].shape, alone[name].dtype), name
    assert_same(read(folder / "again.pt"), read(folder / "alone" / CHECKPOINT))


def test_one_process_goes_on_from_a_sharded_checkpoint(folder: Path, tmp_path: Path) -> None:
    stage = teacher(4)
    stage.load(folder / "uninterrupted" / CHECKPOINT)
    stage.save(tmp_path / "again.pt")
    assert_same(read(tmp_path / "again.pt"), read(folder / "uninterrupted" / CHECKPOINT))
    assert stage.step_index == 3
    assert stage.step()["loss"] > 0
