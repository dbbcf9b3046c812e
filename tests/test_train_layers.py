"""Scenes of the layer network: true layers make the true picture; its stage learns and resumes; numbers of regions."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from ms_train.data.assets import Assets, load_assets
from ms_train.data.layer_scenes import assign, cut_outs, draw_layer_scenes, own_outline, page_tracks, scene_config
from ms_train.data.render import object_points, render, render_layers
from ms_train.data.scene import Scene, SceneConfig, draw_scene
from ms_train.evaluate.regions import FEWEST, inpaint, laplacian, psnr_within, summarise
from ms_train.features import crop_window
from ms_train.loop import CHECKPOINT, LoopConfig, run
from ms_train.stages.layer_network import LayersConfig, LayerStage, mask_losses, thing_iou

from ms_infer.config import MOTION_TERMS, THINGS
from ms_infer.model.layers import Layers, compose
from ms_infer.serve.pictures.layered import AROUND, UNKNOWN

from .test_train_data import write_assets

CPU = torch.device("cpu")
SIZE = 64


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    return load_assets(write_assets(tmp_path_factory.mktemp("assets")), "all", size=SIZE)


def scene_of(assets: Assets, seed: int = 3, **changes: float) -> Scene:
    config = dataclasses.replace(scene_config(SIZE), look_share=0.0, solid_share=0.0, **changes)  # type: ignore[arg-type]
    return draw_scene(assets, 4, torch.Generator().manual_seed(seed), config)


def test_layers_are_drawn_as_the_pictures_are(assets: Assets) -> None:
    scene, times = scene_of(assets), torch.tensor([[0.0, 20.0, 50.0]]).expand(4, -1)
    drawn = render_layers(assets, scene, times, torch.tensor([[1, 0, 2]]).expand(4, -1), THINGS)
    torch.testing.assert_close(drawn.frames, render(assets, scene, times))
    torch.testing.assert_close(drawn.weights.sum(2), torch.ones(4, 3, SIZE, SIZE))
    bare = dataclasses.replace(scene, things=scene.things[1:2])
    torch.testing.assert_close(drawn.backdrop, render(assets, bare, times))


def test_true_layers_moved_by_their_shift_are_the_true_picture(assets: Assets) -> None:
    """A thing without spin over a resting camera: the layers of frame 0, shifted by whole pixels, are frame 30."""
    scene = scene_of(assets, still_camera=1.0)
    thing = dataclasses.replace(
        scene.things[0],
        pose=dataclasses.replace(scene.things[0].pose, amplitude=torch.zeros_like(scene.things[0].pose.amplitude)),
        travel=dataclasses.replace(
            scene.things[0].travel,
            amplitude=torch.zeros_like(scene.things[0].travel.amplitude),
            drag=torch.tensor([[7.0, -4.0]]).expand(4, -1),
            drag_frames=torch.full((4, 1), 10.0),
        ),
    )
    scene = dataclasses.replace(scene, things=(thing,))
    drawn = render_layers(assets, scene, torch.zeros(4, 1), torch.ones(4, 1, dtype=torch.int64), THINGS)
    terms = torch.zeros(4, 1 + THINGS, MOTION_TERMS, 1, 2)
    terms[:, 1, 0, 0] = torch.tensor([7.0, -4.0])
    layers = Layers(drawn.weights[:, 0], drawn.backdrop[:, 0])
    moved, _ = compose(drawn.frames[:, 0], layers, terms)
    truth = render(assets, scene, torch.full((4, 1), 30.0))
    inner = (slice(None), 0, slice(None), slice(8, -8), slice(8, -8))  # what comes in at the border is not in frame 0
    error = (moved - truth)[inner].abs()
    assert error.mean() < 0.004
    assert error.quantile(0.999) < 0.08


def test_tracks_of_things_lie_on_their_things(assets: Assets) -> None:
    generator = torch.Generator().manual_seed(1)
    scene = scene_of(assets)
    times = torch.tensor([[30.0, 41.0]]).expand(4, -1)
    points, visible, anchors, owner = page_tracks(assets, scene, times, generator)
    assert points.shape == (*anchors.shape[:2], 2, 2)
    assert visible.shape == points.shape[:3]
    assert not visible[owner == -2].any()  # points that were not chosen are padding
    assert anchors[owner == -2].abs().max() == 0
    moved = (points[..., -1, :] - anchors).norm(dim=-1)
    for number, thing in enumerate(scene.things):
        wanted = thing.travel.at(times)[:, -1].norm(dim=-1)
        own = (owner == number) & (thing.present > 0)[:, None]
        for row in range(4):
            if own[row].any() and wanted[row] > 8:
                assert moved[row, own[row]].median() > 2


def test_clicks_on_a_thing_move_alike_and_nothing_near_them_rests(assets: Assets) -> None:
    """Of 64 scenes, those with a ring of points about one: what the page asks when a thing is picked."""
    config = dataclasses.replace(scene_config(SIZE), still_camera=1.0)
    scene = draw_scene(assets, 64, torch.Generator().manual_seed(4), config)
    times = torch.tensor([[30.0, 41.0]]).expand(64, -1)
    points, _, anchors, owner = page_tracks(assets, scene, times, torch.Generator().manual_seed(2))
    found = 0
    for row in range(64):
        starts = anchors[row, owner[row] >= 0]
        ring = (starts[-AROUND:] - starts[:1]).norm(dim=-1)
        if not AROUND < len(starts) <= AROUND + 4 or ring.max() - ring.min() > 1e-3:
            continue
        found += 1
        moved = (points[row] - anchors[row, :, None])[owner[row] >= 0]
        torch.testing.assert_close(moved, moved[:1].expand_as(moved), rtol=0, atol=1e-4)
        assert (owner[row, owner[row] >= 0] == owner[row].max()).all()
        resting = (anchors[row, owner[row] == -1] - starts[:1]).norm(dim=-1)
        assert resting.min() > ring.max() + UNKNOWN * SIZE
    assert found >= 4


def test_a_piece_has_an_outline_of_its_own_where_its_colours_end() -> None:
    pytest.importorskip("cv2")
    axis = torch.arange(96.0) - 47.5
    inside = (axis.square()[:, None] + (1.5 * axis).square()[None]) < 30**2
    noise = 8 * torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(1))
    piece = torch.where(inside, 150.0, 90.0) + noise
    found = own_outline(piece, torch.Generator().manual_seed(0))
    assert found is not None
    cut = found[0] > 127
    assert (cut & inside).sum() / (cut | inside).sum() > 0.9
    assert own_outline(noise, torch.Generator().manual_seed(0)) is None


def test_cut_outs_are_pieces_of_the_photographs(assets: Assets) -> None:
    made = cut_outs(assets, torch.Generator().manual_seed(0), count=6)
    assert made.sprites.shape == (6, *assets.sprites.shape[1:])
    opaque = (made.sprites[:, 3] > 128).float().mean((1, 2))
    assert (opaque > 0.05).all()
    assert (opaque < 0.95).all()
    choice = torch.rand(2, 5, 3, generator=torch.Generator().manual_seed(0))
    scene = draw_scene(made, 2, torch.Generator().manual_seed(0), SceneConfig(size=SIZE, solid_share=0.0))
    pixels, _ = object_points(made, scene, scene.things[0], torch.zeros(2, 1), choice)
    assert pixels.isfinite().all()


def test_a_thing_follows_the_motion_of_most_of_its_tracks() -> None:
    shares = torch.zeros(1, 1 + THINGS, 6)
    shares[0, 2, :3], shares[0, 0, 3:] = 0.9, 1.0
    owner = torch.tensor([[0, 0, 0, 1, 1, -1]])
    assert assign(shares, owner, 3).tolist() == [[2, 0, 0]]


def test_scenes_depend_on_their_seed_alone(assets: Assets) -> None:
    one, other = (draw_layer_scenes(assets, 2, torch.Generator().manual_seed(5), scene_config(SIZE)) for _ in range(2))
    for name, tensor in vars(one).items():
        assert torch.equal(tensor, getattr(other, name)), name
    torch.testing.assert_close(one.weights.sum(1), torch.ones(2, SIZE, SIZE))


def stage(assets: Assets, steps: int) -> LayerStage:
    loop = LoopConfig(steps=steps, learning_rate=2e-3, warmup=1, cooldown=1, sheet_steps=0)
    return LayerStage(LayersConfig(loop=loop, size=SIZE, batch=2, fresh=2, pool=1), assets, CPU)


def test_the_loss_falls(assets: Assets) -> None:
    learner = stage(assets, 30)
    learner.reseed_(0)
    losses = [learner.step()["loss"] for _ in range(25)]  # one batch of scenes, again and again
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_resumed_run_equals_an_uninterrupted_one(assets: Assets, tmp_path: Path) -> None:
    run(stage(assets, 3), tmp_path / "whole")
    run(stage(assets, 2), tmp_path / "parts")
    run(stage(assets, 3), tmp_path / "parts")
    one, other = (torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("whole", "parts"))
    for name, tensor in one["network"].items():
        assert torch.equal(tensor, other["network"][name]), name


def test_right_masks_have_no_loss() -> None:
    truth = torch.zeros(1, 1 + THINGS, 8, 8)
    truth[:, 1, :4], truth[:, 0, 4:] = 1, 1
    right, wrong = mask_losses(20 * truth, truth), mask_losses(20 * truth.flip(2), truth)
    assert right[0] < 1e-3
    assert right[1] < 1e-3
    assert wrong[0] > 1
    assert wrong[1] > 0.1
    big = torch.zeros(1, 1 + THINGS, 16, 16)
    big[:, 1, :8], big[:, 0, 8:] = 1, 1
    shifted = big.roll(4, dims=2)
    assert thing_iou(big, big) == 1
    assert abs(thing_iou(shifted, big) - 64 / 192) < 1e-5


def test_crops_lie_around_the_hole_inside_the_picture() -> None:
    hole = torch.zeros(SIZE, SIZE)
    hole[2:6, 40:44] = 1
    rows, columns = crop_window(hole, 16)
    assert (rows.start, rows.stop, columns.start, columns.stop) == (0, 16, 34, 50)


def test_psnr_counts_the_region_alone() -> None:
    truth, made = torch.zeros(2, 1, 3, 16, 16), torch.zeros(2, 1, 3, 16, 16)
    made[0, ..., :8, :] = 0.1
    mask = torch.zeros(2, 1, 1, 16, 16, dtype=torch.bool)
    mask[0, ..., :8, :] = True
    mask[1, ..., 0, : FEWEST // 2 - 4] = True
    values = psnr_within(made, truth, mask)
    torch.testing.assert_close(values[0], torch.tensor(20.0))
    assert values[1].isnan()


def test_blur_is_less_sharp() -> None:
    frames = torch.rand(1, 2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(frames.flatten(0, 1), 3, 1, 1).view_as(frames)
    mask = torch.ones(1, 2, 1, 32, 32, dtype=torch.bool)
    assert laplacian(blurred, mask) < 0.5 * laplacian(frames, mask)


def test_inpainting_continues_a_flat_ground() -> None:
    image = torch.full((3, 32, 32), 0.5)
    hole = torch.zeros(32, 32, dtype=torch.bool)
    image[:, 10:20, 10:20], hole[10:20, 10:20] = 1.0, True
    assert (inpaint(image, hole) - 0.5).abs().max() < 0.01


def test_a_summary_names_the_worst_clip_and_who_is_nearer() -> None:
    telea = "inpainted (Telea) behind the true things"
    parts = [
        {
            "ours": {"things": [20.0, 10.0], "texture": [1.0, 3.0]},
            telea: {"things": [15.0, 15.0], "texture": [2.0, 2.0]},
        },
        {"ours": {"things": [30.0], "texture": [1.0]}, telea: {"things": [float("nan")], "texture": [2.0]}},
    ]
    table = summarise(parts)
    assert table["ours"]["things"] == 20.0
    assert table["ours"]["things_worst"] == 10.0
    assert table["ours"]["texture_wins"] == pytest.approx(2 / 3, abs=1e-3)
    assert table[telea]["things"] == 15.0
