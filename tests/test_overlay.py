"""The overlay: kinds differ in colour and shape, tails show the past."""

from __future__ import annotations

import numpy as np
import pytest

from ms_infer.errors import ConfigError, TrackShapeError
from ms_infer.media import draw_tracks


def one_track(kind: str | None, moves: float = 0.0) -> np.ndarray:
    points = np.zeros((1, 10, 2), np.float32) + 30
    points[0, :, 0] += moves * np.arange(10)
    frames = np.zeros((10, 60, 80, 3), np.uint8)
    return draw_tracks(frames, points, np.ones((1, 10), bool), None if kind is None else [kind])  # type: ignore[list-item]


def test_kinds_differ_in_colour_and_in_shape() -> None:
    shapes = {}
    for kind, channel in (("drag", 1), ("static", 0), ("path", 2)):
        frame = one_track(kind)[0]
        assert frame[30, 30].argmax() == channel
        shapes[kind] = (frame.max(-1) > 0).tobytes()
    assert len(set(shapes.values())) == 3


def test_what_moves_counts_as_dragged_and_has_a_tail() -> None:
    np.testing.assert_array_equal(one_track(None), one_track("static"))
    moved = one_track(None, moves=4.0)
    np.testing.assert_array_equal(moved, one_track("drag", moves=4.0))
    row = moved[9, 30, :, 1] > 100
    assert row[36:66].all()  # the tail of 8 RGB frames reaches back from x = 66 to 34
    assert not row[:30].any()


def test_invisible_tracks_are_not_drawn_and_the_input_is_not_changed() -> None:
    frames, points = np.full((2, 40, 40, 3), 9, np.uint8), np.full((1, 2, 2), 20, np.float32)
    drawn = draw_tracks(frames, points, np.array([[True, False]]))
    assert (frames == 9).all()
    assert (drawn[0] != 9).any()
    assert (drawn[1] == 9).all()


def test_history_feeds_only_the_tails() -> None:
    points = np.zeros((1, 6, 2), np.float32) + 20
    points[0, :, 0] += 4 * np.arange(6)
    long = draw_tracks(np.zeros((2, 60, 60, 3), np.uint8), points, np.ones((1, 6), bool), ["drag"])
    short = draw_tracks(np.zeros((2, 60, 60, 3), np.uint8), points[:, 4:], np.ones((1, 2), bool), ["drag"])
    assert long[0, 20, 24].any()
    assert not short[0, 20, 24].any()
    np.testing.assert_array_equal(long[0, 20, 36], short[0, 20, 36])


def test_overlay_arrays_that_do_not_fit_are_refused() -> None:
    frames, points, visible = np.zeros((3, 8, 8, 3), np.uint8), np.zeros((1, 3, 2), np.float32), np.ones((1, 3), bool)
    with pytest.raises(TrackShapeError, match=">= 3"):
        draw_tracks(frames, points[:, :2], visible[:, :2])
    with pytest.raises(ConfigError, match="one per track"):
        draw_tracks(frames, points, visible, ["drag", "drag"])
    with pytest.raises(ConfigError, match="one per track"):
        draw_tracks(frames, points, visible, ["hop"])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="uint8"):
        draw_tracks(frames.astype(np.float32), points, visible)  # type: ignore[arg-type]
