"""From pointers, paths and the camera to points."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest

from ms_infer import Stream
from ms_infer.errors import ConfigError
from ms_infer.hand import Hand, Kind
from ms_infer.hand.movers import MAX_STEP, Path, Pointer, Stick
from ms_infer.tracks import Tracks
from tests import hand_script
from tests.quick import QuickEngine

FRAMES, FPS = 12, 16.0


def resting(**options: bool) -> Hand:
    """A hand whose first chunk has been played."""
    hand = Hand()
    hand.tracks(0.0, frames=9)
    for name, value in options.items():
        setattr(hand, name, value)
    return hand


def of_kind(hand: Hand, tracks: Tracks, kind: Kind) -> np.ndarray:
    return tracks.points[hand.kinds == kind]


def drag(hand: Hand, start: tuple[float, float], end: tuple[float, float], *, up: bool = True) -> None:
    """A drag during the half second before second 1."""
    hand.press(1, *start, at=0.5, reach=0.2)
    for part in np.linspace(0, 1, 11)[1:]:
        place = (start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part)
        hand.move(1, *place, at=0.5 + 0.5 * part)
    if up:
        hand.release(1)


def test_grid_rests_visible() -> None:
    applied = resting().tracks(0.1, frames=FRAMES)
    assert applied.points.shape == (100, FRAMES, 2)
    assert applied.visible.all()
    assert np.ptp(applied.points, axis=1).max() == 0
    assert len(set(applied.ids.tolist())) == 100


def test_drag_moves_what_is_near_and_nothing_else() -> None:
    target = resting()
    before = target.tracks(0.4, frames=FRAMES).points[:, -1]
    drag(target, (0.5, 0.5), (0.7, 0.6))
    after = target.tracks(1.0, frames=FRAMES).points[:100, -1]
    moved = after - before
    near = np.hypot(*(before - (0.5, 0.5)).T)
    assert np.allclose(moved[near < 0.13], (0.2, 0.1), atol=1e-5)
    assert np.abs(moved[near > 0.2]).max() < 1e-7
    assert (near < 0.13).sum() >= 4


def test_pointer_history_is_replayed_on_the_frames() -> None:
    target = resting()
    drag(target, (0.5, 0.5), (0.6, 0.5), up=False)
    first = target.tracks(1.0, frames=FRAMES)
    x = of_kind(target, first, Kind.DRAG)[:, :, 0]
    assert np.allclose(np.diff(x[np.ptp(x, axis=1) > 0.0999], axis=1), 0.1 / (FRAMES - 1), atol=1e-6)
    target.move(1, 0.6, 0.62, at=1.5)
    second = target.tracks(1.5, frames=FRAMES)
    y = of_kind(target, second, Kind.DRAG)[:, :, 1]
    assert np.allclose(np.diff(y[np.ptp(y, axis=1) > 0.1199], axis=1), 0.01, atol=1e-6)


def test_new_point_begins_where_it_was_grabbed() -> None:
    target = resting()
    target.grid(0, 0)
    drag(target, (0.31, 0.37), (0.5, 0.37))
    applied = target.tracks(1.0, frames=FRAMES)
    assert applied.points.shape[0] == 1
    assert applied.points[0, 0] == pytest.approx((0.31, 0.37))
    assert applied.points[0, -1] == pytest.approx((0.5, 0.37))


def test_fast_pointer_is_followed_at_most_so_fast_and_reached_later() -> None:
    target = resting()
    target.grid(0, 0)
    target.press(1, 0.1, 0.5, at=0.99, reach=0.2)
    target.move(1, 0.95, 0.5, at=1)
    target.release(1)
    steps = [target.tracks(1.0 + 0.7 * i, frames=FRAMES).points[0, :, 0] for i in range(3)]
    path = np.concatenate(steps)
    assert np.diff(path).max() <= MAX_STEP + 1e-6
    assert path[-1] == pytest.approx(0.95)


def test_id_is_kept_from_chunk_to_chunk() -> None:
    target = resting()
    drag(target, (0.5, 0.5), (0.7, 0.5))
    first = target.tracks(1.0, frames=FRAMES)
    second = target.tracks(1.7, frames=FRAMES)
    assert first.ids.tolist() == second.ids.tolist()
    assert np.allclose(second.points[:, 0], first.points[:, -1])


def test_released_points_hold_or_vanish_by_choice() -> None:
    for hold in (True, False):
        target = resting(hold_released=hold)
        drag(target, (0.5, 0.5), (0.6, 0.5))
        target.tracks(1.0, frames=FRAMES)
        after = target.tracks(1.7, frames=FRAMES)
        assert after.visible[target.kinds == Kind.DRAG].any() == hold


def test_rest_of_the_grid_is_free_by_choice() -> None:
    target = resting(hold_rest=False)
    drag(target, (0.5, 0.5), (0.6, 0.5))
    applied = target.tracks(1.0, frames=FRAMES)
    assert not applied.visible[target.kinds == Kind.GRID].any()
    assert applied.visible[target.kinds == Kind.DRAG].all()


def test_resting_points_under_a_dragged_thing_are_hidden() -> None:
    target = resting()
    drag(target, (0.3, 0.5), (0.7, 0.5))
    target.tracks(1.0, frames=FRAMES)
    applied = target.tracks(1.7, frames=FRAMES)
    grid = target.kinds == Kind.GRID
    under = np.hypot(*(applied.points[:, -1] - (0.7, 0.5)).T) < 0.1
    assert not applied.visible[grid & under].any()
    far = np.minimum(*(np.hypot(*(applied.points[:, -1] - place).T) for place in ((0.7, 0.5), (0.3, 0.5)))) > 0.3
    assert applied.visible[grid & far].all()


def test_points_just_beyond_the_reach_are_let_go() -> None:
    target = resting()
    drag(target, (0.5, 0.5), (0.52, 0.5))
    applied = target.tracks(1.0, frames=FRAMES)
    away = np.hypot(*(applied.points[:100, 0] - (0.5, 0.5)).T)
    assert applied.visible[:100][away < 0.19].all()
    assert not applied.visible[:100][(away > 0.21) & (away < 0.27)].any()
    assert applied.visible[:100][away > 0.3].all()


def test_static_points_stay_whatever_happens() -> None:
    target = resting()
    target.steer(x=1.0, zoom=1.0)
    target.static([(0.5, 0.52)])
    drag(target, (0.5, 0.5), (0.8, 0.8))
    applied = target.tracks(1.0, frames=FRAMES)
    held = of_kind(target, applied, Kind.STATIC)
    assert held.shape[0] == 1
    assert np.allclose(held, (0.5, 0.52))


def test_brushed_points_move_as_one() -> None:
    target = resting()
    target.grid(0, 0)
    target.brush([(0.2, 0.2), (0.5, 0.2), (0.8, 0.2)])
    drag(target, (0.2, 0.2), (0.2, 0.4))
    applied = target.tracks(1.0, frames=FRAMES)
    assert np.allclose(applied.points[:, -1] - applied.points[:, 0], (0.0, 0.2), atol=1e-6)


def test_path_is_followed_in_video_time() -> None:
    target = resting()
    target.path([(0.2, 0.2), (0.6, 0.2), (0.6, 0.4)], seconds=1.5, reach=0.05)
    parts = [of_kind(target, target.tracks(1.0 * i, frames=FRAMES), Kind.PATH)[0] for i in range(3)]
    walked = np.concatenate(parts)
    offset = walked - walked[0]
    assert offset[0] == pytest.approx((0, 0))
    assert offset[-1] == pytest.approx((0.4, 0.2), abs=1e-6)
    speed = np.hypot(*np.diff(walked[:24], axis=0).T)
    assert np.median(speed) == pytest.approx(0.6 / 24, rel=0.01)


def test_camera_moves_every_point_and_fills_the_cells_it_uncovers() -> None:
    target = resting()
    target.steer(x=1.0)
    first = target.tracks(1.0, frames=FRAMES)
    assert (first.points[:, -1, 0] < first.points[:, 0, 0]).all()
    for i in range(30):
        applied = target.tracks(2.0 + 0.75 * i, frames=FRAMES)
    assert applied.visible[:, -1].sum() >= 70
    assert len(applied.ids) <= 256
    assert applied.points[..., 0].min() > -1.0


def test_no_grid_point_is_put_where_a_thing_was_taken_away() -> None:
    """Its anchor would lie upon the thing, and say that it rests there: the thing would vanish."""
    target = resting()
    drag(target, (0.75, 0.5), (0.3, 0.3))
    for now in (1.0, 1.7, 2.4):
        target.tracks(now, frames=FRAMES)
    target.steer(zoom=0.2)
    moving = target.tracks(3.0, frames=FRAMES)
    bare = np.hypot(*(moving.points[:, 0] - (0.75, 0.5)).T) < 0.15
    assert bare.sum() >= 4
    assert not moving.visible[bare].any()
    dragged = moving.visible[target.kinds == Kind.DRAG]
    assert dragged.sum(0).min() >= 4


def test_zoom_and_roll_keep_the_centre() -> None:
    corner = np.array([[0.5, 0.5], [0.9, 0.5]])
    zoomed = Stick(zoom=1.0).moved(corner, 1.0, 1.0)
    turned = Stick(roll=1.0).moved(corner, 1.0, 2.0)
    assert zoomed[0] == pytest.approx((0.5, 0.5))
    assert zoomed[1, 0] > 0.9
    assert turned[0] == pytest.approx((0.5, 0.5))
    width, height = (turned[1] - turned[0]) * (2.0, 1.0)
    assert np.hypot(width, height) == pytest.approx(0.8)  # a turn keeps lengths in pixels


def test_webcam_pushes_points_and_they_come_back() -> None:
    target = resting()
    rest = target.tracks(0.5, frames=FRAMES).points[:, -1]
    flow = np.zeros((12, 16, 2))
    flow[..., 0] = 0.1
    target.push(flow)
    pushed = target.tracks(1.0, frames=FRAMES).points[:, -1]
    for i in range(30):
        back = target.tracks(2.0 + 0.001 * i, frames=FRAMES).points[:, -1]
    assert (pushed - rest)[:, 0].mean() == pytest.approx(0.1, abs=0.02)
    assert np.abs(back - rest).max() < 0.01


def test_transferred_tracks_are_played_and_then_held() -> None:
    target = resting()
    moving = Tracks.grid(3, 3, size=(64, 64), fps=FPS).path((32, 32), [(48, 32)], seconds=1.0)
    target.play(moving)
    parts = [target.tracks(1.0 * i, frames=FRAMES) for i in range(3)]
    played = np.concatenate([part.points[4] for part in parts])
    assert parts[0].points.shape[0] == 9
    assert np.allclose(played[:17], moving.points[4] / 64, atol=1e-5)
    assert played[-1] == pytest.approx((0.75, 0.5), abs=1e-5)
    target.play(None)
    assert target.tracks(9.0, frames=FRAMES).points.shape[0] == 100


def test_points_never_exceed_the_capacity() -> None:
    target = Hand(capacity=40)
    for i in range(30):
        target.static([(0.01 * i, 0.5)] * 10)
        target.brush([(0.01 * i, 0.2)] * 10)
        target.press(i, 0.03 * i % 1, 0.9, at=0.01 * i, reach=0.0)
        applied = target.tracks(0.01 * i + 0.005, frames=FRAMES)
        assert len(applied.ids) <= 40


def test_pointer_keeps_a_bounded_history() -> None:
    pointer = Pointer((0.0, 0.0), 0.0)
    for i in range(10_000):
        pointer.move((i / 10_000, 0.5), float(i))
    assert len(pointer.times) <= 512
    assert not pointer.done
    pointer.release()
    for i in range(40):
        pointer.steps(0.0, 10_000.0 + i, FRAMES)
    assert pointer.done


def test_path_of_no_length_is_done_at_once() -> None:
    assert Path([(0.5, 0.5), (0.5, 0.5)], 3.0).done


def test_golden_script_plays_bit_for_bit() -> None:
    lines = hand_script.GOLDEN.read_text().splitlines()
    assert sum(line.startswith("tracks") for line in lines) == 360
    assert list(hand_script.played(lines)) == lines


def test_first_chunk_with_new_point_shows_it_where_it_was_pressed_however_late() -> None:
    target = Hand(0, 0)
    assert target.press(7, 0.3, 0.4, at=100.0) == 1
    target.move(7, 0.4, 0.4, at=100.5)
    first = target.tracks(100.5, frames=9)
    assert first.points[0, 0] == pytest.approx((0.3, 0.4))
    assert first.points[0, -1] == pytest.approx((0.4, 0.4))


def test_events_after_now_are_played_in_the_chunk_that_they_belong_to() -> None:
    target = Hand(0, 0)
    target.press(1, 0.5, 0.5, at=0.0)
    target.move(1, 0.5, 0.5, at=1.0)
    target.move(1, 0.7, 0.5, at=2.0)  # a script may give the whole gesture ahead
    still, moving = target.tracks(1.0, frames=12), target.tracks(2.0, frames=12)
    assert np.ptp(still.points[0], axis=0).max() == 0
    assert np.allclose(np.diff(moving.points[0, :, 0]), 0.2 / 12, atol=1e-6)


def test_points_that_another_pointer_still_holds_are_not_let_go() -> None:
    target = resting(hold_released=False)
    target.press(1, 0.5, 0.5, at=0.1, reach=0.2)
    target.press(2, 0.5, 0.5, at=0.1, reach=0.2)
    target.release(1)
    held = target.tracks(0.5, frames=FRAMES)
    assert held.visible[target.kinds == Kind.DRAG].all()
    target.tracks(0.6, frames=FRAMES)
    target.release(2)
    target.tracks(0.7, frames=FRAMES)
    assert not target.tracks(0.8, frames=FRAMES).visible[target.kinds == Kind.DRAG].any()


def test_pointer_pressed_twice_is_released_first_and_those_beyond_sixteen_hold_nothing() -> None:
    target = Hand(capacity=64)
    for _ in range(20):
        target.press(1, 0.5, 0.5, at=0.0)
        target.tracks(0.0)
    held = [target.press(number, 0.5, 0.5, at=0.0) for number in range(2, 20)]  # 1 is down, its old ones have arrived
    assert [count > 0 for count in held] == [True] * 15 + [False] * 3
    target.release()
    target.tracks(0.0)
    assert target.press(99, 0.5, 0.5, at=0.0) > 0


def test_nothing_held_where_a_new_point_does_not_fit() -> None:
    target = Hand(0, 0, capacity=1)
    target.static([(0.1, 0.1)])
    assert target.press(1, 0.9, 0.9, at=0.0) == 0
    assert target.path([(0.9, 0.9), (0.5, 0.5)], seconds=1.0) == 0


def test_many_threads_press_while_tracks_are_made() -> None:
    target, failures = Hand(), []

    def scribble(number: int) -> None:
        try:
            for step in range(200):
                target.press(number, 0.1 * number, 0.5, reach=0.1)
                target.move(number, 0.1 * number, 0.5 + step / 1000)
                target.steer(x=(step % 3 - 1) / 2)
                target.release(number)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=scribble, args=(number,)) for number in range(1, 5)]
    for thread in threads:
        thread.start()
    made = [target.tracks() for _ in range(50)]
    for thread in threads:
        thread.join()
    assert not failures
    assert all(tracks.count <= 256 for tracks in made)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda hand: hand.press(1, 400, 300, at=0.0), "not pixels"),
        (lambda hand: hand.press(1, float("nan"), 0.5, at=0.0), "not pixels"),
        (lambda hand: hand.press(1, 0.5, 0.5, at=float("inf")), "finite seconds"),
        (lambda hand: hand.press(1, 0.5, 0.5, at=0.0, reach=-1), "reach must be"),
        (lambda hand: hand.tracks(0.0, frames=0), "1 or more RGB frames"),
        (lambda hand: hand.path([(0.5, 0.5)], seconds=1.0), "at least 2 points"),
        (lambda hand: hand.path([(0.5, 0.5), (0, 0)], seconds=0), "seconds must be a positive number"),
        (lambda hand: hand.static((0.5, 0.5)), r"\[M, 2\]"),
        (lambda hand: hand.steer(zoom=2), "-1..1"),
        (lambda hand: hand.grid(-1, 3), "0 or more rows"),
        (lambda hand: hand.push([[0.1, 0.1]]), r"\[rows, cols, 2\]"),
        (lambda hand: Hand(capacity=0), "capacity of 1..10000"),
        (lambda hand: Hand(aspect=0), "aspect must be"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(call: Callable[[Hand], object], words: str) -> None:
    hand = Hand()
    before = hand.tracks(0.0)
    with pytest.raises(ConfigError, match=words) as refusal:
        call(hand)
    assert "\n" not in str(refusal.value)
    assert np.array_equal(hand.tracks(0.0).points, before.points)


def test_hand_says_whether_points_go_on_by_themselves() -> None:
    hand = Hand(4, 4)
    assert not hand.moving
    hand.press(1, 0.5, 0.5, at=0.0)
    hand.tracks(0.5)
    assert not hand.moving  # a finger that rests asks for nothing
    hand.steer(zoom=0.1)
    assert hand.moving
    hand.steer()
    hand.path([(0.2, 0.2), (0.4, 0.2)], seconds=1.0)
    assert hand.moving
    hand.tracks(1.0, frames=17)
    assert not hand.moving
    hand.play(Tracks.grid(2, 2).drag((0.5, 0.5), (0.6, 0.5), seconds=1.0))
    assert hand.moving
    hand.tracks(2.0, frames=64)
    assert not hand.moving
    hand.loop = True
    assert hand.moving
    hand.reset()
    hand.push(np.zeros((2, 2, 2)))
    assert hand.moving


def test_stream_makes_a_hand_that_fits_it() -> None:
    with Stream(QuickEngine()) as stream:
        hand = stream.hand()
        assert stream.config.model.track_head is not None
        assert (hand.fps, hand.capacity) == (stream.config.fps, stream.config.model.track_head.max_tracks)
        for _ in range(2):
            expected = stream.next_rgb_frames
            stream.set_tracks(hand.tracks(0.0, frames=expected))
            assert len(stream.step().frames) == expected
