"""Pictures and videos in: every mode, every kind of damage."""

from __future__ import annotations

import contextlib
import io
import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from ms_infer.errors import ConfigError, MissingExtraError
from ms_infer.media import image_size, load_image, open_writer, read_video

HEIGHT, WIDTH = 48, 64


def quarters(height: int = 40, width: int = 60) -> np.ndarray:
    """Red, green / blue, grey: any turn or flip shows."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (200, 0, 0)
    picture[: height // 2, width // 2 :] = (0, 200, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 200)
    picture[height // 2 :, width // 2 :] = (90, 90, 90)
    return picture


def corners(picture: np.ndarray) -> list[list[int]]:
    return [picture[y, x].tolist() for y in (2, -3) for x in (2, -3)]


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise_video(frames: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, HEIGHT, WIDTH, 3), np.uint8)


def smooth_video(frames: int) -> np.ndarray:
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rows = [np.stack([x * 3 + 4 * k, y * 4, np.full_like(x, 20 * k % 256)], -1) % 256 for k in range(frames)]
    return np.stack(rows).astype(np.uint8)


# ---- pictures in


@pytest.mark.parametrize("give", ["path", "text", "bytes", "pil", "array"])
def test_every_kind_of_source_gives_the_same_picture(tmp_path: Path, give: str) -> None:
    picture = quarters()
    (tmp_path / "a.png").write_bytes(encoded(Image.fromarray(picture)))
    path = tmp_path / "a.png"
    sources = {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "pil": Image.fromarray(picture),
        "array": picture,
    }
    loaded = load_image(sources[give], 40, 60)
    assert (loaded.dtype, loaded.shape) == (np.uint8, (40, 60, 3))
    np.testing.assert_array_equal(loaded, picture)


@pytest.mark.parametrize(("height", "width"), [(20, 90), (90, 20), (64, 64), (16, 16)])
def test_the_centre_is_cropped_to_the_aspect(height: int, width: int) -> None:
    picture = np.zeros((60, 60, 3), np.uint8)
    picture[10:50, 10:50] = 255
    picture[30:, :, 0] = 0
    loaded = load_image(picture, height, width)
    assert loaded.shape == (height, width, 3)
    np.testing.assert_allclose(loaded.astype(int), loaded[:, ::-1].astype(int), atol=1)  # left and right alike
    middle = loaded[:, width // 2, 1].astype(int)
    np.testing.assert_allclose(middle, middle[::-1], atol=1)


def test_shrinking_averages_instead_of_skipping() -> None:
    stripes = np.zeros((256, 256), np.uint8)
    stripes[:, ::2] = 255
    shrunk = load_image(stripes, 16, 16)
    assert np.abs(shrunk.astype(int) - 127.5).max() < 12


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation: int) -> None:
    stored = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    image = Image.fromarray(quarters())
    if stored is not None:  # what a camera would have stored so that the tag turns it back
        image = image.transpose(Image.Transpose(stored))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, "PNG", exif=exif)
    assert corners(load_image(data, 40, 60)) == corners(quarters())
    assert image_size(data) == (40, 60)


def test_transparent_pixels_show_white() -> None:
    picture = np.zeros((10, 10, 4), np.uint8)
    picture[:5] = (200, 0, 0, 255)
    picture[5:] = (0, 0, 0, 0)
    loaded = load_image(picture, 10, 10)
    assert loaded[0, 0].tolist() == [200, 0, 0]
    assert loaded[-1, 0].tolist() == [255, 255, 255]
    half = load_image(np.full((4, 4, 4), (0, 0, 0, 128), np.uint8), 4, 4)
    assert 125 <= half[0, 0, 0] <= 129


def test_a_transparent_palette_shows_white() -> None:
    image = Image.new("P", (8, 8), 0)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 1)
    loaded = load_image(encoded(image, "PNG", transparency=0), 8, 8)
    assert loaded[4, 4].tolist() == [255, 255, 255]
    assert loaded[0, 0].tolist() == [200, 100, 50]


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "LAB", "I", "F", "I;16", "PA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    grey = Image.new("L", (12, 8), 255)
    if mode == "I;16":
        image = Image.fromarray(np.full((8, 12), 65535, np.uint16))
    elif mode == "PA":
        image = grey.convert("P").convert("PA")
    elif mode == "LAB":
        image = Image.new("LAB", (12, 8), (255, 128, 128))
    else:
        image = grey.convert("RGB").convert(mode) if mode in ("CMYK", "YCbCr", "HSV") else grey.convert(mode)
    assert image.mode == mode
    loaded = load_image(image, 8, 12)
    assert loaded.shape == (8, 12, 3)
    assert loaded.min() >= 253


def test_sixteen_bit_grey_keeps_its_scale() -> None:
    ramp = np.tile(np.linspace(0, 65535, 64).astype(np.uint16), (8, 1))
    loaded = load_image(encoded(Image.fromarray(ramp)), 8, 64)
    np.testing.assert_allclose(loaded[0, :, 0], np.linspace(0, 255, 64), atol=1)


def test_float_arrays_are_zero_to_one() -> None:
    assert load_image(np.full((4, 4, 3), 0.5), 4, 4)[0, 0, 0] == 128
    for bad in (
        np.full((4, 4), 2.0),
        np.full((4, 4), np.nan),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((0, 4), np.uint8),
    ):
        with pytest.raises(ConfigError, match="a picture array is"):
            load_image(bad, 4, 4)


def test_a_single_pixel_fills_the_picture() -> None:
    loaded = load_image(np.full((1, 1, 3), (9, 8, 7), np.uint8), 48, 80)
    assert np.unique(loaded.reshape(-1, 3), axis=0).tolist() == [[9, 8, 7]]


@pytest.mark.parametrize("shape", [(1, 500), (500, 1)])
def test_a_line_of_pixels_loads(shape: tuple[int, int]) -> None:
    assert load_image(np.full(shape, 7, np.uint8), 16, 32).max() == 7


def png_header(width: int, height: int) -> bytes:
    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + block(b"IHDR", head) + block(b"IDAT", zlib.compress(bytes(100))) + block(b"IEND", b"")


@pytest.mark.parametrize("side", [9_000, 12_000, 20_000])
def test_a_giant_picture_is_refused_before_it_is_decoded(side: int, recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(ConfigError, match=r"at most 64 Mpx.*make it smaller"):
        load_image(png_header(side, side), 64, 64)
    assert not recwarn.list


def test_a_large_jpeg_is_decoded_at_a_fraction(monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded(Image.fromarray(quarters(800, 1200)), "JPEG", quality=95)
    decoded = []
    load = ImageFile.ImageFile.load
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda self: (load(self), decoded.append(self.size))[0])
    loaded = load_image(data, 40, 60)
    np.testing.assert_allclose(corners(loaded), corners(quarters()), atol=4)
    assert decoded[0] == (300, 200)


def test_the_pixel_limit_is_the_callers() -> None:
    with pytest.raises(ConfigError, match="10x10"):
        load_image(np.zeros((10, 10), np.uint8), 4, 4, max_pixels=99)
    assert load_image(np.zeros((10, 10), np.uint8), 4, 4, max_pixels=100).shape == (4, 4, 3)


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no picture at .*cat\.png"):
        load_image(tmp_path / "cat.png", 4, 4)
    with pytest.raises(ConfigError, match="no picture at"):
        load_image(tmp_path, 4, 4)
    (tmp_path / "text.png").write_text("hello")
    with pytest.raises(ConfigError, match="not a picture"):
        load_image(tmp_path / "text.png", 4, 4)
    with pytest.raises(ConfigError, match="not int"):
        load_image(5, 4, 4)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="positive size"):
        load_image(quarters(), 0, 4)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"]), data=st.data())
def test_damaged_pictures_load_or_raise_a_config_error(kind: str, data: st.DataObject) -> None:
    content = bytearray(encoded(Image.fromarray(quarters()), kind))
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ConfigError):
        assert load_image(bytes(content[: data.draw(st.integers(0, len(content)))]), 8, 8).shape == (8, 8, 3)


def test_a_cut_jpeg_is_refused() -> None:
    data = encoded(Image.fromarray(noise_video(1)[0]), "JPEG")
    with pytest.raises(ConfigError, match="damaged or cut off"):
        load_image(data[: len(data) // 2], 8, 8)


# ---- videos in


def test_reading_crops_paces_and_stops(tmp_path: Path) -> None:
    frames = np.repeat(np.arange(16, dtype=np.uint8) * 16, HEIGHT * WIDTH * 3).reshape(16, HEIGHT, WIDTH, 3)
    with open_writer(tmp_path / "v.mp4", height=HEIGHT, width=WIDTH, fps=16) as writer:
        writer.write(frames)
    assert read_video(tmp_path / "v.mp4", 32, 32)[0].shape == (16, 32, 32, 3)
    assert read_video(tmp_path / "v.mp4", max_frames=5)[0].shape[0] == 5
    slow, fps = read_video(tmp_path / "v.mp4", fps=8)
    assert fps == 8
    np.testing.assert_allclose(slow.mean((1, 2, 3)), np.arange(0, 16, 2) * 16, atol=3)
    fast, _ = read_video(tmp_path / "v.mp4", fps=32)
    np.testing.assert_allclose(fast.mean((1, 2, 3))[:30], np.repeat(np.arange(16), 2)[:30] * 16, atol=3)


def test_what_is_no_video_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no video"):
        read_video(tmp_path / "v.mp4")
    (tmp_path / "v.mp4").write_bytes(b"nothing" * 100)
    with pytest.raises(ConfigError, match="cannot read"):
        read_video(tmp_path / "v.mp4")
    with pytest.raises(ConfigError, match="both height and width"):
        read_video(tmp_path / "v.mp4", 4)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), header_only=st.booleans())
def test_damaged_videos_load_or_raise_a_config_error(tmp_path: Path, seed: int, header_only: bool) -> None:
    whole = tmp_path / "whole.mp4"
    if not whole.exists():
        with open_writer(whole, height=HEIGHT, width=WIDTH, fps=16) as writer:
            writer.write(smooth_video(5))
    generator, content = np.random.default_rng(seed), bytearray(whole.read_bytes())
    for place in generator.integers(0, 900 if header_only else len(content), 4):
        content[place] = generator.integers(0, 256)
    (tmp_path / "v.mp4").write_bytes(content)
    with contextlib.suppress(ConfigError):
        assert read_video(tmp_path / "v.mp4", 8, 8)[0].shape[1:] == (8, 8, 3)


def test_without_pyav_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ms-infer\[video\]"):
        read_video(tmp_path / "v.mp4")
    with (
        pytest.raises(MissingExtraError, match=r"pip install 'ms-infer\[video\]"),
        open_writer(tmp_path / "v.mp4", height=4, width=4, fps=1),
    ):
        pass
    assert not list(tmp_path.iterdir())
