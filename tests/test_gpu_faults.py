"""Every launch, allocation, capture and wait of the captured engine fails once: it is told in one line, and what comes
next is right or refused. A stand-in of CUDA's graphs on a CPU: numbers are real, a replay runs the captured work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode

from ms_infer import DeviceError, Stream, Tracks
from ms_infer.checkpoint import Student
from ms_infer.engines.torch import graphs
from ms_infer.engines.torch.captured import FusedEngine
from ms_infer.errors import MotionStreamError
from tests.tiny import tiny_student, without_tracks

Site = tuple[str, int]
OURS = ("/ms_infer/", "/ms_kernels/")
HOST = ("/word_encoder.py", "/text.py")  # prompts are read on the host


class Device(TorchDispatchMode):
    """Notes where operations come from, and lets one of them fail."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[Site, int] = {}
        self.armed: Site | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.visit()
        return func(*args, **(kwargs or {}))

    def visit(self) -> None:
        """Whatever runs now is on its way to the device."""
        frame: Any = sys._getframe(1)
        while frame is not None and not any(part in frame.f_code.co_filename for part in OURS):
            frame = frame.f_back
        if frame is None or frame.f_code.co_filename.endswith(HOST):
            return
        site = (frame.f_code.co_filename.rsplit("/", 1)[-1], frame.f_lineno)
        self.sites[site] = self.sites.get(site, 0) + 1
        if site == self.armed:
            self.armed = None
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB\nSee the documentation")


class Graph:
    """Its replay runs the work that it was captured from."""

    def __init__(self, device: Device, work: Callable[[], None]) -> None:
        self._device, self._work = device, work

    def capture_begin(self, **options: Any) -> None:
        self._device.visit()

    def capture_end(self) -> None:
        self._device.visit()

    def replay(self) -> None:
        self._device.visit()
        self._work()


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Device]:
    found, works = Device(), []
    capture = graphs.CapturedGraph._capture

    def named(graph: graphs.CapturedGraph) -> None:
        works.append(graph._work)
        capture(graph)

    monkeypatch.setattr(graphs.CapturedGraph, "_capture", named)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: Graph(found, works[-1]))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: SimpleNamespace(synchronize=found.visit))
    monkeypatch.setattr("ms_infer.engines.torch.captured.graphs_enabled", lambda device: True)
    with found:
        yield found


def opened(student: Student) -> Stream:
    return Stream(FusedEngine(student, device="cpu", attention="sdpa"), seed=3)


def begin(stream: Stream) -> None:
    picture = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    moved = Tracks.grid(4, 4).drag((0.4, 0.5), (0.8, 0.5), seconds=1.0, radius=0.3)
    stream.start(picture, "a cat", moved if stream.config.model.track_head else None)


@contextmanager
def told() -> Iterator[list[str]]:
    """Collects what an error says; there is one, of one line."""
    words: list[str] = []
    try:
        yield words
    except MotionStreamError as error:
        words.append(str(error))
        assert "\n" not in words[0]


def to_third(stream: Stream) -> None:
    """Two chunks, then a prompt that encodes the context again with the third."""
    begin(stream)
    for _ in range(2):
        stream.step()
    stream.set_prompt("dog night", recache=True)


def expected_chunks(student: Student) -> list[NDArray[np.uint8]]:
    stream = opened(student)
    to_third(stream)
    return [stream.step().frames for _ in range(2)]


def test_whatever_fails_in_a_chunk_is_told_and_the_next_is_right_or_refused(device: Device) -> None:
    """Beside a stream in which nothing fails; every chunk comes with a prompt that encodes the context again."""
    student = tiny_student()
    spared, stream = opened(student), opened(student)
    to_third(spared)
    to_third(stream)
    device.sites.clear()
    stream.step()
    spared.step()
    sites, failed, refused = list(device.sites), 0, 0
    for number, site in enumerate(sites):
        for one in (stream, spared):
            one.set_prompt(("a cat", "night", "dog")[number % 3], recache=True)
        expected = spared.step().frames
        device.armed = site
        with told() as words:
            made = stream.step().frames
        if device.armed:  # what is made once for all chunks
            device.armed = None
            np.testing.assert_array_equal(made, expected)
            continue
        failed += 1
        assert words, f"the failure at {site} was not told"
        assert "out of memory" in words[0], site
        with told() as words:
            np.testing.assert_array_equal(stream.step().frames, expected, err_msg=str(site))
        if words:
            assert "start the stream again" in words[0], site
            refused += 1
            for one in (stream, spared):
                to_third(one)
                one.step()
    assert failed > 40
    assert 0 < refused < failed / 4


def test_whatever_fails_in_a_start_is_told_and_a_new_start_is_right(device: Device) -> None:
    student = without_tracks()
    stream = opened(student)
    begin(stream)
    expected = stream.step().frames
    device.sites.clear()
    begin(stream)
    for site in list(device.sites):
        device.armed = site
        with told() as words:
            begin(stream)
        if device.armed:
            device.armed = None
            continue
        assert words, f"the failure at {site} was not told"
        with told() as words:
            stream.step()
        assert words, f"after the failure at {site} there is no stream"
        begin(stream)
        np.testing.assert_array_equal(stream.step().frames, expected, err_msg=str(site))


@pytest.mark.parametrize("call", ["capture_begin", "capture_end", "replay"])
def test_a_capture_that_fails_is_tried_again(device: Device, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student = tiny_student()
    expected = expected_chunks(student)
    stream, works, failed = opened(student), getattr(Graph, call), []

    def fails_once(graph: Graph, **options: Any) -> None:
        if graph not in failed and len(failed) < 3:
            failed.append(graph)
            raise RuntimeError("CUDA error: operation failed\nCompile with TORCH_USE_CUDA_DSA")
        works(graph, **options)

    monkeypatch.setattr(Graph, call, fails_once)
    begin(stream)
    for _ in range(8):
        if stream._run is not None and stream._run.index == 2:
            break
        with told():
            stream.step()
    stream.set_prompt("dog night", recache=True)
    for wanted in expected:
        np.testing.assert_array_equal(stream.step().frames, wanted)
    assert len(failed) == 3


def test_an_error_of_the_device_is_a_device_error(device: Device) -> None:
    stream = opened(tiny_student())
    begin(stream)
    device.sites.clear()
    stream.step()
    device.armed = list(device.sites)[-1]
    with pytest.raises(DeviceError, match="the GPU could not"):
        stream.step()
