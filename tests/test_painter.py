"""The painter: it changes holes alone, whose surroundings reach their middle; its stage learns and resumes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from ms_train.data.assets import Assets, load_assets
from ms_train.data.layer_scenes import draw_layer_scenes, scene_config
from ms_train.data.scene_pool import ScenePool, changed
from ms_train.loop import CHECKPOINT, LoopConfig, run
from ms_train.stages.layer_network import load_layers
from ms_train.stages.paint import Holes, PaintConfig, PaintStage, ground_edges
from torch import Tensor

from ms_infer.errors import ConfigError
from ms_infer.model.layers import LayerNetwork
from ms_infer.model.painter import Painter

from .test_train_data import write_assets

CPU = torch.device("cpu")
SIZE = 64


@pytest.fixture(scope="module")
def assets(tmp_path_factory: pytest.TempPathFactory) -> Assets:
    return load_assets(write_assets(tmp_path_factory.mktemp("assets")), "all", size=SIZE)


def with_hole(size: int = SIZE) -> tuple[Tensor, Tensor]:
    """A noisy picture and the share of its backdrop: none in the middle."""
    image = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    ground = torch.ones(1, 1, size, size)
    ground[..., size // 4 : 3 * size // 4, size // 4 : 3 * size // 4] = 0
    return image, ground


def trained(widths: tuple[int, int] = (8, 8)) -> Painter:
    """A painter with random weights throughout."""
    torch.manual_seed(0)
    painter = Painter(widths)
    for parameter in painter.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return painter.requires_grad_(False)


def test_the_picture_stays_where_no_thing_is() -> None:
    image, ground = with_hole()
    made = trained()(image, ground)
    assert torch.equal(made.masked_select(ground > 0), image.masked_select(ground > 0))
    assert (made - image).abs().masked_select(ground == 0).mean() > 0.05


def test_it_begins_near_the_smooth_continuation_behind_the_thing() -> None:
    image, ground = with_hole()
    image = torch.where(ground > 0, torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1), image)
    with torch.no_grad():
        made = Painter((8, 8))(image, ground)
    inside = made[..., 24:40, 24:40]
    assert (inside - torch.tensor([0.2, 0.5, 0.8]).view(1, 3, 1, 1)).abs().mean() < 0.15


def test_what_surrounds_a_hole_reaches_its_middle() -> None:
    """A hole of 96 pixels: its middle depends on what lies beyond its edges by more than the smooth continuation."""
    size = 192
    image, ground = with_hole(size)
    painter = trained()
    seen: list[Tensor] = []
    painter.leave.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    beyond = image.clone()
    beyond[..., : size // 4] = beyond[..., : size // 4].flip(2)  # the means by rows stay
    painter(image, ground)
    painter(beyond, ground)
    middle = size // 8  # in cells of 4 pixels
    assert (seen[0] - seen[1])[..., middle, middle].abs().max() > 0


def test_a_pool_draws_what_its_seed_and_step_say() -> None:
    def draw(generator: torch.Generator) -> Holes:
        picture = torch.rand(2, 3, 4, 4, generator=generator)
        return Holes(picture, picture, picture[:, :1], picture[:, :1])

    def nothing(holes: Holes) -> Holes:
        return holes

    straight, later = (ScenePool(draw, fresh=2, steps=3, seed=1) for _ in range(2))
    for step in range(6):
        straight.refresh(step)
    later.refresh(5)
    one, other = (pool.batch(8, torch.Generator().manual_seed(2), CPU, nothing).image for pool in (straight, later))
    assert torch.equal(one, other)
    assert len(one.flatten(1).unique(dim=0)) > 2
    assert torch.equal(changed(draw(torch.Generator()), lambda t: 2 * t).image, 2 * draw(torch.Generator()).image)


def stage(assets: Assets, steps: int) -> PaintStage:
    torch.manual_seed(3)
    loop = LoopConfig(steps=steps, learning_rate=5e-3, warmup=1, cooldown=1, sheet_steps=2)
    config = PaintConfig(loop=loop, size=SIZE, batch=2, fresh=2, pool=1)
    return PaintStage(config, LayerNetwork((4, 4, 4, 4, 4), (16, 16)), assets, CPU)


def test_the_loss_falls(assets: Assets) -> None:
    learner = stage(assets, 40)
    scenes = draw_layer_scenes(assets, 2, torch.Generator().manual_seed(0), scene_config(SIZE))
    hole = 1 - scenes.weights[:, :1]
    learner.pool.draw = lambda generator: Holes(scenes.image, scenes.backdrop, hole, 1 - hole)
    learner.reseed_(0)
    losses = [learner.step()["loss"] for _ in range(40)]  # the same scenes, with true holes, again and again
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_the_layer_network_that_finds_the_holes_stays(assets: Assets, tmp_path: Path) -> None:
    learner = stage(assets, 2)
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    run(learner, tmp_path)
    after = load_layers_of(tmp_path)
    changed_names = {name for name, value in before.items() if not torch.equal(value, after[name])}
    assert "painter.leave.weight" in changed_names
    assert all(name.startswith("painter.") for name in changed_names)
    assert (tmp_path / "latest.png").exists()


def load_layers_of(folder: Path) -> dict[str, Tensor]:
    values: dict[str, Tensor] = torch.load(folder / CHECKPOINT, weights_only=True)["network"]
    return values


def test_a_resumed_run_equals_an_uninterrupted_one(assets: Assets, tmp_path: Path) -> None:
    run(stage(assets, 3), tmp_path / "whole")
    run(stage(assets, 2), tmp_path / "parts")
    run(stage(assets, 3), tmp_path / "parts")
    one, other = (load_layers_of(tmp_path / name) for name in ("whole", "parts"))
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_what_it_saves_is_a_layer_network_with_its_painter(assets: Assets, tmp_path: Path) -> None:
    torch.manual_seed(3)
    loop = LoopConfig(steps=1, learning_rate=1e-2, warmup=1, cooldown=1, sheet_steps=0)
    config = PaintConfig(loop=loop, size=SIZE, batch=1, fresh=1, pool=1)
    learner = PaintStage(config, LayerNetwork(), assets, CPU)
    run(learner, tmp_path)
    found = load_layers(tmp_path).state_dict()
    for name, value in learner.average.values.items():
        assert torch.equal(found[name], value), name


def test_texture_needs_its_features(assets: Assets) -> None:
    with pytest.raises(ConfigError, match=r"taef2_encoder\.pth"):
        PaintStage(PaintConfig(texture_weight=1.0, size=SIZE), LayerNetwork(), assets, CPU)


def test_edges_count_inside_the_hole_alone() -> None:
    truth, made = torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16)
    made[..., 4] = 1.0
    hole = torch.zeros(1, 1, 16, 16)
    assert ground_edges(made, truth, hole) == 0
    hole[..., 8:] = 1
    assert ground_edges(made, truth, hole) == 0
    hole[..., :8] = 1
    assert ground_edges(made, truth, hole) > 0
