"""Small and wide graphs for the TensorRT builder, made without a checkpoint."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from ms_export.trace import _attention_function, module_parts, trace_stage
from ms_export.weights import WEIGHTS, WeightTable
from onnx import TensorProto, helper

from ms_infer.bundle.stages import GRAPH_DTYPES, StageSpec, TensorSpec, stage_specs
from ms_infer.checkpoint import Student
from ms_infer.config import StreamConfig, preset
from ms_infer.model.transformer import Transformer

TYPES = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def attention_spec(*, head_dim: int = 32, dtype: str = "float16") -> StageSpec:
    """One attention over a key cache that is written first; values are a cache that nothing writes."""
    chunk, cache = (1, 2, 8, head_dim), (1, 2, 32, head_dim)
    inputs = (
        TensorSpec("q", chunk, dtype),
        TensorSpec("k", chunk, dtype),
        TensorSpec("values", cache, dtype),
        TensorSpec("write_index", (1,), "int64"),
        TensorSpec("n_valid", (1,), "int64"),
        TensorSpec("cross_k_0", cache, dtype),  # counts as one attention
        TensorSpec("k_cache_0", cache, dtype),
    )
    outputs = (TensorSpec("mixed", chunk, dtype), TensorSpec("k_cache_0_out", cache, dtype))
    return StageSpec("denoise", inputs, outputs, aliases=(("k_cache_0", "k_cache_0_out"),))


def attention_graph(
    path: Path, spec: StageSpec, *, mode: str = "linear", writes: int = 1, function: bool = True
) -> Path:
    """The ONNX file of `attention_spec`; `writes` in a row, `mode` of them, with or without the fallback function."""
    places = ["k_cache_0", *(f"half_{i}" for i in range(writes - 1)), "k_cache_0_out"]
    nodes = [
        helper.make_node("TensorScatter", [old, "k", "write_index"], [new], axis=2, mode=mode)
        for old, new in itertools.pairwise(places)
    ]
    nodes.append(
        helper.make_node(
            "SinkWindowAttention",
            ["q", "k_cache_0_out", "values", "n_valid"],
            ["mixed"],
            domain="ms_infer",
            plugin_namespace="ms_infer",
            aot=1,
        )
    )
    value = [[helper.make_tensor_value_info(t.name, TYPES[t.dtype], t.shape) for t in side] for side in _sides(spec)]
    graph = helper.make_graph(nodes, "denoise", *value)
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("ms_infer", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10, functions=[_attention_function()] * function)
    onnx.save(model, path)
    return path


def split_writes(path: Path) -> Path:
    """Let every write of `attention_graph(writes=2)` take its part of the chunk and of two indices."""
    model = onnx.load(path)
    model.graph.input[3].type.tensor_type.shape.dim[0].dim_value = 2
    for node, part in zip(model.graph.node, ("0", "1"), strict=False):
        node.input[1], node.input[2] = f"k_{part}", f"index_{part}"
    splits = [
        helper.make_node("Split", ["k"], ["k_0", "k_1"], axis=2, num_outputs=2),
        helper.make_node("Split", ["write_index"], ["index_0", "index_1"], axis=0, num_outputs=2),
    ]
    for split in reversed(splits):
        model.graph.node.insert(0, split)
    onnx.save(model, path)
    return path


def _sides(spec: StageSpec) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    return spec.inputs, spec.outputs


def wide_config(layers: int = 4) -> StreamConfig:
    """The 1.3B model's widths and token counts with fewer layers."""
    config = preset("motionstream-1.3b")
    return dataclasses.replace(config, model=dataclasses.replace(config.model, layers=layers))


def export_hollow(config: StreamConfig, folder: Path, dtype: str, *stages: str) -> dict[str, Path]:
    """Graphs of transformer stages over weights that are never in memory: a repeated pattern in the file."""
    with torch.device("meta"):
        transformer = Transformer(config.model)
    absent: dict[str, Any] = {"track_head": None, "text_encoder": None, "vae": None}
    student = Student(config, transformer=transformer, **absent, source="hollow")
    kind = getattr(torch, GRAPH_DTYPES[dtype])
    table = WeightTable.of(student, kind)
    folder.mkdir(parents=True, exist_ok=True)
    pattern = np.random.default_rng(0).integers(0x2000, 0x2400, 1 << 20, np.uint16).tobytes()  # small numbers
    with open(folder / WEIGHTS, "wb") as file:
        for _ in range(-(-table.nbytes // len(pattern))):
            file.write(pattern)
    parts, specs = module_parts(student, kind), stage_specs(config, dtype=dtype)
    paths = {}
    for stage in stages:
        paths[stage] = folder / f"{stage}.onnx"
        onnx.save(trace_stage(specs[stage], parts, kind, table, folder / WEIGHTS), paths[stage])
    return paths
