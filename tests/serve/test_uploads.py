"""Pictures, videos and webcam pictures that clients send: what is taken, and what is refused."""

from __future__ import annotations

import contextlib
import io
import resource
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from typing import Any

import av
import httpx
import numpy as np
import pytest
from PIL import Image

from ms_infer.errors import ConfigError
from ms_infer.serve.pictures.uploads import WebcamMotion, is_picture, is_video, read_motion, read_picture
from ms_infer.serve.settings import Limits
from tests.serve.live import Page, Running, running

SMALL = Limits(image_bytes=2 << 20, video_bytes=2 << 20, pixels=1 << 20, upload_seconds=2.0)


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with running(fps=48.0, max_sessions=64, min_fps=0.01, limits=SMALL) as made:
        yield made


def png(height: int, width: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (200, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def bilevel_png(side: int) -> bytes:
    """A black square picture of one bit a pixel."""

    def part(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    rows = zlib.compress(bytes(side * (1 + side // 8)))
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", head) + part(b"IDAT", rows) + part(b"IEND", b"")


def mp4(frames: int, size: int = 64) -> bytes:
    """A bright square that moves to the right by 1 pixel a frame over a noisy ground."""
    buffer = io.BytesIO()
    ground = np.random.default_rng(0).integers(0, 90, (size, size, 3), np.uint8).repeat(4, 0).repeat(4, 1)[:size, :size]
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=16)
        stream.width = stream.height = size
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            picture = ground.copy()
            left = 8 + index % 32
            picture[20:44, left : left + 24] = np.roll(ground[20:44, :24], 5, 0) + 140
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return buffer.getvalue()


def post(server: Running, page: Page, what: str, body: Any, **headers: str) -> httpx.Response:
    with server.http(timeout=30) as http:
        path = f"/api/sessions/{page.hello['session']}/{what}"
        return http.post(path, content=body, headers={"x-session-key": page.hello["key"], **headers})


def test_picture_is_taken_and_starts_over(server: Running) -> None:
    with Page(server) as page:
        assert post(server, page, "image", png(100, 80)).json() == {"width": 64, "height": 64}
        page.until(lambda: page.frames)
        shown = np.asarray(Image.open(io.BytesIO(page.frames[-1].picture)))
        assert np.abs(shown.astype(int) - (200, 30, 30)).max() < 12


@pytest.mark.parametrize(
    "body",
    [b"", b"GIF89a", b"\xff\xd8\xff\xe0 not really", png(64, 64)[:60], b"%!PS-Adobe-3.0 EPSF", b"<svg/>", bytes(5000)],
)
def test_what_is_no_picture_is_refused_in_words(server: Running, body: bytes) -> None:
    with Page(server) as page:
        answer = post(server, page, "image", body)
        assert answer.status_code == 422
        assert answer.json()["error"]
        assert "Traceback" not in answer.text
        assert "/" not in answer.json()["error"].replace("H/W", "")


def test_picture_with_too_many_pixels_is_not_decoded(server: Running) -> None:
    bomb = bilevel_png(20_000)  # 1.2 GB as RGB
    assert len(bomb) < SMALL.image_bytes
    with Page(server) as page:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        answer = post(server, page, "image", bomb)
        assert answer.status_code == 422
        assert "pixels" in answer.json()["error"]
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB


def test_upload_beyond_the_limit_is_cut_off(server: Running) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1000):
            yield bytes(1 << 20)

    with Page(server) as page:
        assert post(server, page, "image", bytes(SMALL.image_bytes + 1)).status_code == 413
        with contextlib.suppress(httpx.TransportError):  # closed while we were still sending: as good
            assert post(server, page, "image", endless()).status_code == 413
        page.send("start")
        page.until(lambda: page.frames)


def test_upload_that_trickles_is_given_up(server: Running) -> None:
    with Page(server) as page, socket.create_connection(("127.0.0.1", server.port)) as raw:
        head = f"POST /api/sessions/{page.hello['session']}/image HTTP/1.1\r\nHost: {server.host}\r\n"
        raw.sendall(f"{head}x-session-key: {page.hello['key']}\r\nContent-Length: 1000\r\n\r\nx".encode())
        raw.settimeout(10)
        assert b" 408 " in raw.recv(4000)


def test_upload_that_goes_on_may_take_longer(server: Running) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 60, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    data = buffer.getvalue()
    piece = len(data) // 5 + 1
    assert piece >= SMALL.upload_progress

    def slowly() -> Iterator[bytes]:
        for at in range(0, len(data), piece):
            time.sleep(SMALL.upload_seconds / 3)
            yield data[at : at + piece]

    with Page(server) as page:
        begin = time.monotonic()
        assert post(server, page, "image", slowly()).status_code == 200
        assert time.monotonic() - begin > SMALL.upload_seconds


def test_upload_of_single_bytes_is_no_progress(server: Running) -> None:
    def trickle() -> Iterator[bytes]:
        for _ in range(1000):
            time.sleep(0.1)
            yield b"x"

    with Page(server) as page, contextlib.suppress(httpx.TransportError):  # closed while we were still sending
        assert post(server, page, "image", trickle()).status_code == 408


def test_video_becomes_motion(server: Running) -> None:
    with Page(server) as page:
        page.send("start")
        answer = post(server, page, "video", mp4(24))
        assert answer.json()["tracks"] == 144
        page.until(lambda: page.acks and (page.acks[-1].kinds == 3).sum() == 144)
        page.send("transfer", on=False)
        page.until(lambda: not (page.acks[-1].kinds == 3).any())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile '/etc/passwd'\n",
        b"\0\0\0\x18ftypmp42" + bytes(3000),
        b"\x1aE\xdf\xa3" + bytes(3000),
        mp4(8)[:700],
        png(16, 16),
    ],
)
def test_what_is_no_video_is_refused_in_words(server: Running, body: bytes) -> None:
    with Page(server) as page:
        answer = post(server, page, "video", body)
        assert answer.status_code == 422
        assert "Traceback" not in answer.text
        assert "passwd" not in answer.text
        assert "upload" not in answer.json()["error"]  # the name of our temporary file


def test_video_is_read_only_so_long() -> None:
    tracks = read_motion(mp4(64), 64, 64, 16.0, Limits(video_seconds=1.0))
    assert tracks.rgb_frames == 16


def test_video_of_large_pictures_is_refused() -> None:
    with pytest.raises(ConfigError, match="Mpx"):
        read_motion(mp4(2, size=1024), 64, 64, 16.0, SMALL)


def test_kinds_of_files_are_told_by_their_first_bytes() -> None:
    assert is_picture(png(2, 2))
    assert not is_picture(b"RIFF\0\0\0\0AVI ")
    assert is_video(mp4(2))
    assert not is_video(b"RIFF\0\0\0\0AVI ")
    with pytest.raises(ConfigError, match="JPEG"):
        read_picture(b"II*\0", 64, 64, SMALL)


def test_webcam_pictures_are_bounded() -> None:
    motion = WebcamMotion()
    buffer = io.BytesIO()
    Image.new("L", (1000, 1000)).save(buffer, "JPEG")
    for data in (b"", b"\xff\xd8\xff", png(8, 8), buffer.getvalue(), b"\xff\xd8\xff" + bytes(70_000)):
        with pytest.raises(ConfigError):
            motion.step(data)


def test_webcam_motion_is_measured() -> None:
    rng = np.random.default_rng(0)
    ground = Image.fromarray(rng.integers(0, 255, (30, 40), np.uint8)).resize((160, 120), Image.Resampling.BICUBIC)
    motion = WebcamMotion()
    for shift in (0, 8):
        buffer = io.BytesIO()
        ground.transform((160, 120), Image.Transform.AFFINE, (1, 0, -shift, 0, 1, 0)).save(buffer, "JPEG", quality=95)
        flow = motion.step(buffer.getvalue())
    assert flow is not None
    assert np.median(flow[..., 0]) == pytest.approx(8 / 160, rel=0.15)
    assert abs(np.median(flow[..., 1])) < 0.004
