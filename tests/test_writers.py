"""Videos out: what is written reads back, and a disk that fills loses nothing that was whole."""

from __future__ import annotations

import contextlib
import errno
import logging
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from ms_infer.errors import ConfigError, MotionStreamError
from ms_infer.media import VideoWriter, open_writer, read_video, writers

HEIGHT, WIDTH = 48, 64


def noise_video(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, HEIGHT, WIDTH, 3), np.uint8)


def smooth_video(frames: int) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rows = [np.stack([x * 3 + 4 * k, y * 4, np.full_like(x, 20 * k % 256)], -1) % 256 for k in range(frames)]
    return np.stack(rows).astype(np.uint8)


@pytest.mark.parametrize(("name", "tolerance"), [("v.mp4", 6.0), ("v.gif", 8.0)])
def test_a_written_video_reads_back(tmp_path: Path, name: str, tolerance: float) -> None:
    frames = smooth_video(20)
    with open_writer(tmp_path / name, height=HEIGHT, width=WIDTH, fps=12.5) as writer:
        writer.write(frames[:9])
        writer.write(frames[9:])
    assert writer.frames_written == 20
    assert [file.name for file in tmp_path.iterdir()] == [name]
    back, fps = read_video(tmp_path / name)
    assert back.shape == frames.shape
    assert fps == pytest.approx(12.5)
    error = np.abs(back.astype(int) - frames).mean((1, 2, 3))
    assert error.max() < tolerance


@pytest.mark.parametrize("colour", [(200, 30, 30), (30, 200, 30), (20, 40, 220), (255, 255, 255), (0, 0, 0)])
def test_colours_survive_mp4(tmp_path: Path, colour: tuple[int, int, int]) -> None:
    frames = np.broadcast_to(np.array(colour, np.uint8), (3, HEIGHT, WIDTH, 3))
    with open_writer(tmp_path / "v.mp4", height=HEIGHT, width=WIDTH, fps=16) as writer:
        writer.write(frames)
    back, _ = read_video(tmp_path / "v.mp4")
    np.testing.assert_allclose(back.reshape(-1, 3).mean(0), colour, atol=3)


def boxes(path: Path) -> list[bytes]:
    data, position, names = path.read_bytes(), 0, []
    while position < len(data):
        names.append(data[position + 4 : position + 8])
        position += int.from_bytes(data[position : position + 4], "big")
    assert position == len(data)
    return names


def test_a_finished_mp4_has_its_index_first_and_no_fragments(tmp_path: Path) -> None:
    with open_writer(tmp_path / "v.mp4", height=HEIGHT, width=WIDTH, fps=16) as writer:
        writer.write(smooth_video(40))
    names = boxes(tmp_path / "v.mp4")
    assert names.index(b"moov") < names.index(b"mdat")
    assert b"moof" not in names


def test_a_png_folder_holds_the_exact_frames(tmp_path: Path) -> None:
    frames = noise_video(3)
    with open_writer(f"{tmp_path}/out/", height=HEIGHT, width=WIDTH, fps=16) as writer:
        writer.write(frames)
    files = sorted((tmp_path / "out").iterdir())
    assert [file.name for file in files] == ["000000.png", "000001.png", "000002.png"]
    np.testing.assert_array_equal(np.stack([np.asarray(Image.open(file)) for file in files]), frames)
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not an empty folder"), open_writer(tmp_path, height=2, width=2, fps=1):
        pass
    assert (tmp_path / "keep.txt").read_text() == "mine"


def test_a_pipe_gets_raw_rgb() -> None:
    code = (
        "import numpy as np; from ms_infer.media import open_writer\n"
        "frames = np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)\n"
        "with open_writer('-', height=2, width=2, fps=16) as writer: writer.write(frames)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == bytes(range(24))


def test_a_pipe_that_is_closed_is_a_clear_error() -> None:
    code = (
        "import numpy as np; from ms_infer.media import open_writer; from ms_infer.errors import MotionStreamError\n"
        "import sys, os\n"
        "try:\n"
        "  with open_writer('-', height=64, width=64, fps=16) as w: w.write(np.zeros((99, 64, 64, 3), np.uint8))\n"
        "except MotionStreamError as error: sys.stderr.write(str(error)); sys.stderr.flush(); os._exit(7)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    message = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait() == 7
    assert "standard output took" in message


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((2, 48, 60, 3), np.uint8), r"\[T, 48, 64, 3\], got uint8 \[2, 48, 60, 3\]"),
        (np.zeros((48, 64, 3), np.uint8), "got uint8"),
        (np.zeros((1, 48, 64, 3), np.float32), "got float32"),
    ],
)
def test_frames_that_do_not_fit_are_refused(tmp_path: Path, frames: np.ndarray, message: str) -> None:
    with (
        pytest.raises(ConfigError, match=message),
        open_writer(tmp_path / "v.gif", height=HEIGHT, width=WIDTH, fps=16) as writer,
    ):
        writer.write(frames)
    assert not list(tmp_path.iterdir())


def test_targets_that_cannot_be_are_refused(tmp_path: Path) -> None:
    for name, options, message in [
        ("v.avi", {}, r"end it in \.mp4, \.gif, \.y4m or /"),
        ("no/v.mp4", {}, "there is no folder"),
        ("v.mp4", {"fps": 0}, "positive size and rate"),
        ("v.mp4", {"height": 47}, "even height and width"),
    ]:
        with (
            pytest.raises(ConfigError, match=message),
            open_writer(tmp_path / name, **({"height": HEIGHT, "width": WIDTH, "fps": 16} | options)),  # type: ignore[arg-type]
        ):
            pass
    assert not list(tmp_path.iterdir())


def test_a_closed_writer_says_so(tmp_path: Path) -> None:
    writer = open_writer(tmp_path / "v.gif", height=HEIGHT, width=WIDTH, fps=16)
    with pytest.raises(ConfigError, match="closed"):
        writer.write(smooth_video(1))


def interrupted(writer: VideoWriter) -> None:
    writer.write(smooth_video(21))
    raise KeyboardInterrupt


@pytest.mark.parametrize("fps", [16, 24, 50, 60, 100, 144])
def test_no_delay_of_a_gif_is_one_that_players_slow_down(tmp_path: Path, fps: int) -> None:
    frames = np.tile(np.arange(48, dtype=np.uint8)[:, None, None, None] * 5, (1, HEIGHT, WIDTH, 3))
    with open_writer(tmp_path / "v.gif", height=HEIGHT, width=WIDTH, fps=fps) as writer:
        writer.write(frames)
    assert writer.frames_written == 48
    begin = 0
    with Image.open(tmp_path / "v.gif") as image:
        for picture in ImageSequence.Iterator(image):
            assert picture.info["duration"] >= 20
            shows = round(float(np.asarray(picture.convert("L")).mean()) / 5)
            assert abs(begin / 1000 - shows / fps) <= 0.0051  # rounded to 1/100 s
            begin += picture.info["duration"]
    assert abs(begin / 1000 - 48 / fps) < 0.0251


@pytest.mark.parametrize("name", ["v.mp4", "v.gif"])
def test_an_error_inside_the_block_keeps_all_frames_and_the_old_file(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / name).write_bytes(b"old")
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(KeyboardInterrupt),
        open_writer(tmp_path / name, height=HEIGHT, width=WIDTH, fps=16) as writer,
    ):
        interrupted(writer)
    assert (tmp_path / name).read_bytes() == b"old"
    partial = tmp_path / name.replace("v.", "v.partial.")
    assert read_video(partial)[0].shape[0] == 21
    assert str(partial) in caplog.text


def in_chunks(writer: VideoWriter, frames: np.ndarray) -> None:
    for start in range(0, len(frames), 4):
        writer.write(frames[start : start + 4])


@contextlib.contextmanager
def disk_of(limit: int) -> Iterator[None]:
    """Files of this process cannot grow past `limit` bytes: real short and failing writes by the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", ["v.mp4", "v.gif"])
@pytest.mark.parametrize("limit", [100_000, 150_001, 220_000])
def test_a_disk_that_fills_keeps_a_playable_partial_file(tmp_path: Path, name: str, limit: int) -> None:
    frames = np.repeat(noise_video(160)[..., :1], 3, -1)  # grey: H.264 halves the resolution of colour
    with (
        disk_of(limit),
        pytest.raises(MotionStreamError, match=rf"cannot write .*{name}.*v\.partial.* and plays"),
        open_writer(tmp_path / name, height=HEIGHT, width=WIDTH, fps=8) as writer,
    ):
        in_chunks(writer, frames)
    partial = tmp_path / name.replace("v.", "v.partial.")
    assert [file.name for file in tmp_path.iterdir()] == [partial.name]
    assert limit // 2 < partial.stat().st_size <= limit
    back, _ = read_video(partial)
    assert 0 < len(back) <= writer.frames_written
    error = np.abs(back.astype(int) - frames[: len(back)]).mean((1, 2, 3))
    assert error.max() < 15  # noise against other noise is 85
    if name.endswith("mp4"):
        assert boxes(partial)[-1] == b"mdat"


def test_a_disk_that_fills_during_the_last_repacking_still_gives_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: writers._Mp4, packed: Path) -> None:
        packed.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writers._Mp4, "_repack", full)
    with open_writer(tmp_path / "v.mp4", height=HEIGHT, width=WIDTH, fps=16) as writer:
        writer.write(smooth_video(20))
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]
    assert len(read_video(tmp_path / "v.mp4")[0]) == 20


def test_a_png_that_does_not_fit_leaves_only_whole_pictures(tmp_path: Path) -> None:
    frames = np.concatenate([smooth_video(3), noise_video(1)])
    with (
        disk_of(8_000),
        pytest.raises(MotionStreamError, match="File too large"),
        open_writer(f"{tmp_path}/out/", height=HEIGHT, width=WIDTH, fps=16) as writer,
    ):
        writer.write(frames)
    assert sorted(file.name for file in (tmp_path / "out.partial").iterdir()) == [f"{k:06d}.png" for k in range(3)]
    assert not (tmp_path / "out").exists()


def test_nothing_is_left_when_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(KeyError), open_writer(tmp_path / "v.mp4", height=HEIGHT, width=WIDTH, fps=16):
        raise KeyError
    assert not list(tmp_path.iterdir())
