"""Rules of TensorRT-RTX that the exported graphs keep: what its builder refuses, and what is said before it does."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("tensorrt_rtx", reason="needs the extra [rtx]")

import tensorrt_rtx as trt
from ms_export.tensorrt import network as networks
from ms_export.tensorrt.build import PlanOptions, build_plan

from ms_infer import BundleError, ConfigError, DeviceError
from ms_infer.engines.tensorrt.library import TensorRt, listening, load, log_of
from tests.trt_graphs import attention_graph, attention_spec


@pytest.fixture(scope="module")
def rtx() -> TensorRt:
    return load("rtx")


def refusal(rtx: TensorRt, network: networks.Network, **targets: Any) -> str:
    """What the builder says when it refuses a network."""
    config = network.builder.create_builder_config()
    for name in targets.get("targets", ()):
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, name), 0)
    with listening(rtx.kind) as messages:
        plan = network.builder.build_serialized_network(network.definition, config)
    assert plan is None, "the builder took it"
    return " ".join(text for level, text in messages if level >= logging.ERROR)


def empty_network(rtx: TensorRt) -> networks.Network:
    builder = trt.Builder(log_of(rtx.kind))
    return networks.Network(builder, builder.create_network(0), None)


def cache_update(network: networks.Network, cache: Any) -> Any:
    definition = network.definition
    update = definition.add_input("k", trt.float16, (1, 2, 8, 32))
    index = definition.add_input("write_index", trt.int32, (1,))
    return definition.add_kv_cache_update(cache, update, index, trt.KVCacheMode.LINEAR).get_output(0)


def test_rule_a_cache_must_be_an_input(rtx: TensorRt) -> None:
    network = empty_network(rtx)
    given = network.definition.add_input("k_cache", trt.float16, (1, 2, 32, 32))
    made = network.definition.add_activation(given, trt.ActivationType.RELU).get_output(0)
    network.definition.mark_output(cache_update(network, made))

    assert "The cache tensor must be a network input" in refusal(rtx, network)


def test_rule_a_written_cache_must_be_an_output(rtx: TensorRt) -> None:
    network = empty_network(rtx)
    written = cache_update(network, network.definition.add_input("k_cache", trt.float16, (1, 2, 32, 32)))
    used = network.definition.add_activation(written, trt.ActivationType.RELU).get_output(0)
    network.definition.mark_output(used)

    assert "The output tensor must be a network output" in refusal(rtx, network)


def test_rule_two_writes_in_a_row_are_refused_before_the_build(rtx: TensorRt, tmp_path: Path) -> None:
    spec = attention_spec()
    graph = attention_graph(tmp_path / "a.onnx", spec, writes=2)
    with pytest.raises(ConfigError, match=r"one of several in a row.*--writes chunk"):
        build_plan(rtx, graph, spec, PlanOptions(dtype="fp16"))
    assert "The output tensor must be a network output" in refusal(rtx, networks.parse(rtx, graph))


def test_rule_circular_writes_cannot_be_read(rtx: TensorRt, tmp_path: Path) -> None:
    spec = attention_spec()
    with pytest.raises(BundleError, match="Only linear mode is supported for now, got circular"):
        build_plan(rtx, attention_graph(tmp_path / "a.onnx", spec, mode="circular"), spec, PlanOptions(dtype="fp16"))


def test_rule_the_custom_node_needs_its_function(rtx: TensorRt, tmp_path: Path) -> None:
    spec = attention_spec()
    with pytest.raises(BundleError, match="Plugin not found"):
        build_plan(rtx, attention_graph(tmp_path / "a.onnx", spec, function=False), spec, PlanOptions(dtype="fp16"))


def test_rule_fp32_attention_has_no_fused_kernel(rtx: TensorRt, tmp_path: Path) -> None:
    network = networks.parse(rtx, attention_graph(tmp_path / "a.onnx", attention_spec(dtype="float32")))
    assert "not supported by a dedicated kernel" in refusal(rtx, network)


@pytest.mark.parametrize("head_dim", [8, 12])
def test_rule_head_sizes_without_a_kernel_are_named(rtx: TensorRt, tmp_path: Path, head_dim: int) -> None:
    spec = attention_spec(head_dim=head_dim)
    with pytest.raises(ConfigError, match=f"no fused attention for heads of {head_dim}"):
        build_plan(rtx, attention_graph(tmp_path / "a.onnx", spec), spec, PlanOptions(dtype="fp16"))


def test_rule_fp8_needs_a_gpu_that_has_it(rtx: TensorRt) -> None:
    network = empty_network(rtx)
    definition = network.definition
    given = definition.add_input("x", trt.float16, (16, 16))
    number = np.ones((), np.float32)
    scale = definition.add_constant((), trt.Weights(number)).get_output(0)
    rounded = definition.add_quantize(given, scale, trt.fp8).get_output(0)
    definition.mark_output(definition.add_dequantize(rounded, scale, trt.float16).get_output(0))

    assert "fp8" in refusal(rtx, network, targets=("SM80",))
    with pytest.raises(ConfigError, match="fp8 needs sm_89 or later, not sm_80"):
        PlanOptions(dtype="fp8", targets=("sm_80",)).check(rtx)


def test_rule_building_for_this_gpu_needs_one(rtx: TensorRt, tmp_path: Path) -> None:
    from ms_export.tensorrt.build import _refusal

    network = empty_network(rtx)
    given = network.definition.add_input("x", trt.float16, (16, 16))
    network.definition.mark_output(network.definition.add_activation(given, trt.ActivationType.RELU).get_output(0))
    said = refusal(rtx, network, targets=("CURRENT",))

    assert "cudaError" in said
    error = _refusal(rtx, attention_spec(), PlanOptions(), said)
    assert isinstance(error, DeviceError)
    assert "--target rtx" in str(error)
