"""A hand goes on where another one stood, to the bit, and refuses what no hand saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ms_infer import Hand, Tracks
from ms_infer.errors import ConfigError
from ms_infer.hand.movers import Field


def busy(kind: str) -> Hand:
    """A hand in the middle of something, whose last tracks are those of second 2."""
    hand = Hand(6, 6, capacity=128)
    hand.press(7, 0.5, 0.5, at=0.0)
    for step in range(20):
        hand.move(7, 0.5 + 0.01 * step, 0.5, at=0.1 * step)
    hand.static([(0.1, 0.1)])
    hand.brush([(0.8, 0.8), (0.82, 0.8)])
    hand.path([(0.2, 0.2), (0.4, 0.3), (0.5, 0.2)], seconds=3.0)
    hand.hold_released = False
    if kind == "camera":
        hand.steer(zoom=0.5)
        hand.carry(x=0.4)
    if kind == "video":
        hand.play(Tracks.grid(3, 3).drag((0.5, 0.5), (0.9, 0.5), seconds=4.0), loop=True)
    if kind == "pushed":
        hand.push(np.full((4, 4, 2), 0.01))
    hand.tracks(1.5, frames=9)
    hand.tracks(2.0)
    hand.move(7, 0.9, 0.6, at=2.1)
    return hand


KINDS = ["fingers", "camera", "video", "pushed"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moved", [0.0, 1000.0])
def test_hand_goes_on_to_the_bit_at_another_time(kind: str, moved: float) -> None:
    hand, other = busy(kind), Hand(2, 2, capacity=128)
    other.load_state(hand.state(2.2), 2.2 + moved)
    for second in (2.5, 3.0, 3.5, 6.0):
        for one, shift in ((hand, 0.0), (other, moved)):
            one.move(7, 0.5, 0.5 + second / 20, at=second - 0.1 + shift)
        first, second_ = hand.tracks(second), other.tracks(second + moved)
        assert np.array_equal(first.ids, second_.ids)
        assert np.array_equal(first.visible, second_.visible)
        if moved:  # a time of another size is rounded otherwise
            assert np.abs(first.points - second_.points).max() < 1e-6
        else:
            assert np.array_equal(first.points, second_.points)
        assert np.array_equal(hand.kinds, other.kinds)
    hand.static([(0.3, 0.3)])
    other.static([(0.3, 0.3)])
    assert np.array_equal(hand.tracks(7.0).ids, other.tracks(7.0 + moved).ids)


def test_a_field_pushes_what_rests_far_away_as_the_nearest_place_of_the_picture() -> None:
    """No integer is as large."""
    field = Field()
    field.add(np.arange(8.0).reshape(2, 2, 2))
    steps = field.take(np.array([[1e30, 1e30], [-1e30, 1e30], [0.6, 0.4], [0.1, -1e30]]))
    assert np.array_equal(steps, [[6, 7], [4, 5], [2, 3], [0, 1]])


def test_state_is_a_copy() -> None:
    hand = busy("fingers")
    state = hand.state(2.2)
    before = {name: array.copy() for name, array in state.items()}
    hand.tracks(5.0)
    hand.reset()
    assert all(np.array_equal(state[name], array) for name, array in before.items())


def broken(name: str, array: Any) -> dict[str, Any]:
    arrays = {**busy("camera").state(2.2), name: array}
    if name == "field":  # there is one
        arrays["numbers"] = np.append(arrays["numbers"][:-1], 1.0)
    return arrays


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("dots.ids", np.zeros(9, np.int64)),
        ("dots.ids", np.arange(1000, dtype=np.int64)),
        ("dots.places", np.zeros((2, 4))),
        ("dots.marks", np.full((47, 3), 9, np.uint8)),
        ("numbers", np.full(8, np.nan)),
        ("numbers", np.array([1e9, 1e9, 0, 0, 0, 0, 0, 0])),
        ("numbers", np.array([100.0, 100, 0, 0, 0, 0, 0, 0])),
        ("numbers", np.array([5, 5, 0, 0, 0, 0, 7.0, 0])),
        ("sticks", np.full((4, 4), 3.0)),
        ("hold0.places", np.array([[0.0, 0.5, 0.5], [-1.0, 0.5, 0.5]])),
        ("hold0.numbers", np.zeros(2)),
        ("hold1.places", np.zeros((1, 2))),
        ("playing.points", np.zeros((3, 3), np.float32)),
        ("field", np.zeros((0, 3, 2))),
    ],
)
def test_what_no_hand_saved_changes_nothing(name: str, array: Any) -> None:
    hand, twin = busy("fingers"), busy("fingers")
    with pytest.raises(ConfigError, match="saved hand"):
        hand.load_state(broken(name, array), 3.0)
    assert np.array_equal(hand.tracks(3.0).points, twin.tracks(3.0).points)
