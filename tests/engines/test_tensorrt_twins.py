"""Streams of one TensorRT bundle share its engines; each has contexts, memory and a graph of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("tensorrt_rtx", reason="needs the extra [rtx]")
pytest.importorskip("cuda.bindings.runtime", reason="needs the extra [rtx]")

from ms_infer import DeviceError, Model, Stream
from ms_infer.engines.staged import StagedEngine
from ms_infer.engines.tensorrt import TensorRtRunner
from tests.engines.test_tensorrt import Machine, chunks
from tests.tiny import tiny_student


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setenv("MS_INFER_CACHE", str(tmp_path / "cache"))
    return Machine(tiny_student(), tmp_path)


def runner_of(engine: StagedEngine) -> TensorRtRunner:
    assert isinstance(engine.runner, TensorRtRunner)
    return engine.runner


def twin_of(engine: StagedEngine) -> StagedEngine:
    twin = engine.twin()
    assert twin is not None
    return twin


def test_twins_share_engines_and_nothing_else(machine: Machine) -> None:
    one = machine.open()
    read = len(machine.cuda.blocks)
    two = twin_of(one)
    ours, theirs = (runner_of(engine)._stages for engine in (one, two))

    assert all(ours[name]._engine is theirs[name]._engine for name in ours)
    assert all(ours[name]._context is not theirs[name]._context for name in ours)
    assert len(machine.cuda.blocks) == 2 * read, "memory of its own"
    places = [{runner_of(engine).memory.caches.address, runner_of(engine).memory.work.address} for engine in (one, two)]
    assert not places[0] & places[1]


def test_streams_in_turns_make_what_each_makes_alone(machine: Machine) -> None:
    alone = chunks(Stream(machine.open(), seed=1), 6)
    first = machine.open()
    one, two = Stream(first, seed=1), Stream(twin_of(first), seed=2)
    one.start()
    two.start()
    turns = [(one.step().frames, two.step().frames) for _ in range(6)]

    for expected, (made, other) in zip(alone, turns, strict=True):
        np.testing.assert_array_equal(made, expected)
        assert not np.array_equal(other, expected)


def test_a_twin_outlives_the_first(machine: Machine) -> None:
    first = machine.open()
    twin = twin_of(first)
    first.close()

    assert first.twin() is None
    assert len(chunks(Stream(twin), 3)) == 3
    twin.close()
    assert machine.cuda.blocks == {}


def test_what_comes_back_while_others_are_out_holds_no_memory(machine: Machine) -> None:
    model = Model(machine.open())
    alone = len(machine.cuda.blocks)
    first, second = model.stream(seed=1), model.stream(seed=1)
    first.close()
    assert len(machine.cuda.blocks) == alone
    third = model.stream(seed=1)  # a twin of the twin
    made, other = (np.concatenate(chunks(stream, 3)) for stream in (third, second))
    np.testing.assert_array_equal(made, other)
    second.close()
    third.close()
    assert len(machine.cuda.blocks) == alone, "the last one is kept"
    again = model.stream(seed=1)
    np.testing.assert_array_equal(np.concatenate(chunks(again, 3)), made)
    model.close()
    again.close()
    assert machine.cuda.blocks == {}


SITES = ("cudaMemcpyAsync", "cudaEventRecordWithFlags", "cudaStreamWaitEvent", "cudaStreamSynchronize")
CAPTURING = ("cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphLaunch")


def attempt(stream: Stream) -> tuple[NDArray[np.uint8] | None, str]:
    """The next frames, or what the error says."""
    try:
        return stream.step().frames, ""
    except DeviceError as error:
        return None, str(error)


@pytest.mark.parametrize("name", [*SITES, *CAPTURING])
def test_every_call_that_fails_once_is_told_and_repaired_or_ends_the_stream(machine: Machine, name: str) -> None:
    """Each call of the third chunk, which is captured, and of the fourth, which is replayed."""
    expected = chunks(Stream(machine.open(), seed=1), 5)
    stream, failed = Stream(machine.open(), seed=1), 0
    for index in (2, 3):
        for number in range(1000):
            stream.start()
            for _ in range(index):
                stream.step()
            machine.cuda.fail_at(name, number)
            made, words = attempt(stream)
            if machine.cuda.failing():  # there are fewer such calls
                machine.cuda.fail_at(name, None)
                break
            assert made is None, f"call {number} of {name} failed and nobody said so"
            assert name in words
            assert "\n" not in words
            failed += 1
            again, words = attempt(stream)
            if again is None:
                assert "start the stream again" in words
            else:
                np.testing.assert_array_equal(again, expected[index])
    assert failed > 0
