"""Frames of the TensorRT engine in device memory of their own, on a GPU that records."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

pytest.importorskip("tensorrt_rtx", reason="needs the extra [rtx]")
pytest.importorskip("cuda.bindings.runtime", reason="needs the extra [rtx]")

from ms_infer import Stream
from ms_infer.engines.tensorrt import dlpack
from tests.engines.test_tensorrt import Machine, chunks, tracks
from tests.tiny import tiny_student


class Owner:
    """What keeps memory alive."""


class Exporter:
    """Memory of the host as a capsule."""

    def __init__(self, memory: NDArray[np.uint8], owner: Owner) -> None:
        self.memory, self.owner = memory, owner

    def __dlpack__(self, **_options: Any) -> Any:
        return dlpack.capsule_of(int(self.memory.ctypes.data), (2, 3, 4), self.owner, (dlpack.CPU, 0))

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CPU, 0


def test_frames_stay_on_the_device_until_they_are_read(tmp_path: Path) -> None:
    machine, picture = Machine(tiny_student(), tmp_path), np.full((32, 32, 3), 90, np.uint8)
    with Stream(machine.open()) as host:
        expected = chunks(host, 4, picture, "a cat", tracks())
    stream = Stream(machine.open())
    stream.frames_on = "device"
    stream.start(picture, "a cat", tracks())
    before = machine.cuda.names().count("cudaFree")
    made = [stream.step() for _ in range(4)]
    for chunk, frames in zip(made, expected, strict=True):
        interface = chunk.__cuda_array_interface__
        assert interface["shape"] == frames.shape
        assert machine.cuda.owns(interface["data"][0], frames.nbytes)
        np.testing.assert_array_equal(chunk.frames, frames)
        np.testing.assert_array_equal(chunk.first(3).frames, frames[:3])
    assert len({chunk.__cuda_array_interface__["data"][0] for chunk in made}) == 4
    place, size = made[3].__cuda_array_interface__["data"][0], expected[3].nbytes
    stream.close()
    assert machine.cuda.owns(place, size)  # a chunk outlives its stream
    del made, chunk
    assert not machine.cuda.owns(place, size)
    assert machine.cuda.names().count("cudaFree") > before


def test_a_capsule_holds_its_memory_until_it_is_let_go_of() -> None:
    memory, owner = np.arange(24, dtype=np.uint8), Owner()
    alive = weakref.ref(owner)

    exporter = Exporter(memory, owner)
    taken = torch.from_dlpack(exporter)
    np.testing.assert_array_equal(taken.numpy(), memory.reshape(2, 3, 4))
    assert taken.data_ptr() == memory.ctypes.data
    unread = exporter.__dlpack__()
    assert len(dlpack._held) == 2
    del unread
    assert len(dlpack._held) == 1
    del exporter, owner
    gc.collect()
    assert alive() is not None
    del taken
    gc.collect()
    assert not dlpack._held
    assert alive() is None
