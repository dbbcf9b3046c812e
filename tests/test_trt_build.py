"""TensorRT-RTX really builds the engines here, without a GPU."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

pytest.importorskip("tensorrt_rtx", reason="needs the extra [rtx]")

import tensorrt_rtx as trt
from ms_export.exporter import export_bundle
from ms_export.options import ExportOptions
from ms_export.tensorrt import network as networks
from ms_export.tensorrt.build import PlanOptions, build_plan
from ms_export.tensorrt.fp8 import Fp8Scales, calibrate, products_of
from ms_export.tensorrt.scatter import without_scatter_add
from ms_export.trace import module_parts, trace_stage
from ms_export.weights import WEIGHTS, WeightTable, write_weights

from ms_infer import BundleError, ConfigError, EngineMismatchError, MissingExtraError, preset
from ms_infer.bundle.manifest import Manifest
from ms_infer.bundle.stages import stage_specs
from ms_infer.checkpoint import random_student
from ms_infer.config import RefinerConfig, VaeConfig
from ms_infer.engines.tensorrt import library as trt_library
from ms_infer.engines.tensorrt.library import TensorRt, listening, load, log_of
from ms_infer.engines.tensorrt.stage import LoadedStage, new_runtime
from tests.tiny import tiny_student, without_tracks
from tests.trt_graphs import attention_graph, attention_spec, export_hollow, wide_config

pytestmark = pytest.mark.timeout(1800)  # the first test of a bundle waits for its export
WIDE = {"dim": 96, "heads": 3, "ffn_dim": 128}
"""Heads of 32, and weights too large to be folded into the graph."""


@pytest.fixture(scope="module")
def rtx() -> TensorRt:
    return load("rtx")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """A small student's bundle with fp16 engines."""
    folder = tmp_path_factory.mktemp("small")
    student = tiny_student(**WIDE, layers=1, refiner=RefinerConfig(widths=(8, 8, 8)))
    return export_bundle(student, "0" * 64, folder, ExportOptions(targets=("rtx",), dtype="fp16")).manifest


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The demo model's bundle with bf16 engines."""
    folder = tmp_path_factory.mktemp("demo")
    student = random_student(preset("demo"))
    return export_bundle(student, "0" * 64, folder, ExportOptions(targets=("rtx",), dtype="bf16")).manifest


@pytest.mark.parametrize(("bundle", "dtype"), [("small", "fp16"), ("demo", "bf16")])
def test_every_stage_has_an_engine(bundle: str, dtype: str, request: pytest.FixtureRequest) -> None:
    manifest: Manifest = request.getfixturevalue(bundle)
    engine = manifest.engines[f"tensorrt_rtx-any-1.7-{dtype}"]

    assert set(engine.stages) == set(stage_specs(manifest.config))
    assert (engine.kind, engine.arch, engine.dtype, engine.version) == ("tensorrt", "any", dtype, trt.__version__)
    assert all(manifest.path(file).stat().st_size > 10_000 for file in engine.stages.values())


@pytest.mark.parametrize(("bundle", "dtype"), [("small", "fp16"), ("demo", "bf16")])
def test_the_log_beside_the_engine_lists_fused_attention_and_writes_in_place(
    bundle: str, dtype: str, request: pytest.FixtureRequest
) -> None:
    manifest: Manifest = request.getfixturevalue(bundle)
    file = manifest.engines[f"tensorrt_rtx-any-1.7-{dtype}"].stages["denoise"]
    lines = manifest.path(str(Path(file).with_suffix(".log"))).read_text().splitlines()
    kinds = [line.split()[0] for line in lines if line.startswith("  ")]
    layers = manifest.config.model.layers

    assert kinds.count("ATTENTION_INPUT") == 2 * layers
    assert kinds.count("KV_CACHE_UPDATE") == 3 * layers
    assert not {"SOFTMAX", "SCATTER", "PLUGIN_V3"} & set(kinds)
    assert not [line for line in lines if line.startswith("  ERROR")]


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_four_layers_of_the_1_3b_model_build_at_its_true_sizes(rtx: TensorRt, tmp_path: Path, dtype: str) -> None:
    """Its text and image attentions crashed TensorRT-RTX before they got queries of their own."""
    config = wide_config()
    spec = stage_specs(config, dtype=dtype)["denoise"]
    graph = export_hollow(config, tmp_path, dtype, "denoise")["denoise"]
    plan = build_plan(rtx, graph, spec, PlanOptions(dtype=dtype))

    assert config.cache_tokens == 14_040
    assert plan.layers["ATTENTION_INPUT"] == 3 * 4, "its own context, the text, the image"
    assert plan.layers["KV_CACHE_UPDATE"] == 3 * 4
    assert plan.data.nbytes > 2 * 4 * (6 * config.model.dim**2 + 2 * config.model.dim * config.model.ffn_dim)


def test_wide_heads_of_a_wan_autoencoder_decompose(rtx: TensorRt, tmp_path: Path) -> None:
    """Its one head is as wide as its widest layer: 384 in the published one. No fused attention takes more than 256."""
    vae = VaeConfig(kind="wan2.1", base_dim=72)
    student = without_tracks(layers=1, image_input="pin", vae=vae)
    spec = stage_specs(student.config, dtype="bf16")["encode"]
    table = WeightTable.of(student, torch.bfloat16)
    write_weights(student, table, tmp_path / WEIGHTS)
    graph = trace_stage(spec, module_parts(student, torch.bfloat16), torch.bfloat16, table, tmp_path / WEIGHTS)
    onnx.save(graph, tmp_path / "encode.onnx")

    plan = build_plan(rtx, tmp_path / "encode.onnx", spec, PlanOptions(dtype="bf16"))

    assert plan.data.nbytes > 10_000


@pytest.fixture(scope="module")
def bf16_denoise(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Fp8Scales]:
    student = tiny_student(**WIDE, layers=1)
    folder = tmp_path_factory.mktemp("fp8")
    export_hollow(student.config, folder, "bf16", "denoise")
    return folder / "denoise.onnx", calibrate(student, chunks=2)


@pytest.mark.parametrize("targets", [(), ("sm_89", "sm_120")])
def test_fp8_builds_for_gpus_that_have_it(
    rtx: TensorRt, bf16_denoise: tuple[Path, Fp8Scales], targets: tuple[str, ...]
) -> None:
    graph, scales = bf16_denoise
    spec = stage_specs(tiny_student(**WIDE, layers=1).config, dtype="bf16")["denoise"]
    plan = build_plan(rtx, graph, spec, PlanOptions(dtype="fp8", targets=targets), scales=scales)

    assert plan.log.count("  QUANTIZE ") == plan.log.count("  DEQUANTIZE ") == 2 * 8, "both sides of eight products"


def test_fp8_engines_join_the_demo_s_bundle(demo: Manifest) -> None:
    """Scales come from a rollout of the demo's own picture and drag; every other stage is that of bf16."""
    student = random_student(preset("demo"))
    options = ExportOptions(targets=("rtx",), dtype="fp8")
    made = export_bundle(student, "0" * 64, demo.folder, options)
    engine = made.manifest.engines["tensorrt_rtx-any-1.7-fp8"]
    log = made.manifest.path(str(Path(engine.stages["denoise"]).with_suffix(".log"))).read_text()

    assert set(engine.stages) == set(stage_specs(demo.config))
    assert not [name for name in made.made if name.startswith("onnx/")], "the graphs are those of bf16"
    assert log.count("  QUANTIZE ") == log.count("  DEQUANTIZE ") == 2 * 8 * demo.config.model.layers
    assert "tensorrt_rtx-any-1.7-bf16" in made.manifest.engines


def test_calibration_measures_what_goes_into_each_layer() -> None:
    student = tiny_student(**WIDE, layers=1)
    scales = calibrate(student, chunks=2)

    assert len(scales.inputs) == 8
    assert scales.inputs["blocks.0.self_attn.q"] == scales.inputs["blocks.0.self_attn.k"], "the same rows go in"
    assert scales.inputs["blocks.0.ffn.2"] != scales.inputs["blocks.0.ffn.0"]
    weight = student.transformer.blocks[0].ffn[0].weight.detach()  # type: ignore[union-attr,index,operator]
    np.testing.assert_allclose(scales.weights["blocks.0.ffn.0"], weight.abs().amax(1).numpy())
    assert not any(m._forward_pre_hooks for m in student.transformer.modules()), "hooks are removed"


def test_products_are_found_by_their_weights(bf16_denoise: tuple[Path, Fp8Scales]) -> None:
    graph, scales = bf16_denoise
    assert set(scales.inputs) <= set(products_of(graph).values())


def test_fp8_without_a_calibration_is_refused(rtx: TensorRt, bf16_denoise: tuple[Path, Fp8Scales]) -> None:
    spec = stage_specs(tiny_student(**WIDE, layers=1).config, dtype="bf16")["denoise"]
    with pytest.raises(ConfigError, match="calibrat"):
        build_plan(rtx, bf16_denoise[0], spec, PlanOptions(dtype="fp8"))


def test_the_parser_drops_the_number_of_keys_and_repair_puts_it_back(rtx: TensorRt, tmp_path: Path) -> None:
    network = networks.parse(rtx, attention_graph(tmp_path / "a.onnx", attention_spec()))

    def attention() -> Any:
        layer = next(la for la in network.layers() if la.type == trt.LayerType.ATTENTION_INPUT)
        layer.__class__ = trt.IAttentionInputLayer
        return layer.attention

    assert attention().key_value_lengths is None
    networks.repair(rtx, network)
    assert (attention().key_value_lengths.dtype, tuple(attention().key_value_lengths.shape)) == (trt.int32, (1,))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_small_graph_builds(rtx: TensorRt, tmp_path: Path, dtype: str) -> None:
    spec = attention_spec(dtype=dtype)
    precision = {"float16": "fp16", "float32": "fp32"}[dtype]
    plan = build_plan(rtx, attention_graph(tmp_path / "a.onnx", spec), spec, PlanOptions(dtype=precision))
    assert plan.layers["ATTENTION_INPUT"] == plan.layers["KV_CACHE_UPDATE"] == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (PlanOptions(targets=("sm_90",)), "not for sm_90"),
        (PlanOptions(dtype="int4"), "'int4' is not one of"),
        (PlanOptions(attention="plugin"), "takes no plugins.*--target trt"),
    ],
)
def test_options_that_cannot_be_built_are_refused(rtx: TensorRt, options: PlanOptions, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        options.check(rtx)


def test_a_graph_that_is_not_its_stage_is_refused(rtx: TensorRt, tmp_path: Path) -> None:
    spec = attention_spec()
    graph = attention_graph(tmp_path / "a.onnx", spec)
    other = dataclasses.replace(
        spec, inputs=(dataclasses.replace(spec.inputs[0], shape=(1, 2, 9, 32)), *spec.inputs[1:])
    )
    with pytest.raises(BundleError, match=r"inputs of the graph are not those of the manifest \(q: expected"):
        build_plan(rtx, graph, other, PlanOptions(dtype="fp16"))


def test_an_attention_that_fell_apart_is_refused(rtx: TensorRt, tmp_path: Path) -> None:
    spec = attention_spec()
    graph = attention_graph(tmp_path / "a.onnx", spec)
    more = dataclasses.replace(spec, inputs=(*spec.inputs[:5], *spec.inputs[6:]))  # promises no attention
    model = onnx.load(graph)
    del model.graph.input[5]
    onnx.save(model, graph)
    with pytest.raises(BundleError, match="expected 0 fused attentions"):
        build_plan(rtx, graph, more, PlanOptions(dtype="fp16"))


def scatter_model(reduction: str) -> onnx.ModelProto:
    """zeros [1, 3, 7, 4] + values [1, 3, 5, 4] scattered to their cells."""
    shapes = {"zeros": [1, 3, 7, 4], "places": [1, 3, 5, 4], "values": [1, 3, 5, 4], "sums": [1, 3, 7, 4]}
    kinds = {"places": TensorProto.INT64}
    info = {n: helper.make_tensor_value_info(n, kinds.get(n, TensorProto.FLOAT), s) for n, s in shapes.items()}
    node = helper.make_node(
        "ScatterElements", ["data", "places", "values"], ["sums"], axis=2, reduction=reduction, name="scatter"
    )
    copy = helper.make_node("Identity", ["zeros"], ["data"])
    graph = helper.make_graph([copy, node], "scatter", [info[n] for n in ("zeros", "places", "values")], [info["sums"]])
    graph.value_info.append(helper.make_tensor_value_info("data", TensorProto.FLOAT, shapes["zeros"]))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)


def test_scatter_add_is_rewritten_with_the_same_result(rtx: TensorRt, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [export]")
    random = np.random.default_rng(0)
    places = np.repeat(random.integers(0, 7, (1, 3, 5, 1)), 4, axis=3)
    feed = {"places": places, "values": random.standard_normal((1, 3, 5, 4)).astype(np.float32)}
    feed["zeros"] = random.standard_normal((1, 3, 7, 4)).astype(np.float32)
    model = scatter_model("add")
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)[0]
    assert without_scatter_add(model)
    (made,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, feed)

    np.testing.assert_allclose(made, expected, atol=1e-6)
    assert "ScatterElements" not in {node.op_type for node in model.graph.node}
    onnx.save(model, tmp_path / "scatter.onnx")
    networks.parse(rtx, tmp_path / "scatter.onnx")


def test_other_scatters_are_refused_with_what_to_do() -> None:
    with pytest.raises(BundleError, match="collision='sum'"):
        without_scatter_add(scatter_model("max"))


def test_a_missing_library_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(trt_library, "import_module", absent)
    for kind in ("rtx", "trt"):
        with pytest.raises(MissingExtraError, match=rf"pip install 'ms-infer\[{kind}\]"):
            load(kind)  # type: ignore[arg-type]
    with pytest.raises(MissingExtraError, match=r"pip install 'ms-infer\[rtx\].*ms-infer\[trt\]"):
        load("auto")


@pytest.mark.parametrize("version", ["10.16.1.11", "11.0.0.114", "12.0.0.1"])
def test_other_releases_of_tensorrt_are_refused(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type("tensorrt", (), {"__version__": version})
    monkeypatch.setattr(trt_library, "import_module", lambda _: module)
    with pytest.raises(EngineMismatchError, match=f"tensorrt {version} is installed.*needs 11.1 or newer, below 12"):
        load("trt")


def test_the_log_is_collected_per_block(rtx: TensorRt) -> None:
    with listening(rtx.kind) as outer:
        trt.Runtime(log_of(rtx.kind)).deserialize_cuda_engine(b"no plan")
        with listening(rtx.kind) as inner:
            pass
    assert [level for level, _ in outer if level >= logging.ERROR]
    assert inner == []


def test_an_engine_does_not_load_without_a_gpu_and_says_what_to_do(rtx: TensorRt, tmp_path: Path) -> None:
    spec = attention_spec()
    plan = build_plan(rtx, attention_graph(tmp_path / "a.onnx", spec), spec, PlanOptions(dtype="fp16"))
    (tmp_path / "a.plan").write_bytes(plan.data)
    with pytest.raises(EngineMismatchError, match=r"refuses .*a\.plan.*--target rtx"):
        LoadedStage(rtx, new_runtime(rtx), spec, tmp_path / "a.plan", tmp_path / "jit")


def test_targets_are_those_of_the_library(rtx: TensorRt) -> None:
    assert {"sm_80", "sm_89", "sm_120"} <= set(rtx.targets)
    assert rtx.builds_without_gpu
    assert not rtx.has_plugins
    assert all(a < b for a, b in itertools.pairwise(int(t[3:]) for t in rtx.targets))
