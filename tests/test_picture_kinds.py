"""Pictures with a colour profile, and those of phones: HEIC and AVIF."""

from __future__ import annotations

import contextlib
import io
import logging
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, features

from ms_infer.errors import ConfigError, MissingExtraError
from ms_infer.media import image_size, load_image
from tests.test_media import corners, encoded, quarters

P3 = np.array([[0.5151, 0.2919, 0.1571], [0.2412, 0.6922, 0.0666], [-0.0011, 0.0419, 0.7841]])  # to XYZ under D50
SRGB = np.array([[0.4361, 0.3851, 0.1431], [0.2225, 0.7169, 0.0606], [0.0139, 0.0971, 0.7141]])


def s15(*values: float) -> bytes:
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def display_p3() -> bytes:
    """An ICC profile with the primaries of Display P3 and the curve of sRGB."""
    curve = b"para" + bytes(4) + struct.pack(">HH", 3, 0) + s15(2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
    text = b"mluc" + bytes(4) + struct.pack(">II2s2sII", 1, 12, b"en", b"US", 4, 28) + "P3".encode("utf-16-be")
    tags = {b"desc": text, b"cprt": text, b"wtpt": b"XYZ " + bytes(4) + s15(0.9642, 1.0, 0.8249)}
    tags |= {name + b"XYZ": b"XYZ " + bytes(4) + s15(*P3[:, axis]) for axis, name in enumerate((b"r", b"g", b"b"))}
    tags |= {name + b"TRC": curve for name in (b"r", b"g", b"b")}
    table, content = struct.pack(">I", len(tags)), b""
    for name, data in tags.items():
        table += name + struct.pack(">II", 132 + 12 * len(tags) + len(content), len(data))
        content += data + bytes(-len(data) % 4)
    size = 128 + len(table) + len(content)
    head = struct.pack(">I4xI4s4s4s", size, 0x04300000, b"mntr", b"RGB ", b"XYZ ") + bytes(12) + b"acsp"
    return head.ljust(68, b"\0") + s15(0.9642, 1.0, 0.8249) + bytes(48) + table + content


def to_srgb(colours: np.ndarray) -> np.ndarray:
    """Display P3 to sRGB by the definitions, clipped."""
    values = colours / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    inside = np.clip(linear @ (np.linalg.inv(SRGB) @ P3).T, 0, 1)
    return 255 * np.where(inside <= 0.0031308, inside * 12.92, 1.055 * inside ** (1 / 2.4) - 0.055)


COLOURS = np.array([[[234, 51, 35], [120, 200, 90], [40, 60, 180], [128, 128, 128], [255, 255, 255]]], np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "AVIF"])
def test_display_p3_becomes_srgb(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    picture = np.repeat(np.repeat(COLOURS, 16, 0), 16, 1)
    options = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}.get(kind, {})
    data = encoded(Image.fromarray(picture), kind, icc_profile=display_p3(), **options)
    loaded = load_image(data, *picture.shape[:2])
    expected = to_srgb(COLOURS[0])
    assert np.abs(expected - COLOURS[0]).max() > 20
    np.testing.assert_allclose(loaded[8, 8::16], expected, atol=3 if kind == "AVIF" else 1.5)


def test_a_profile_counts_for_palettes_transparency_and_grey() -> None:
    picture = np.repeat(np.repeat(COLOURS, 16, 0), 16, 1)
    expected = to_srgb(COLOURS[0])
    palette = encoded(Image.fromarray(picture).quantize(8), icc_profile=display_p3())
    np.testing.assert_allclose(load_image(palette, *picture.shape[:2])[8, 8::16], expected, atol=1.5)
    clear = np.dstack([picture, np.full(picture.shape[:2], 255, np.uint8)])
    clear[8:, :, 3] = 0
    loaded = load_image(encoded(Image.fromarray(clear), icc_profile=display_p3()), *picture.shape[:2])
    np.testing.assert_allclose(loaded[4, 8::16], expected, atol=1.5)
    assert (loaded[12] == 255).all()
    grey = encoded(Image.new("L", (8, 8), 77), icc_profile=display_p3())
    np.testing.assert_allclose(load_image(grey, 8, 8)[0, 0], 77, atol=1)


def test_srgb_stays_as_it_is() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    np.testing.assert_array_equal(load_image(encoded(Image.fromarray(picture), icc_profile=profile), 32, 32), picture)


@pytest.mark.parametrize("profile", [b"nonsense", display_p3()[:200], display_p3().replace(b"RGB ", b"CMYK")])
def test_a_broken_profile_does_not_lose_the_picture(profile: bytes, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        loaded = load_image(encoded(Image.fromarray(quarters()), icc_profile=profile), 40, 60)
    np.testing.assert_array_equal(loaded, quarters())
    assert "colour profile is unusable" in caplog.text


# ---- phones


def heic(picture: np.ndarray, **options: object) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif", reason="no pillow-heif")
    buffer = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(picture)).save(buffer, quality=100, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("give", ["path", "bytes"])
def test_heic_is_read(tmp_path: Path, give: str) -> None:
    data = heic(quarters(96, 128))
    (tmp_path / "photo.HEIC").write_bytes(data)
    source = data if give == "bytes" else tmp_path / "photo.HEIC"
    assert image_size(source) == (96, 128)
    np.testing.assert_allclose(corners(load_image(source, 96, 128)), corners(quarters(96, 128)), atol=6)


def test_avif_is_read() -> None:
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = encoded(Image.fromarray(quarters(96, 128)), "AVIF", quality=95)
    assert image_size(data) == (96, 128)
    np.testing.assert_allclose(corners(load_image(data, 96, 128)), corners(quarters(96, 128)), atol=6)


@pytest.mark.parametrize("brand", [b"heic", b"mif1", b"hevc"])
def test_without_pillow_heif_the_extra_is_named(brand: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "HEIF"])
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)
    head = b"\0\0\0\x18ftyp" + brand + bytes(4) + b"mif1heic"
    for call in (lambda: load_image(head + bytes(100), 8, 8), lambda: image_size(head + bytes(100))):
        with pytest.raises(MissingExtraError, match=r"HEIC.*pip install 'ms-infer\[heic\]'"):
            call()


def test_without_avif_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "ID", [kind for kind in Image.ID if kind != "AVIF"])
    monkeypatch.setattr(features, "check", lambda feature: False)
    with pytest.raises(MissingExtraError, match=r"AVIF.*pip install 'ms-infer\[heic\]'"):
        load_image(b"\0\0\0\x18ftypavif" + bytes(4) + b"mif1avif" + bytes(100), 8, 8)


@pytest.mark.parametrize("kind", ["HEIC", "AVIF"])
def test_a_cut_off_photo_is_refused(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = heic(noise) if kind == "HEIC" else encoded(Image.fromarray(noise), "AVIF")
    with pytest.raises(ConfigError, match=r"damaged or cut off|not a picture"):
        load_image(data[: len(data) // 2], 8, 8)


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(["HEIC", "AVIF"]), data=st.data())
def test_damaged_photos_load_or_raise_a_config_error(kind: str, data: st.DataObject) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    whole = heic(quarters(64, 64)) if kind == "HEIC" else encoded(Image.fromarray(quarters(64, 64)), "AVIF")
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(ConfigError, MissingExtraError):  # a brand that was hit is another kind
        assert load_image(bytes(content[: data.draw(st.integers(0, len(content)))]), 8, 8).shape == (8, 8, 3)
