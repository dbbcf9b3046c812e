"""Videos in: the right stream, its times, its shape, and what is left of a damaged file."""

from __future__ import annotations

import io
import itertools
import logging
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from ms_infer.errors import ConfigError
from ms_infer.media import open_video, open_writer, read_video
from ms_infer.media.timing import steady_rate
from ms_infer.tracks import Tracks
from tests.test_media import corners, quarters

HEIGHT, WIDTH = 48, 64


def steps(count: int) -> np.ndarray:
    """uint8 [count, 48, 64, 3], each picture of one grey, 20 lighter than the one before."""
    return np.tile((np.arange(count, dtype=np.uint8) * 20)[:, None, None, None], (1, HEIGHT, WIDTH, 3))


def shown(frames: np.ndarray) -> list[int]:
    """Which of the `steps` each RGB frame shows."""
    return np.rint(frames.mean((1, 2, 3)) / 20).astype(int).tolist()


def write(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    ticks: Sequence[int] | None = None,
    shape: Fraction = Fraction(1),
    options: dict[str, str] | None = None,
) -> Path:
    """A video whose pictures come at `ticks` milliseconds, by default 10 a second."""
    height, width = frames.shape[1:3]
    with av.open(str(path), "w", options=options or {}) as container:
        stream: Any = container.add_stream(codec, rate=10)
        stream.width, stream.height = width, height
        stream.pix_fmt = "rgb24" if codec == "png" else "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        stream.codec_context.sample_aspect_ratio = shape
        for frame, tick in zip(frames, ticks or range(0, 100 * len(frames), 100), strict=True):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            picture.pts, picture.time_base = tick, Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
    return path


def gif(path: Path, count: int, delays: Sequence[int]) -> Path:
    """Delays in milliseconds."""
    first, *others = (Image.fromarray(frame) for frame in steps(count))
    first.save(path, save_all=True, append_images=others, duration=list(delays), loop=0)
    return path


def box(kind: bytes, *content: bytes) -> bytes:
    data = b"".join(content)
    return struct.pack(">I", 8 + len(data)) + kind + data


# ---- the right stream


def with_cover(data: bytes, cover: bytes) -> bytes:
    """An mp4 that ends in its index, with a cover before its tracks."""
    moov = data.rindex(b"moov") - 4
    assert moov + struct.unpack(">I", data[moov : moov + 4])[0] == len(data)
    head = moov + 8 + struct.unpack(">I", data[moov + 8 : moov + 12])[0]
    entry = box(b"covr", box(b"data", struct.pack(">II", 14, 0), cover))
    handler = box(b"hdlr", bytes(8), b"mdirappl", bytes(9))
    udta = box(b"udta", box(b"meta", bytes(4), handler, box(b"ilst", entry)))
    return data[:moov] + box(b"moov", data[moov + 8 : head], udta, data[head:])


def test_the_cover_of_a_video_is_not_the_video(tmp_path: Path) -> None:
    cover = io.BytesIO()
    Image.fromarray(quarters(200, 300)).save(cover, "PNG")
    path = write(tmp_path / "v.mp4", steps(8))
    path.write_bytes(with_cover(path.read_bytes(), cover.getvalue()))
    with av.open(str(path)) as container:
        assert [stream.width for stream in container.streams.video] == [300, WIDTH]  # the cover is first
    frames, fps = read_video(path)
    assert (frames.shape, fps, shown(frames)) == ((8, HEIGHT, WIDTH, 3), 10, list(range(8)))
    assert Tracks.from_video(path, 2, 2).rgb_frames == 8


def test_a_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with open_writer("12:30.mp4", height=HEIGHT, width=WIDTH, fps=10) as writer:
        writer.write(steps(5))
    assert shown(read_video("12:30.mp4")[0]) == list(range(5))
    assert b"moof" not in Path("12:30.mp4").read_bytes()  # repacked, index first


# ---- damage


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4", "v.ts"])
def test_a_file_that_was_cut_off_keeps_what_can_be_read(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (20, HEIGHT, WIDTH, 3), np.uint8)
    whole = write(tmp_path / name, noise, options={"movflags": "faststart"} if name == "v.mp4" else None)
    frames, _ = read_video(whole)
    assert len(frames) == 20
    data = whole.read_bytes()
    whole.write_bytes(data[: len(data) * 6 // 10])
    with caplog.at_level(logging.WARNING):
        left, fps = read_video(whole)
    assert fps == 10
    assert 8 <= len(left) < 20
    np.testing.assert_array_equal(left[:8], frames[:8])
    if name == "v.mp4":  # of the others nobody can say that something is missing
        assert "damaged or cut off" in caplog.text


def test_a_damaged_packet_costs_its_picture_and_no_other(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "v.mov", steps(9), codec="png")
    with av.open(str(path)) as container:
        packet = next(itertools.islice(container.demux(video=0), 4, None))
        content = bytes(packet)
    path.write_bytes(path.read_bytes().replace(content, bytes(len(content))))
    with caplog.at_level(logging.WARNING):
        frames, _ = read_video(path)
    assert shown(frames) == [0, 1, 2, 3, 3, 5, 6, 7, 8]  # the one before stays on show
    assert "damaged or cut off" in caplog.text
    assert Tracks.from_video(path, 2, 2).rgb_frames == 9


def test_a_video_of_which_nothing_can_be_read_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mov", steps(3), codec="png")
    path.write_bytes(path.read_bytes().replace(b"IHDR", b"IHDX"))
    with pytest.raises(ConfigError, match=r"v\.mov holds no decodable picture: "):
        read_video(path)


# ---- shape


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("across", [1, -1])
@pytest.mark.parametrize("down", [1, -1])
def test_the_whole_display_matrix_is_applied(tmp_path: Path, turned: bool, across: int, down: int) -> None:
    upright = quarters(48, 64)
    stored = upright[::down, ::across]
    path = write(tmp_path / "v.mp4", np.stack([stored.swapaxes(0, 1) if turned else stored] * 3))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40
    a, b, c, d = (0, down, across, 0) if turned else (across, 0, 0, down)
    data[at : at + 36] = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    for frames, _ in (read_video(path), read_video(path, 48, 64)):
        assert frames.shape == (3, 48, 64, 3)
        np.testing.assert_allclose(corners(frames[0]), corners(upright), atol=12)


@pytest.mark.parametrize(
    ("shape", "size"), [(Fraction(2), (48, 128)), (Fraction(4, 3), (48, 85)), (Fraction(1, 2), (96, 64))]
)
def test_pixels_become_square(tmp_path: Path, shape: Fraction, size: tuple[int, int]) -> None:
    picture = np.zeros((48, 64, 3), np.uint8)
    picture[16:32, 16:48] = 255  # a third of the height, half of the width
    path = write(tmp_path / "v.mkv", np.stack([picture] * 3), shape=shape)
    frames, _ = read_video(path)
    assert frames.shape == (3, *size, 3)
    bright = frames[0, ..., 1] > 128
    np.testing.assert_allclose([bright.any(1).mean(), bright.any(0).mean()], [1 / 3, 1 / 2], atol=0.03)
    square, _ = read_video(path, 32, 32)
    side = 32 / min(48, 64 * shape) if shape >= 1 else 32 / min(96, 64)
    bright = square[0, ..., 1] > 128
    wanted = [16 * side, min(32 * shape * side, 32)] if shape >= 1 else [32 * side, 32 * side]
    np.testing.assert_allclose([bright.any(1).sum(), bright.any(0).sum()], [float(v) for v in wanted], atol=1.1)


# ---- times


@pytest.mark.parametrize("name", ["v.mkv", "v.mp4"])
def test_a_variable_frame_rate_keeps_its_times(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, steps(6), ticks=[0, 100, 200, 700, 800, 900])
    frames, fps = read_video(path)
    assert fps == 10
    assert shown(frames)[:10] == [0, 1, 2, 2, 2, 2, 2, 3, 4, 5]
    tracks = Tracks.from_video(path, 2, 2)
    assert (tracks.fps, tracks.rgb_frames) == (10, len(frames))


def test_a_gif_keeps_its_delays(tmp_path: Path) -> None:
    frames, fps = read_video(gif(tmp_path / "v.gif", 4, [100, 500, 100, 300]))
    assert fps == 10
    assert shown(frames) == [0, 1, 1, 1, 1, 1, 2, 3, 3, 3]
    frames, fps = read_video(gif(tmp_path / "v.gif", 3, [70, 120, 70]))
    assert abs(len(frames) / fps - 0.26) <= 0.5 / fps
    assert np.abs(np.flatnonzero(np.diff(shown(frames))) + 1 - np.multiply([0.07, 0.19], fps)).max() <= 0.5


@pytest.mark.parametrize("fps", [12, 23.976, 24, 25, 29.97, 30, 50, 60])
@pytest.mark.parametrize("base", [Fraction(1, 1000), Fraction(1, 90000), Fraction(1, 12800)])
def test_even_times_keep_the_stated_rate(fps: float, base: Fraction) -> None:
    stated = Fraction(fps).limit_denominator(1001)
    ticks = [round(k / stated / base) for k in range(900)]
    assert steady_rate(ticks, base, [stated, None]) == (stated, 0)
    late = np.random.default_rng(0).uniform(-0.4, 0.4, len(ticks)) / float(stated * base)
    shaken = [tick + round(by) for tick, by in zip(ticks, late, strict=True)]
    rate, begin = steady_rate(shaken, base, [stated, None])
    assert rate == stated
    assert abs(begin) < 0.1 / stated  # not the time of the first, which is as shaken as the others


@pytest.mark.parametrize(
    ("ticks", "stated", "expected"),
    [
        ([0, 42, 83, 167, 208], [Fraction(19), Fraction(24)], 24),  # a picture of 24 a second is missing
        ([0, 100, 200, 700], [Fraction(4), Fraction(1000)], 10),
        ([0, 33, 71, 104, 367], [Fraction(11)], Fraction(1000, 33)),
        ([0, 1, 3], [Fraction(90000)], 60),
        ([0], [None, None], 24),
        ([], [Fraction(25)], 25),
    ],
)
def test_uneven_times_get_a_rate_that_keeps_them(ticks: list[int], stated: list[Any], expected: Fraction) -> None:
    assert steady_rate(ticks, Fraction(1, 1000), stated)[0] == expected


def test_an_asked_for_rate_is_not_shaken_by_rounded_times(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", steps(12), ticks=[round(1000 * k / 24) for k in range(12)])
    assert shown(read_video(path, fps=24)[0])[:12] == list(range(12))


# ---- memory


def test_motion_is_followed_while_the_video_is_read(tmp_path: Path) -> None:
    path, count, size = tmp_path / "v.mp4", 60, (120, 160)
    with open_writer(path, height=size[0], width=size[1], fps=24) as writer:
        for k in range(count):
            writer.write(np.full((1, *size, 3), 3 * k, np.uint8))
    Tracks.from_video(path, 4, 4, max_frames=2)  # what is loaded on the way counts no frames
    tracemalloc.start()
    try:
        tracks = Tracks.from_video(path, 4, 4)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert tracks.rgb_frames == count
    assert peak < 0.4 * count * size[0] * size[1] * 3


def test_reading_holds_no_frame_that_was_handed_out(tmp_path: Path) -> None:
    path, size = tmp_path / "v.mp4", (360, 640)
    with open_writer(path, height=size[0], width=size[1], fps=24) as writer:
        for k in range(240):
            writer.write(np.full((1, *size, 3), k, np.uint8))
    code = (
        "import resource, sys\nfrom ms_infer.media import open_video\n"
        "peaks = [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss for _ in open_video(sys.argv[1])[0]]\n"
        "print(len(peaks), (peaks[-1] - peaks[40]) * 1024)\n"
    )
    run = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    count, growth = map(int, run.stdout.split())
    assert count == 240
    assert growth < 50 * size[0] * size[1] * 3 / 2  # of 200 decoded frames of 1.5 bytes a pixel


def test_reading_ends_with_the_wanted_frames(tmp_path: Path) -> None:
    path = write(tmp_path / "v.mkv", steps(12))
    frames, fps = open_video(path, max_frames=3)
    assert (shown(np.stack(list(frames))), fps) == ([0, 1, 2], 10)
    with pytest.raises(ConfigError, match="fps must be positive"):
        open_video(path, fps=0)
