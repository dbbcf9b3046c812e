"""Layers of the first frame: motions of tracks, the network's maps, and the picture that moved layers make."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ms_infer.config import MOTION_TERMS, THINGS
from ms_infer.model.layers import (
    KEYS,
    LayerNetwork,
    Layers,
    Motions,
    TrackAttention,
    compose,
    layers_of,
    shared_motions,
    track_hints,
    track_maps,
)

SIZE, FRAMES = 64, 5


def grid(side: int = 8) -> Tensor:
    """Points [1, side^2, 2] at the centres of equal cells."""
    axis = (torch.arange(side) + 0.5) * (SIZE / side)
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1).view(1, -1, 2)


def paths(anchors: Tensor, moved: Tensor, end: tuple[float, float]) -> Tensor:
    """Points [1, N, T, 2]: those of `moved` [N] go to `end` from their anchors at even speed."""
    way = torch.linspace(0, 1, FRAMES)[:, None] * torch.tensor(end)
    return anchors[:, :, None] + moved[None, :, None, None] * way


def motions(anchors: Tensor, points: Tensor, visible: Tensor | None = None) -> Motions:
    seen = torch.ones(points.shape[:3], dtype=torch.bool) if visible is None else visible
    return shared_motions(points, seen, anchors, SIZE, SIZE)


def displacement(found: Motions, motion: int, place: tuple[float, float]) -> Tensor:
    """Of a motion at a place of the first frame in the last RGB frame, pixels."""
    x, y = (2 * p / SIZE - 1 for p in place)
    basis = torch.tensor([1, x, y, x * x, x * y, y * y])
    return basis @ found.terms[0, motion, :, -1]


def random_layers(seed: int = 0) -> tuple[Tensor, Layers]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(1, 3, SIZE, SIZE, generator=generator)
    weights = (4 * torch.randn(1, 1 + THINGS, SIZE, SIZE, generator=generator)).softmax(1)
    paint = 0.3 * torch.randn(1, 3, SIZE, SIZE, generator=generator)
    return image, Layers(weights, image + (20 * (1 - weights[:, :1])).clamp(max=1) * paint)


def still() -> Tensor:
    """Terms of motions."""
    return torch.zeros(1, 1 + THINGS, MOTION_TERMS, FRAMES, 2)


def test_layers_at_rest_are_the_first_frame() -> None:
    image, layers = random_layers()
    frames, _ = compose(image, layers, still())
    assert (frames - image[:, None]).abs().max() < 0.06  # what is nearly hidden behind another thing is cut short
    assert (frames - image[:, None]).abs().mean() < 1e-3


def test_one_thing_at_rest_is_exactly_the_first_frame() -> None:
    image, _ = random_layers()
    weights = torch.zeros(1, 1 + THINGS, SIZE, SIZE)
    weights[:, 2, 20:40, 20:40] = 0.7
    weights[:, 0] = 1 - weights[:, 2]
    backdrop = torch.where(weights[:, :1] < 1, 1 - image, image)
    frames, _ = compose(image, Layers(weights, backdrop), still())
    torch.testing.assert_close(frames, image[:, None].expand(-1, FRAMES, -1, -1, -1), atol=2e-5, rtol=0)


def test_points_that_are_grabbed_are_one_motion_and_the_others_rest() -> None:
    anchors = grid()
    near = ((anchors[0] - torch.tensor([20.0, 20.0])).norm(dim=-1) < 12).float()
    found = motions(anchors, paths(anchors, near, (30.0, 10.0)))
    torch.testing.assert_close(displacement(found, 1, (20, 20)), torch.tensor([30.0, 10.0]), atol=0.3, rtol=0)
    assert displacement(found, 0, (50, 50)).abs().max() < 0.05
    assert (found.shares[0, 1, near > 0] > 0.85).all()
    assert (found.shares[0, 0, near == 0] > 0.95).all()
    assert found.shares[0, 2:].sum() < 0.01


def test_a_single_track_moves_a_thing_and_not_the_picture() -> None:
    anchors = torch.tensor([[[30.0, 34.0]]])
    found = motions(anchors, paths(anchors, torch.ones(1), (20.0, -8.0)))
    assert displacement(found, 0, (30, 34)).abs().max() < 0.5
    torch.testing.assert_close(displacement(found, 1, (30, 34)), torch.tensor([20.0, -8.0]), atol=0.5, rtol=0)


def test_tracks_everywhere_that_move_alike_move_the_picture() -> None:
    anchors = grid()
    found = motions(anchors, paths(anchors, torch.ones(64), (12.0, 5.0)))
    torch.testing.assert_close(displacement(found, 0, (30, 34)), torch.tensor([12.0, 5.0]), atol=0.05, rtol=0)
    assert found.shares[0, 1:].sum() < 0.05


def test_two_things_are_two_motions() -> None:
    anchors = grid()
    left = (anchors[0, :, 0] < 16).float()
    right = (anchors[0, :, 0] > 48).float()
    points = paths(anchors, left, (10.0, 0.0)) + paths(anchors, right, (0.0, -20.0)) - anchors[:, :, None]
    found = motions(anchors, points)
    ends = {tuple(displacement(found, m, (8 if m == 1 else 56, 32)).round().tolist()) for m in (1, 2)}
    assert ends == {(10.0, 0.0), (0.0, -20.0)}
    assert displacement(found, 0, (32, 32)).abs().max() < 0.1


def turning(anchors: Tensor, degrees: float, shift: tuple[float, float]) -> Tensor:
    """Paths [1, N, T, 2] of points that turn about their middle and shift, at even speed."""
    way = torch.linspace(0, 1, FRAMES)[None, None]
    angle, (x, y) = way * math.radians(degrees), (anchors - anchors.mean(1, keepdim=True))[..., None].unbind(2)
    turned = torch.stack([angle.cos() * x - angle.sin() * y, angle.sin() * x + angle.cos() * y], dim=-1)
    return anchors.mean(1)[:, None, None] + turned + way[..., None] * torch.tensor(shift)


@pytest.mark.parametrize("noise", [0.0, 0.15])
def test_things_that_turn_while_they_pass_one_another_are_told_apart(noise: float) -> None:
    generator = torch.Generator().manual_seed(0)
    middles = torch.tensor([[22.0, 32.0], [42.0, 32.0]])
    anchors = [middle + 15 * torch.rand(1, 16, 2, generator=generator) - 7.5 for middle in middles]
    paths_of = [turning(anchors[0], 25, (12.0, -7.0)), turning(anchors[1], -10, (12.0, -6.0))]
    ground = grid()[:, ((grid()[0] - torch.tensor([32.0, 32.0])).abs() > torch.tensor([20.0, 10.0])).any(-1)]
    rest = ground[:, :, None].expand(-1, -1, FRAMES, -1)
    points = torch.cat([*paths_of, rest], dim=1)
    points = points + noise * torch.randn(points.shape, generator=generator)
    found = motions(torch.cat([*anchors, ground], dim=1), points)
    owners = []
    for thing, (start, path) in enumerate(zip(anchors, paths_of, strict=True)):
        shares = found.shares[0, :, 16 * thing : 16 * thing + 16].sum(-1)
        owners.append(int(shares.argmax()))
        assert shares[owners[-1]] > 12
        places = torch.cat([torch.ones(16, 1), start[0] * (2 / SIZE) - 1], dim=1)
        moved = places @ found.terms[0, owners[-1], :3, -1]
        assert (moved + start[0] - path[0, :, -1]).norm(dim=-1).mean() < 0.1 + noise
    assert sorted(owners) != [0, 0]
    assert owners[0] != owners[1]
    assert found.shares[0, 1:, 32:].sum() < 0.5


@pytest.mark.parametrize("shift", [(8.2, 0.2), (9.0, -4.0)])
def test_things_that_one_stretched_map_would_join_move_as_they_do(shift: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(1)
    shifts, middles = ((10.1, -10.4), shift), torch.tensor([[51.0, 19.0], [50.0, 30.0]])
    anchors = [middle + 12 * torch.rand(1, 16, 2, generator=generator) - 6 for middle in middles]
    ground = grid()[:, ((grid()[0] - torch.tensor([50.0, 25.0])).abs() > torch.tensor([10.0, 14.0])).any(-1)]
    paths_of = [turning(start, 0, way) for start, way in zip(anchors, shifts, strict=True)]
    points = torch.cat([*paths_of, ground[:, :, None].expand(-1, -1, FRAMES, -1)], dim=1)
    found = motions(torch.cat([*anchors, ground], dim=1), points)
    for thing, (middle, way) in enumerate(zip(middles, shifts, strict=True)):
        owner = int(found.shares[0, :, 16 * thing : 16 * thing + 16].sum(-1).argmax())
        x, y = middle.tolist()
        off = displacement(found, owner, (x, y)) - torch.tensor(way)
        assert owner > 0
        assert off.norm() < 0.15


def test_the_thing_whose_tracks_are_hidden_is_laid_under_the_other() -> None:
    anchors = grid()
    left, right = (anchors[0, :, 0] < 16).float(), (anchors[0, :, 0] > 48).float()
    points = paths(anchors, left, (16.0, 0.0)) + paths(anchors, right, (-16.0, 3.0)) - anchors[:, :, None]
    for hidden, shift in ((left, 16.0), (right, -16.0)):
        visible = torch.ones(1, 64, FRAMES, dtype=torch.bool)
        visible[0, hidden > 0, -2:] = False
        found = motions(anchors, points, visible)
        under = next(m for m in (1, 2, 3) if found.shares[0, m].sum() > 1)
        assert (found.shares[0, under, hidden > 0] > 0.5).all(), "nearer things come later"
        place = (8.0 if shift > 0 else 56.0, 32.0)
        assert abs(float(displacement(found, under, place)[0]) - shift) < 0.1


def test_a_thing_that_has_left_the_picture_does_not_come_back() -> None:
    anchors = grid()
    near = ((anchors[0] - torch.tensor([20.0, 20.0])).norm(dim=-1) < 12).float()
    points = paths(anchors, near, (80.0, 0.0))
    gone = torch.cat([points[:, :, -1:]] * FRAMES, dim=2)  # a later chunk: all frames at the end
    visible = ((gone >= 0) & (gone < SIZE)).all(-1)
    assert not visible[0, near > 0].any()
    found = motions(anchors, gone, visible)
    torch.testing.assert_close(displacement(found, 1, (20, 20)), torch.tensor([80.0, 0.0]), atol=0.5, rtol=0)


def test_padding_tracks_count_for_nothing() -> None:
    anchors = grid()
    points = paths(anchors, torch.ones(64), (12.0, 5.0))
    padded = torch.cat([points, torch.zeros(1, 100, FRAMES, 2)], dim=1)
    visible = torch.arange(164)[None, :, None].expand(1, 164, FRAMES) < 64
    found = motions(torch.cat([anchors, torch.zeros(1, 100, 2)], dim=1), padded, visible)
    torch.testing.assert_close(found.terms, motions(anchors, points).terms, atol=1e-3, rtol=0)


def test_a_moved_thing_leaves_the_painted_ground_and_takes_its_shadow_along() -> None:
    image = torch.full((1, 3, SIZE, SIZE), 0.8)
    image[:, :, 16:24, 16:24] = torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1)
    image[:, :, 24:28, 16:24] = 0.4  # a shadow below it: half of the light
    weights = torch.zeros(1, 1 + THINGS, SIZE, SIZE)
    weights[:, 1, 16:24, 16:24] = 1
    weights[:, 1, 24:28, 16:24] = 0.5
    weights[:, 0] = 1 - weights[:, 1]
    moved = still()
    moved[:, 1, 0, :, 0] = 24.0
    frames, shown = compose(image, Layers(weights, torch.full_like(image, 0.8)), moved)
    torch.testing.assert_close(frames[0, 2, :, 20, 44], torch.tensor([0.9, 0.1, 0.1]))
    torch.testing.assert_close(frames[0, 2, :, 26, 44], torch.full((3,), 0.4))
    torch.testing.assert_close(frames[0, 2, :, 20, 20], torch.full((3,), 0.8))
    assert shown[0, 2, 0, 20, 20] == 0
    assert shown[0, 2, 0, 20, 44] == 1
    assert shown[0, 2, 0, 50, 50] == 1


def test_nearer_things_cover_farther_ones() -> None:
    image = torch.zeros(1, 3, SIZE, SIZE)
    image[:, 0, 8:16, 8:16], image[:, 1, 40:48, 40:48] = 1, 1
    weights = torch.zeros(1, 1 + THINGS, SIZE, SIZE)
    weights[:, 1, 8:16, 8:16], weights[:, 2, 40:48, 40:48] = 1, 1
    weights[:, 0] = 1 - weights[:, 1:].sum(1)
    moved = still()
    moved[:, 1, 0] = 32.0
    frames, _ = compose(image, Layers(weights, torch.zeros_like(image)), moved)
    torch.testing.assert_close(frames[0, 0, :, 44, 44], torch.tensor([0.0, 1.0, 0.0]))


@pytest.mark.parametrize("bend", [0.0, 6.0])
def test_the_backdrop_moves_by_its_field(bend: float) -> None:
    """A ramp in x, moved by a field with zoom and bend: the colour at s + d(s) is the ramp's at s."""
    ramp = ((torch.arange(SIZE) + 0.5) / SIZE).expand(1, 3, SIZE, SIZE).contiguous()
    weights = torch.zeros(1, 1 + THINGS, SIZE, SIZE)
    weights[:, 0] = 1
    moved = still()
    moved[:, 0, 1, :, 0] = 8.0  # a zoom
    moved[:, 0, 3, :, 0] = bend
    frames, _ = compose(ramp, Layers(weights, ramp), moved)
    for source in (12.5, 30.5, 44.5):
        x = 2 * source / SIZE - 1
        target = source + 8 * x + bend * x * x
        left = int(target - 0.5)
        share = target - 0.5 - left
        row = frames[0, 0, 0, 32]
        shown = (1 - share) * row[left] + share * row[left + 1]
        assert abs(float(shown) * SIZE - source) < 0.25


def test_what_moves_by_half_a_pixel_stays_sharp() -> None:
    ramp = torch.arange(SIZE).view(1, 1, 1, SIZE).expand(1, 3, SIZE, SIZE)
    image = 0.5 + 0.4 * (2 * math.pi / 5 * ramp).sin()  # bilinear sampling leaves 81 % of this at its worst
    moved = still()
    moved[:, 0, 0, :, 0] = 0.5
    weights = torch.zeros(1, 1 + THINGS, SIZE, SIZE)
    weights[:, 0] = 1

    frames, shown = compose(image, Layers(weights, image), moved)
    inner = frames[..., 4:-4]
    assert (inner.amax() - inner.amin()) / 0.8 > 0.9
    assert 0 <= shown.min() <= shown.max() <= 1


def test_the_edge_of_a_moved_thing_has_no_ghost() -> None:
    weights = torch.zeros(1, 1 + THINGS, SIZE, SIZE)
    weights[:, 1, 20:40, 20:40] = 1
    weights[:, 0] = 1 - weights[:, 1]
    image = weights[:, 1:2].expand(1, 3, SIZE, SIZE) * 0.4 + 0.3
    moved = still()
    moved[:, 1, 0, :, 0] = 2.5

    frames, _ = compose(image, Layers(weights, torch.full_like(image, 0.3)), moved)
    assert frames.min() > 0.3 - 1e-6
    assert frames.max() < 0.7 + 0.04


def test_the_network_begins_with_the_backdrop_alone() -> None:
    network = LayerNetwork((8, 16, 16, 16, 16))
    image = torch.rand(2, 3, SIZE, SIZE)
    layers = network(image, torch.rand(2, 1 + THINGS, 5) / 4, SIZE * torch.rand(2, 5, 2))
    assert layers.weights.shape == (2, 1 + THINGS, SIZE, SIZE)
    torch.testing.assert_close(layers.weights.sum(1), torch.ones(2, SIZE, SIZE))
    assert layers.weights[:, 0].min() > 0.8


def test_layers_of_rounded_numbers_are_those_of_the_first_frame() -> None:
    image = torch.rand(1, 3, SIZE, SIZE)
    logits = (8 * torch.randn(1, 1 + THINGS, SIZE, SIZE)).bfloat16().float()
    logits[:, 0, :, :20] = 100  # no thing is there
    layers = layers_of(image, logits, torch.randn(1, 3, SIZE, SIZE).bfloat16().float())
    torch.testing.assert_close(layers.weights.sum(1), torch.ones(1, SIZE, SIZE))
    assert torch.equal(layers.backdrop[..., :20], image[..., :20])
    assert not torch.equal(layers.backdrop, image)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_parts_of_the_network_are_the_whole(dtype: torch.dtype) -> None:
    network = LayerNetwork((8, 8, 8, 8, 8), (8, 8)).to(dtype)
    image, shares, anchors = torch.rand(1, 3, SIZE, SIZE), torch.rand(1, 1 + THINGS, 5) / 4, SIZE * torch.rand(1, 5, 2)
    found = layers_of(image, *network.predict(image, track_hints(shares, anchors, SIZE, SIZE)))
    whole = network(image, shares, anchors)
    assert found.weights.dtype == found.backdrop.dtype == torch.float32
    assert torch.equal(found.weights, network.weights(image, shares, anchors))
    assert torch.equal(found.backdrop, whole.backdrop)
    assert torch.equal(found.backdrop, network.painter(image, found.weights[:, :1]))


def test_maps_show_where_the_tracks_of_a_motion_begin() -> None:
    shares = torch.zeros(1, 1 + THINGS, 2)
    shares[0, 0, 0], shares[0, 2, 1] = 1, 0.5
    maps = track_maps(shares, torch.tensor([[[10.0, 20.0], [50.0, 40.0]]]), SIZE, SIZE)
    assert maps.shape == (1, 1 + THINGS, SIZE // 2, SIZE // 2)
    assert divmod(int(maps[0, 0].argmax()), SIZE // 2) in {(9, 4), (9, 5), (10, 4), (10, 5)}
    assert divmod(int(maps[0, 2].argmax()), SIZE // 2) in {(19, 24), (19, 25), (20, 24), (20, 25)}
    assert maps[0, 1].max() == 0
    assert maps[0, 3].max() == 0


def test_a_place_follows_the_track_that_it_looks_like() -> None:
    torch.manual_seed(0)
    attention = TrackAttention(KEYS)
    attention.digest = torch.nn.Identity()  # type: ignore[assignment]
    with torch.no_grad():
        attention.query.weight.copy_(200 * torch.eye(KEYS)[:, :, None, None])
        attention.key.weight.copy_(torch.eye(KEYS))
        attention.query.bias.zero_()  # type: ignore[union-attr]
        attention.key.bias.zero_()
        attention.answer.weight[:, :, 0, 0] = torch.eye(KEYS)[:, : 1 + THINGS]
    x = torch.zeros(1, KEYS, 16, 16)
    x[:, 10, :, :8], x[:, 20, :, 8:] = 1, 1  # two looks, left and right
    shares = torch.zeros(1, 1 + THINGS, 3)
    shares[0, 0, 0], shares[0, 2, 1] = 1, 1  # the third track is not there
    places = torch.tensor([[[-0.8, 0.0], [0.1, 0.9], [-0.8, -0.8]]])
    told = attention(x, shares, places)[0, : 1 + THINGS]
    assert told[0, :, :6].min() > 0.9
    assert told[2, :, 8:].min() > 0.9
    assert told[2, :, :6].max() < 0.1
    assert told[[1, 3]].max() < 0.01


def test_what_is_found_in_the_mirror_image_is_the_mirror_image() -> None:
    generator = torch.Generator().manual_seed(3)
    torch.manual_seed(3)
    network = LayerNetwork((8, 8, 12, 16, 16), painter=(8, 8)).eval()
    torch.nn.init.normal_(network.leave.weight, std=0.3)
    image, anchors = torch.rand(1, 3, SIZE, SIZE, generator=generator), grid()
    shares = torch.rand(1, 1 + THINGS, 64, generator=generator).softmax(1)
    mirrored = torch.stack([SIZE - anchors[..., 0], anchors[..., 1]], dim=-1)
    with torch.no_grad():
        found, again = network.weights(image, shares, anchors), network.weights(image.flip(-1), shares, mirrored)
        one_look = network.logits(image, shares, anchors).softmax(1)
    torch.testing.assert_close(again.flip(-1), found, atol=1e-5, rtol=0)
    assert (one_look - found).abs().max() > 1e-3


def test_without_tracks_no_motion_is_told() -> None:
    attention = TrackAttention(16)
    attention.digest = torch.nn.Identity()  # type: ignore[assignment]
    torch.nn.init.ones_(attention.answer.weight)
    x = torch.rand(1, 16, 8, 8)
    torch.testing.assert_close(attention(x, torch.zeros(1, 1 + THINGS, 4), torch.zeros(1, 4, 2)), x)
