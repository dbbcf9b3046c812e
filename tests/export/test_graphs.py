"""The ONNX graphs of a bundle and what their stages promise; their numbers are tested in tests/engines."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from ms_export import weights
from ms_export.weights import ALIGNMENT, WeightTable

from ms_infer import ContextConfig
from ms_infer.bundle.stages import contiguous_writes, stage_specs
from ms_infer.checkpoint import Student
from ms_infer.config import PRESETS, preset
from tests.tiny import tiny_config


def test_weights_are_written_once_and_shared_by_all_graphs(exported: Path, student: Student) -> None:
    graphs = sorted((exported / "onnx" / "fp32").glob("*.onnx"))
    named: set[str] = set()
    for path in graphs:
        for tensor in onnx.load(path, load_external_data=False).graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if entries:
                assert entries["location"] == weights.WEIGHTS
                assert int(entries["offset"]) % ALIGNMENT == 0
                named.add(tensor.name)
            else:
                assert len(tensor.raw_data) <= 16 << 10, f"{path.name} carries {tensor.name} itself"
    table = WeightTable.of(student, torch.float32)
    matrices = {name for name, region in table.regions.items() if len(region.shape) > 1}  # equal vectors are merged
    assert {name for name in matrices if name.startswith(("transformer.", "text_encoder."))} <= named
    assert (exported / "onnx" / "fp32" / weights.WEIGHTS).stat().st_size == table.nbytes


def test_graphs_are_valid_and_tell_nothing_of_the_machine(exported: Path) -> None:
    for path in (exported / "onnx" / "fp32").glob("*.onnx"):
        onnx.checker.check_model(str(path), full_check=True)
        assert str(Path.cwd()).encode() not in path.read_bytes()
        assert b"site-packages" not in path.read_bytes()


def test_the_attention_node_stands_with_its_fallback(exported: Path) -> None:
    model = onnx.load(exported / "onnx" / "fp32" / "denoise.onnx", load_external_data=False)
    kinds = [(node.domain, node.op_type) for node in model.graph.node]
    assert kinds.count(("ms_infer", "SinkWindowAttention")) == 1
    assert kinds.count(("", "TensorScatter")) == 3  # keys, values and the un-rotated keys of the sink
    assert [function.name for function in model.functions] == ["SinkWindowAttention"]


def test_each_cache_is_written_once_where_chunks_fit(exported: Path) -> None:
    model = onnx.load(exported / "onnx" / "fp32" / "denoise.onnx", load_external_data=False)
    inputs, outputs = ({v.name for v in side} for side in (model.graph.input, model.graph.output))
    for node in model.graph.node:
        if node.op_type == "TensorScatter":  # what TensorRT's in-place update asks for
            assert node.input[0] in inputs
            assert node.output[0] in outputs


@pytest.mark.parametrize("name", PRESETS)
def test_specs_of_every_preset_name_each_tensor_once(name: str) -> None:
    for spec in stage_specs(preset(name)).values():
        names = [t.name for t in (*spec.inputs, *spec.outputs)]
        assert len(set(names)) == len(names)
        assert {n for pair in (*spec.aliases, *spec.states) for n in pair} <= set(names)


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (ContextConfig(), True),
        (ContextConfig(sink_frames=0, window_frames=18), True),
        (ContextConfig(sink_frames=1, window_frames=3, first_chunk_frames=1), True),
        (ContextConfig(sink_frames=1, window_frames=2, first_chunk_frames=1), False),
        (ContextConfig(sink_frames=1, window_frames=3), False),
    ],
)
def test_contiguous_writes(context: ContextConfig, expected: bool) -> None:
    assert contiguous_writes(tiny_config(context=context)) is expected


def test_a_given_latent_frame_shifts_the_chunks(student: Student) -> None:
    config = tiny_config(context=ContextConfig(sink_frames=0, window_frames=3))
    assert contiguous_writes(config)
    assert not contiguous_writes(config, given=1)
