"""Exported stages and whole streams against PyTorch, on every engine that runs on a CPU."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ms_export.rollouts import chunk_pairs, run_chunk
from ms_export.stimulus import example_image, example_player
from ms_export.verify import PSNR_LIMITS, STAGE_LIMITS, check_stage, psnr, relative_l2

from ms_infer import ConfigError, DeviceError, EngineMismatchError, Stream, Tracks
from ms_infer.engines.base import STAGES, ChunkPlan, Engine, plan_chunk
from ms_infer.engines.host import HostRunner
from ms_infer.engines.openvino import open_openvino
from ms_infer.engines.runner import named
from ms_infer.engines.staged import StagedEngine
from ms_infer.engines.torch import TorchEngine
from ms_infer.serve.open import stream_opener
from ms_infer.serve.settings import ServeConfig
from tests.engines.conftest import STUDENTS, Made, opened

Make = Callable[..., Made]
CHUNKS = 5  # sink and window are full, and the sink has been re-rotated


@pytest.mark.parametrize("name", STUDENTS)
def test_every_stage_is_that_of_pytorch(made: Make, name: str) -> None:
    student, manifest = made(name)
    for stage in manifest.stages["fp32"]:
        check = check_stage(student, manifest, "fp32", stage)
        assert check.rel_l2 <= STAGE_LIMITS["fp32"], f"{stage}: {check.rel_l2}"


def test_half_precision_stages_stay_close(made: Make) -> None:
    student, manifest = made("tracks", targets=("onnx",), dtype="fp16")
    for stage in ("condition", "points", "layers", "compose", "tracks", "roll", "denoise", "decode"):
        check = check_stage(student, manifest, "fp16", stage)
        assert check.rel_l2 <= STAGE_LIMITS["fp16"], f"{stage}: {check.rel_l2}"


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino fp32", "openvino bf16"])
@pytest.mark.parametrize("name", STUDENTS)
def test_chunks_from_the_same_context_are_those_of_pytorch(made: Make, name: str, engine: str) -> None:
    student, manifest = made(name)
    limit = PSNR_LIMITS["bf16" if engine.endswith("bf16") else "fp32"]
    reference, other = TorchEngine(student, device="cpu"), opened(manifest, engine)
    if manifest.config.model.image_input == "prefill":
        pairs = given_pairs(reference, other)
    else:
        pairs = [(expected, frames.copy()) for expected, frames in chunk_pairs(reference, other, CHUNKS)]
    assert min(psnr(frames, expected) for expected, frames in pairs) >= limit


def given_pairs(reference: Engine, other: Engine) -> list[tuple[np.ndarray, np.ndarray]]:
    """Free-running chunks after a given latent frame."""
    config = reference.config
    for engine in (reference, other):
        engine.reset()
        engine.set_text(engine.embed("a cat"))
        engine.set_image(example_image(config.height, config.width))
        assert engine.given_frames() == 1
    pairs = []
    for index in range(CHUNKS):
        start = 1 + index * config.context.chunk_frames
        place = config.context.place(start, config.context.chunk_frames)
        plan = replace(plan_chunk(config, index, None, 0), opening=False, placement=place)
        pairs.append((run_chunk(reference, plan), run_chunk(other, plan).copy()))
    return pairs


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino fp32"])
@pytest.mark.parametrize("name", ["short_first_chunk", "prefill", "pin"])
def test_a_chunk_in_one_row_of_any_context_is_that_of_pytorch(made: Make, name: str, engine: str) -> None:
    """Sink and window are no multiples of the chunk, or a given frame shifts the ring: the window moves."""
    student, manifest = made(name, writes="chunk")
    reference, other = TorchEngine(student, device="cpu"), opened(manifest, engine)
    if manifest.config.model.image_input == "prefill":
        pairs = given_pairs(reference, other)
    else:
        pairs = chunk_pairs(reference, other, 7, same_context=False)
    assert named(manifest.stages["fp32"]["denoise"], "write_index").shape == (1,)
    assert min(psnr(frames, expected) for expected, frames in pairs) >= PSNR_LIMITS["fp32"]


def test_a_snapshot_of_a_moved_window_goes_on_bit_for_bit(made: Make) -> None:
    manifest = made("short_first_chunk", writes="chunk")[1]
    one, two = opened(manifest, "onnxruntime"), opened(manifest, "onnxruntime")
    for each in (one, two):
        start(each)
    for index in range(9):
        two.reset()
        start(two)
        two.restore(one.state())
        plan = plan_chunk(one.config, index, None, 1)
        np.testing.assert_array_equal(run_chunk(two, plan), run_chunk(one, plan))


def test_a_free_running_stream_follows_pytorch(made: Make) -> None:
    student, manifest = made("tracks")
    pairs = chunk_pairs(TorchEngine(student, device="cpu"), opened(manifest, "openvino fp32"), 12, same_context=False)
    assert min(psnr(frames, expected) for expected, frames in pairs) >= PSNR_LIMITS["fp32"]


def test_streams_of_engines_show_the_same_video(made: Make) -> None:
    student, manifest = made("tracks")
    tracks = Tracks.grid(4, 4).drag((0.4, 0.5), (0.8, 0.5))
    videos = []
    for source, options in ((student, {"engine": "torch"}), (manifest.folder, {"precision": "fp32"})):
        with Stream(source, **options) as stream:
            stream.start(example_image(32, 32), "a cat", tracks)
            videos.append([stream.step().frames for _ in range(4)])
    assert min(psnr(a, b) for a, b in zip(*videos, strict=True)) >= PSNR_LIMITS["fp32"]


def test_a_bundle_on_a_cpu_takes_openvino(made: Make) -> None:
    with Stream(made("tracks")[1].folder, device="cpu") as stream:
        assert stream.engine.startswith("openvino ")


def start(engine: Engine) -> None:
    config = engine.config
    engine.reset()
    engine.set_text(engine.embed("a dog"))
    engine.set_image(example_image(config.height, config.width))


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino bf16"])
def test_a_snapshot_goes_on_bit_for_bit(made: Make, engine: str) -> None:
    manifest = made("tracks")[1]
    player = example_player(manifest.config)
    one, two = opened(manifest, engine), opened(manifest, engine)
    for each in (one, two):
        start(each)
    for index in range(3):
        run_chunk(one, plan_chunk(one.config, index, player, 1))
    two.restore(one.state())
    plan = plan_chunk(one.config, 3, player, 1)
    np.testing.assert_array_equal(run_chunk(one, plan), run_chunk(two, plan))


def test_a_stream_snapshot_works_with_a_bundle(made: Make, tmp_path: Path) -> None:
    folder = made("tracks")[1].folder
    with Stream(folder) as stream:
        stream.start(example_image(32, 32), "a cat")
        stream.step()
        stream.snapshot(tmp_path / "s.safetensors")
        expected = stream.step().frames
        stream.restore(tmp_path / "s.safetensors")
        np.testing.assert_array_equal(stream.step().frames, expected)


def test_a_foreign_snapshot_is_refused(made: Make) -> None:
    engine = opened(made("tracks")[1], "openvino fp32")
    state = engine.state()
    state["state.decoder_0"] = state["state.decoder_0"][:, :-1]
    with pytest.raises(ConfigError, match=r"decoder_0 is .*, this stream needs"):
        engine.check_state(state, 0)
    with pytest.raises(ConfigError, match=r"cache k_cache_0 is .*, this stream needs"):
        engine.check_state({n: a for n, a in engine.state().items() if n != "cache.k_cache_0"}, 0)


@pytest.mark.parametrize(
    "until", ["points", "layers", "compose", "tracks", "denoise 1", "denoise 3", "decode", "denoise 4", "commit"]
)
def test_a_chunk_that_failed_can_be_made_again(made: Make, until: str, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = made("tracks")[1]
    player = example_player(manifest.config)
    videos = []
    for fails in (False, True):
        engine = opened(manifest, "openvino fp32")
        start(engine)
        for index in range(4):
            plan = plan_chunk(engine.config, index, player, 2)
            if fails:
                abandon(engine, plan, until, monkeypatch)
            frames = run_chunk(engine, plan).copy()
        videos.append(frames)
    np.testing.assert_array_equal(*videos)


def abandon(engine: StagedEngine, plan: ChunkPlan, until: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run a chunk up to the n-th call of a stage, let that one do its work and fail; "commit": leave all but that."""
    runner = engine.runner
    assert isinstance(runner, HostRunner)
    stage, _, number = until.partition(" ")
    stage += "_first" if plan.opening and stage in ("points", "compose", "tracks", "decode") else ""
    calls, call = [], runner._stages.call

    def failing(name: str, side: int) -> None:
        call(name, side)
        calls.append(name)
        if calls.count(stage) == int(number or 1):
            raise DeviceError("injected")

    if until == "commit":
        engine.generate(plan)
        engine.frames()
        return
    with monkeypatch.context() as patch:
        patch.setattr(runner._stages, "call", failing)
        with pytest.raises(DeviceError, match="injected"):
            run_chunk(engine, plan)


def test_the_stages_of_a_chunk_are_timed_where_they_run(made: Make) -> None:
    engine = opened(made("tracks")[1], "openvino fp32")
    runner, slow = engine.runner, {"points": 0.02, "tracks": 0.01, "denoise": 0.02, "decode": 0.05}
    assert isinstance(runner, HostRunner)
    call = runner._stages.call
    start(engine)

    def delayed(name: str, side: int) -> None:
        time.sleep(slow.get(name.removesuffix("_first"), 0.0))
        call(name, side)

    runner._stages.call = delayed  # type: ignore[method-assign]
    run_chunk(engine, plan_chunk(engine.config, 0, example_player(engine.config), 0))

    least = {"begin": 30, "denoise": 60, "decode": 50, "write_cache": 20}
    took = engine.stage_ms()
    assert list(took) == list(STAGES)
    assert all(took[name] >= ms for name, ms in least.items()), took


def test_a_reset_forgets_everything(made: Make) -> None:
    engine = opened(made("tracks")[1], "openvino fp32")
    player = example_player(engine.config)
    videos = []
    for _ in range(2):
        start(engine)
        chunks = [run_chunk(engine, plan_chunk(engine.config, i, player, 3)).copy() for i in range(3)]
        videos.append(np.concatenate(chunks))
    for one, other in zip(*videos, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("replace_sink", [False, True])
def test_recaching_reads_the_new_prompt(made: Make, replace_sink: bool) -> None:
    student, manifest = made("tracks")
    player = example_player(manifest.config)
    engine, reference = opened(manifest, "openvino fp32"), TorchEngine(student, device="cpu")
    for each in (engine, reference):
        start(each)
        for index in range(4):
            run_chunk(each, plan_chunk(each.config, index, player, 4))
    before = engine.state()
    for each in (engine, reference):
        each.set_text(each.embed("night snow"))
        each.recache(replace_sink=replace_sink)
    after, expected = engine.state(), reference.state()
    assert engine.sink_start == reference.sink_start == (3 if replace_sink else 0)
    assert not np.array_equal(before["cache.v_cache_1"], after["cache.v_cache_1"])
    for layer, kind in itertools.product(range(2), "kv"):
        assert relative_l2(after[f"cache.{kind}_cache_{layer}"], expected[kind][layer]) < 1e-5, (kind, layer)


@pytest.mark.parametrize("chunks", [1, 2, 6])
def test_recaching_a_deep_model_is_one_pass_over_all(made: Make, chunks: int) -> None:
    """Eight layers, more than there are rounds; contexts that are not full, and one whose window has moved."""
    student, manifest = made("deep", targets=("onnx",), writes="chunk")
    engine, reference = opened(manifest, "onnxruntime"), TorchEngine(student, device="cpu")
    for each in (engine, reference):
        start(each)
        for index in range(chunks):
            run_chunk(each, plan_chunk(each.config, index, None, 4))
        each.set_text(each.embed("night snow"))
        each.recache(replace_sink=chunks == 6)
    after, expected = engine.state(), reference.state()
    for layer, kind in itertools.product(range(8), "kv"):
        assert relative_l2(after[f"cache.{kind}_cache_{layer}"], expected[kind][layer]) < 3e-6, (kind, layer)
    plan = plan_chunk(engine.config, chunks, None, 4, sink_start=engine.sink_start)
    assert psnr(run_chunk(engine, plan), run_chunk(reference, plan)) >= PSNR_LIMITS["fp32"]


def test_recaching_an_unchanged_prompt_of_a_fresh_stream_changes_nothing(made: Make) -> None:
    engine = opened(made("tracks")[1], "openvino fp32")
    start(engine)
    run_chunk(engine, plan_chunk(engine.config, 0, example_player(engine.config), 5))
    before = engine.state()
    engine.recache(replace_sink=False)
    after = engine.state()
    for name in ("cache.sink_k_1", "cache.v_cache_1"):
        np.testing.assert_allclose(after[name], before[name], atol=1e-5)


def test_streams_of_a_served_bundle_share_the_compiled_models_and_nothing_else(made: Make) -> None:
    open_stream = stream_opener(ServeConfig(source=str(made("tracks")[1].folder), engine="openvino", precision="fp32"))
    with open_stream() as one, open_stream() as two, open_stream() as alone:
        for stream in (one, alone):
            stream.start(example_image(32, 32), "a cat")
        two.start(None, "a dog", seed=5)
        expected = [alone.step().frames for _ in range(3)]
        for frames in expected:
            two.step()
            np.testing.assert_array_equal(one.step().frames, frames)
        models = {id(stream._engine.runner._stages._models) for stream in (one, two, alone)}  # type: ignore[attr-defined]
        assert len(models) == 1


def test_openvino_refuses_what_it_cannot_do(made: Make) -> None:
    manifest = made("tracks")[1]
    with pytest.raises(DeviceError, match="runs on the CPU"):
        open_openvino(manifest, device="cuda")
    with pytest.raises(ConfigError, match="precision 'fp16' is not one of"):
        open_openvino(manifest, precision="fp16")
    with pytest.raises(EngineMismatchError, match="holds no OpenVINO stages"):
        open_openvino(replace(manifest, engines={}))
    newer = {n: replace(e, version="2999.1.0") for n, e in manifest.engines.items()}
    with pytest.raises(EngineMismatchError, match=r"exported with OpenVINO 2999.1.0"):
        open_openvino(replace(manifest, engines=newer))


def test_a_tampered_weight_file_is_refused_before_it_is_used(made: Make, tmp_path: Path) -> None:
    import shutil

    manifest = made("tracks")[1]
    copy = tmp_path / "bundle"
    shutil.copytree(manifest.folder, copy)
    weights = next(copy.rglob("denoise.bin"))
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    from ms_infer import BundleError

    with pytest.raises(BundleError, match=r"denoise.bin was changed after the export"):
        open_openvino(copy)
