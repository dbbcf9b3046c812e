"""The commands of the recipe: each builds one stage from plain settings and runs it."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor

from ms_infer.checkpoint import load_student
from ms_infer.config import RefinerConfig, StreamConfig, preset
from ms_infer.errors import CheckpointError, ConfigError
from ms_infer.model.refiner import Refiner
from ms_infer.model.taehv import TinyVae
from ms_train import parallel
from ms_train.data.assets import Assets, load_assets
from ms_train.data.captions import vocabulary
from ms_train.data.clips import ClipConfig, ClipMaker, ClipSource, write_shards
from ms_train.data.scene import SceneConfig
from ms_train.features import load_features
from ms_train.loop import LoopConfig, run
from ms_train.stages.adapt import Adapt, AdaptConfig
from ms_train.stages.autoencoder import Autoencoder, AutoencoderConfig
from ms_train.stages.distill import Distill, DistillConfig
from ms_train.stages.layer_network import LayersConfig, LayerStage, load_layers, save_layers
from ms_train.stages.paint import PaintConfig, PaintStage
from ms_train.stages.refine import FrameSource, Refine, RefineConfig, write_frames
from ms_train.stages.teacher import FlowConfig, FlowStage, Teacher
from ms_train.students import Network, export, is_student, read_average, read_networks

StageConfig = TypeVar(
    "StageConfig", AutoencoderConfig, FlowConfig, AdaptConfig, DistillConfig, RefineConfig, LayersConfig, PaintConfig
)


@dataclass(frozen=True, kw_only=True)
class Common:
    """Where a stage finds its data and runs."""

    assets: Path
    """Folder with panoramas/, sprites/ and textures/."""
    out: Path
    """Folder of the stage's checkpoint, curves and sheets."""
    vae: Path
    """Checkpoint of the autoencoder stage."""
    clips: Path | None = None
    """Folder of rendered shards; None renders into a pool in memory while training (meant for a GPU)."""
    layers: Path | None = None
    """Layer network, for presets that have one: checkpoint of `layers`, what it saved, or a student file."""
    preset: str = "demo"
    device: str = "cpu"
    threads: int = 0
    """CPU threads of this process; 0 leaves torch's choice."""
    pool: int = 64
    """Batches in the pool."""
    pool_clips: int = 16
    """Clips a batch of the pool."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Settings of all stages for one kind of machine."""

    autoencoder: AutoencoderConfig
    teacher: FlowConfig
    adapt: AdaptConfig
    distill: DistillConfig
    refine: RefineConfig = field(default_factory=RefineConfig)
    layers: LayersConfig = field(default_factory=LayersConfig)
    paint: PaintConfig = field(default_factory=PaintConfig)
    frames: int = 60
    """Batches of 4 clips that the student streams for the refiner."""
    pool: int = 64
    pool_clips: int = 16


def _loop(steps: int, rate: float, cooldown: int) -> LoopConfig:
    return LoopConfig(steps=steps, learning_rate=rate, cooldown=cooldown)


RECIPES = {
    "cpu": Recipe(
        autoencoder=AutoencoderConfig(loop=_loop(900, 2e-3, 300)),
        teacher=FlowConfig(loop=_loop(600, 1.2e-3, 100)),
        adapt=AdaptConfig(loop=_loop(1200, 1.2e-3, 400)),
        distill=DistillConfig(loop=_loop(150, 2e-4, 50), batch=4, regression_weight=1.0),
    ),
    "gpu": Recipe(
        autoencoder=AutoencoderConfig(loop=_loop(6000, 2e-3, 1500), clips=16, crop=256, crops=1),
        teacher=FlowConfig(loop=_loop(8000, 1.2e-3, 1500), batch=64),
        adapt=AdaptConfig(loop=_loop(8000, 1e-3, 2000), batch=64),
        distill=DistillConfig(loop=_loop(600, 1e-4, 150), batch=32, regression_weight=0.5),
        pool=128,
    ),
    "smoke": Recipe(
        autoencoder=AutoencoderConfig(
            scene=SceneConfig().scaled(64), loop=_loop(4, 2e-3, 2), clips=2, crop=64, fit_clips=2
        ),
        teacher=FlowConfig(loop=_loop(2, 1e-3, 1), batch=2),
        adapt=AdaptConfig(loop=_loop(2, 1e-3, 1), batch=2),
        distill=DistillConfig(loop=_loop(1, 1e-4, 1), batch=1, critic_updates=1),
        refine=RefineConfig(loop=_loop(2, 1e-3, 1), batch=2),
        layers=LayersConfig(loop=_loop(2, 1e-3, 1), size=64, batch=2, fresh=2, pool=1),
        paint=PaintConfig(loop=_loop(2, 1e-3, 1), size=64, batch=2, fresh=2, pool=1),
        frames=1,
        pool=1,
        pool_clips=2,
    ),
}


DEFAULTS = RECIPES["cpu"]


def demo_stream(assets: Assets, name: str = "demo") -> StreamConfig:
    """The preset with the vocabulary of the assets' captions, where its text encoder is a word table."""
    stream = preset(name)
    if stream.model.text.kind != "words":
        return stream
    text = dataclasses.replace(stream.model.text, vocabulary=vocabulary(assets))
    return dataclasses.replace(stream, model=dataclasses.replace(stream.model, text=text))


def load_vae(path: Path, stream: StreamConfig, device: torch.device) -> TinyVae:
    """The averaged autoencoder of a stage checkpoint or of a student file, frozen."""
    vae = TinyVae(stream.model.vae)
    vae.load_state_dict(read_networks(path)[1].state_dict() if is_student(path) else read_average(path))
    return vae.to(device).eval().requires_grad_(False)


def autoencoder(
    assets: Path, out: Path, config: AutoencoderConfig = DEFAULTS.autoencoder, device: str = "cpu", threads: int = 0
) -> None:
    """Fit the encoder, train the decoder."""
    chosen = _start(device, threads)
    stage = Autoencoder(config, load_assets(assets, size=config.scene.size).to(chosen), chosen)
    run(stage, out)
    parallel.finish()


def layers(
    assets: Path,
    out: Path,
    config: LayersConfig = DEFAULTS.layers,
    init: Path | None = None,
    save: Path | None = None,
    device: str = "cpu",
    threads: int = 0,
) -> None:
    """Train the layer network: which pixels belong to which motion.

    Scenes are drawn on the CPU. --init begins with the weights of a file that --save wrote; --save writes them when the
    run ends or stops.
    """
    place = _start(device, threads)
    stage = LayerStage(config, load_assets(assets, size=config.size), place)
    if init is not None:
        stage.start_from_average(dict(load_layers(init).state_dict()))
    run(stage, out)
    if save is not None:
        save_layers(out, save)
    parallel.finish()


def paint(
    assets: Path,
    layers: Path,
    out: Path,
    config: PaintConfig = DEFAULTS.paint,
    save: Path | None = None,
    device: str = "cpu",
    threads: int = 0,
) -> None:
    """Train the painter of what lies behind the things that the layer network of --layers finds.

    --layers is a checkpoint of `layers`, what it saved, or a student file; its painter is begun with. --save writes the
    layer network with its painter when the run ends or stops; --out serves as --layers of later stages too.
    """
    place = _start(device, threads)
    features = load_features(assets) if config.texture_weight else None
    stage = PaintStage(config, load_layers(layers), load_assets(assets, size=config.size), place, features)
    run(stage, out)
    if save is not None:
        save_layers(out, save)
    parallel.finish()


def render_clips(
    common: Common, first: int = 0, last: int = 400, count: int = 8, seed: int = 1, chunks: int = ClipConfig.chunks
) -> None:
    """Render batches first..last-1 of `count` clips of `chunks` chunks into shards, for training on a CPU."""
    place = _start(common.device, common.threads)
    assets = load_assets(common.assets, size=preset(common.preset).height).to(place)
    stream = demo_stream(assets, common.preset)
    maker = _maker(stream, assets, load_vae(common.vae, stream, place), common.layers, seed, chunks)
    write_shards(maker, common.out, iter(range(first, last)), count)


def teacher(common: Common, config: FlowConfig = DEFAULTS.teacher, init: Path | None = None) -> None:
    """Train the bidirectional flow-matching teacher."""
    _run_flow(Teacher, common, config, init)


def adapt(
    common: Common, config: AdaptConfig = DEFAULTS.adapt, init: Path | None = None, teacher: Path | None = None
) -> None:
    """Causal adaptation, from the teacher's weights with --init."""
    _run_flow(Adapt, common, config, init, teacher)


def distill(common: Common, student: Path, teacher: Path, config: DistillConfig = DEFAULTS.distill) -> None:
    """Self Forcing from the adapted student, scored by the teacher and, where asked, by the rendered clips."""
    chosen = _start(common.device, common.threads)
    source, stream, vae = _source(common, chosen)
    stage = Distill(dataclasses.replace(config, stream=stream), source, chosen, vae)
    stage.start_from(read_average(student), read_average(teacher))
    run(stage, common.out)
    parallel.finish()


def stream_frames(
    common: Common,
    student: Path,
    first: int = 0,
    last: int = 60,
    count: int = 4,
    each: int = 16,
    seed: int = 2,
    chunks: int = ClipConfig.chunks,
) -> None:
    """Stream batches first..last-1 of `count` rendered clips with the student; keep `each` frames of every clip.

    In two of five clips the light changes on the way: the refiner learns it from them.
    """
    chosen = _start(common.device, common.threads)
    assets = load_assets(common.assets, size=preset(common.preset).height).to(chosen)
    stream = demo_stream(assets, common.preset)
    vae = load_vae(common.vae, stream, chosen)
    network = Network(stream).to(chosen).requires_grad_(False).eval()
    network.load_state_dict(read_average(student))
    maker = _maker(stream, assets, vae, common.layers, seed, chunks, SceneConfig(look_share=0.5, switch_share=0.8))
    write_frames(maker, network, vae, common.out, iter(range(first, last)), clips=count, each=each)


def refine(
    frames: Path,
    out: Path,
    config: RefineConfig = DEFAULTS.refine,
    init: Path | None = None,
    assets: Path | None = None,
    device: str = "cpu",
    threads: int = 0,
) -> None:
    """Train the refiner on frames that the student streamed (`stream-frames`).

    --assets is asked for texture only: the folder with weights/taef2_encoder.pth.
    """
    chosen = _start(device, threads)
    features = None if assets is None or not config.texture_weight else load_features(assets)
    stage = Refine(config, FrameSource(frames), chosen, features)
    if init is not None:
        stage.start_from_average(_refiner_weights(init))
    run(stage, out)
    parallel.finish()


def _refiner_weights(path: Path) -> dict[str, Tensor]:
    """Averaged weights of a refiner's stage, or the refiner of a student file; CheckpointError when it has none."""
    if not is_student(path):
        return read_average(path)
    refiner = load_student(path, dtype=torch.float32).refiner
    if refiner is None:
        raise CheckpointError(f"{path} holds no refiner; give a checkpoint of `ms_train refine`")
    return dict(refiner.state_dict())


def load_refiner(path: Path, config: RefinerConfig) -> Refiner:
    """The averaged refiner of a stage checkpoint or of a student file, frozen."""
    refiner = Refiner(config)
    refiner.load_state_dict(_refiner_weights(path))
    return refiner.eval().requires_grad_(False)


def export_student(
    assets: Path,
    stage: Path,
    vae: Path,
    out: Path,
    refiner: Path | None = None,
    layers: Path | None = None,
    preset: str = "demo",
) -> None:
    """Write the averaged weights of a stage, with autoencoder, layer network and refiner, as a student file in bf16."""
    stream = demo_stream(load_assets(assets), preset)
    if (layers is None) != (stream.model.layer_network is None):
        raise ConfigError(f"the preset {preset!r} and --layers come together; give both or none")
    sharpener = None
    if refiner is not None:
        if stream.model.refiner is None:
            raise ConfigError(f"the preset {preset!r} has no refiner; leave --refiner out")
        sharpener = load_refiner(refiner, stream.model.refiner)
    decoder = load_vae(vae, stream, torch.device("cpu"))
    network = None if layers is None else load_layers(layers)
    export(Network(stream), decoder, read_average(stage), out, sharpener, network)


def recipe(
    assets: Path,
    out: Path,
    scale: Literal["gpu", "cpu", "smoke"] = "gpu",
    minutes: float = 25.0,
    device: str = "cuda",
) -> None:
    """All stages one after the other within `minutes`, clips rendered on the device; resumes like its stages."""
    began = time.monotonic()
    sizes = RECIPES[scale]
    layers(assets, out / "layers", _within(sizes.layers, minutes * 0.15), device=device)
    paint(assets, out / "layers", out / "paint", _within(sizes.paint, minutes * 0.1), device=device)
    autoencoder(assets, out / "autoencoder", _within(sizes.autoencoder, minutes * 0.15), device)
    common = Common(
        assets=assets,
        out=out / "teacher",
        vae=out / "autoencoder",
        layers=out / "paint",
        device=device,
        pool=sizes.pool,
        pool_clips=sizes.pool_clips,
    )
    teacher(common, _within(sizes.teacher, minutes * 0.15))
    common = dataclasses.replace(common, out=out / "adapt")
    adapt(common, _within(sizes.adapt, minutes * 0.2), init=out / "teacher")
    common = dataclasses.replace(common, out=out / "distill")
    distill(common, out / "adapt", out / "teacher", _within(sizes.distill, _left(began, 0.85 * minutes)))
    common = dataclasses.replace(common, out=out / "frames")
    stream_frames(common, out / "distill", last=sizes.frames)
    refine(out / "frames", out / "refine", _within(sizes.refine, _left(began, 0.98 * minutes)), device=device)
    parts = (out / "autoencoder", out / "demo.safetensors", out / "refine", out / "paint")
    export_student(assets, out / "distill", *parts)


def _left(began: float, minutes: float) -> float:
    """Minutes left of `minutes` since `began`, half a minute at least."""
    return max(0.5, minutes - (time.monotonic() - began) / 60)


def _within(config: StageConfig, minutes: float) -> StageConfig:
    """The same settings, stopped after `minutes`."""
    return dataclasses.replace(config, loop=dataclasses.replace(config.loop, stop_minutes=minutes))


def _start(device: str, threads: int) -> torch.device:
    if threads:
        torch.set_num_threads(threads)
    return parallel.start(torch.device(device))


def _source(common: Common, place: torch.device) -> tuple[ClipSource, StreamConfig, TinyVae]:
    assets = load_assets(common.assets, size=preset(common.preset).height).to(place)
    stream = demo_stream(assets, common.preset)
    vae = load_vae(common.vae, stream, place)
    maker = None
    if common.clips is None:
        maker = _maker(stream, assets, vae, common.layers, 1 + parallel.rank())
    return ClipSource(common.clips, maker, pool=common.pool, batch=common.pool_clips), stream, vae


def _maker(
    stream: StreamConfig,
    assets: Assets,
    vae: TinyVae,
    layers: Path | None,
    seed: int,
    chunks: int = ClipConfig.chunks,
    scene: SceneConfig | None = None,
) -> ClipMaker:
    """Makes clips of `chunks` chunks at the stream's size; `layers` for models with a layer network."""
    config = ClipConfig(chunks=chunks, scene=(scene or SceneConfig()).scaled(stream.height))
    network = None if layers is None else load_layers(layers).to(assets.device)
    return ClipMaker(stream, assets, vae, config, seed, network)


def _run_flow(
    kind: type[FlowStage], common: Common, config: FlowConfig, init: Path | None, teacher: Path | None = None
) -> None:
    chosen = _start(common.device, common.threads)
    source, stream, vae = _source(common, chosen)
    stage = kind(dataclasses.replace(config, stream=stream), source, chosen, vae)
    if init is not None:
        stage.start_from_average(read_average(init))
    if teacher is not None and isinstance(stage, Adapt):
        stage.teacher = Network(stream).to(chosen).requires_grad_(False)
        stage.teacher.load_state_dict(read_average(teacher))
    run(stage, common.out)
    parallel.finish()
