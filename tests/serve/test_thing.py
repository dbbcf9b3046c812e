"""The thing under a click, in pictures whose things are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ms_infer.serve.pictures.examples import draw_balloon
from ms_infer.serve.pictures.thing import MOST_POINTS, Thing
from ms_infer.serve.pictures.thing import find_thing as find


def find_thing(*given: Any) -> Any:
    """What is found, or None; its type is checked here and not in every test."""
    found = find(*given)
    assert found is None or isinstance(found, Thing)
    return found


def balloon() -> NDArray[np.uint8]:
    return np.asarray(draw_balloon(512).resize((256, 256)))


def two_balls() -> NDArray[np.uint8]:
    """A red and a blue ball that touch, on noise."""
    ground = np.random.default_rng(0).integers(90, 130, (256, 256, 3), np.uint8)
    image = Image.fromarray(ground)
    pen = ImageDraw.Draw(image)
    pen.ellipse((50, 90, 120, 160), fill=(220, 40, 30))
    pen.ellipse((119, 90, 189, 160), fill=(40, 60, 220))
    return np.asarray(image)


@pytest.mark.parametrize("place", [(0.5, 0.4), (0.56, 0.48), (0.5, 0.33)])
def test_a_click_takes_the_whole_balloon_with_its_basket(place: tuple[float, float]) -> None:
    mask = find_thing(balloon(), [place]).mask
    for inside in ((0.5, 0.26), (0.4, 0.37), (0.6, 0.37), (0.5, 0.53), (0.5, 0.6)):
        assert mask[int(inside[1] * 128), int(inside[0] * 128)], f"{inside} is missing"
    assert 0.05 < mask.mean() < 0.09  # and nothing of the sky


def test_points_and_outline_lie_in_and_round_the_mask() -> None:
    thing = find_thing(balloon(), [(0.5, 0.4)])
    assert 16 <= len(thing.points) <= MOST_POINTS
    assert all(thing.mask[int(y * 128), int(x * 128)] for x, y in thing.points)
    ends = np.array([place for line in thing.outline for place in line])
    rows, columns = np.nonzero(thing.mask)
    np.testing.assert_allclose(ends.min(0) * 128, (columns.min() + 0.5, rows.min() + 0.5), atol=1)
    np.testing.assert_allclose(ends.max(0) * 128, (columns.max() + 0.5, rows.max() + 0.5), atol=1)


def test_a_second_click_adds_and_another_leaves_out() -> None:
    one = find_thing(two_balls(), [(0.33, 0.49)]).mask
    both = find_thing(two_balls(), [(0.33, 0.49), (0.6, 0.49)]).mask
    again = find_thing(two_balls(), [(0.33, 0.49), (0.6, 0.49)], [(0.55, 0.4)]).mask
    assert not one[62, 77]
    assert both[62, 42]
    assert both[62, 77]
    assert not again[51, 70]
    assert again[62, 42]


def test_a_stroke_leaves_out_a_whole_part_that_a_click_had_added() -> None:
    stroke = [(0.6, 0.4 + 0.03 * step) for step in range(7)]
    left = find_thing(two_balls(), [(0.33, 0.49), (0.6, 0.49)], stroke).mask
    assert left[62, 42]
    assert left[:, 66:].sum() < 0.02 * left.sum()


def test_the_same_click_picks_the_same_thing() -> None:
    first, second = (find_thing(two_balls(), [(0.4, 0.5)]) for _ in range(2))
    np.testing.assert_array_equal(first.mask, second.mask)
    assert first.points == second.points


@pytest.mark.parametrize("place", [(0.2, 0.2), (0.8, 0.7), (0.1, 0.5)])
def test_sky_is_no_thing(place: tuple[float, float]) -> None:
    assert find_thing(balloon(), [place]) is None


@pytest.mark.parametrize("place", [(0.0, 0.0), (1.0, 1.0), (0.999, 0.5), (-0.5, 1.4)])
@pytest.mark.parametrize("shape", [(256, 256), (64, 512), (512, 64)])
def test_a_click_into_nothing_is_answered_for_every_shape(place: tuple[float, float], shape: tuple[int, int]) -> None:
    assert find_thing(np.full((*shape, 3), 128, np.uint8), [place]) is None


def test_a_thing_of_which_nothing_is_left_is_none() -> None:
    assert find_thing(two_balls(), [(0.33, 0.49)], [(0.33, 0.49)]) is None
