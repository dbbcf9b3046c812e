"""From pointers, paths and the camera to points."""

from __future__ import annotations

import numpy as np
import pytest

from ms_infer.serve.board import MAX_STEP, Applied, Board, Kind
from ms_infer.serve.movers import Field, Path, Pointer, Stick
from ms_infer.tracks import Tracks

FRAMES, FPS = 12, 16.0


def board(**options: object) -> Board:
    made = Board(256, 1.0)
    made.advance(0.0, 9, FPS)
    for name, value in options.items():
        setattr(made, name, value)
    return made


def of_kind(applied: Applied, kind: Kind) -> np.ndarray:
    return applied.points[applied.kinds == kind]


def drag(target: Board, start: tuple[float, float], end: tuple[float, float], *, up: bool = True) -> None:
    """A drag during the 500 ms before 1000 ms."""
    target.pointer(1, "down", start, 500.0, 0.2)
    for part in np.linspace(0, 1, 11)[1:]:
        place = (start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part)
        target.pointer(1, "move", place, 500.0 + 500.0 * part, 0.2)
    if up:
        target.pointer(1, "up", end, 1000.0, 0.2)


def test_grid_rests_visible() -> None:
    applied = board().advance(100.0, FRAMES, FPS)
    assert applied.points.shape == (100, FRAMES, 2)
    assert applied.visible.all()
    assert np.ptp(applied.points, axis=1).max() == 0
    assert len(set(applied.ids.tolist())) == 100


def test_drag_moves_what_is_near_and_nothing_else() -> None:
    target = board()
    before = target.advance(400.0, FRAMES, FPS).points[:, -1]
    drag(target, (0.5, 0.5), (0.7, 0.6))
    after = target.advance(1000.0, FRAMES, FPS).points[:100, -1]
    moved = after - before
    near = np.hypot(*(before - (0.5, 0.5)).T)
    assert np.allclose(moved[near < 0.13], (0.2, 0.1), atol=1e-5)
    assert np.abs(moved[near > 0.2]).max() < 1e-7
    assert (near < 0.13).sum() >= 4


def test_pointer_history_is_replayed_on_the_frames() -> None:
    target = board()
    drag(target, (0.5, 0.5), (0.6, 0.5), up=False)
    first = target.advance(1000.0, FRAMES, FPS)
    x = of_kind(first, Kind.DRAG)[:, :, 0]
    assert np.allclose(np.diff(x[np.ptp(x, axis=1) > 0.0999], axis=1), 0.1 / (FRAMES - 1), atol=1e-6)
    target.pointer(1, "move", (0.6, 0.62), 1500.0, 0.2)
    second = target.advance(1500.0, FRAMES, FPS)
    y = of_kind(second, Kind.DRAG)[:, :, 1]
    assert np.allclose(np.diff(y[np.ptp(y, axis=1) > 0.1199], axis=1), 0.01, atol=1e-6)


def test_new_point_begins_where_it_was_grabbed() -> None:
    target = board()
    target.set_grid(0, 0)
    drag(target, (0.31, 0.37), (0.5, 0.37))
    applied = target.advance(1000.0, FRAMES, FPS)
    assert applied.points.shape[0] == 1
    assert applied.points[0, 0] == pytest.approx((0.31, 0.37))
    assert applied.points[0, -1] == pytest.approx((0.5, 0.37))


def test_fast_pointer_is_followed_at_most_so_fast_and_reached_later() -> None:
    target = board()
    target.set_grid(0, 0)
    target.pointer(1, "down", (0.1, 0.5), 990.0, 0.2)
    target.pointer(1, "move", (0.95, 0.5), 1000.0, 0.2)
    target.pointer(1, "up", (0.95, 0.5), 1000.0, 0.2)
    steps = [target.advance(1000.0 + 700 * i, FRAMES, FPS).points[0, :, 0] for i in range(3)]
    path = np.concatenate(steps)
    assert np.diff(path).max() <= MAX_STEP + 1e-6
    assert path[-1] == pytest.approx(0.95)


def test_id_is_kept_from_chunk_to_chunk() -> None:
    target = board()
    drag(target, (0.5, 0.5), (0.7, 0.5))
    first = target.advance(1000.0, FRAMES, FPS)
    second = target.advance(1700.0, FRAMES, FPS)
    assert first.ids.tolist() == second.ids.tolist()
    assert np.allclose(second.points[:, 0], first.points[:, -1])


def test_released_points_hold_or_vanish_by_choice() -> None:
    for hold in (True, False):
        target = board(hold_released=hold)
        drag(target, (0.5, 0.5), (0.6, 0.5))
        target.advance(1000.0, FRAMES, FPS)
        after = target.advance(1700.0, FRAMES, FPS)
        assert after.visible[after.kinds == Kind.DRAG].any() == hold


def test_rest_of_the_grid_is_free_by_choice() -> None:
    target = board(hold_rest=False)
    drag(target, (0.5, 0.5), (0.6, 0.5))
    applied = target.advance(1000.0, FRAMES, FPS)
    assert not applied.visible[applied.kinds == Kind.GRID].any()
    assert applied.visible[applied.kinds == Kind.DRAG].all()


def test_resting_points_under_a_dragged_thing_are_hidden() -> None:
    target = board()
    drag(target, (0.3, 0.5), (0.7, 0.5))
    target.advance(1000.0, FRAMES, FPS)
    applied = target.advance(1700.0, FRAMES, FPS)
    resting = applied.kinds == Kind.GRID
    under = np.hypot(*(applied.points[:, -1] - (0.7, 0.5)).T) < 0.1
    assert not applied.visible[resting & under].any()
    far = np.minimum(*(np.hypot(*(applied.points[:, -1] - place).T) for place in ((0.7, 0.5), (0.3, 0.5)))) > 0.3
    assert applied.visible[resting & far].all()


def test_points_just_beyond_the_reach_are_let_go() -> None:
    target = board()
    drag(target, (0.5, 0.5), (0.52, 0.5))
    applied = target.advance(1000.0, FRAMES, FPS)
    away = np.hypot(*(applied.points[:, 0] - (0.5, 0.5)).T)
    assert applied.visible[away < 0.19].all()
    assert not applied.visible[(away > 0.21) & (away < 0.27)].any()
    assert applied.visible[away > 0.3].all()


def test_static_points_stay_whatever_happens() -> None:
    target = board(stick=Stick(x=1.0, zoom=1.0))
    target.static([(0.5, 0.52)])
    drag(target, (0.5, 0.5), (0.8, 0.8))
    applied = target.advance(1000.0, FRAMES, FPS)
    held = of_kind(applied, Kind.STATIC)
    assert held.shape[0] == 1
    assert np.allclose(held, (0.5, 0.52))


def test_brushed_points_move_as_one() -> None:
    target = board()
    target.set_grid(0, 0)
    target.brush([(0.2, 0.2), (0.5, 0.2), (0.8, 0.2)])
    drag(target, (0.2, 0.2), (0.2, 0.4))
    applied = target.advance(1000.0, FRAMES, FPS)
    assert np.allclose(applied.points[:, -1] - applied.points[:, 0], (0.0, 0.2), atol=1e-6)


def test_path_is_followed_in_video_time() -> None:
    target = board()
    target.path([(0.2, 0.2), (0.6, 0.2), (0.6, 0.4)], seconds=1.5, radius=0.05)
    parts = [of_kind(target.advance(1000.0 * i, FRAMES, FPS), Kind.PATH)[0] for i in range(3)]
    walked = np.concatenate(parts)
    offset = walked - walked[0]
    assert offset[0] == pytest.approx((0, 0))
    assert offset[-1] == pytest.approx((0.4, 0.2), abs=1e-6)
    speed = np.hypot(*np.diff(walked[:24], axis=0).T)
    assert np.median(speed) == pytest.approx(0.6 / 24, rel=0.01)


def test_camera_moves_every_point_and_fills_the_cells_it_uncovers() -> None:
    target = board(stick=Stick(x=1.0))
    first = target.advance(1000.0, FRAMES, FPS)
    assert (first.points[:, -1, 0] < first.points[:, 0, 0]).all()
    for i in range(30):
        applied = target.advance(2000.0 + 750 * i, FRAMES, FPS)
    assert applied.visible[:, -1].sum() >= 70
    assert len(applied.ids) <= 256
    assert applied.points[..., 0].min() > -1.0


def test_zoom_and_roll_keep_the_centre() -> None:
    corner = np.array([[0.5, 0.5], [0.9, 0.5]])
    zoomed = Stick(zoom=1.0).moved(corner, Stick(zoom=1.0), 1.0, 1.0, 1.0)
    turned = Stick(roll=1.0).moved(corner, Stick(roll=1.0), 1.0, 1.0, 2.0)
    assert zoomed[0] == pytest.approx((0.5, 0.5))
    assert zoomed[1, 0] > 0.9
    assert turned[0] == pytest.approx((0.5, 0.5))
    width, height = (turned[1] - turned[0]) * (2.0, 1.0)
    assert np.hypot(width, height) == pytest.approx(0.8)  # a turn keeps lengths in pixels


def test_webcam_pushes_points_and_they_come_back() -> None:
    target = board(webcam=Field())
    rest = target.advance(500.0, FRAMES, FPS).points[:, -1]
    flow = np.zeros((12, 16, 2))
    flow[..., 0] = 0.1
    target.webcam.add(flow)
    pushed = target.advance(1000.0, FRAMES, FPS).points[:, -1]
    for i in range(30):
        back = target.advance(2000.0 + i, FRAMES, FPS).points[:, -1]
    assert (pushed - rest)[:, 0].mean() == pytest.approx(0.1, abs=0.02)
    assert np.abs(back - rest).max() < 0.01


def test_transferred_tracks_are_played_and_then_held() -> None:
    target = board()
    moving = Tracks.grid(3, 3, size=(64, 64), fps=FPS).path((32, 32), [(48, 32)], seconds=1.0)
    target.transfer(moving, FPS)
    parts = [target.advance(1000.0 * i, FRAMES, FPS) for i in range(3)]
    played = np.concatenate([part.points[4] for part in parts])
    assert parts[0].points.shape[0] == 9
    assert np.allclose(played[:17], moving.points[4] / 64, atol=1e-5)
    assert played[-1] == pytest.approx((0.75, 0.5), abs=1e-5)
    target.transfer(None, FPS)
    assert target.advance(9000.0, FRAMES, FPS).points.shape[0] == 100


def test_points_never_exceed_the_capacity() -> None:
    target = Board(40, 1.0)
    for i in range(30):
        target.static([(0.01 * i, 0.5)] * 10)
        target.brush([(0.01 * i, 0.2)] * 10)
        target.pointer(i, "down", (0.03 * i % 1, 0.9), 10.0 * i, 0.0)
        applied = target.advance(10.0 * i + 5, FRAMES, FPS)
        assert len(applied.ids) <= 40
    tracks = applied.tracks(FPS)
    assert tracks is not None
    assert tracks.count <= 40


def test_chunk_of_another_length_holds_the_last_position() -> None:
    target = board()
    drag(target, (0.5, 0.5), (0.6, 0.5))
    applied = target.advance(1000.0, 9, FPS)
    longer = applied.fitted(12)
    assert longer.points.shape[1] == 12
    assert np.array_equal(longer.points[:, 9:], np.repeat(applied.points[:, -1:], 3, 1))


def test_pointer_keeps_a_bounded_history() -> None:
    pointer = Pointer((0.0, 0.0), 0.0)
    for i in range(10_000):
        pointer.move((i / 10_000, 0.5), float(i))
    assert len(pointer._times) <= 512
    assert not pointer.done
    pointer.release()
    for i in range(40):
        pointer.steps(0.0, 10_000.0 + i, FRAMES, MAX_STEP)
    assert pointer.done


def test_path_of_no_length_is_done_at_once() -> None:
    assert Path([(0.5, 0.5), (0.5, 0.5)], 3.0).done
