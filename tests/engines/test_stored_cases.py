"""Numbers of the reference implementations through exported stages, on onnxruntime and OpenVINO."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from ms_export.exporter import export_bundle
from ms_export.onnx_engine import open_onnx, open_session
from ms_export.openvino_ir import convert_stage, make_core
from ms_export.options import ExportOptions
from ms_export.rollouts import run_chunk
from ms_export.trace import module_parts, trace_stage
from ms_export.weights import WEIGHTS, WeightTable, write_weights
from numpy.typing import NDArray

from ms_infer.bundle.manifest import Manifest
from ms_infer.bundle.stages import StageSpec, stage_specs
from ms_infer.checkpoint import Student, random_student
from ms_infer.config import ContextConfig, VaeConfig
from ms_infer.engines.base import Engine, plan_chunk
from ms_infer.engines.openvino import open_openvino
from ms_infer.engines.torch import TorchEngine
from ms_infer.model.vae import Vae
from ms_infer.numerics import noise
from tests.golden.check import Case
from tests.golden.wantrack import newest_latents
from tests.test_taehv import published as taehv_fixture
from tests.test_wan_vae import frames_first, hashed, numbers, words
from tests.tiny import tiny_config

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 2e-5
EXPORTED_TOLERANCE = 1e-4
"""Exported graphs multiply in another order; values reach 6."""
VAE_TOLERANCE = 2e-5
STATE_TOLERANCE = 1e-4
Array = NDArray[Any]
published = taehv_fixture


@pytest.fixture(scope="module")
def case() -> Case:
    """LongLive's rollout with two prompt switches and re-cached contexts."""
    return Case.load(GOLDEN / "ll_switch_global_sink.safetensors")


@pytest.fixture(scope="module")
def student(case: Case) -> Student:
    config = case.stream_config()
    small = VaeConfig(decoder_widths=(8, 8, 8, 8), encoder_width=8, blocks=1)
    config = dataclasses.replace(config, model=dataclasses.replace(config.model, vae=small))
    made = random_student(config)
    made.transformer.load_state_dict({name: tensor.float() for name, tensor in case.weights.items()})
    return made


@pytest.fixture(scope="module")
def bundle(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return export_bundle(student, "0" * 64, tmp_path_factory.mktemp("longlive"), ExportOptions()).manifest


@pytest.fixture
def stored_noise(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    chunk, again = case.meta["num_frame_per_block"], len(case.meta["denoising_steps"]) - 1

    def normal(_seed: int, index: int, denoise_pass: int, count: int) -> Array:
        if index >= case.meta["blocks"]:  # drawn ahead, never used
            return np.zeros(count, np.float32)
        if denoise_pass:
            return case.data[f"renoise.{index * again + denoise_pass - 1:03d}"].numpy().reshape(-1)
        return case.data["noise"][:, index * chunk : (index + 1) * chunk].numpy().reshape(-1)

    monkeypatch.setattr(noise, "normal", normal)


def play(engine: Engine, case: Case) -> float:
    """The whole rollout; the largest difference of any latents to the stored ones."""
    meta, chunk, prompt, worst = case.meta, case.meta["num_frame_per_block"], 0, 0.0
    engine.reset()
    engine.set_text(case.data["text.p0b0"].numpy())
    engine.set_image(None)
    for index in range(meta["blocks"]):
        if index * chunk in meta["switch_frame_indices"]:
            prompt += 1
            engine.set_text(case.data[f"text.p{prompt}b0"].numpy())
            engine.recache(replace_sink=not meta["global_sink"])
        run_chunk(engine, plan_chunk(engine.config, index, None, 0, sink_start=engine.sink_start))
        expected = case.data["latents"][0, index * chunk : (index + 1) * chunk].numpy()
        worst = max(worst, float(np.abs(newest_latents(engine, chunk) - expected).max()))
    assert prompt == 2, "both switches were made"
    return worst


@pytest.mark.usefixtures("stored_noise")
@pytest.mark.parametrize("library", ["torch", "onnxruntime", "openvino"])
def test_longlive_switches_its_prompts(library: str, case: Case, student: Student, bundle: Manifest) -> None:
    if library == "torch":
        assert play(TorchEngine(student, device="cpu"), case) <= TOLERANCE
    elif library == "onnxruntime":
        assert play(open_onnx(bundle, threads=1), case) <= EXPORTED_TOLERANCE
    else:
        assert play(open_openvino(bundle, precision="fp32", threads=1), case) <= EXPORTED_TOLERANCE


Specs = dict[str, StageSpec]
Run = Callable[[Mapping[str, Array]], dict[str, Array]]


def exported(
    vae: Vae, size: tuple[int, int], folder: Path, library: str
) -> tuple[dict[str, StageSpec], dict[str, Run]]:
    """Encoder and decoder of an autoencoder as stages that decode one latent frame at a time.

    The stored cases are smaller than a stream's size may be: sizes are put in behind the check.
    """
    channels = vae.config.latent_channels
    model = {"layout": (("noise", channels),), "track_head": None, "image_input": "pin", "layers": 1}
    context = ContextConfig(chunk_frames=1, sink_frames=1, window_frames=1)
    config = tiny_config(context=context, size=64, vae=vae.config, **model)
    student = dataclasses.replace(random_student(config), vae=vae)
    for side, value in zip(("height", "width"), size, strict=True):
        object.__setattr__(config, side, value)
    specs, table = stage_specs(config), WeightTable.of(student, torch.float32)
    write_weights(student, table, folder / WEIGHTS)
    runs = {}
    for stage in ("encode", "decode_first", "decode"):
        path, parts = folder / f"{stage}.onnx", module_parts(student, torch.float32)
        onnx.save(trace_stage(specs[stage], parts, torch.float32, table, folder / WEIGHTS), path)
        runs[stage] = on_openvino(path, specs[stage], table) if library == "openvino" else on_onnxruntime(path)
    return specs, runs


def on_onnxruntime(path: Path) -> Run:
    session = open_session(str(path), 1)
    names = [output.name for output in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, dict(feeds)), strict=True))


def on_openvino(path: Path, spec: StageSpec, table: WeightTable) -> Run:
    core = make_core()
    convert_stage(core, path, spec, path.with_suffix(".xml"), table)
    options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = core.compile_model(path.with_suffix(".xml"), "CPU", options)

    def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
        results = compiled(dict(feeds))
        return {output.name: np.array(results[output.name]) for output in spec.outputs}

    return run


def decoded(specs: Specs, runs: dict[str, Run], latents: Array) -> Iterator[tuple[Array, list[Array]]]:
    """Bytes of one latent frame `[1, F, C, h, w]` after the other, and the state behind it."""
    state: dict[str, Array] = {}
    for index in range(latents.shape[1]):
        stage = "decode" if index else "decode_first"
        made = runs[stage]({"latents": np.ascontiguousarray(latents[:, index : index + 1]), **state})
        state = {old: made[new] for old, new in specs["decode"].states}
        yield made["frames"], list(state.values())


def assert_bytes(made: Array, expected: Array) -> None:
    """expected: `[F, 3, height, width]` in 0..1. Equal but for roundings that fall the other way."""
    wanted = np.round(np.clip(expected, 0, 1).transpose(0, 2, 3, 1) * 255)
    difference = np.abs(made.astype(np.float64) - wanted)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-2


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_wan21_decodes_and_encodes_as_its_reference(library: str, tmp_path: Path) -> None:
    vae = hashed([(name, shape) for _, name, shape in words("vae21")["key_map"]])
    golden = numbers("vae21")
    specs, runs = exported(vae, (16, 24), tmp_path, library)
    frames = []
    for index, (made, state) in enumerate(decoded(specs, runs, golden["z"].transpose(1, 2).numpy()), 1):
        frames.append(made)
        if index == 1:
            for name, cache in golden.items():
                if name.startswith("static_cache_after_1."):
                    np.testing.assert_allclose(state[int(name[-2:])], cache.numpy(), atol=STATE_TOLERANCE)
    assert_bytes(np.concatenate(frames), frames_first(golden["decoded"])[0].numpy())
    latent = runs["encode"]({"image": frames_first(golden["pixels"])[:, 0].numpy()})["image_latent"]
    np.testing.assert_allclose(latent[:, 0], golden["latent"][:, :, 0].numpy(), atol=VAE_TOLERANCE)


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_wan22_decodes_as_its_reference(library: str, tmp_path: Path) -> None:
    vae, golden = hashed(words("vae22")["params"]), numbers("vae22")
    specs, runs = exported(vae, (32, 16), tmp_path, library)
    latents = ((golden["z"] - vae.scale.mean) / vae.scale.std).numpy()
    made = np.concatenate([frames for frames, _ in decoded(specs, runs, latents)])
    assert_bytes(made, (golden["decoded"][0] / 2 + 0.5).numpy())
    latent = runs["encode"]({"image": golden["pixels"][:, 0].numpy()})["image_latent"]
    mean = torch.from_numpy(latent) * vae.scale.std + vae.scale.mean
    np.testing.assert_allclose(mean[:, 0], golden["mu"][:, 0].numpy(), atol=VAE_TOLERANCE)


@pytest.mark.parametrize("library", ["onnxruntime", "openvino"])
def test_taehv_decodes_as_published(library: str, published: Any, tmp_path: Path) -> None:
    """The opening stage leaves out the three frames that the published decoder trims."""
    vae, golden = published
    specs, runs = exported(vae, (32, 48), tmp_path, library)
    made = np.concatenate([frames for frames, _ in decoded(specs, runs, golden["latent"].numpy())])
    assert_bytes(made, golden["decoder_raw"][0, 3:].numpy())
