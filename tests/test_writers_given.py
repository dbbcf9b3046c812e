"""Writers into open files and pipes: mp4, gif, y4m and raw frames, as they come."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ms_infer.errors import ConfigError, MotionStreamError
from ms_infer.media import open_writer, read_video
from ms_infer.media.raw import planes

HEIGHT, WIDTH = 48, 64


def ramp(count: int) -> np.ndarray:
    """Slowly changing colours, which every codec keeps well."""
    x, y = np.meshgrid(np.linspace(0, 200, WIDTH), np.linspace(0, 200, HEIGHT))
    return np.stack([np.stack([x + i, y + i, 255 - x], -1) for i in range(count)]).clip(0, 255).astype(np.uint8)


class Pipe:
    """Takes bytes, and nothing else: no seek, no tell."""

    def __init__(self, limit: int | None = None) -> None:
        self.data, self.limit = b"", limit

    def write(self, data: bytes) -> int:
        if self.limit is not None and len(self.data) + len(data) > self.limit:
            raise BrokenPipeError(32, "Broken pipe")
        self.data += bytes(data)
        return len(data)


def test_rgb24_into_an_open_file() -> None:
    pipe = Pipe()
    with open_writer(pipe, height=HEIGHT, width=WIDTH, fps=16, kind="rgb24") as writer:
        writer.write(ramp(3))
    assert pipe.data == ramp(3).tobytes()


def test_an_mp4_plays_while_it_comes_and_the_file_stays_open(tmp_path: Path) -> None:
    pytest.importorskip("av", reason="no PyAV")
    pipe = Pipe()
    with open_writer(pipe, height=HEIGHT, width=WIDTH, fps=16, kind="mp4") as writer:
        writer.write(ramp(80))
        assert b"moof" in pipe.data  # fragments are out before the end
    (tmp_path / "v.mp4").write_bytes(pipe.data)
    frames, fps = read_video(tmp_path / "v.mp4")
    assert (len(frames), fps) == (80, 16)
    assert np.abs(frames[40].astype(int) - ramp(80)[40]).mean() < 6
    memory = io.BytesIO()
    with open_writer(memory, height=HEIGHT, width=WIDTH, fps=16, kind="mp4") as writer:
        writer.write(ramp(2))
    assert not memory.closed


def test_a_gif_into_memory() -> None:
    memory = io.BytesIO()
    with open_writer(memory, height=HEIGHT, width=WIDTH, fps=10, kind="gif") as writer:
        writer.write(ramp(5))
    picture = Image.open(io.BytesIO(memory.getvalue()))
    assert (picture.n_frames, picture.size) == (5, (WIDTH, HEIGHT))  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (HEIGHT - 1, WIDTH - 1)])
def test_y4m_is_read_by_other_programs(tmp_path: Path, size: tuple[int, int]) -> None:
    pytest.importorskip("av", reason="no PyAV")
    height, width = size
    frames = ramp(4)[:, :height, :width]
    with open_writer(tmp_path / "v.y4m", height=height, width=width, fps=24000 / 1001) as writer:
        writer.write(frames)
    assert [file.name for file in tmp_path.iterdir()] == ["v.y4m"]
    head = (tmp_path / "v.y4m").read_bytes().split(b"\n")[0].decode()
    assert head.startswith(f"YUV4MPEG2 W{width} H{height} F24000:1001 ")
    import av

    with av.open(str(tmp_path / "v.y4m")) as container:
        decoded = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    assert len(decoded) == 4
    assert np.abs(np.stack(decoded).astype(int) - frames).mean() < 3


def test_colours_of_y4m_are_bt601_in_limited_range() -> None:
    known = {(0, 0, 0): (16, 128, 128), (255, 255, 255): (235, 128, 128), (255, 0, 0): (82, 90, 240)}
    for rgb, yuv in known.items():
        made = [int(plane[0, 0]) for plane in planes(np.full((2, 2, 3), rgb, np.uint8), halves=True)]
        assert np.abs(np.array(made) - yuv).max() <= 1


def test_y4m_on_standard_output() -> None:
    code = (
        "import numpy as np; from ms_infer.media import open_writer\n"
        "with open_writer('-.y4m', height=2, width=2, fps=16) as writer: writer.write(np.zeros((2, 2, 2, 3), np.uint8))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    head, *frames = done.stdout.split(b"FRAME\n")
    assert head == b"YUV4MPEG2 W2 H2 F16:1 Ip A1:1 C420jpeg XCOLORRANGE=LIMITED\n"
    assert frames == [bytes([16, 16, 16, 16, 128, 128])] * 2


def test_a_pipe_that_breaks_is_a_clear_error() -> None:
    with pytest.raises(MotionStreamError, match="took 1 RGB frames, then failed: Broken pipe"):  # noqa: SIM117
        with open_writer(Pipe(HEIGHT * WIDTH * 4), height=HEIGHT, width=WIDTH, fps=16, kind="rgb24") as writer:
            writer.write(ramp(3))


def test_the_kind_is_said_where_no_ending_does_and_only_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one of mp4, gif, y4m, rgb24, not None"):
        open_writer(io.BytesIO(), height=2, width=2, fps=16)
    with pytest.raises(ConfigError, match="goes with an open file"):
        open_writer(tmp_path / "v.gif", height=2, width=2, fps=16, kind="gif")
