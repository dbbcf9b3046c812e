"""From an ONNX stage to a TensorRT network that is right: parse, repair what the parser drops, check what it made."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ms_export.modules import ATTENTION
from ms_export.tensorrt.plugin import with_cache_writes
from ms_export.tensorrt.scatter import without_scatter_add
from ms_infer.bundle.stages import StageSpec
from ms_infer.engines.tensorrt.library import DTYPES, TensorRt, errors_of, listening, log_of
from ms_infer.errors import BundleError, ConfigError

DYNAMIC = ("NON_ZERO", "LOOP_OUTPUT", "TRIP_LIMIT", "RECURRENCE", "ITERATOR", "CONDITION", "CONDITIONAL_INPUT")
"""Layers whose output sizes or work depend on data: such a network cannot be captured in a CUDA graph."""
HEAD_DIM_STEP = 8
"""Fused attention over a given number of keys exists for head sizes in multiples of this, from twice it on."""
WIDEST_HEAD = 256
"""Wider heads have no fused attention: those of Wan's autoencoders (384 and more), over one frame's cells."""
FALLBACKS = ("SOFTMAX", "SCATTER")
"""What attention and cache writes become when they are not taken as one layer each."""


@dataclass(frozen=True)
class Network:
    """A parsed network with what must stay alive beside it."""

    builder: Any
    definition: Any
    parser: Any

    def layers(self) -> Iterator[Any]:
        return (self.definition.get_layer(i) for i in range(self.definition.num_layers))

    def inputs(self) -> dict[str, Any]:
        return {t.name: t for t in (self.definition.get_input(i) for i in range(self.definition.num_inputs))}

    def outputs(self) -> dict[str, Any]:
        return {t.name: t for t in (self.definition.get_output(i) for i in range(self.definition.num_outputs))}

    def counts(self) -> Counter[str]:
        """Number of layers of each type."""
        return Counter(layer_type(layer) for layer in self.layers())


def layer_type(layer: Any) -> str:
    """Name of the type of a layer: "ATTENTION_INPUT"."""
    return str(layer.type).rpartition(".")[2]


def parse(library: TensorRt, graph: Path, *, plugins: bool = False) -> Network:
    """Read an ONNX file whose weights lie beside it. BundleError with the parser's words when it refuses.

    plugins: those of `ms_export.tensorrt.plugin` are registered; several writes become one of them.
    """
    trt, log = library.module, log_of(library.kind)
    with listening(library.kind) as messages:
        builder = trt.Builder(log)
        definition = builder.create_network(0)  # always strongly typed
        parser = trt.OnnxParser(definition, log)
        model = onnx.load(graph, load_external_data=False)
        rewritten = without_scatter_add(model)
        rewritten |= plugins and with_cache_writes(model) > 0
        path = str(graph)  # weights lie beside it
        if not (parser.parse(model.SerializeToString(), path) if rewritten else parser.parse_from_file(path)):
            reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
            raise BundleError(
                f"{library.name} {library.version} cannot read {graph}: {'; '.join(reasons) or errors_of(messages)}"
            )
    return Network(builder, definition, parser)


def repair(library: TensorRt, network: Network) -> list[Any]:
    """Put back what the parser leaves out; returns numbers that must stay alive until the engine is built.

    The parser ignores input 6 of Attention-24 (`nonpad_kv_seqlen`) with a warning: the number of valid keys is
    attached again as int32. float32 attention and very wide heads have no fused kernel and are allowed to decompose.
    ConfigError for other head sizes without one.
    """
    trt = library.module
    n_valid = network.inputs().get("n_valid")
    lengths = None
    for layer in list(network.layers()):
        if layer.type != trt.LayerType.ATTENTION_INPUT:
            continue
        layer.__class__ = trt.IAttentionInputLayer  # down-cast idiom of the bindings
        attention = layer.attention
        if f"({ATTENTION})" in attention.metadata:
            if n_valid is None:
                raise BundleError(f"the graph attends to a cache ({attention.metadata}) but has no input n_valid")
            if lengths is None:
                lengths = network.definition.add_cast(n_valid, trt.int32).get_output(0)
                lengths.name = "n_valid_int32"
            attention.key_value_lengths = lengths
        query = layer.get_input(0)
        if query.dtype == trt.float32 or query.shape[-1] > WIDEST_HEAD:
            attention.decomposable = True
        else:
            _check_head_dim(query.shape[-1])
    return _separate_queries(library, network) if library.kind == "rtx" else []


def _separate_queries(library: TensorRt, network: Network) -> list[Any]:
    """Give attentions that share their queries (text and image of one block) a copy each.

    TensorRT-RTX 1.7.1 crashes while it compiles such a pair after a norm (seen at 4680 tokens of 12 heads of 128,
    whatever the keys' length). A gather of all rows in order is a copy that its compiler does not look through.
    Returns the numbers that must stay alive until the engine is built.
    """
    trt, definition = library.module, network.definition
    makers = {layer.get_output(i).name: layer for layer in network.layers() for i in range(layer.num_outputs)}
    shared: dict[str, list[Any]] = {}
    for layer in network.layers():
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            scaled = makers.get(layer.get_input(0).name)  # queries times the root of the scale
            if scaled is not None and scaled.type == trt.LayerType.ELEMENTWISE:
                shared.setdefault(scaled.get_input(0).name, []).append(layer)
    kept: list[Any] = []
    for layer in itertools.chain.from_iterable(pair for pair in shared.values() if len(pair) > 1):
        queries = layer.get_input(0)
        rows = np.arange(queries.shape[2], dtype=np.int32)
        kept.append(rows)
        every = definition.add_constant(rows.shape, trt.Weights(rows)).get_output(0)
        layer.set_input(0, definition.add_gather(queries, every, 2).get_output(0))
    return kept


def _check_head_dim(head_dim: int) -> None:
    if head_dim % HEAD_DIM_STEP or head_dim < 2 * HEAD_DIM_STEP:
        raise ConfigError(
            f"TensorRT has no fused attention for heads of {head_dim}; it takes multiples of {HEAD_DIM_STEP} from "
            f"{2 * HEAD_DIM_STEP} on. Build fp32, which decomposes, or use another engine"
        )


def check(library: TensorRt, network: Network, spec: StageSpec, *, plugins: bool = False) -> Counter[str]:
    """Compare a network with what its stage promises; returns the counts of its layers.

    plugins: attention to the context is a plugin, and so may be the cache writes.

    BundleError: other inputs or outputs, an attention or a cache write that fell apart, layers that depend on data.
    ConfigError: cache writes that TensorRT cannot do in place.
    """
    _check_io(library, spec, network)
    _check_caches(library, spec, network)
    counts = network.counts()
    dynamic = [kind for kind in DYNAMIC if counts[kind]]
    if dynamic:
        raise BundleError(f"{spec.name}: the layers {dynamic} depend on data and cannot be captured; report this graph")
    if spec.aliases:
        fallen = {kind: counts[kind] for kind in FALLBACKS if counts[kind]}
        own = sum(tensor.name.startswith("v_cache_") for tensor in spec.inputs) if plugins else 0
        expected, found = attentions(spec) - own, counts["ATTENTION_INPUT"]
        if fallen or found != expected or counts["PLUGIN_V3"] < own:
            raise BundleError(
                f"{spec.name}: expected {expected} fused attentions, {own} plugins and no {' or '.join(FALLBACKS)}, "
                f"found {found}, {counts['PLUGIN_V3']} and {fallen}; this {library.name} reads the graph differently"
            )
    return counts


def attentions(spec: StageSpec) -> int:
    """Attentions of a stage: one per value cache, one per cross-attention."""
    names = [tensor.name for tensor in spec.inputs]
    return sum(name.startswith(("v_cache_", "cross_k_")) for name in names)


def _check_io(library: TensorRt, spec: StageSpec, network: Network) -> None:
    """Every tensor of the stage is there with its shape and type, and nothing else."""
    types = library.module.DataType
    sides: tuple[tuple[str, Any, Mapping[str, Any]], ...] = (
        ("inputs", spec.inputs, network.inputs()),
        ("outputs", spec.outputs, network.outputs()),
    )
    for side, wanted, found in sides:
        expected = {t.name: (tuple(t.shape), getattr(types, DTYPES[t.dtype])) for t in wanted}
        have = {name: (tuple(t.shape), t.dtype) for name, t in found.items()}
        if have != expected:
            wrong = sorted(n for n in have.keys() | expected.keys() if have.get(n) != expected.get(n))
            details = "; ".join(f"{n}: expected {expected.get(n)}, found {have.get(n)}" for n in wrong[:4])
            raise BundleError(f"{spec.name}: the {side} of the graph are not those of the manifest ({details})")


def _check_caches(library: TensorRt, spec: StageSpec, network: Network) -> None:
    """Every cache is written once, from a network input to a network output: only then it is in place."""
    inputs, outputs = network.inputs(), network.outputs()
    written = set()
    for layer in network.layers():
        by_plugin = layer_type(layer) == "PLUGIN_V3" and layer.get_input(0).name in dict(spec.aliases)
        if layer.type != library.module.LayerType.KV_CACHE_UPDATE and not by_plugin:
            continue
        pair = (layer.get_input(0).name, layer.get_output(0).name)
        if pair[0] not in inputs or pair[1] not in outputs:
            raise ConfigError(
                f"{spec.name}: the cache update {pair[0]} -> {pair[1]} is one of several in a row; TensorRT writes a "
                "cache in place only once per pass, from an input to an output. Export with --writes chunk (sink and "
                "window in multiples of the chunk)"
            )
        written.add(pair)
    missing = sorted(set(spec.aliases) - written)
    if missing:
        raise BundleError(f"{spec.name}: no in-place update for the caches {missing[:3]}; they would be copied")
