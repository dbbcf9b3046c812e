"""The thing under a click where the model has a layer network: who is asked, and whose mask is taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from ms_infer.checkpoint import save_student
from ms_infer.config import preset
from ms_infer.demo import demo_examples
from ms_infer.media import load_image
from ms_infer.model.layers import LayerNetwork
from ms_infer.serve.pictures.layered import LayeredPicker, open_layers
from ms_infer.serve.pictures.masks import Place, parts_at, spread
from ms_infer.serve.pictures.thing import Mask, find_thing
from tests.serve.live import Page, running
from tests.serve.moving_picture import MovingPicture
from tests.serve.test_thing import two_balls
from tests.tiny import tiny_student, without_tracks


def ball(column: int, radius: int = 35) -> NDArray[np.bool_]:
    """One of the two balls' places in 256 x 256, or a part of it."""
    rows, columns = np.mgrid[:256, :256]
    return np.asarray(np.hypot(rows - 125, columns - column) < radius)


class Says(LayeredPicker):
    """A picker that proposes given masks and notes what it was asked."""

    def __init__(self, *masks: NDArray[np.bool_]) -> None:
        self.proposed = list(masks)
        self.tried: list[Mask | None] = []

    def masks(
        self, picture: NDArray[np.uint8], add: Sequence[Place], omit: Sequence[Place], tried: Mask | None
    ) -> list[Mask]:
        self.tried.append(tried)
        return self.proposed


def overlap(mask: Mask, wanted: NDArray[np.bool_]) -> float:
    small = wanted.reshape(128, 2, 128, 2).mean((1, 3)) > 0.5
    return float((mask & small).sum() / (mask | small).sum())


def test_mask_that_most_agree_upon_is_taken() -> None:
    both = ball(85) | ball(154)
    picker = Says(both, both, ball(85, 12))
    found = find_thing(two_balls(), [(0.33, 0.49)], (), picker)
    assert found is not None
    assert overlap(found.mask, both) > 0.95
    assert overlap(find_mask(None), ball(85)) > 0.85  # by colours it is one ball


def find_mask(picker: LayeredPicker | None) -> Mask:
    found = find_thing(two_balls(), [(0.33, 0.49)], (), picker)
    assert found is not None
    return found.mask


def test_sharper_outline_wins_where_two_differ() -> None:
    vague = np.roll(ball(85, 60), -40, 0)
    assert overlap(find_mask(Says(vague, ball(85))), ball(85)) > 0.95


def test_network_that_finds_nothing_leaves_what_colours_find() -> None:
    np.testing.assert_array_equal(find_mask(Says(np.zeros((256, 256), np.bool_))), find_mask(None))
    np.testing.assert_array_equal(find_mask(LayeredPicker(LayerNetwork((8, 8, 8, 8, 8)))), find_mask(None))


def test_network_is_asked_about_what_colours_find_when_that_is_a_thing() -> None:
    picker = Says(ball(85))
    find_mask(picker)
    find_thing(two_balls(), [(0.05, 0.05)], (), picker)
    there, nothing = picker.tried
    assert there is not None
    assert there.shape == (256, 256)
    assert nothing is None


class Follows(torch.nn.Module):
    """Stands in for a network: every pixel within 20 of a track that follows the thing belongs to it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[torch.Tensor, torch.Tensor]] = []

    def logits(self, image: torch.Tensor, shares: torch.Tensor, anchors: torch.Tensor) -> torch.Tensor:
        self.asked.append((shares, anchors))
        rows, columns = torch.meshgrid(torch.arange(64) + 0.5, torch.arange(64) + 0.5, indexing="ij")
        places = torch.stack([columns, rows], -1).flatten(0, 1)
        near = (torch.cdist(places[None], anchors) < 9) & (shares[:, 1] > 0)[:, None]
        thing = near.any(-1).view(len(anchors), 1, 64, 64).float()
        return 9 * torch.cat([1 - thing, thing, torch.zeros(len(anchors), 2, 64, 64)], 1)


def test_tracks_about_a_click_follow_it_and_those_far_off_rest() -> None:
    network: Any = Follows()
    picture = np.zeros((64, 64, 3), np.uint8)
    tried = np.zeros((64, 64), np.bool_)
    tried[40:56, 8:24] = True
    masks = LayeredPicker(network).masks(picture, [(0.5, 0.5)], [], tried)
    (shares, anchors), (again, _) = network.asked
    at = anchors.new_tensor([32.0, 32.0])
    for row, ring in enumerate((0.05, 0.08)):
        away = (anchors[row] - at).norm(dim=-1)
        assert away[shares[row, 1] > 0].max() == pytest.approx(64 * ring, abs=0.01)
        assert away[shares[row, 0] > 0].min() > 64 * (ring + 0.1)
        assert (shares[row, 0] > 0).sum() > 40
    assert len(again) == len(masks) == 3  # both rings again, and what was tried
    assert masks[0][32, 32]
    assert not masks[2].any()  # it does not lie at the place


def test_tracks_at_further_places_follow_the_thing_and_those_left_out_rest() -> None:
    network: Any = Follows()
    add, omit = [(0.5, 0.5), (0.9, 0.2)], [(0.52, 0.45)]
    LayeredPicker(network).masks(np.zeros((64, 64, 3), np.uint8), add, omit, None)
    shares, anchors = network.asked[0]
    for row in range(2):
        follow, rest = (anchors[row][shares[row, motion] > 0] for motion in (1, 0))
        assert (follow - follow.new_tensor([57.6, 12.8])).norm(dim=-1).min() < 0.01
        left_out = follow.new_tensor([33.28, 28.8])
        assert (rest - left_out).norm(dim=-1).min() < 0.01
        assert (follow - left_out).norm(dim=-1).min() > 2.5


@pytest.fixture(scope="module")
def demo() -> LayeredPicker:
    found = open_layers("demo", preset("demo"))
    assert found is not None
    return found


BOTH = [(0.33, 0.49), (0.6, 0.49)]


def test_demo_takes_one_of_two_balls_that_touch_then_both_then_one_again(demo: LayeredPicker) -> None:
    stroke = [(0.6, 0.4 + 0.03 * step) for step in range(7)]
    for add, omit, wanted in (
        (BOTH[:1], [], ball(85)),
        (BOTH, [], ball(85) | ball(154)),
        (BOTH, stroke, ball(85)),
    ):
        found = find_thing(two_balls(), add, omit, demo)
        assert found is not None
        assert overlap(found.mask, wanted) > 0.9, (add, omit)


def test_second_click_completes_what_the_first_took_in_part(demo: LayeredPicker) -> None:
    example = next(one for one in demo_examples() if one.image.stem == "rocket")
    picture = load_image(example.image, 256, 256)
    part, whole = (find_thing(picture, add, (), demo) for add in ([(0.5, 0.4)], [(0.5, 0.4), (0.5, 0.6)]))
    assert part is not None
    assert whole is not None
    assert not part.mask[104, 64]
    assert whole.mask[50, 64]
    assert whole.mask[104, 64]  # from its top to its foot
    assert not whole.mask[50, 54]  # and nothing of the sky


def test_points_are_spread_over_a_mask_and_parts_are_told_apart() -> None:
    mask = ball(85) | ball(200, 20)
    np.testing.assert_array_equal(parts_at(mask, [(125, 200)]), ball(200, 20))
    np.testing.assert_array_equal(parts_at(mask, [(125, 200), (125, 85)]), mask)
    assert not parts_at(mask, [(5, 5)]).any()
    points = spread(ball(85), 20)
    assert np.hypot(*(points[0] - (85, 125)).T) < 2
    apart = np.hypot(*(points[:, None] - points).T) + 1e3 * np.eye(20)
    assert apart.min() > 8


# ---- where the network comes from


def test_weights_are_read_from_a_checkpoint_that_has_them(tmp_path: Path) -> None:
    student = tiny_student()
    path = tmp_path / "layered.safetensors"
    save_student(student, path)
    picker = open_layers(str(path), student.config)
    assert picker is not None
    assert student.layer_network is not None
    for one, other in zip(picker._network.parameters(), student.layer_network.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-2)


def test_sources_without_the_weights_have_no_picker(tmp_path: Path) -> None:
    student = tiny_student()
    assert open_layers(str(tmp_path / "elsewhere"), student.config) is None
    assert open_layers("demo", without_tracks().config) is None


def test_server_asks_the_network_too() -> None:
    with running(lambda: MovingPicture(size=256)) as server, Page(server) as page, server.http() as http:
        picker = server.app.state.hub.context.layers = Says(ball(85))
        key = {"x-session-key": page.hello["key"]}
        answer = http.post(f"/api/sessions/{page.hello['session']}/thing", json={"add": [[0.33, 0.49]]}, headers=key)
        assert answer.status_code == 200
        assert len(picker.tried) == 1
