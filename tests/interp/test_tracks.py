"""scatter_tracks over both rules of every open point, against the twin and against the SDK's own track head."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from ms_kernels import TrackGrid, reference, scatter_tracks

from ms_infer.config import ModelConfig, StreamConfig, TrackHeadConfig, VaeConfig
from ms_infer.model.track_head import TrackHead
from tests.interp.guard import DTYPES, assert_close, random, same_bits

GRID = TrackGrid(height=48, width=80, rows=6, columns=10)
RULES = list(itertools.product(("floor", "round"), ("sum", "last"), ("repeat", "zero_pad")))


def _grid(rule=("floor", "sum", "repeat"), **changes):
    return dataclasses.replace(
        GRID, **dict(zip(("rounding", "collision", "first_frame"), rule, strict=True)), **changes
    )


def _tracks(guard, count=37, rgb_frames=9):
    """Points that crowd into cells, some outside, some hidden."""
    generator = torch.Generator().manual_seed(count + rgb_frames)
    points = torch.rand(count, rgb_frames, 2, generator=generator) * torch.tensor([100.0, 60.0]) - 8
    visible = torch.rand(count, rgb_frames, generator=generator) > 0.3
    ids = torch.randint(0, 100_000, (count,), generator=generator)
    return guard(points), guard(visible), guard(ids)


def _weights(guard, channels=16, id_dim=64, dtype=torch.float32):
    return guard((0.06 * random(channels, 4 * id_dim)).to(dtype)), guard(random(channels, dtype=dtype))


@pytest.mark.parametrize("rule", RULES, ids="-".join)
@pytest.mark.parametrize("rgb_frames", [5, 8])
def test_every_rule_matches_the_twin(guard, rule, rgb_frames):
    points, visible, ids = _tracks(guard, rgb_frames=rgb_frames)
    weight, bias = _weights(guard)
    out = guard.poison(2, 16, GRID.rows, GRID.columns, dtype=torch.float32)
    scatter_tracks(points, visible, ids, weight, _grid(rule), bias=bias, out=out)
    expected = reference.scatter_tracks(points, visible, ids, weight.double(), _grid(rule), bias=bias.double())
    assert_close(out, expected, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("channels", "id_dim", "order"), [(5, 6, "sin_cos"), (20, 64, "cos_sin")])
def test_odd_widths_and_dtypes(guard, dtype, channels, id_dim, order):
    points, visible, ids = _tracks(guard, count=5, rgb_frames=4)
    weight, _ = _weights(guard, channels, id_dim, dtype)
    grid = _grid(id_order=order)
    expected = reference.scatter_tracks(points, visible, ids, weight.double(), grid)
    assert_close(scatter_tracks(points, visible, ids.int(), weight, grid), expected, dtype)


@pytest.mark.parametrize("count", [0, 1])
def test_few_tracks(guard, count):
    points, visible, ids = _tracks(guard, count=count, rgb_frames=4)
    weight, bias = _weights(guard)
    expected = reference.scatter_tracks(points, visible, ids, weight.double(), GRID, bias=bias.double())
    assert_close(scatter_tracks(points, visible, ids, weight, GRID, bias=bias), expected, torch.float32)


def test_slices_along_time(guard):
    points, visible, ids = _tracks(guard, rgb_frames=17)
    weight, _ = _weights(guard)
    chunk = slice(9, 13)
    expected = reference.scatter_tracks(points[:, chunk], visible[:, chunk], ids, weight.double(), GRID)
    assert_close(scatter_tracks(points[:, chunk], visible[:, chunk], ids, weight, GRID), expected, torch.float32)


def test_points_on_the_border(guard):
    """The picture is [0, width) x [0, height); what is not in it is invisible, NaN too."""
    inside = [(0.0, 0.0), (79.999, 47.999), (7.999, 8.0)]
    outside = [(-1e-4, 3.0), (80.0, 3.0), (3.0, 48.0), (float("nan"), 3.0), (3.0, float("inf"))]
    points = guard(torch.tensor(inside + outside).view(-1, 1, 2).expand(-1, 4, 2).contiguous())
    visible, ids = guard(torch.ones(len(points), 4, dtype=torch.bool)), guard(torch.arange(len(points)))
    weight, _ = _weights(guard)
    result = scatter_tracks(points, visible, ids, weight, GRID)
    cells = result.abs().sum(1)[0].nonzero().tolist()
    assert cells == [[0, 0], [1, 0], [5, 9]]
    assert_close(result, reference.scatter_tracks(points, visible, ids, weight.double(), GRID), torch.float32)


def test_points_outside_fall_into_the_border_where_cells_are_rounded_to(guard):
    places = [(0.0, 0.0), (-30.0, 20.0), (200.0, 99.0), (44.5, 4.9), (float("nan"), 3.0), (3.0, float("inf"))]
    points = guard(torch.tensor(places).view(-1, 1, 2).expand(-1, 4, 2).contiguous())
    visible, ids = guard(torch.ones(len(points), 4, dtype=torch.bool)), guard(torch.arange(len(points)))
    weight, _ = _weights(guard)
    grid = _grid(("round", "sum", "repeat"))
    result = scatter_tracks(points, visible, ids, weight, grid)
    assert result.abs().sum(1)[0].nonzero().tolist() == [[0, 0], [1, 5], [2, 0], [5, 9]]
    assert_close(result, reference.scatter_tracks(points, visible, ids, weight.double(), grid), torch.float32)


def test_two_runs_give_the_same_bits(guard):
    points, visible, ids = _tracks(guard, count=70, rgb_frames=4)
    weight, _ = _weights(guard)
    runs = [scatter_tracks(points, visible, ids, weight, GRID) for _ in range(2)]
    assert same_bits(*runs)


@pytest.mark.parametrize("rule", RULES, ids="-".join)
@pytest.mark.parametrize("opening", [True, False])
def test_the_twin_is_the_track_head(guard, rule, opening):
    head = TrackHeadConfig(channels=16, rounding=rule[0], collision=rule[1], first_frame=rule[2])
    model = ModelConfig(
        name="t", dim=64, ffn_dim=64, heads=2, layers=1, layout=(("noise", 16), ("track", 16)), track_head=head,
        vae=VaeConfig(),
    )  # fmt: skip
    module = TrackHead(StreamConfig(model=model, height=48, width=80)).requires_grad_(False)
    points, visible, ids = _tracks(guard, rgb_frames=5 if opening else 8)
    expected = module(points[None], visible[None], ids[None], opening=opening)[0]
    conv = module.convs[0]
    result = reference.scatter_tracks(points, visible, ids, conv.weight[:, :, 0, 0, 0], _grid(rule), bias=conv.bias)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a | {"points": a["points"][:, :3]}, "3 RGB frames"),
        (lambda a: a | {"points": a["points"].double()}, "float64"),
        (lambda a: a | {"visible": a["visible"][1:]}, "visible has shape"),
        (lambda a: a | {"ids": a["ids"].float()}, "ids is torch.float32"),
        (lambda a: a | {"weight": a["weight"][:, :100]}, "packed|strides"),
        (lambda a: a | {"weight": a["weight"][:, :100].contiguous()}, "100 columns"),
        (lambda a: a | {"bias": a["weight"][0, :3]}, "bias has shape"),
    ],
)
def test_wrong_input_is_refused(guard, change, words):
    points, visible, ids = _tracks(guard, count=3, rgb_frames=4)
    weight, bias = _weights(guard)
    good = {"points": points, "visible": visible, "ids": ids, "weight": weight, "grid": GRID, "bias": bias}
    with pytest.raises(ValueError, match=words):
        scatter_tracks(**change(good))


@pytest.mark.parametrize(("changes", "words"), [({"rows": 7}, "divide"), ({"collision": "first"}, "collision")])
def test_impossible_grids_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(GRID, **changes)
