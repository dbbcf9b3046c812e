"""Tracks from video: known motion is recovered, hidden and leaving points become invisible."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from PIL import Image

from ms_infer.errors import ConfigError, MissingExtraError
from ms_infer.media import open_writer
from ms_infer.tracks import Tracks

SIZE = (96, 128)


def texture(height: int, width: int, seed: int = 0) -> Image.Image:
    """A picture with detail at several scales."""
    generator = np.random.default_rng(seed)
    total = np.zeros((height, width, 3))
    for cell in (4, 8, 16):
        small = generator.integers(0, 256, (height // cell, width // cell, 3), np.uint8)
        total += np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)) / 3
    return Image.fromarray(total.astype(np.uint8))


def moving(shift: tuple[float, float], frames: int = 6, zoom: float = 1.0) -> np.ndarray:
    """A camera over a large texture: content moves by `shift` pixels and grows by `zoom` per RGB frame."""
    picture, (height, width) = texture(256, 320), SIZE
    out = []
    for k in range(frames):
        scale = zoom**-k
        x = 160 - scale * (width / 2) - shift[0] * k
        y = 128 - scale * (height / 2) - shift[1] * k
        warp = (scale, 0, x, 0, scale, y)
        out.append(
            np.asarray(picture.transform((width, height), Image.Transform.AFFINE, warp, Image.Resampling.BICUBIC))
        )
    return np.stack(out)


@pytest.mark.parametrize("shift", [(0.0, 0.0), (1.0, 0.5), (-3.0, 2.0), (6.0, -4.0)])
def test_a_known_shift_is_recovered_to_a_fraction_of_a_pixel(shift: tuple[float, float]) -> None:
    tracks = Tracks.from_video(moving(shift), 6, 8)
    assert (tracks.count, tracks.rgb_frames, tracks.size, tracks.fps) == (48, 6, SIZE, 16)
    seen = tracks.visible[:, -1]
    moved = (tracks.points[:, -1] - tracks.points[:, 0])[seen]
    assert seen.sum() >= 20
    assert np.abs(np.median(moved, 0) - np.multiply(shift, 5)).max() < 0.15
    assert np.mean(np.linalg.norm(moved - np.multiply(shift, 5), axis=-1) < 0.5) > 0.85


def test_a_known_zoom_moves_points_from_the_centre_of_continuous_coordinates() -> None:
    tracks = Tracks.from_video(moving((0, 0), zoom=1.03), 6, 8)
    centre = np.array([SIZE[1] / 2, SIZE[0] / 2])
    expected = centre + (tracks.points[:, 0] - centre) * 1.03**5
    error = np.linalg.norm(tracks.points[:, -1] - expected, axis=-1)[tracks.visible[:, -1]]
    assert np.median(error) < 0.25  # half a pixel of offset in the sampling would show


def test_points_that_leave_become_invisible_for_good_and_stay_where_they_were() -> None:
    tracks = Tracks.from_video(moving((8.0, 0.0)), 4, 8)
    right = tracks.points[:, 0, 0] > SIZE[1] - 20
    assert not tracks.visible[right, -1].any()
    assert not (np.diff(tracks.visible.astype(int), axis=1) > 0).any()
    inside = (tracks.points >= 0).all(-1) & (tracks.points[..., 0] < SIZE[1]) & (tracks.points[..., 1] < SIZE[0])
    assert inside.all()


def test_points_that_something_covers_become_invisible() -> None:
    frames = moving((0.0, 0.0), frames=8)
    patch = np.asarray(texture(48, 48, seed=7))
    for k in range(8):
        frames[k, 24:72, 10 + 8 * k : 58 + 8 * k] = patch
    tracks = Tracks.from_video(frames, 12, 16)
    x, y = tracks.points[:, 0, 0], tracks.points[:, 0, 1]
    covered = (x > 70) & (x < 105) & (y > 32) & (y < 64)
    far = (y < 16) | (y > 80)
    assert tracks.visible[covered, -1].mean() < 0.3
    assert tracks.visible[far, -1].mean() > 0.9


def test_a_file_is_read_at_the_size_and_rate_asked_for(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with open_writer(tmp_path / "v.mp4", height=SIZE[0], width=SIZE[1], fps=16) as writer:
        writer.write(moving((2.0, 0.0), frames=9))
    tracks = Tracks.from_video(tmp_path / "v.mp4", 4, 4, height=48, width=64, fps=8, max_frames=4)
    assert (tracks.rgb_frames, tracks.size, tracks.fps) == (4, (48, 64), 8)
    moved = (tracks.points[:, -1] - tracks.points[:, 0])[tracks.visible[:, -1]]
    assert np.median(moved[:, 0]) == pytest.approx(6.0, abs=0.4)  # 3 steps of 2 x 2 pixels at half the size


def test_one_frame_gives_a_grid_that_stands() -> None:
    tracks = Tracks.from_video(moving((0, 0), frames=1), 2, 2)
    assert tracks.rgb_frames == 1
    assert tracks.visible.all()


@pytest.mark.parametrize("shape", [(2, 8, 64, 3), (0, 64, 64, 3), (2, 64, 64)])
def test_unusable_frames_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ConfigError):
        Tracks.from_video(np.zeros(shape, np.uint8))


def test_without_opencv_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ms-infer\[video\]'"):
        Tracks.from_video(np.zeros((2, 32, 32, 3), np.uint8))
