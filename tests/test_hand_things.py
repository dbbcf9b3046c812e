"""A thing that is taken whole, what is taken back, a camera that is carried, tracks that begin again."""

from __future__ import annotations

import numpy as np
import pytest

from ms_infer.errors import ConfigError
from ms_infer.hand import Hand, Kind
from ms_infer.tracks import Tracks
from tests.test_hand import FPS, FRAMES, of_kind, resting

THING = [(x, y) for x in (0.42, 0.47, 0.52) for y in (0.42, 0.47, 0.52)]


def test_a_thing_comes_along_and_nothing_beside_it() -> None:
    hand = resting()
    hand.press(1, 0.47, 0.47, at=0.1, thing=THING)
    hand.move(1, 0.67, 0.47, at=0.2)
    moved = hand.tracks(1.0, frames=FRAMES)
    dragged = of_kind(hand, moved, Kind.DRAG)
    np.testing.assert_allclose(np.sort(dragged[:, -1, 0]), np.sort(np.array(THING)[:, 0] + 0.2), atol=0.021)
    assert len(dragged) == len(THING)  # one of the grid's points may stand for one of the thing's
    grid = of_kind(hand, moved, Kind.GRID)
    assert np.ptp(grid, axis=1).max() == 0


def test_a_thing_taken_again_has_no_point_twice_and_leaves_none_behind() -> None:
    hand = resting()
    for step in range(3):
        at = np.array(THING) + np.array((0.1 * step, 0.005 * step))
        hand.press(1, *at[4], at=1.0 + step, thing=at)
        hand.move(1, at[4][0] + 0.1, at[4][1], at=1.2 + step)
        hand.release(1)
        moved = hand.tracks(1.9 + step, frames=FRAMES)
    dragged = of_kind(hand, moved, Kind.DRAG)[:, -1]
    assert len(dragged) == len(THING)
    assert dragged[:, 0].min() > 0.42 + 0.29


def test_a_thing_without_points_is_a_circle() -> None:
    hand = resting()
    assert hand.press(1, 0.5, 0.5, at=0.1, reach=0.2, thing=np.zeros((0, 2))) > 4


def test_a_path_takes_a_thing_along() -> None:
    hand = resting()
    assert hand.path([(0.47, 0.47), (0.47, 0.67)], seconds=0.5, thing=THING) == len(THING)
    assert np.ptp(of_kind(hand, hand.tracks(1.0, frames=FRAMES), Kind.PATH)[..., 1], axis=1).min() > 0.19


def test_static_and_painted_points_are_taken_back() -> None:
    hand = resting()
    hand.static([(0.11, 0.12), (0.31, 0.32)])
    hand.brush([(0.62, 0.63), (0.66, 0.63)])
    hand.tracks(0.2, frames=FRAMES)
    hand.remove([(0.11, 0.12), (0.66, 0.63)])
    left = hand.tracks(0.4, frames=FRAMES)
    np.testing.assert_allclose(of_kind(hand, left, Kind.STATIC)[:, 0], [(0.31, 0.32)], atol=1e-6)
    np.testing.assert_allclose(of_kind(hand, left, Kind.DRAG)[:, 0], [(0.62, 0.63)], atol=1e-6)
    hand.remove([(0.62, 0.63), (0.31, 0.32)])
    assert hand.tracks(0.6, frames=FRAMES).visible[hand.kinds == Kind.GRID].all()
    assert set(hand.kinds.tolist()) == {Kind.GRID}


def test_the_camera_is_carried_by_what_was_asked_and_no_faster_than_the_stick() -> None:
    hand = resting()
    before = hand.tracks(0.2, frames=FRAMES).points[:, -1]
    hand.carry(x=0.15, y=-0.05)
    moved = [hand.tracks(1.0 + chunk, frames=FRAMES) for chunk in range(4)]
    middle = np.abs(before - 0.5).max(1) < 0.2
    ids = hand.tracks(9.0, frames=FRAMES)
    after = {int(one): ids.points[row, -1] for row, one in enumerate(ids.ids)}
    first = moved[0].ids[: len(before)]
    gone = np.array([after[int(one)] - before[row] for row, one in enumerate(first) if middle[row]])
    np.testing.assert_allclose(gone, np.broadcast_to((-0.15, 0.05), gone.shape), atol=1e-5)
    steps = np.abs(np.diff(moved[1].points, axis=1)).max()
    assert steps <= 0.12 / FPS * 1.001


def test_what_is_carried_is_forgotten_with_the_rest() -> None:
    hand = resting()
    hand.carry(zoom=0.5)
    hand.reset()
    assert np.ptp(hand.tracks(1.0, frames=FRAMES).points, axis=1).max() == 0
    with pytest.raises(ConfigError, match="finite"):
        hand.carry(roll=float("nan"))


def test_played_tracks_begin_again_or_hold() -> None:
    tracks = Tracks(np.linspace(0.1, 0.5, 16)[None, :, None].repeat(2, -1).astype(np.float32), fps=FPS)
    ends = []
    for loop in (True, False):
        hand = Hand()
        hand.play(tracks, loop=loop)
        hand.tracks(0.0, frames=16)
        ends.append(hand.tracks(1.0, frames=8).points[0, :, 0])
    np.testing.assert_allclose(ends[0], tracks.points[0, :8, 0], atol=1e-5)
    np.testing.assert_allclose(ends[1], 0.5, atol=1e-6)
