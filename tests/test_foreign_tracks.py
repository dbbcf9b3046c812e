"""Track files of other programs: units, orders and names are read right, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ms_infer.cli.stream import load_tracks, main
from ms_infer.errors import ConfigError, TrackShapeError
from ms_infer.tracks import Tracks
from tests.test_track_files import npz_bytes
from tests.tiny import tiny_config

FRAMES, COUNT = 24, 5
SIZE = (180, 320)


def moving_points() -> np.ndarray:
    """[5, 24, 2]: five points far apart that go to the right, a pixel per RGB frame."""
    begin = np.array([[20.0, 30], [250, 40], [90, 120], [200, 150], [40, 90]])
    return begin[:, None] + np.arange(FRAMES)[None, :, None] * np.array([1.0, 0.25])


def some_visible() -> np.ndarray:
    """[5, 24]: track 1 is hidden from RGB frame 10 on."""
    visible = np.ones((COUNT, FRAMES), bool)
    visible[1, 10:] = False
    return visible


def loaded(folder: Path, size: tuple[int, int] | None = SIZE, **arrays: Any) -> Tracks:
    np.savez(folder / "t.npz", **arrays)
    return Tracks.load(folder / "t.npz", size=size)


# ---- units


def picture(folder: Path, height: int, width: int) -> str:
    Image.new("RGB", (width, height)).save(folder / "photo.png")
    return str(folder / "photo.png")


@pytest.mark.parametrize("batch", [True, False])
@pytest.mark.parametrize(("height", "width"), [(720, 1280), (1080, 608), (240, 320)])
def test_wan_moves_editor_writes_pixels_of_the_picture_it_was_given(
    tmp_path: Path, height: int, width: int, batch: bool
) -> None:
    points = np.tile(np.array([width / 2, height / 2]), (81, 1, 1))
    visible = np.ones((81, 1))
    np.save(tmp_path / "tracks.npy", points[None] if batch else points)
    np.save(tmp_path / "visibility.npy", visible[None] if batch else visible)
    config = tiny_config()
    tracks = load_tracks(str(tmp_path / "tracks.npy"), picture(tmp_path, height, width), config)
    assert (tracks.count, tracks.rgb_frames, tracks.fps) == (1, 81, 16)
    np.testing.assert_allclose(tracks.points[0], np.tile([config.width / 2, config.height / 2], (81, 1)), atol=1e-4)
    assert tracks.visible.all()


def test_wan_move_tracks_of_a_larger_picture_are_refused_without_its_size(tmp_path: Path) -> None:
    np.save(tmp_path / "tracks.npy", np.tile(np.array([1100.0, 300]), (1, 81, 1, 1)))
    np.save(tmp_path / "visibility.npy", np.ones((1, 81, 1)))
    with pytest.raises(TrackShapeError, match=r"begins at \[1100.0, 300.0\].*size=\(height, width\)"):
        Tracks.load(tmp_path / "tracks.npy")
    assert Tracks.load(tmp_path / "tracks.npy", size=(720, 1280)).size == (720, 1280)


@pytest.mark.parametrize("said", [True, False])
def test_tracks_in_0_to_1_are_cropped_as_the_picture_is(tmp_path: Path, said: bool) -> None:
    content = {"tracks": [{"points": [[0.5, 0.5]]}, {"points": [[0.25, 0.5]]}, {"points": [[0.1, 0.5]]}]}
    (tmp_path / "t.json").write_text(json.dumps(content | ({"size": None} if said else {})))
    tracks = load_tracks(str(tmp_path / "t.json"), picture(tmp_path, 100, 200), tiny_config())  # to 32 x 32
    np.testing.assert_allclose(tracks.points[:, 0], [[16, 16], [0, 16], [-9.6, 16]], atol=1e-4)
    assert tracks.visible[:, 0].tolist() == [True, True, False]


def test_pixels_without_a_size_are_refused_however_small_the_picture(tmp_path: Path) -> None:
    with pytest.raises(TrackShapeError, match=r"t\.npz: coordinates reach 63.*size=\(height, width\)"):
        loaded(tmp_path, None, points=np.array([[[10.0, 63.0]]]))
    assert loaded(tmp_path, (64, 64), points=np.array([[[10.0, 63.0]]])).size == (64, 64)


def test_size_and_fps_speak_for_a_file_that_does_not(tmp_path: Path) -> None:
    (tmp_path / "t.npz").write_bytes(npz_bytes(points=moving_points()))
    tracks = load_tracks(str(tmp_path / "t.npz"), picture(tmp_path, 90, 160), tiny_config(), size="180x320", fps=12)
    assert tracks.fps == 12
    np.testing.assert_allclose(tracks.points[0, 0], [(20 - 70) * 32 / 180, 30 * 32 / 180], atol=1e-4)
    with pytest.raises(ConfigError, match="fps must be a positive number"):
        load_tracks(str(tmp_path / "t.npz"), None, tiny_config(), size="180x320", fps=0)


def test_size_without_a_track_file_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--size", "480x832", "--seconds", "0.5"]) == 1
    assert "give --tracks FILE" in capsys.readouterr().err


# ---- visibility and orders


@pytest.mark.parametrize(
    ("name", "inverted"),
    [
        ("visible", False),
        ("visibility", False),
        ("visibles", False),
        ("vis", False),
        ("occluded", True),
        ("occlusion", True),
    ],
)
def test_visibility_is_honoured_under_its_public_names(tmp_path: Path, name: str, inverted: bool) -> None:
    flags = some_visible() ^ inverted
    for stored in (flags, flags.astype(np.float32), flags[..., None]):
        tracks = loaded(tmp_path, tracks=moving_points(), **{name: stored})
        assert (tracks.count, tracks.rgb_frames) == (COUNT, FRAMES)
        np.testing.assert_array_equal(tracks.visible, some_visible())
    rows = [{"points": row.tolist(), name: flag.tolist()} for row, flag in zip(moving_points(), flags, strict=True)]
    (tmp_path / "t.json").write_text(json.dumps({"size": SIZE, "tracks": rows}))
    np.testing.assert_array_equal(Tracks.load(tmp_path / "t.json").visible, some_visible())


@pytest.mark.parametrize("last", [False, True])
def test_cotracker_writes_time_first_with_a_batch(tmp_path: Path, last: bool) -> None:
    flags = some_visible().T[None]
    arrays = {
        "pred_tracks": moving_points().swapaxes(0, 1)[None],
        "pred_visibility": flags[..., None] if last else flags,
    }
    tracks = loaded(tmp_path, **arrays)
    np.testing.assert_allclose(tracks.points, moving_points(), rtol=1e-6)
    np.testing.assert_array_equal(tracks.visible, some_visible())


def test_tapir_writes_tracks_first(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).uniform(0, 180, (COUNT, FRAMES, 2))
    tracks = loaded(tmp_path, tracks=noise, visibles=some_visible())
    np.testing.assert_allclose(tracks.points, noise, rtol=1e-6)
    np.testing.assert_array_equal(tracks.visible, some_visible())


def test_five_tracks_of_24_frames_are_never_24_of_five(tmp_path: Path) -> None:
    tracks = loaded(tmp_path, tracks=moving_points(), visible=some_visible())
    assert (tracks.count, tracks.rgb_frames) == (COUNT, FRAMES)
    turned = loaded(tmp_path, tracks=moving_points().swapaxes(0, 1), visible=some_visible().T)
    np.testing.assert_array_equal(turned.points, tracks.points)
    np.testing.assert_array_equal(turned.visible, tracks.visible)


@pytest.mark.parametrize("kind", ["noise", "one place", "one track"])
def test_an_order_that_cannot_be_told_is_refused_with_both(tmp_path: Path, kind: str) -> None:
    points = np.random.default_rng(0).uniform(0, 180, (COUNT, FRAMES, 2))
    points = {"noise": points, "one place": np.full_like(points, 9.0), "one track": points[:1]}[kind]
    one, two = points.shape[:2]
    with pytest.raises(
        TrackShapeError, match=f"{one} tracks of {two} RGB frames or {two} tracks of {one}.*pred_tracks"
    ):
        loaded(tmp_path, tracks=points, visible=np.ones((one, two), bool))


# ---- nothing is dropped


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"confidence": np.ones((COUNT, FRAMES))}, "holds 'confidence', which means nothing here"),
        ({"visble": some_visible()}, "holds 'visble'.*visible"),
        ({"visible": some_visible(), "occluded": ~some_visible()}, "occluded and visible say the same thing"),
        ({"tracks": moving_points()}, "points and tracks say the same thing"),
        ({"visibility": np.full((COUNT, FRAMES), 0.7)}, "visibility must hold only True and False.*scores > 0.5"),
        ({"occlusion": np.full((COUNT, FRAMES), -3.1)}, "occlusion must hold only True and False"),
        ({"visibility": some_visible().T}, r"visibility \[24, 5\] does not fit points \[5, 24, 2\]"),
    ],
)
def test_what_nobody_understands_is_refused_by_name(tmp_path: Path, arrays: Any, message: str) -> None:
    with pytest.raises(TrackShapeError, match=rf"^t\.npz: .*{message}"):
        loaded(tmp_path, points=moving_points(), **arrays)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"tracks": [{"points": [[0, 0]], "visble": [1]}]}, "track 0 holds 'visble'"),
        ({"tracks": [{"points": [[0, 0]]}], "Size": [4, 4]}, "the file holds 'Size'"),
        ({"tracks": [{"points": [[0, 0]], "visible": [1]}, {"points": [[0, 0]], "occluded": [1]}]}, "several names"),
        ([[{"x": 1, "y": 2, "h1x": 3}]], "a place of spline 0 holds 'h1x'"),
    ],
)
def test_unknown_keys_of_a_json_are_refused_by_name(tmp_path: Path, content: Any, message: str) -> None:
    (tmp_path / "t.json").write_text(json.dumps(content))
    with pytest.raises(TrackShapeError, match=rf"^t\.json: .*{message}"):
        Tracks.load(tmp_path / "t.json", size=SIZE)


def test_another_array_in_an_ati_file_is_refused_by_name(tmp_path: Path) -> None:
    torch.save(npz_bytes(array=np.zeros((1, 121, 1, 3), np.float32), depth=np.zeros(3)), tmp_path / "a.pth")
    with pytest.raises(TrackShapeError, match="the ATI file holds 'depth'"):
        Tracks.load(tmp_path / "a.pth", size=SIZE)


@pytest.mark.parametrize("name", ["T.NPZ", "t.Json", "T.PTH", "Case_Tracks.NPY"])
def test_suffixes_count_in_any_case(tmp_path: Path, name: str) -> None:
    tracks = Tracks.grid(2, 3, size=(480, 832), fps=24).drag((400, 200), (500, 300), seconds=1)
    tracks.save(tmp_path / name)
    back = Tracks.load(tmp_path / name, size=(480, 832))
    np.testing.assert_allclose(back.points[:, -1], tracks.points[:, -1], atol=1e-3)


# ---- splines


def test_splines_of_comfyui_are_tracks(tmp_path: Path) -> None:
    splines = [[{"x": float(x), "y": float(y)} for x, y in row] for row in moving_points()]
    (tmp_path / "t.json").write_text(json.dumps(splines))
    tracks = Tracks.load(tmp_path / "t.json", size=SIZE)
    np.testing.assert_allclose(tracks.points, moving_points(), rtol=1e-6)
    assert (tracks.size, tracks.fps, tracks.visible.all()) == (SIZE, 16, True)
    with pytest.raises(TrackShapeError, match=r"SplineEditor files do not say .*size=\(height, width\)"):
        Tracks.load(tmp_path / "t.json")


def test_one_spline_may_stand_alone_in_pythons_quotes_and_one_point_stands_still(tmp_path: Path) -> None:
    one = [{"x": 3, "y": 4}, {"x": 5, "y": 6}]
    (tmp_path / "one.json").write_text(str(one))
    assert Tracks.load(tmp_path / "one.json", size=SIZE).points.tolist() == [[[3, 4], [5, 6]]]
    (tmp_path / "two.json").write_text(json.dumps([one, [{"x": 9, "y": 8}]]))
    assert Tracks.load(tmp_path / "two.json", size=SIZE).points[1].tolist() == [[9, 8], [9, 8]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected splines"),
        ('[[], [{"x": 1, "y": 2}]]', "expected splines"),
        ('[[{"x": 1}]]', "expected places"),
        ('[[{"x": 1, "y": "a"}]]', "numeric"),
        ('[[{"x": 1, "y": 2}, {"x": 1, "y": 2}], [{"x": 1, "y": 2}, {"x": 1, "y": 2}, {"x": 1, "y": 2}]]', "length 3"),
    ],
)
def test_wrong_splines_are_refused_with_the_reason(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(TrackShapeError, match=rf"^t\.json: .*{message}"):
        Tracks.load(tmp_path / "t.json", size=SIZE)
