"""From a stage's module to an opset-24 ONNX graph whose weights lie in the shared file."""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from onnx import helper
from torch import nn

from ms_export.modules import ATTENTION, DOMAIN, Stage, build_stage
from ms_export.weights import WeightTable
from ms_infer.bundle.stages import StageSpec, TensorSpec
from ms_infer.checkpoint import Student
from ms_infer.checkpoint.parts import PARTS
from ms_infer.model.transformer import Transformer

OPSET = 24
FOLDED_ELEMENTS = 4096  # larger results are left to the engine: graphs stay small, weights are in their file only


def module_parts(student: Student, dtype: torch.dtype) -> Student:
    """The student's parts in `dtype`, for tracing: the transformer as a shell without memory, the rest converted."""
    with torch.device("meta"):
        shell = Transformer(student.config.model).to(dtype)
    return converted(student, dtype, transformer=shell.to_empty(device="cpu").eval().requires_grad_(False))


def converted(student: Student, dtype: torch.dtype, **given: nn.Module) -> Student:
    """Copies of the student's parts in `dtype`; parts that are `given` are taken as they are."""
    parts: dict[str, Any] = dict(given)
    for part in PARTS:
        module: nn.Module | None = getattr(student, part)
        if part not in given:
            parts[part] = None if module is None else copy.deepcopy(module).to(dtype).eval()
    return Student(student.config, **parts, source=student.source)


def trace_stage(
    spec: StageSpec, parts: Student, dtype: torch.dtype, table: WeightTable, weights: Path
) -> onnx.ModelProto:
    """One stage as ONNX; its weights refer to the file `weights`, which must exist and lie beside the graph."""
    stage = build_stage(spec, parts, dtype).eval()
    with _quiet(), _one_registry(), torch.no_grad():
        program = torch.onnx.export(
            stage,
            tuple(example_of(i) for i in spec.inputs),
            dynamo=True,
            opset_version=OPSET,
            input_names=[i.name for i in spec.inputs],
            output_names=[o.name for o in spec.outputs],
            optimize=False,
            verbose=False,
        )
        assert program is not None, "export with dynamo returns a program"
        model = program.model
        _use_shared_weights(model, table, weights)
        _simplify(model)
        proto = ir.to_proto(model)
    _finish(proto, stage, spec)
    return proto


def example_of(spec: TensorSpec) -> torch.Tensor:
    """A tensor that nobody fills or reads: tracing asks for shapes, and the caches of a large model are gigabytes."""
    return torch.empty(spec.shape, dtype=getattr(torch, spec.dtype))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports optional packages and its own deprecations as warnings."""
    noisy = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [one.level for one in noisy]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for one in noisy:
            one.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for one, level in zip(noisy, levels, strict=True):
                one.setLevel(level)


@contextlib.contextmanager
def _one_registry() -> Iterator[None]:
    """Let the exporter build its table of translations once: it takes longer than tracing a small stage.

    The table is private to torch; where it has moved, every stage builds its own again.
    """
    from torch.onnx._internal.exporter import _registration

    original = getattr(_registration.ONNXRegistry, "from_torchlib", None)
    if original is None:
        yield
        return
    _registration.ONNXRegistry.from_torchlib = _registry_of(original)  # type: ignore[method-assign,assignment]
    try:
        yield
    finally:
        _registration.ONNXRegistry.from_torchlib = original  # type: ignore[method-assign]


@functools.cache
def _registry_of(build: Any) -> Any:
    return staticmethod(functools.cache(build))


def _use_shared_weights(model: ir.Model, table: WeightTable, weights: Path) -> None:
    """Let every initializer that is a weight of the student point into the shared file."""
    for name, value in model.graph.initializers.items():
        region = table.regions.get(name)
        if region is None or value.dtype is None:
            continue
        assert value.dtype.itemsize == table.dtype.itemsize, f"{name} is {value.dtype}, the file holds {table.dtype}"
        value.const_value = ir.ExternalTensor(
            weights.name,
            region.offset,
            region.nbytes,
            value.dtype,
            shape=ir.Shape(region.shape),
            name=name,
            base_dir=str(weights.parent),
        )


def _simplify(model: ir.Model) -> None:
    """`onnxscript.optimizer.optimize_ir` without its rule for neighbouring slices, which looks at every pair of slices
    for every node: minutes where there are hundreds of them."""
    import onnx_ir.passes.common as common
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules.common import slice_split_rule

    def should_fold(node: ir.Node) -> bool | None:
        inputs = [value.const_value for value in node.inputs if value is not None]
        return False if any(isinstance(tensor, ir.ExternalTensor) for tensor in inputs) else None

    rules = [rule for rule in rewriter._DEFAULT_REWRITE_RULES if rule is not slice_split_rule]
    unused = (common.RemoveUnusedNodesPass, common.RemoveUnusedFunctionsPass, common.RemoveUnusedOpsetsPass)
    clean = ir.passes.Sequential(rewriter.RewritePass(rules), *(each() for each in unused))
    common.InlinePass()(model)
    for _ in range(2):
        optimizer.fold_constants(
            model, should_fold=should_fold, output_size_limit=FOLDED_ELEMENTS, onnx_shape_inference=False
        )
        clean(model)
    ir.passes.Sequential(
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )(model)


def _finish(proto: onnx.ModelProto, stage: Stage, spec: StageSpec) -> None:
    """Names instead of traces, and the function that engines without the custom node fall back to."""
    proto.graph.name, proto.producer_name, proto.producer_version, proto.doc_string = spec.name, "ms_export", "", ""
    del proto.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*proto.graph.value_info, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    if any(node.op_type == ATTENTION for node in proto.graph.node):
        proto.functions.append(_attention_function())
        if not any(opset.domain == DOMAIN for opset in proto.opset_import):
            proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))


def _attention_function() -> onnx.FunctionProto:
    """SinkWindowAttention in plain ONNX: Attention-24, whose input 6 is the number of valid keys."""
    node = helper.make_node("Attention", ["q", "k", "v", "", "", "", "n_valid"], ["mixed"])
    return helper.make_function(
        DOMAIN,
        ATTENTION,
        ["q", "k", "v", "n_valid"],
        ["mixed"],
        [node],
        [helper.make_opsetid("", OPSET)],
        attributes=["plugin_namespace", "aot"],
    )
