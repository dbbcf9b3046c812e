"""Every stage on tiny dimensions: the loss falls, a resumed run equals an uninterrupted one, rollout equals Stream."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ms_train.data.assets import load_assets
from ms_train.data.captions import vocabulary
from ms_train.data.clips import ClipConfig, ClipMaker, ClipSource
from ms_train.data.scene import SceneConfig
from ms_train.data.scene_tracks import TrackLayout
from ms_train.loop import CHECKPOINT, LoopConfig, Stage, run
from ms_train.stages.adapt import Adapt, AdaptConfig
from ms_train.stages.autoencoder import Autoencoder, AutoencoderConfig
from ms_train.stages.distill import Distill, DistillConfig
from ms_train.stages.flow_matching import joint_guidance
from ms_train.stages.rollout import rollout
from ms_train.stages.teacher import FlowConfig, Teacher
from ms_train.students import Network, as_student, export, image_slots, warm_start_

from ms_infer.checkpoint import load_student
from ms_infer.config import MODELS, StreamConfig, preset
from ms_infer.model.layers import LayerNetwork
from ms_infer.model.taehv import TinyVae
from ms_infer.numerics import noise
from ms_infer.stream import Stream
from ms_infer.tracks import Tracks

from .test_train_data import write_assets
from .tiny import narrow_demo

CPU = torch.device("cpu")
SIZE = 32


def tiny_stream(words: tuple[str, ...] = ("apple",)) -> StreamConfig:
    vae = dataclasses.replace(preset("demo").model.vae, spatial_stride=8)
    return narrow_demo(words, size=SIZE, widths=(4, 8, 8, 8, 8), vae=vae)


def tiny_layers(stream: StreamConfig) -> LayerNetwork:
    """A layer network that finds something everywhere."""
    assert stream.model.layer_network is not None
    layers = LayerNetwork(stream.model.layer_network.widths, stream.model.layer_network.painter)
    torch.nn.init.normal_(layers.leave.weight, std=0.05)
    return layers.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[StreamConfig, ClipSource, TinyVae]:
    assets = load_assets(write_assets(tmp_path_factory.mktemp("assets")), "all")
    stream = tiny_stream(vocabulary(assets))
    torch.manual_seed(0)
    vae = TinyVae(stream.model.vae).requires_grad_(False)
    layout = TrackLayout(grid=4, ring=4, per_object=4)
    config = ClipConfig(chunks=4, scene=SceneConfig(size=SIZE), layout=layout)
    source = ClipSource(
        None, ClipMaker(stream, assets, vae, config, layer_network=tiny_layers(stream)), pool=1, batch=4
    )
    made = source.maker.make(0, 4)  # type: ignore[union-attr]
    source.maker.make = lambda number, count: made  # type: ignore[method-assign,union-attr]
    return stream, source, vae


Make = Callable[[int], Stage]


def makers(stream: StreamConfig, source: ClipSource) -> dict[str, Callable[[int], Stage]]:
    def loop(steps: int) -> LoopConfig:
        return LoopConfig(steps=steps, learning_rate=3e-3, warmup=2, cooldown=1, sheet_steps=0)

    def distill(steps: int) -> Stage:
        config = DistillConfig(
            stream=stream,
            loop=loop(steps),
            batch=2,
            rollout_chunks=4,
            critic_updates=1,
            regression_weight=1.0,
            dmd_weight=0.01,
        )
        stage = Distill(config, source, CPU)
        start = Network(stream)
        torch.manual_seed(1)
        warm_start_(start)
        stage.start_from(start.state_dict(), start.state_dict())
        return stage

    return {
        "teacher": lambda steps: Teacher(FlowConfig(stream=stream, loop=loop(steps), batch=4), source, CPU),
        "adapt": lambda steps: Adapt(AdaptConfig(stream=stream, loop=loop(steps), batch=4), source, CPU),
        "distill": distill,
    }


@pytest.mark.parametrize("name", ["teacher", "adapt", "distill"])
def test_a_resumed_run_equals_an_uninterrupted_one(
    name: str, source: tuple[StreamConfig, ClipSource, TinyVae], tmp_path: Path
) -> None:
    stream, clips, _ = source
    make = makers(stream, clips)[name]
    whole = make(3)
    run(whole, tmp_path / "whole")
    first = make(3)
    first.loop = dataclasses.replace(first.loop, stop_minutes=1e-9)
    run(first, tmp_path / "parts")
    assert first.step_index == 1
    second = make(3)
    run(second, tmp_path / "parts")
    for part in ("network", "average"):
        ours, theirs = whole.parts()[part].state_dict(), second.parts()[part].state_dict()
        ours, theirs = ours.get("values", ours), theirs.get("values", theirs)
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert (tmp_path / "parts" / "curves.csv").read_text().count("\n") == 4


@pytest.mark.parametrize("capability", ["AVX2", "AVX512"])
@pytest.mark.parametrize("name", ["teacher", "adapt", "distill"])
def test_products_are_bf16_only_where_the_cpu_has_avx512(
    name: str, capability: str, source: tuple[StreamConfig, ClipSource, TinyVae], monkeypatch: pytest.MonkeyPatch
) -> None:
    stream, clips, _ = source
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    stage = makers(stream, clips)[name](1)
    seen = set()
    for module in stage.parts()["network"].modules():
        if isinstance(module, torch.nn.Linear):
            module.register_forward_hook(lambda module, given, made: seen.add(made.dtype))
    assert np.isfinite(stage.step()["loss"])
    assert seen == {torch.float32 if capability == "AVX2" else torch.bfloat16}


@pytest.mark.parametrize("name", ["teacher", "adapt"])
def test_the_loss_falls(name: str, source: tuple[StreamConfig, ClipSource, TinyVae]) -> None:
    stream, clips, _ = source
    stage = makers(stream, clips)[name](1000)
    losses = []
    for index in range(16):
        stage.reseed_(index % 2)  # two batches again and again
        losses.append(stage.step()["loss"])
        stage.step_index += 1
    assert sum(losses[-4:]) < 0.8 * sum(losses[:4])


def test_self_forcing_regression_falls_and_moves_student_and_critic(
    source: tuple[StreamConfig, ClipSource, TinyVae],
) -> None:
    stream, clips, _ = source
    stage = makers(stream, clips)["distill"](1000)
    assert isinstance(stage, Distill)
    before = {name: value.clone() for name, value in stage.critic.state_dict().items()}
    numbers = []
    for _ in range(6):
        stage.reseed_(0)
        numbers.append(stage.step()["regression"])
        stage.step_index += 1
    assert numbers[-1] < numbers[0]
    assert any(not torch.equal(before[name], value) for name, value in stage.critic.state_dict().items())
    assert stage.network.track_head.convs[0].weight.grad is None


def test_the_autoencoder_learns_and_its_encoder_stays(tmp_path: Path) -> None:
    assets = load_assets(write_assets(tmp_path), "all")
    config = AutoencoderConfig(
        scene=SceneConfig(size=64),
        loop=LoopConfig(steps=1000, learning_rate=2e-3, warmup=1, sheet_steps=0),
        clips=1,
        crops=1,
        crop=64,
        fit_clips=2,
    )
    stage = Autoencoder(config, assets, CPU)
    encoder = {name: value.clone() for name, value in stage.vae.encoder.state_dict().items()}
    losses = []
    for _ in range(8):
        stage.reseed_(0)
        losses.append(stage.step()["loss"])
        stage.step_index += 1
    assert losses[-1] < losses[0]
    assert all(torch.equal(encoder[name], value) for name, value in stage.vae.encoder.state_dict().items())


def test_the_rollout_of_training_is_the_stream_bit_for_bit(
    source: tuple[StreamConfig, ClipSource, TinyVae],
) -> None:
    stream, _, vae = source
    torch.manual_seed(3)
    network = Network(stream).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    network.requires_grad_(False)
    student = as_student(network, vae, layer_network=tiny_layers(stream))
    image = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), np.uint8)
    tracks = Tracks.grid(3, 3, size=(SIZE, SIZE)).drag((16, 16), (26, 20))
    with Stream(student, engine="torch", device="cpu", precision="fp32", seed=11) as live:
        engine = live._engine
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        original = engine.commit

        def spy() -> None:
            track = engine._input[:, :, engine._slots["track"]].clone()  # type: ignore[attr-defined]
            seen.append((track, engine._x.clone()))  # type: ignore[attr-defined]
            original()

        engine.commit = spy  # type: ignore[method-assign]
        live.start(image, prompt="apple", tracks=tracks)
        for _ in range(4):
            live.step()
        first, keys = engine._image_latent.clone(), engine._keys  # type: ignore[attr-defined]
    counter_noise = lambda chunk, step, shape: torch.from_numpy(  # noqa: E731
        noise.normal(11, chunk, step, int(np.prod(shape))).reshape(shape)
    )
    made = rollout(network, torch.cat([track for track, _ in seen], 1), first, keys, counter_noise)
    assert torch.equal(made, torch.cat([x for _, x in seen], 1))


def test_a_rollout_with_gradient_makes_the_same_pictures(source: tuple[StreamConfig, ClipSource, TinyVae]) -> None:
    stream, _, _ = source
    torch.manual_seed(5)
    network = Network(stream)
    track, first = torch.randn(1, 12, 16, 4, 4), torch.randn(1, 1, 16, 4, 4)
    draws = {(c, p): torch.randn(1, 3, 16, 4, 4) for c in range(4) for p in range(3)}
    take = lambda chunk, step, shape: draws[chunk, step]  # noqa: E731
    keys = network.keys(torch.zeros(1, 4, dtype=torch.int64))
    plain = rollout(network, track, first, keys, take)
    with_gradient = rollout(network, track, first, keys, take, gradient_from=0)
    torch.testing.assert_close(plain, with_gradient, atol=1e-5, rtol=1e-5)
    with_gradient[:, -3:].sum().backward()
    assert network.transformer.patch_embedding.weight.grad is not None


def test_joint_guidance_is_equation_2() -> None:
    full, motion_only, text_only = (torch.randn(4) for _ in range(3))
    share = 3.0 / 4.5
    expected = share * motion_only + (1 - share) * text_only + 3.0 * (full - motion_only) + 1.5 * (full - text_only)
    torch.testing.assert_close(joint_guidance(full, motion_only, text_only, 3.0, 1.5), expected)


def test_the_warm_start_predicts_the_moved_first_frame(source: tuple[StreamConfig, ClipSource, TinyVae]) -> None:
    stream = source[0]
    torch.manual_seed(0)
    network = Network(stream)
    warm_start_(network)
    clean, moved = 0.5 * torch.randn(2, 3, 16, 4, 4), torch.randn(2, 3, 16, 4, 4)
    keys = network.keys(torch.zeros(2, 4, dtype=torch.int64))
    from ms_infer.model.context import ContextCache

    cache = ContextCache(stream, batch=2)
    with torch.no_grad():
        flow = network.flow(moved, torch.full((2, 3), 1000.0), clean, image_slots(stream, clean[:, :1], 3), keys, cache)
    assert torch.corrcoef(torch.stack([(moved - flow).flatten(), clean.flatten()]))[0, 1] > 0.9


def test_first_steps_of_the_large_model_on_tiny_dimensions() -> None:
    large = MODELS["motionstream-1.3b"]
    assert large.track_head is not None
    text = dataclasses.replace(large.text, tokens=4, dim=16)
    model = dataclasses.replace(
        large, dim=48, ffn_dim=64, heads=2, layers=2, freq_dim=32, image_tokens=3, image_dim=8, text=text
    )
    stream = dataclasses.replace(preset("motionstream-1.3b"), model=model, height=SIZE, width=SIZE)
    torch.manual_seed(0)
    network = Network(stream)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(1, 5, 9, 2, generator=generator) * SIZE
    ids = torch.randint(1000, (1, 5), generator=generator)
    clean, draw = torch.randn(1, 3, 16, 4, 4, generator=generator), torch.randn(1, 3, 16, 4, 4, generator=generator)
    losses = []
    from ms_infer.model.rope import Rotation
    from ms_infer.model.transformer import full_attention

    for _ in range(6):
        track = network.track_head(points, torch.ones(1, 5, 9, dtype=torch.bool), ids, opening=True)
        keys = network.keys(torch.ones(1, 4, 16))
        attend = full_attention(Rotation(3, stream.token_grid, model.head_dim))
        flow = network.flow(
            0.5 * clean + 0.5 * draw,
            torch.full((1, 3), 500.0),
            track,
            image_slots(stream, clean[:, :1], 3),
            keys,
            attend,
        )
        loss = (flow - (draw - clean)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0]


def test_an_exported_student_opens_and_streams(
    source: tuple[StreamConfig, ClipSource, TinyVae], tmp_path: Path
) -> None:
    stream, _, vae = source
    network = Network(stream)
    export(network, vae, None, tmp_path / "student.safetensors", layer_network=tiny_layers(stream))
    student = load_student(tmp_path / "student.safetensors", dtype=torch.float32)
    assert student.missing == ()
    assert student.unused == ()
    with Stream(student, engine="torch", device="cpu") as live:
        live.start(np.zeros((SIZE, SIZE, 3), np.uint8), prompt="apple", tracks=Tracks.grid(2, 2))
        assert live.step().frames.shape == (9, SIZE, SIZE, 3)


def test_a_checkpoint_of_another_stage_is_refused(
    source: tuple[StreamConfig, ClipSource, TinyVae], tmp_path: Path
) -> None:
    from ms_infer.errors import CheckpointError

    stream, clips, _ = source
    torch.save({"step": 1}, tmp_path / CHECKPOINT)
    with pytest.raises(CheckpointError, match="choose a new --out"):
        makers(stream, clips)["teacher"](2).load(tmp_path / CHECKPOINT)
