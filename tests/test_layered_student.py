"""A student whose first frame moves in layers: settings, files, training clips, Stream, exported stages."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from ms_train.analytic import encode_directly, fit_encoder_, is_analytic
from ms_train.codec import encode_clip
from ms_train.data.assets import Assets, load_assets
from ms_train.data.captions import vocabulary
from ms_train.data.clips import ClipConfig, ClipMaker, ClipSource
from ms_train.data.scene import SceneConfig
from ms_train.data.scene_tracks import TrackLayout
from ms_train.loop import LoopConfig
from ms_train.stages.adapt import Adapt, AdaptConfig
from ms_train.stages.distill import Distill, DistillConfig
from ms_train.stages.layer_network import load_layers, save_layers
from ms_train.stages.refine import Decoder, FrameSource, Refine, RefineConfig, make_frames
from ms_train.students import Network, at_rest, export

from ms_infer.checkpoint import Student, load_student
from ms_infer.config import RefinerConfig, StreamConfig, TrackHeadConfig, preset
from ms_infer.errors import ConfigError
from ms_infer.model.layers import LayerNetwork, move_first_frame
from ms_infer.model.refiner import Refiner
from ms_infer.model.taehv import TinyVae
from ms_infer.stream import Stream
from ms_infer.tracks import Tracks

from .test_train_data import write_assets
from .tiny import narrow_demo

SIZE = 64
CPU = torch.device("cpu")


def tiny_stream(words: tuple[str, ...] = ("apple",)) -> StreamConfig:
    return narrow_demo(words, size=SIZE, widths=(8, 8, 16, 16, 16))


@dataclasses.dataclass(frozen=True)
class Tiny:
    assets: Assets
    stream: StreamConfig
    network: Network
    vae: TinyVae
    layers: LayerNetwork
    refiner: Refiner

    def maker(self, chunks: int = 2) -> ClipMaker:
        layout = TrackLayout(grid=4, ring=4, per_object=4)
        config = ClipConfig(chunks=chunks, scene=SceneConfig().scaled(SIZE), layout=layout)
        return ClipMaker(self.stream, self.assets, self.vae, config, 0, self.layers)

    def student(self) -> Student:
        network = self.network
        parts = (network.transformer, network.track_head, network.text_encoder, self.vae, self.refiner, self.layers)
        return Student(self.stream, *parts)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    assets = load_assets(write_assets(tmp_path_factory.mktemp("assets")), "all", size=SIZE)
    stream = tiny_stream(vocabulary(assets))
    torch.manual_seed(0)
    network = Network(stream).eval().requires_grad_(False)
    vae = TinyVae(stream.model.vae).eval().requires_grad_(False)
    fit_encoder_(vae, torch.rand(2, 9, 3, SIZE, SIZE))
    assert stream.model.layer_network is not None
    assert stream.model.refiner is not None
    layers = LayerNetwork(stream.model.layer_network.widths, stream.model.layer_network.painter)
    refiner = Refiner(stream.model.refiner)
    for module in (layers, refiner):
        torch.nn.init.normal_(module.leave.weight, std=0.05)  # type: ignore[union-attr,arg-type]
    return Tiny(assets, stream, network, vae, layers.requires_grad_(False), refiner.requires_grad_(False))


def test_a_student_without_its_layer_network_is_refused(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="no layer network"):
        Stream(dataclasses.replace(tiny.student(), layer_network=None), engine="torch")


def test_content_of_another_kind_is_refused() -> None:
    values = tiny_stream().to_dict()
    values["model"] |= {"track_head": values["model"]["track_head"] | {"content": "warp"}, "layer_network": None}
    with pytest.raises(ConfigError, match="content must be 'none' or 'layers', not 'warp'"):
        StreamConfig.from_dict(values)


def test_pictures_have_sides_that_the_layer_network_can_halve() -> None:
    with pytest.raises(ConfigError, match="multiples of 32"):
        dataclasses.replace(tiny_stream(), height=48)


def test_a_layer_network_and_its_head_come_together() -> None:
    model = preset("demo").model
    with pytest.raises(ConfigError, match="come together"):
        dataclasses.replace(model, layer_network=None)
    with pytest.raises(ConfigError, match="come together"):
        dataclasses.replace(model, track_head=TrackHeadConfig(), refiner=None)


def test_settings_survive_json() -> None:
    stream = tiny_stream()
    assert StreamConfig.from_dict(stream.to_dict()) == stream


def test_the_analytic_encoder_works_for_both_strides(tiny: Tiny) -> None:
    assert is_analytic(tiny.vae)
    frames = torch.rand(2, 21, 3, SIZE, SIZE)
    whole = encode_directly(tiny.vae, frames)
    torch.testing.assert_close(whole, encode_clip(tiny.vae, frames), atol=1e-4, rtol=0)
    parts = [encode_directly(tiny.vae, frames[:, :9]), encode_directly(tiny.vae, frames[:, 9:], opening=False)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_clips_made_by_chunks_are_those_made_at_once(tiny: Tiny) -> None:
    maker = tiny.maker()
    chunks, whole = maker.make(3, 2), maker.make_with_frames(3, 2).clips
    for name, tensor in whole.tensors().items():
        torch.testing.assert_close(chunks.tensors()[name], tensor, atol=2e-2, rtol=0)


def test_a_maker_needs_the_layer_network_of_its_model(tiny: Tiny) -> None:
    with pytest.raises(ConfigError, match="come together"):
        ClipMaker(tiny.stream, tiny.assets, tiny.vae, ClipConfig())


def test_clips_at_rest_show_the_first_frame(tiny: Tiny) -> None:
    clips = tiny.maker().make(0, 3)
    words = torch.full_like(clips.words, -1)
    rested = at_rest(clips, torch.tensor([0, 3, 6]), torch.tensor([True, False, True]), words)
    assert torch.equal(rested.latents[0, :3], clips.still[0])
    assert torch.equal(
        rested.content,
        torch.where(
            torch.tensor([0, 3, 6])[:, None, None, None, None] <= torch.arange(6)[None, :, None, None, None],
            clips.still[:, -1:],
            clips.content,
        ),
    )
    assert torch.equal(rested.latents[2], clips.latents[2])
    assert torch.equal(rested.words[2], clips.words[2])
    assert (rested.words[:2] == -1).all()
    assert not rested.visible[1, :, 9:].any()
    assert torch.equal(rested.visible[0], clips.visible[0, :, :1].expand_as(rested.visible[0]))
    assert torch.equal(rested.points[0], clips.points[0, :, :1].expand_as(rested.points[0]))


@pytest.mark.parametrize("kind", ["adapt", "distill"])
def test_stages_learn_from_clips_that_rest(kind: str, tiny: Tiny) -> None:
    source = ClipSource(None, tiny.maker(3), pool=1, batch=4)
    loop = LoopConfig(steps=2, warmup=1, cooldown=1, sheet_steps=0)
    if kind == "adapt":
        stage = Adapt(AdaptConfig(stream=tiny.stream, loop=loop, batch=4, rest=1.0), source, CPU)
        clips = stage.draw_batch()
        still = (clips.latents.float() - clips.content.float()).abs().amax((2, 3, 4)) < 1e-6
        assert still[:, -3:].all()  # whatever came before, the last chunk shows the first frame
    else:
        config = DistillConfig(
            stream=tiny.stream, loop=loop, batch=2, rollout_chunks=3, rest=0.5, dmd_weight=0.0, regression_weight=1.0
        )
        stage = Distill(config, source, CPU)
    assert np.isfinite(stage.step()["loss"])


def test_the_refiners_stage_learns_on_layered_clips(tiny: Tiny) -> None:
    frames = make_frames(tiny.maker(), tiny.network, tiny.vae, 0, clips=2, each=3)
    loop = LoopConfig(steps=20, learning_rate=3e-3, warmup=1, cooldown=1, sheet_steps=0)
    config = RefineConfig(refiner=RefinerConfig(widths=(8, 8, 8)), loop=loop, batch=6)
    stage = Refine(config, FrameSource(frames=frames), CPU)
    losses = [stage.step()["loss"] for _ in range(20)]
    assert sum(losses[-4:]) < sum(losses[:4])


def test_student_files_hold_the_layer_network(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    export(tiny.network, tiny.vae, None, path, tiny.refiner, tiny.layers)
    opened = load_student(path, dtype=torch.float32)
    assert opened.config == tiny.stream
    assert opened.missing == ()
    assert opened.layer_network is not None
    for name, value in tiny.layers.state_dict().items():
        assert torch.equal(opened.layer_network.state_dict()[name], value.bfloat16().float())
    assert isinstance(opened.refiner, Refiner)


def test_the_stream_moves_the_first_frame_as_the_training_does(tiny: Tiny) -> None:
    rendered = tiny.maker().make_with_frames(1, 1)
    image = rendered.frames[0, 0].permute(1, 2, 0).mul(255).round().byte().numpy()
    points, visible = rendered.clips.points[0].float().numpy(), rendered.clips.visible[0].numpy()
    tracks = Tracks(points, visible, size=(SIZE, SIZE), fps=tiny.stream.fps)
    with Stream(tiny.student(), engine="torch", precision="fp32") as stream:
        stream.start(image=image, prompt="", tracks=tracks)
        made = [stream.step().frames.copy() for _ in range(2)]
        moved, valid = stream._engine._references  # type: ignore[attr-defined]
    assert [len(frames) for frames in made] == [9, 12]
    torch.testing.assert_close(moved, rendered.moved[:, 9:], atol=0.03, rtol=0)
    torch.testing.assert_close(valid, rendered.moved_valid[:, 9:], atol=0.03, rtol=0)


def test_a_resting_stream_stays_where_it_is_with_an_untrained_network(tiny: Tiny) -> None:
    """What the refiner is given of a picture at rest is the picture: layers cannot drift."""
    image = torch.rand(1, 3, SIZE, SIZE)
    points = torch.zeros(1, 100, 12, 2)
    seen = torch.zeros(1, 100, 12, dtype=torch.bool)
    moved, _ = move_first_frame(tiny.layers, image, points, seen, points[:, :, 0])
    assert (moved - image[:, None]).abs().max() < 0.06
    assert (moved - image[:, None]).abs().mean() < 2e-3


def test_the_decoder_of_the_evaluation_refines_with_moved_layers(tiny: Tiny) -> None:
    rendered = tiny.maker().make_with_frames(2, 1)
    made = Decoder(tiny.vae, tiny.refiner)(rendered.clips.latents.float(), rendered)
    assert made.shape == rendered.frames.shape
    assert not torch.equal(made, Decoder(tiny.vae).alone(rendered.clips.latents.float()))


def test_saved_layers_can_be_gone_on_from(tmp_path: Path) -> None:
    from ms_train.loop import CHECKPOINT, Average

    torch.manual_seed(2)
    network = LayerNetwork()
    torch.save({"average": Average(network, 0.9).state_dict(), "step": 1}, tmp_path / CHECKPOINT)
    save_layers(tmp_path, tmp_path / "layers.safetensors")
    found = load_layers(tmp_path / "layers.safetensors").state_dict()
    for name, value in network.state_dict().items():
        assert torch.equal(found[name], value.bfloat16().float())
