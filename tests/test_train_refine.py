"""The refiner's stage on tiny dimensions, its frames and files, and the decoder of the evaluation against Stream."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from ms_train.data.assets import Assets, load_assets
from ms_train.data.captions import vocabulary
from ms_train.data.clips import ClipConfig, ClipMaker, Clips, ClipSource, Rendered, write_shards
from ms_train.data.scene import SceneConfig
from ms_train.data.scene_tracks import TrackLayout
from ms_train.features import Features
from ms_train.loop import CHECKPOINT, LoopConfig, run
from ms_train.recipe import load_refiner, load_vae, recipe
from ms_train.stages.refine import Decoder, Frames, FrameSource, Refine, RefineConfig, make_frames, write_frames
from ms_train.students import Network, export, read_average
from torch.nn import functional as F

from ms_infer.checkpoint import Student, load_student
from ms_infer.config import PRESETS, RefinerConfig, StreamConfig
from ms_infer.engines.base import TrackChunk
from ms_infer.errors import CheckpointError, ConfigError
from ms_infer.model.layers import LayerNetwork, move_first_frame
from ms_infer.model.refiner import Refiner
from ms_infer.model.taehv import TinyVae
from ms_infer.stream import Stream
from ms_infer.tracks import Tracks

from .test_train_data import write_assets
from .test_train_stages import CPU, SIZE, tiny_layers, tiny_stream

WIDTHS = RefinerConfig(widths=(8, 16, 16))


@dataclasses.dataclass(frozen=True)
class Tiny:
    """Assets and untrained models of one tiny stream."""

    folder: Path
    assets: Assets
    stream: StreamConfig
    network: Network
    vae: TinyVae
    layers: LayerNetwork

    def maker(self, seed: int = 0) -> ClipMaker:
        layout = TrackLayout(grid=4, ring=4, per_object=4)
        config = ClipConfig(chunks=2, scene=SceneConfig(size=SIZE), layout=layout)
        return ClipMaker(self.stream, self.assets, self.vae, config, seed, self.layers)

    def frames(self, number: int, seed: int = 0) -> Frames:
        return make_frames(self.maker(seed), self.network, self.vae, number, clips=2, each=3)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    folder = write_assets(tmp_path_factory.mktemp("assets"))
    assets = load_assets(folder, "all")
    stream = tiny_stream(vocabulary(assets))
    torch.manual_seed(0)
    vae = TinyVae(stream.model.vae).requires_grad_(False)
    return Tiny(folder, assets, stream, Network(stream).eval(), vae, tiny_layers(stream))


def soft_frames(count: int = 8) -> Frames:
    """Truth that the moved first frame shows in a darker light, and that the decoder leaves soft."""
    truth = torch.rand(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    soft = F.interpolate(F.avg_pool2d(truth, 4), scale_factor=4.0, mode="bilinear")
    valid = torch.ones(count, 1, SIZE, SIZE)
    return Frames(*(picture.mul(255).byte() for picture in (truth, soft, 0.8 * truth, valid)))


def refining(steps: int) -> Refine:
    loop = LoopConfig(steps=steps, learning_rate=3e-3, warmup=2, cooldown=1, sheet_steps=0)
    return Refine(RefineConfig(refiner=WIDTHS, loop=loop, batch=4), FrameSource(frames=soft_frames()), CPU)


def test_texture_is_compared_where_the_first_frame_shows_nothing() -> None:
    torch.manual_seed(3)
    config = RefineConfig(refiner=WIDTHS, texture_weight=1.0, texture_crop=16)
    frames = soft_frames()
    frames.moved_valid[..., 4:8, 4:8] = 0
    stage = Refine(config, FrameSource(frames=frames), CPU, Features().eval())
    assert stage.step()["texture"] > 0
    truth, hole = torch.rand(2, 3, SIZE, SIZE), torch.zeros(2, 1, SIZE, SIZE)
    hole[..., 4:8, 4:8] = 1
    outside, inside = truth * (0.5 * hole + 0.5), truth * (1 - 0.5 * hole)
    assert float(stage._texture_loss(outside, truth, hole)) == 0
    assert float(stage._texture_loss(inside, truth, hole)) > 0
    with pytest.raises(ConfigError, match="taef2_encoder"):
        Refine(config, FrameSource(frames=soft_frames()), CPU)


def random_refiner() -> Refiner:
    """One that mixes and relights its sources."""
    torch.manual_seed(2)
    refiner = Refiner(WIDTHS)
    torch.nn.init.normal_(refiner.leave.weight, std=0.1)
    return refiner.eval().requires_grad_(False)


def test_the_loss_of_the_refiner_falls() -> None:
    stage, numbers = refining(1000), []
    for _ in range(24):
        stage.reseed_(0)  # one batch again and again
        numbers.append(stage.step())
        stage.step_index += 1
    assert numbers[-1]["loss"] < 0.8 * numbers[0]["loss"]
    assert numbers[-1]["psnr"] > numbers[0]["psnr"] + 1


def test_a_resumed_run_of_the_refiner_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = refining(3)
    run(whole, tmp_path / "whole")
    first = refining(3)
    first.loop = dataclasses.replace(first.loop, stop_minutes=1e-9)
    run(first, tmp_path / "parts")
    assert first.step_index == 1
    second = refining(3)
    run(second, tmp_path / "parts")
    ours, theirs = (torch.load(tmp_path / name / CHECKPOINT) for name in ("whole", "parts"))
    assert ours["step"] == theirs["step"] == 3
    for key, value in ours["refiner"].items():
        assert torch.equal(value, theirs["refiner"][key]), key
        assert torch.equal(ours["average"]["values"][key], theirs["average"]["values"][key]), key
    for state, other in zip(ours["optimizer"]["state"].values(), theirs["optimizer"]["state"].values(), strict=True):
        assert all(torch.equal(state[name], other[name]) for name in state)


def test_the_sheet_of_the_refiner_is_drawn_from_the_average(tmp_path: Path) -> None:
    refining(1).sheet(tmp_path / "latest.png")
    assert (tmp_path / "latest.png").stat().st_size > 1000


def test_frames_are_a_function_of_seed_and_number_alone(tiny: Tiny) -> None:
    maker = tiny.maker()
    make_frames(maker, tiny.network, tiny.vae, 0, clips=2, each=3)
    torch.rand(7)  # draws elsewhere change nothing
    again = make_frames(maker, tiny.network, tiny.vae, 1, clips=2, each=3)
    alone = tiny.frames(1)
    for field in dataclasses.fields(Frames):
        assert torch.equal(getattr(again, field.name), getattr(alone, field.name)), field.name
    assert len(alone) == 6
    assert not torch.equal(alone.truth, tiny.frames(2).truth)
    assert not torch.equal(alone.truth, tiny.frames(1, seed=1).truth)


def test_shards_are_written_whole_kept_and_half_written_ones_are_not_read(tiny: Tiny, tmp_path: Path) -> None:
    write_frames(tiny.maker(), tiny.network, tiny.vae, tmp_path, iter(range(1)), clips=2, each=3)
    (tmp_path / "frames_00001.unfinished").write_bytes(b"cut off")
    written = (tmp_path / "frames_00000.safetensors").stat()
    source = FrameSource(tmp_path)
    source.refresh()
    drawn = source.draw(torch.Generator().manual_seed(0), 4)
    assert drawn.moved_valid.shape == (4, 1, SIZE, SIZE)
    write_frames(tiny.maker(), tiny.network, tiny.vae, tmp_path, iter(range(2)), clips=2, each=3)
    assert (tmp_path / "frames_00000.safetensors").stat().st_mtime_ns == written.st_mtime_ns
    assert sorted(path.name for path in tmp_path.iterdir()) == ["frames_00000.safetensors", "frames_00001.safetensors"]
    assert len(load_frames(tmp_path)) == 12


def load_frames(folder: Path) -> Frames:
    source = FrameSource(folder)
    source.refresh()
    assert source._frames is not None
    return source._frames


def test_half_written_clips_are_not_read(tiny: Tiny, tmp_path: Path) -> None:
    write_shards(tiny.maker(), tmp_path, iter(range(1)), 2)
    (tmp_path / "clips_00001.unfinished").write_bytes(b"cut off")
    source = ClipSource(tmp_path, None)
    source.refresh(0)
    assert source.draw(torch.Generator().manual_seed(0), 3).latents.shape[0] == 3


def test_an_empty_folder_says_what_to_run(tmp_path: Path) -> None:
    refine = Refine(RefineConfig(refiner=WIDTHS), FrameSource(tmp_path), CPU)
    with pytest.raises(ConfigError, match="ms_train stream-frames"):
        refine.step()
    with pytest.raises(ConfigError, match="ms_train render"):
        ClipSource(tmp_path, None).refresh(0)


def test_the_decoder_on_whole_clips_makes_the_frames_of_a_stream(tiny: Tiny) -> None:
    network, stream, refiner = tiny.network, tiny.stream, random_refiner()
    parts = (network.transformer, network.track_head, network.text_encoder, tiny.vae, refiner, tiny.layers)
    student = Student(stream, *parts)
    image = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    tracks = Tracks.grid(4, 4, size=(SIZE, SIZE)).drag((12, 16), (20, 22), seconds=1.0, radius=9.0)
    with Stream(student, engine="torch", device="cpu", precision="fp32", seed=11) as live:
        live.start(image, prompt="apple", tracks=tracks)
        engine, frames, latents, played = live._engine, [], [], []
        for _ in range(3):
            frames.append(torch.from_numpy(live.step().frames))
            latents.append(engine._x.clone())  # type: ignore[attr-defined]
            played.append(engine._plan.tracks)  # type: ignore[attr-defined]
    streamed = torch.cat(frames).permute(0, 3, 1, 2).int()
    rendered = rendered_by_hand(tiny.layers, image, played)
    with torch.no_grad():
        made = Decoder(tiny.vae, refiner)(torch.cat(latents, dim=1), rendered)
        alone = Decoder(tiny.vae)(torch.cat(latents, dim=1), rendered)
    difference = (made[0].mul(255).round().int() - streamed).abs()
    # Whole clips and chunks sum in another order: a value at the edge between two bytes may fall on either side.
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 1e-3
    assert (alone - made).abs().mean() > 0.02


@torch.no_grad()
def rendered_by_hand(layers: LayerNetwork, image: np.ndarray, played: list[TrackChunk]) -> Rendered:
    """What the decoder looks at of a clip whose first frame is `image` and whose chunks have these tracks."""
    first = torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255
    parts = []
    for part in played:
        tracks = (torch.from_numpy(array)[None] for array in (part.points, part.visible, part.anchors))
        parts.append(move_first_frame(layers, first, *tracks))
    moved, valid = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
    nothing = torch.zeros(1)
    clips = Clips(nothing, nothing, nothing, nothing, nothing, nothing, nothing)
    return Rendered(clips, moved, moved, valid, nothing, nothing)


def test_a_refiner_is_exported_and_read_back(tiny: Tiny, tmp_path: Path) -> None:
    stage = refining(2)
    run(stage, tmp_path / "refine")
    refiner = load_refiner(tmp_path / "refine", WIDTHS)
    export(tiny.network, tiny.vae, None, tmp_path / "with.safetensors", refiner, tiny.layers)
    student = load_student(tmp_path / "with.safetensors", dtype=torch.float32)
    assert student.missing == student.unused == ()
    assert student.refiner is not None
    assert student.config.model.refiner == WIDTHS
    for name, value in student.refiner.state_dict().items():
        torch.testing.assert_close(value, stage.average.values[name].bfloat16().float(), atol=0, rtol=0)
    again = load_refiner(tmp_path / "with.safetensors", WIDTHS)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in student.refiner.state_dict().items())
    export(tiny.network, tiny.vae, None, tmp_path / "without.safetensors", layer_network=tiny.layers)
    with pytest.raises(CheckpointError, match="holds no refiner"):
        load_refiner(tmp_path / "without.safetensors", WIDTHS)
    plain = load_student(tmp_path / "without.safetensors")
    assert plain.refiner is None
    assert plain.config.model.refiner is None
    assert plain.missing == ()


def test_averages_and_autoencoders_are_also_read_from_student_files(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    export(tiny.network, tiny.vae, None, path, random_refiner(), tiny.layers)
    values = read_average(path)
    for name, value in tiny.network.state_dict().items():
        assert torch.equal(values[name], value.bfloat16().float()), name
    vae = load_vae(path, tiny.stream, CPU)
    assert not any(parameter.requires_grad for parameter in vae.parameters())
    for name, value in tiny.vae.state_dict().items():
        assert torch.equal(vae.state_dict()[name], value.bfloat16().float()), name
    with pytest.raises(CheckpointError, match="run the stage"):
        read_average(tmp_path / "nowhere")


def test_the_recipe_runs_to_its_end(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PRESETS, "demo", dataclasses.replace(PRESETS["demo"], height=64, width=64))
    recipe(tiny.folder, tmp_path, scale="smoke", device="cpu")
    student = load_student(tmp_path / "demo.safetensors")
    assert student.missing == student.unused == ()
    assert student.refiner is not None
    painted = read_average(tmp_path / "paint")
    assert not torch.equal(painted["painter.leave.weight"], read_average(tmp_path / "layers")["painter.leave.weight"])
    assert student.layer_network is not None
    for name, value in student.layer_network.state_dict().items():
        assert torch.equal(value, painted[name].bfloat16().to(value.dtype)), name
