"""Chunks may be kept, lie where they were made, and show themselves in a notebook."""

from __future__ import annotations

import base64
import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from ms_infer import ConfigError, Stream
from ms_infer.engines.base import DeviceFrames
from ms_infer.engines.torch import TorchEngine
from ms_infer.media import Clip
from tests.quick import QuickEngine
from tests.tiny import tiny_student


class OneBuffer(QuickEngine):
    """Writes every chunk into the same memory, as engines may."""

    def frames(self) -> NDArray[np.uint8]:
        buffer = self.__dict__.setdefault("buffer", np.zeros((12, 32, 32, 3), np.uint8))
        buffer[...] = self.made + 1
        count = 9 if self.made == 0 else 12
        return buffer[:count]


class OnDevice:
    """Stands for frames on a GPU: counts how often they are downloaded."""

    def __init__(self, frames: NDArray[np.uint8]) -> None:
        self.held, self.downloads = frames, 0

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {"shape": self.held.shape, "typestr": "|u1", "data": (4096, True), "version": 3}

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, frames: slice) -> OnDevice:
        return OnDevice(self.held[frames])

    def __dlpack__(self, **options: Any) -> Any:
        return self.held.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def numpy(self) -> NDArray[np.uint8]:
        self.downloads += 1
        return self.held.copy()


class DeviceEngine(OneBuffer):
    def device_frames(self) -> DeviceFrames:
        return OnDevice(super().frames().copy())


def test_kept_chunks_are_not_overwritten() -> None:
    with Stream(OneBuffer()) as stream:
        kept = list(stream.take(frames=40))
    assert [len(chunk.frames) for chunk in kept] == [9, 12, 12, 7]
    assert [np.unique(chunk.frames).tolist() for chunk in kept] == [[1], [2], [3], [4]]


def test_frames_on_a_device_are_downloaded_once_and_when_asked_for() -> None:
    with Stream(DeviceEngine()) as stream:
        assert stream.frames_on == "host"
        stream.frames_on = "device"
        assert stream.frames_on == "device"
        chunk, later = stream.step(), stream.step()
        held = chunk.pixels
        assert isinstance(held, OnDevice)
        assert held.downloads == 0
        assert chunk.__dlpack_device__() == (2, 0)
        assert chunk.__cuda_array_interface__["shape"] == (9, 32, 32, 3)
        assert np.unique(chunk.frames).tolist() == [1]
        assert chunk.frames is chunk.frames
        assert held.downloads == 1
        assert np.unique(later.frames).tolist() == [2]
        stream.frames_on = "host"
        assert isinstance(stream.step().pixels, np.ndarray)


def test_a_cut_chunk_stays_on_the_device() -> None:
    with Stream(DeviceEngine()) as stream:
        stream.frames_on = "device"
        *_, last = stream.take(frames=14)
        assert isinstance(last.pixels, OnDevice)
        assert len(last.pixels) == 5


def test_frames_on_a_device_are_refused_where_there_are_none() -> None:
    with Stream(QuickEngine()) as stream:
        with pytest.raises(ConfigError, match="the quick engine hands out its frames on the host"):
            stream.frames_on = "device"
        with pytest.raises(ConfigError, match="on the 'host' or the 'device', not on 'gpu'"):
            stream.frames_on = "gpu"  # type: ignore[assignment]
        assert stream.frames_on == "host"
        stream.step()


def test_other_libraries_read_the_frames_without_a_copy() -> None:
    with Stream(tiny_student(), engine="torch") as stream:
        chunk = stream.step()
        shared = torch.from_dlpack(chunk)
        assert shared.data_ptr() == chunk.frames.ctypes.data
        assert np.shares_memory(np.from_dlpack(chunk), chunk.frames)
        assert not hasattr(chunk, "__cuda_array_interface__")


def test_torch_frames_are_the_same_where_they_lie() -> None:
    made = tiny_student()
    with Stream(made, engine="torch") as host, Stream(made, engine="torch") as device:
        device.frames_on = "device"
        for _ in range(3):
            expected, chunk = host.step(), device.step()
            np.testing.assert_array_equal(torch.from_dlpack(chunk).numpy(), expected.frames)
            np.testing.assert_array_equal(chunk.frames, expected.frames)
    assert TorchEngine.device_frames is not QuickEngine.device_frames


def shown(bundle: dict[str, str]) -> Image.Image:
    found = re.search(r"base64,([^\"]+)", bundle["text/html"])
    assert found is not None
    return Image.open(io.BytesIO(base64.b64decode(found[1])))


def test_a_notebook_shows_chunks_and_clips() -> None:
    with Stream(tiny_student(), engine="torch") as stream:
        chunk = stream.step()
        alone = shown(chunk._repr_mimebundle_(include=None))
        clip = Clip(stream.take(frames=20))
        together = shown(clip._repr_mimebundle_())
    assert (alone.n_frames, alone.size) == (9, (32, 32))  # type: ignore[attr-defined]
    assert together.n_frames == 20  # type: ignore[attr-defined]
    assert clip.fps == stream.config.fps
    together.seek(19)
    difference = np.abs(np.asarray(together.convert("RGB"), int) - clip.frames[19])
    assert difference.mean() < 12
    with pytest.raises(ConfigError, match="at least one chunk"):
        Clip([])
