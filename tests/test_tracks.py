"""Tracks: validation, motion, units and time."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ms_infer.errors import ConfigError, TrackShapeError
from ms_infer.media import load_image
from ms_infer.tracks import Tracks

coordinates = st.integers(-10, 50).map(lambda step: np.float32(step / 40))  # mostly inside the picture


@st.composite
def any_tracks(draw: st.DrawFn, max_count: int = 5, max_frames: int = 7) -> Tracks:
    count, frames = draw(st.integers(0, max_count)), draw(st.integers(1, max_frames))
    points = draw(hnp.arrays(np.float32, (count, frames, 2), elements=coordinates))
    visible = draw(hnp.arrays(np.bool_, (count, frames)))
    ids = draw(st.lists(st.integers(0, 9), min_size=count, max_size=count, unique=True))
    return Tracks(points, visible, ids, fps=draw(st.sampled_from([8.0, 16.0, 24.0, 30.0, 29.97])))


# ---- validation


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"points": np.zeros((3, 2))}, r"\[tracks, RGB frames >= 1, 2\].*time axis"),
        ({"points": np.zeros((3, 4, 3))}, r"got shape \[3, 4, 3\]"),
        ({"points": np.zeros((3, 0, 2))}, "RGB frames >= 1"),
        ({"points": [["a"]]}, "numeric array"),
        ({"points": [[[0, 1]], [[0, 1], [1, 1]]]}, "numeric array"),
        ({"points": np.full((1, 2, 2), np.nan)}, "NaN or infinity at 2 positions, first at track 0, RGB frame 0"),
        ({"points": np.full((1, 1, 2), 1e300)}, "NaN or infinity"),
        (
            {"points": np.zeros((3, 4, 2)), "visible": np.ones((4, 3), bool)},
            r"visible must be \[3, 4\].*got shape \[4, 3\]",
        ),
        ({"points": np.zeros((1, 1, 2)), "visible": [[0.5]]}, "only True and False"),
        ({"points": np.zeros((2, 1, 2)), "ids": [1]}, r"ids must be \[2\]"),
        ({"points": np.zeros((2, 1, 2)), "ids": [1, 1]}, "unique"),
        ({"points": np.zeros((2, 1, 2)), "ids": [-1, 1]}, "0 or more"),
        ({"points": np.zeros((2, 1, 2)), "ids": [0.5, 1.0]}, "integers"),
        ({"points": np.full((1, 1, 2), 300)}, "pass size"),
        ({"points": np.zeros((1, 1, 2)), "size": (0, 4)}, "size must be"),
        ({"points": np.zeros((1, 1, 2)), "size": "big"}, "size must be"),
    ],
)
def test_wrong_tracks_are_refused_with_what_was_expected(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(TrackShapeError, match=message):
        Tracks(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("fps", [0, -1, math.nan, math.inf, None])
def test_an_impossible_rate_is_refused(fps: float) -> None:
    with pytest.raises(ConfigError, match="fps must be a positive number"):
        Tracks(np.zeros((1, 1, 2)), fps=fps)


def test_tracks_copy_what_they_get_and_cannot_be_written() -> None:
    points = np.zeros((1, 1, 2), np.float32)
    tracks = Tracks(points)
    points[:] = 5
    assert tracks.points.max() == 0
    with pytest.raises(ValueError, match="read-only"):
        tracks.points[:] = 1


def test_importing_tracks_loads_neither_torch_nor_opencv() -> None:
    code = "import sys, ms_infer.tracks.player; print({'torch', 'cv2', 'av', 'PIL'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


# ---- motion


def test_grid_points_stand_at_cell_centres_in_their_units() -> None:
    assert Tracks.grid(1, 2).points.tolist() == [[[0.25, 0.5]], [[0.75, 0.5]]]
    assert Tracks.grid(2, 1, size=(100, 60)).points.tolist() == [[[30, 25]], [[30, 75]]]


def test_drag_moves_the_nearest_point_alone_and_holds_its_end() -> None:
    dragged = Tracks.grid(1, 2).drag((0.3, 0.5), (0.4, 0.7), seconds=1.0)
    assert dragged.rgb_frames == 17
    np.testing.assert_allclose(dragged.points[0, -1], [0.35, 0.7], atol=1e-6)
    np.testing.assert_array_equal(dragged.points[1], np.tile([[0.75, 0.5]], (17, 1)).astype(np.float32))
    assert np.all(np.diff(dragged.points[0, :, 0]) > 0)


def test_drag_eases_in_and_out_unless_told_otherwise() -> None:
    speed = np.diff(Tracks.grid(1, 1).drag((0.5, 0.5), (0.9, 0.5)).points[0, :, 0])
    assert speed[0] < 0.3 * speed[8]
    assert speed[-1] < 0.3 * speed[8]
    even = np.diff(Tracks.grid(1, 1).drag((0.5, 0.5), (0.9, 0.5), smooth=False).points[0, :, 0])
    np.testing.assert_allclose(even, even[0], atol=1e-6)


def test_a_radius_moves_neighbours_with_cosine_falloff() -> None:
    line = Tracks([[[0.1, 0.5]], [[0.2, 0.5]], [[0.3, 0.5]], [[0.31, 0.5]]])
    moved = line.drag((0.1, 0.5), (0.1, 0.6), radius=0.2).points[:, -1, 1] - 0.5
    np.testing.assert_allclose(moved, [0.1, 0.05, 0, 0], atol=1e-6)


def test_a_later_drag_starts_where_the_point_then_is() -> None:
    tracks = Tracks.grid(1, 1).drag((0.5, 0.5), (0.7, 0.5)).drag((0.7, 0.5), (0.7, 0.2), start=1.0)
    assert tracks.rgb_frames == 33
    np.testing.assert_allclose(tracks.points[0, 16], [0.7, 0.5], atol=1e-6)
    np.testing.assert_allclose(tracks.points[0, -1], [0.7, 0.2], atol=1e-6)


def test_only_visible_points_are_dragged() -> None:
    tracks = Tracks([[[0.1, 0.1]], [[0.9, 0.9]]], [[False], [True]])
    moved = tracks.drag((0.1, 0.1), (0.2, 0.1))
    np.testing.assert_allclose(moved.points[1, -1], [1.0, 0.9], atol=1e-6)
    np.testing.assert_array_equal(moved.points[0, -1], tracks.points[0, 0])
    with pytest.raises(TrackShapeError, match="no point is visible"):
        Tracks([[[0.1, 0.1]]], [[False]]).drag((0.1, 0.1), (0.2, 0.1))


def test_a_path_runs_through_its_waypoints_at_constant_speed() -> None:
    path = Tracks([[[0.0, 0.0]]], size=(10, 10)).path((0, 0), [(3, 0), (3, 1)], seconds=0.25)
    assert path.points[0].tolist() == [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1]]


def test_static_points_get_new_ids_and_never_move() -> None:
    tracks = Tracks.grid(1, 2).drag((0.3, 0.5), (0.4, 0.5)).static([(0.1, 0.2), (0.3, 0.4)])
    assert tracks.ids.tolist() == [0, 1, 2, 3]
    assert tracks.visible[2:].all()
    np.testing.assert_allclose(tracks.points[3], np.tile([[0.3, 0.4]], (17, 1)), atol=1e-7)


@pytest.mark.parametrize("bad", [{"seconds": 0}, {"seconds": -1}, {"start": -1}, {"seconds": math.nan}, {"radius": 0}])
def test_impossible_timing_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        Tracks.grid(1, 1).drag((0.5, 0.5), (0.6, 0.5), **bad)  # type: ignore[arg-type]


def test_a_drag_of_a_year_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(TrackShapeError, match="at most"):
        Tracks.grid(50, 50).drag((0.5, 0.5), (0.6, 0.5), seconds=3.2e7)


# ---- camera


def _last(tracks: Tracks) -> np.ndarray:
    return tracks.points[:, -1].astype(np.float64)


def test_pan_zoom_and_roll_move_points_about_the_centre() -> None:
    tracks = Tracks([[[150.0, 50.0]]], size=(100, 200))
    np.testing.assert_allclose(_last(tracks.camera(pan=(10, -5))), [[160, 45]], atol=1e-4)
    np.testing.assert_allclose(_last(tracks.camera(zoom=1.5)), [[175, 50]], atol=1e-4)
    np.testing.assert_allclose(_last(tracks.camera(roll=90)), [[100, 100]], atol=1e-4)  # clockwise: right goes down


def test_roll_keeps_distances_in_the_picture_with_relative_coordinates() -> None:
    relative = Tracks([[[0.75, 0.75]]]).camera(roll=90, aspect=2.0)
    np.testing.assert_allclose(_last(relative), [[0.375, 1.0]], atol=1e-6)
    pixels = Tracks([[[75.0, 37.5]]], size=(50, 100)).camera(roll=90)
    np.testing.assert_allclose(_last(pixels), [[37.5, 50.0]], atol=1e-4)
    with pytest.raises(ConfigError, match="aspect"):
        Tracks.grid(2, 2).camera(roll=5)


def test_dolly_without_depth_is_a_zoom_and_with_depth_parallax() -> None:
    tracks = Tracks([[[0.25, 0.5]], [[0.75, 0.5]]])
    np.testing.assert_allclose(_last(tracks.camera(dolly=0.5)), [[0.0, 0.5], [1.0, 0.5]], atol=1e-6)
    near_left = np.array([[1.0, 1.0, 4.0, 4.0]])
    left, right = _last(tracks.camera(dolly=0.5, depth=near_left))[:, 0] - 0.5
    assert left == pytest.approx(-0.5, abs=1e-6)
    assert right == pytest.approx(0.25 * 4 / 3.5, abs=1e-6)


def test_points_that_the_camera_passes_become_invisible() -> None:
    moved = Tracks.grid(1, 1).camera(dolly=2.0)
    assert moved.visible[0, 0]
    assert not moved.visible[0, -1]


def test_camera_acts_on_what_points_already_do() -> None:
    tracks = Tracks.grid(1, 1).drag((0.5, 0.5), (0.6, 0.5)).camera(zoom=2.0)
    np.testing.assert_allclose(_last(tracks), [[0.7, 0.5]], atol=1e-6)


@pytest.mark.parametrize("bad", [{"zoom": 0}, {"zoom": 1e9}, {"pan": (1,)}, {"roll": math.nan}, {"dolly": math.inf}])
def test_impossible_camera_moves_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Tracks.grid(1, 1).camera(**bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("depth", [np.zeros((2, 2)), np.full((2, 2), np.nan), np.ones(3), np.ones((0, 2))])
def test_impossible_depth_is_refused(depth: np.ndarray) -> None:
    with pytest.raises(ConfigError, match="depth must"):
        Tracks.grid(1, 1).camera(dolly=0.1, depth=depth)


# ---- time, units, sets


def _at(tracks: Tracks, where: float) -> tuple[np.ndarray, np.ndarray]:
    """Position and visibility at a fractional RGB frame: the obvious way."""
    where = min(where, tracks.rgb_frames - 1)
    lower, upper = math.floor(where), min(math.floor(where) + 1, tracks.rgb_frames - 1)
    a, b = tracks.points[:, lower].astype(np.float64), tracks.points[:, upper].astype(np.float64)
    return a * (1 - (where - lower)) + b * (where - lower), tracks.visible[:, math.floor(where + 0.5)]


@settings(deadline=None)
@given(any_tracks(), st.sampled_from([5.0, 8.0, 16.0, 24.0, 29.97, 60.0]))
def test_resampling_to_a_rate_reads_the_motion_at_equal_times_and_keeps_its_end(tracks: Tracks, fps: float) -> None:
    new = tracks.resample(fps=fps)
    assert new.fps == fps
    np.testing.assert_array_equal(new.points[:, 0], tracks.points[:, 0])
    np.testing.assert_array_equal(new.points[:, -1], tracks.points[:, -1])
    assert new.rgb_frames - 1 < tracks.seconds * fps + 1 + 1e-6
    for k in range(new.rgb_frames):
        points, visible = _at(tracks, k * tracks.fps / fps)
        np.testing.assert_allclose(new.points[:, k], points, atol=1e-5)
        np.testing.assert_array_equal(new.visible[:, k], visible)


@settings(deadline=None)
@given(any_tracks(), st.integers(1, 20))
def test_resampling_to_a_count_keeps_both_ends(tracks: Tracks, count: int) -> None:
    new = tracks.resample(rgb_frames=count)
    assert (new.rgb_frames, new.fps) == (count, tracks.fps)
    np.testing.assert_array_equal(new.points[:, 0], tracks.points[:, 0])
    if count > 1:
        np.testing.assert_array_equal(new.points[:, -1], tracks.points[:, -1])


@settings(deadline=None)
@given(any_tracks(), st.integers(1, 64), st.integers(1, 64))
def test_pixels_are_visible_only_inside_the_picture(tracks: Tracks, height: int, width: int) -> None:
    pixels = tracks.to_pixels(height, width)
    x, y = pixels.points[..., 0], pixels.points[..., 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    np.testing.assert_array_equal(pixels.visible, tracks.visible & inside)
    np.testing.assert_allclose(pixels.points, tracks.points * [width, height], rtol=1e-6)
    assert pixels.size == (height, width)


@pytest.mark.parametrize(("height", "width"), [(50, 100), (100, 100), (120, 30)])
def test_cropping_moves_points_as_load_image_moves_the_picture(height: int, width: int) -> None:
    picture = np.zeros((240, 320, 3), np.uint8)
    picture[100:108, 130:138] = 255
    shown = load_image(picture, height, width)[..., 0].astype(np.float64)
    rows, columns = np.mgrid[:height, :width] + 0.5
    spot = [(columns * shown).sum() / shown.sum(), (rows * shown).sum() / shown.sum()]
    cropped = Tracks([[[134.0, 104.0]], [[1.0, 104.0]], [[134.0, 1.0]]], size=(240, 320)).crop_to(height, width)
    np.testing.assert_allclose(cropped.points[0, 0], spot, atol=0.05)
    assert cropped.visible[:, 0].tolist() == [True, width / height >= 4 / 3, width / height <= 4 / 3]
    with pytest.raises(ConfigError, match="with a size"):
        Tracks.grid(1, 1).crop_to(10, 10)


def test_the_far_edge_is_outside() -> None:
    pixels = Tracks([[[1.0, 0.5]], [[0.0, 0.0]]]).to_pixels(10, 10)
    assert pixels.visible[:, 0].tolist() == [False, True]


@settings(deadline=None)
@given(any_tracks(), any_tracks())
def test_merging_keeps_every_track_and_unique_ids(one: Tracks, two: Tracks) -> None:
    both = one.merge(two)
    assert both.count == one.count + two.count
    assert both.ids[: one.count].tolist() == one.ids.tolist()
    assert len(set(both.ids.tolist())) == both.count
    if one.count:
        np.testing.assert_array_equal(both.points[: one.count, : one.rgb_frames], one.points)
        held = both.points[: one.count, one.rgb_frames :]
        np.testing.assert_array_equal(held, np.repeat(one.points[:, -1:], held.shape[1], 1))


def test_merging_converts_units() -> None:
    both = Tracks.grid(1, 1, size=(100, 200)).merge(Tracks([[[0.25, 0.25]]]))
    assert both.points[1, 0].tolist() == [50, 25]


def test_selecting_keeps_ids_and_order() -> None:
    tracks = Tracks(np.arange(6).reshape(3, 1, 2), [[1], [0], [1]], [5, 6, 7])
    assert tracks.select([7, 5]).points[:, 0, 0].tolist() == [4, 0]
    assert tracks.select().ids.tolist() == [5, 7]
    with pytest.raises(TrackShapeError, match="no track has the id 8"):
        tracks.select([8])


def test_a_grab_moves_a_stiff_thing_and_hides_what_it_covers() -> None:
    tracks = Tracks.grid(10, 10).grab((0.45, 0.45), (0.75, 0.35), radius=0.2, seconds=1.0)

    moved = tracks.points[:, -1] - tracks.points[:, 0]
    distance = np.linalg.norm(tracks.points[:, 0] - (0.45, 0.45), axis=-1)
    near, rim = distance < 0.2, (distance >= 0.2) & (distance < 0.28)
    np.testing.assert_allclose(moved[near], [[0.3, -0.1]] * int(near.sum()), atol=1e-6)
    assert np.abs(moved[~near]).max() == 0
    assert not tracks.visible[rim].any()
    assert tracks.visible[near].all()
    ends_on = np.linalg.norm(tracks.points[:, 0] - (0.75, 0.35), axis=-1) < 0.28
    passed = ~near & ~rim & ends_on
    assert passed.any()
    assert tracks.visible[passed, 0].all()
    assert not tracks.visible[passed, -1].any()
    assert tracks.visible[~near & ~rim & (tracks.points[:, 0, 0] > 0.9) & (tracks.points[:, 0, 1] > 0.9)].all()
