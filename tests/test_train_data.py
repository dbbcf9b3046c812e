"""PanoSprite: exact tracks, visibility, captions, held-out assets; the analytic encoder."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from ms_train.analytic import encode_directly, fit_encoder_, is_analytic, write_colour_path_
from ms_train.codec import decode_clip, encode_clip
from ms_train.data.assets import Assets, load_assets, sprite_name
from ms_train.data.captions import captions, vocabulary
from ms_train.data.held_out import held_out_names
from ms_train.data.render import render
from ms_train.data.scene import SceneConfig, draw_scene
from ms_train.data.scene_tracks import draw_tracks
from PIL import Image

from ms_infer.config import preset
from ms_infer.errors import ConfigError
from ms_infer.model.taehv import TinyVae


def write_assets(folder: Path) -> Path:
    """A panorama with a smooth pattern, two opaque sprites, one texture."""
    rng = np.random.default_rng(0)
    for kind in ("panoramas", "sprites", "textures"):
        (folder / kind).mkdir(parents=True)
    coarse = rng.integers(0, 255, (12, 24, 3), np.uint8)
    Image.fromarray(coarse).resize((256, 128), Image.Resampling.BICUBIC).save(
        folder / "panoramas" / "green_hall_01.png"
    )
    for stem, colour in (("1f349", (220, 30, 40)), ("1f34e", (30, 200, 60))):
        sprite = np.zeros((64, 64, 4), np.uint8)
        sprite[8:56, 8:56] = (*colour, 255)
        Image.fromarray(sprite).save(folder / "sprites" / f"{stem}.png")
    Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / "textures" / "wood_1.png")
    return folder


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    return load_assets(write_assets(tmp_path_factory.mktemp("assets")), "all")


def test_background_points_keep_their_colour_while_the_camera_turns(assets: Assets) -> None:
    generator = torch.Generator().manual_seed(1)
    config = SceneConfig(size=64, still_camera=0.0, look_share=0.0)
    scene = draw_scene(assets, 3, generator, config)
    scene = type(scene)(**{**vars(scene), "things": ()})
    times = torch.tensor([[0.0, 10.0, 30.0]]).expand(3, -1)
    frames = render(assets, scene, times)
    tracks = draw_tracks(assets, scene, times, generator)
    colours = sample(frames, tracks.points)
    seen = tracks.visible.all(-1)
    assert seen.sum() > 60
    assert (tracks.points[:, :, 2] - tracks.points[:, :, 0]).norm(dim=-1)[seen].max() > 2
    assert (colours[:, :, 1:] - colours[:, :, :1]).abs()[seen].mean() < 0.02


@pytest.mark.parametrize("solid", [0.0, 1.0])
def test_object_points_lie_on_the_object_and_hidden_ones_are_not_visible(assets: Assets, solid: float) -> None:
    generator = torch.Generator().manual_seed(2)
    scene = draw_scene(assets, 4, generator, SceneConfig(size=64, solid_share=solid, look_share=0.0))
    times = torch.arange(0.0, 40.0, 8.0)[None].expand(4, -1)
    tracks = draw_tracks(assets, scene, times, generator)
    empty = type(scene)(**{**vars(scene), "things": ()})
    changed = (render(assets, scene, times) - render(assets, empty, times)).abs().sum(2, keepdim=True)
    on_object = tracks.visible & (tracks.owner >= 0)[..., None]
    assert on_object.any()
    assert (sample(changed, tracks.points)[on_object] > 0.01).float().mean() > 0.95
    assert not tracks.visible[~tracks.usable].any()


def sample(frames: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Bilinear colours [B, N, T, C] of frames [B, T, C, H, W] at pixels [B, N, T, 2]."""
    grid = points.transpose(1, 2) * (2 / frames.shape[-1]) - 1
    flat = torch.nn.functional.grid_sample(
        frames.flatten(0, 1), grid.flatten(0, 1)[:, None], align_corners=False, padding_mode="border"
    )
    return flat[:, :, 0].unflatten(0, frames.shape[:2]).permute(0, 3, 1, 2)


def test_tracks_of_things_that_are_not_there_rest(assets: Assets) -> None:
    scene = draw_scene(assets, 6, torch.Generator().manual_seed(4), SceneConfig(size=64, still_camera=1.0))
    tracks = draw_tracks(assets, scene, torch.arange(30.0).expand(6, -1), torch.Generator().manual_seed(4))
    absent = torch.stack([thing.present == 0 for thing in scene.things], dim=1)  # [B, things]
    owned = (tracks.owner >= 0) & absent.gather(1, tracks.owner.clamp(min=0))
    assert owned.any()
    moved = (tracks.points - tracks.anchors[:, :, None]).abs().amax((2, 3))
    assert moved[owned].max() == 0, "a hidden track that moves takes a thing along"
    assert moved[tracks.visible.any(-1) & (tracks.owner >= 0)].max() > 1
    fewer = tracks.only(tracks.owner != 0)
    assert not fewer.visible[tracks.owner == 0].any()
    assert (fewer.points - fewer.anchors[:, :, None])[tracks.owner == 0].abs().max() == 0


def test_any_frame_can_be_drawn_by_itself(assets: Assets) -> None:
    scene = draw_scene(assets, 2, torch.Generator().manual_seed(3), SceneConfig(size=32))
    times = torch.arange(5.0)[None].expand(2, -1)
    torch.testing.assert_close(render(assets, scene, times)[:, 3:4], render(assets, scene, times[:, 3:4]))


def test_captions_use_words_of_the_vocabulary(assets: Assets) -> None:
    words = set(vocabulary(assets))
    texts = captions(assets, draw_scene(assets, 8, torch.Generator().manual_seed(4)), 33)
    assert all(set(text.replace(",", "").split()) <= words for text in texts)
    assert sprite_name("1f349") == "watermelon"


def test_held_out_names_are_kept_from_training(tmp_path: Path) -> None:
    held = [name for name in held_out_names() if name.startswith("sprites/")]
    assert len(held) == 50
    write_assets(tmp_path)
    (tmp_path / "sprites" / "1f349.png").rename(tmp_path / f"{held[0]}.png")
    assert len(load_assets(tmp_path, "train").sprites) == 1
    with pytest.raises(ConfigError, match="holds no pictures"):
        load_assets(tmp_path / "nowhere")


@pytest.mark.parametrize("stride", [8, 16])
def test_the_analytic_encoder_equals_its_layers_and_keeps_most_of_the_picture(assets: Assets, stride: int) -> None:
    scene = draw_scene(assets, 4, torch.Generator().manual_seed(5), SceneConfig().scaled(8 * stride))
    frames = render(assets, scene, torch.arange(9.0)[None].expand(4, -1))
    vae = TinyVae(dataclasses.replace(preset("demo").model.vae, spatial_stride=stride))
    assert not is_analytic(vae)
    explained = fit_encoder_(vae, frames)
    assert is_analytic(vae)
    assert explained[-1] > 0.98
    with torch.no_grad():
        torch.testing.assert_close(encode_directly(vae, frames), encode_clip(vae, frames), atol=1e-4, rtol=1e-4)
        torch.nn.init.zeros_(vae.decoder[-1].bias)
        write_colour_path_(vae, frames, torch.eye(3), offset=0.1)
        vae.decoder[-1].weight[:, 3:] = 0  # the colour path alone
        decoded = decode_clip(vae, encode_clip(vae, frames))
    blocks = torch.nn.functional.avg_pool2d(frames.flatten(0, 1), stride)
    smooth = torch.nn.functional.interpolate(blocks, scale_factor=stride, mode="bilinear").unflatten(
        0, frames.shape[:2]
    )
    inner = slice(5 * stride // 2, -5 * stride // 2)
    inside = (..., inner, inner)  # zero padding darkens the border until training mends it
    assert (decoded - frames)[inside].abs().mean() < 1.25 * (smooth - frames)[inside].abs().mean()


def test_assets_without_textures_have_scenes_without_solids(tmp_path: Path) -> None:
    folder = write_assets(tmp_path)
    for path in (folder / "textures").iterdir():
        path.unlink()
    (folder / "textures").rmdir()
    bare = load_assets(folder, "all")
    assert len(bare.textures) == 0
    scene = draw_scene(bare, 2, torch.Generator().manual_seed(0), SceneConfig(size=32, solid_share=1.0))
    assert {thing.kind for thing in scene.things} == {"sprite"}
    assert render(bare, scene, torch.zeros(2, 1)).isfinite().all()
