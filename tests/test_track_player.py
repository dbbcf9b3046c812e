"""The player's rule: which tracks a chunk sees, and where new ones were in the first RGB frame."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ms_infer.errors import ConfigError, TrackShapeError
from ms_infer.tracks import Tracks
from ms_infer.tracks.player import TrackPlayer
from tests.any_tracks import any_tracks


def _player(**options: float) -> TrackPlayer:
    return TrackPlayer(**({"height": 100, "width": 100, "fps": 16, "max_tracks": 8} | options))  # type: ignore[arg-type]


def test_points_outside_stay_visible_where_the_model_clamps_them() -> None:
    tracks = Tracks([[[-0.2, 0.5]], [[0.5, 0.5]]])
    shown = {hide: _player(hide_outside=hide).copy() for hide in (True, False)}
    for each in shown.values():
        each.set(tracks, 0)
    assert shown[True].chunk(0, 1).visible[:2].tolist() == [[False], [True]]
    assert shown[False].chunk(0, 1).visible[:2].tolist() == [[True], [True]]
    assert shown[False].chunk(0, 1).points[0, 0].tolist() == [-20, 50]


@settings(deadline=None)
@given(any_tracks(), st.integers(0, 30), st.lists(st.integers(1, 12), min_size=1, max_size=4))
def test_a_control_plays_from_its_frame_and_holds_its_end(tracks: Tracks, start: int, counts: list[int]) -> None:
    player = _player()
    player.set(tracks, start)
    shown = tracks.resample(fps=16).to_pixels(100, 100)
    frame = start
    for count in counts:
        chunk = player.chunk(frame, count)
        at = [min(frame + j - start, shown.rgb_frames - 1) for j in range(count)]
        np.testing.assert_array_equal(chunk.points[: tracks.count], shown.points[:, at])
        np.testing.assert_array_equal(chunk.visible[: tracks.count], shown.visible[:, at])
        assert not chunk.visible[tracks.count :].any()
        assert chunk.ids.tolist() == tracks.ids.tolist() + [0] * (8 - tracks.count)
        assert (chunk.points.shape, chunk.anchors.shape) == ((8, count, 2), (8, 2))
        assert [str(a.dtype) for a in (chunk.points, chunk.visible, chunk.ids)] == ["float32", "bool", "int64"]
        frame += count


@settings(deadline=None)
@given(any_tracks(max_count=16), any_tracks(max_count=16), st.integers(1, 20))
def test_anchors_follow_the_rule(old: Tracks, new: Tracks, frame: int) -> None:
    player = _player(max_tracks=16)
    player.set(old, 0)
    before = player.chunk(frame - 1, 1)
    player.set(new, frame)
    after = player.chunk(frame, 1)
    at_zero = old.resample(fps=16).to_pixels(100, 100).points[:, 0]
    np.testing.assert_array_equal(before.anchors[: old.count], at_zero)
    seen = np.flatnonzero(before.visible[: old.count, 0])
    for row, one in enumerate(new.ids.tolist()):
        place = after.points[row, 0]
        if one in old.ids.tolist():
            np.testing.assert_array_equal(after.anchors[row], at_zero[old.ids.tolist().index(one)])
        else:
            moved = _moved_by_the_rule(place, before.points[seen, 0], before.anchors[seen])
            np.testing.assert_allclose(after.anchors[row], place - moved, atol=2e-3)


def _moved_by_the_rule(place: np.ndarray, now: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Point 4 of the rule in the words of its docstring, for 100 x 100 pixels."""
    if not len(now):
        return np.zeros(2)
    offset, moved = (now - place).astype(np.float64), (now - anchors).astype(np.float64)
    order = np.argsort((offset**2).sum(-1), kind="stable")
    for most in (12, 6):
        near = order[:most]
        if len(near) < 6:
            break
        weight = 1 / (np.linalg.norm(offset[near], axis=-1) + 2) ** 2
        middle = weight @ offset[near] / weight.sum()
        scatter = (offset[near] - middle).T @ ((offset[near] - middle) * weight[:, None])
        if 4 * np.linalg.det(scatter) <= 0.04 * np.trace(scatter) ** 2:
            continue
        basis = np.c_[np.ones(len(near)), offset[near]]
        terms = np.linalg.lstsq(basis * weight[:, None] ** 0.5, moved[near] * weight[:, None] ** 0.5, rcond=None)[0]
        error = weight @ ((moved[near] - basis @ terms) ** 2).sum(-1)
        if middle @ middle * weight.sum() <= 16 * np.trace(scatter) and error <= (200 / 256) ** 2 * weight.sum():
            return np.asarray(terms[0])
    return moved[order[0]]


@pytest.mark.parametrize("move", [{"zoom": 1.6}, {"zoom": 0.6}, {"roll": 30.0}, {"zoom": 1.4, "roll": -20.0}])
def test_points_that_appear_while_the_camera_zooms_or_rolls_are_anchored_on_their_content(
    move: dict[str, float],
) -> None:
    size, player = (128, 128), _player(height=128, width=128, max_tracks=256)
    grid = Tracks.grid(8, 8, size=size)
    player.set(grid.camera(**move, seconds=1.0), 0)
    picture = Tracks.grid(13, 13, size=size)  # every point of the picture, with what it shows when the camera is there
    shown = picture.camera(**move, seconds=1.0).points[:, -1]
    inside = ((shown >= 0) & (shown < 128)).all(-1)
    player.set(Tracks(shown[inside][:, None], ids=1000 + np.arange(inside.sum()), size=size), 21)
    anchors = player.chunk(21, 1).anchors[: inside.sum()]
    np.testing.assert_allclose(anchors, picture.points[inside, 0], atol=0.05)


def test_a_point_that_appears_on_or_beside_a_grabbed_thing_goes_with_what_is_under_it() -> None:
    size, player = (128, 128), _player(height=128, width=128, max_tracks=256)
    grabbed = Tracks.grid(12, 12, size=size).grab((60, 60), (90, 50), seconds=0.5, radius=24)
    player.set(grabbed, 0)
    player.set(Tracks([[[92.0, 52.0]], [[10.0, 100.0]]], ids=[900, 901], size=size), 21)
    np.testing.assert_allclose(player.chunk(21, 1).anchors[:2], [[62, 62], [10, 100]], atol=1e-3)


def test_a_point_far_from_tracks_on_one_line_goes_with_the_nearest() -> None:
    player = _player(max_tracks=64)
    line = Tracks(np.stack([np.linspace(10, 90, 9), np.full(9, 20.0)], -1)[:, None], size=(100, 100))
    player.set(line.camera(zoom=1.2, seconds=0.5), 0)
    player.set(Tracks([[[52.0, 80.0]]], ids=[70], size=(100, 100)), 21)
    np.testing.assert_allclose(player.chunk(21, 1).anchors[0], [52, 86], atol=1e-3)


def test_a_new_point_on_moved_content_is_anchored_where_the_content_was() -> None:
    player = _player()
    player.set(Tracks([[[10.0, 10.0]], [[80.0, 80.0]]], size=(100, 100)).drag((10, 10), (30, 10), seconds=0.5), 0)
    player.set(Tracks([[[32.0, 11.0]]], ids=[9], size=(100, 100)), 9)
    np.testing.assert_allclose(player.chunk(9, 1).anchors[0], [12, 11], atol=1e-4)


def test_the_displacement_is_that_of_the_rgb_frame_before() -> None:
    player = _player()
    player.set(Tracks([[[10.0, 10.0]]], size=(100, 100)).path((10, 10), [(42, 10)], seconds=2.0), 0)  # 1 pixel each
    player.set(Tracks([[[20.0, 20.0]]], ids=[5], size=(100, 100)), 9)
    assert player.chunk(9, 1).anchors[0].tolist() == [12, 20]


def test_a_control_replaced_before_the_first_frame_leaves_no_anchors() -> None:
    player = _player()
    player.set(Tracks([[[0.1, 0.1]]]), 0)
    player.set(Tracks([[[0.5, 0.5]]]), 0)
    assert player.chunk(0, 1).anchors[0].tolist() == [50, 50]


def test_anchors_survive_many_controls_of_the_same_tracks() -> None:
    player = _player()
    tracks = Tracks.grid(2, 2)
    player.set(tracks, 0)
    first = player.chunk(0, 1).anchors
    for frame in range(9, 200, 12):
        tracks = Tracks(tracks.points[:, -1:], ids=tracks.ids).drag((0.5, 0.5), (0.52, 0.5), seconds=0.5)
        player.set(tracks, frame)
        np.testing.assert_array_equal(player.chunk(frame, 12).anchors, first)


def test_too_many_tracks_are_refused_with_the_limit_and_the_old_control_stays() -> None:
    player = _player()
    player.set(Tracks.grid(1, 1), 0)
    with pytest.raises(TrackShapeError, match=r"9 tracks, but this stream takes at most 8.*coarser grid"):
        player.set(Tracks.grid(3, 3), 9)
    assert player.chunk(9, 1).points[0, 0].tolist() == [50, 50]


def test_time_does_not_run_backwards() -> None:
    player = _player()
    player.set(Tracks.grid(1, 1), 9)
    with pytest.raises(ConfigError, match="older than the current one at 9"):
        player.set(Tracks.grid(1, 1), 8)
    with pytest.raises(ConfigError, match="starts at 9"):
        player.chunk(8, 1)


def test_tracks_without_a_visible_point_and_no_tracks_play() -> None:
    player = _player()
    player.set(Tracks([[[0.5, 0.5]]], [[False]]), 0)
    assert not player.chunk(0, 9).visible.any()
    player.set(None, 9)
    assert not player.chunk(9, 12).visible.any()
    player.set(Tracks.grid(1, 1), 21)
    assert player.chunk(21, 1).anchors[0].tolist() == [50, 50]


@settings(deadline=None)
@given(any_tracks(), any_tracks(), st.integers(1, 20))
def test_a_restored_player_goes_on_like_the_one_that_was_saved(old: Tracks, new: Tracks, frame: int) -> None:
    player, other = _player(), _player()
    player.set(old, 0)
    other.restore(player.state())
    twin = player.copy()
    for one in (player, other, twin):
        one.set(new, frame)
    expected = player.chunk(frame + 3, 5)
    for one in (other, twin):
        chunk = one.chunk(frame + 3, 5)
        for name in ("points", "visible", "ids", "anchors"):
            np.testing.assert_array_equal(getattr(chunk, name), getattr(expected, name))


def test_a_copy_is_independent() -> None:
    player = _player()
    player.set(Tracks.grid(1, 1), 0)
    player.copy().set(Tracks.grid(2, 2), 9)
    assert player.chunk(9, 1).ids.tolist() == [0] * 8
    assert player.chunk(9, 1).visible.sum() == 1


def test_a_player_for_no_tracks_at_all_is_possible() -> None:
    player = _player(max_tracks=0)
    player.set(Tracks.empty(), 0)
    assert player.chunk(0, 9).points.shape == (0, 9, 2)


def test_a_damaged_state_is_refused() -> None:
    player = _player()
    player.set(Tracks.grid(1, 2), 0)
    state = player.state()
    with pytest.raises(TrackShapeError, match="lacks"):
        player.restore({name: value for name, value in state.items() if name != "anchors"})
    with pytest.raises(TrackShapeError, match="anchors"):
        player.restore(state | {"anchors": np.zeros((5, 2), np.float32)})
    assert player.chunk(0, 1).visible.sum() == 2
