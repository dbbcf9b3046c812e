"""From ONNX stages to OpenVINO IR that needs no extension, and that returns the rows of caches which it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ms_export.modules import ATTENTION, DOMAIN
from ms_export.openvino_weights import fill, hollow
from ms_export.weights import WEIGHTS, WeightTable
from ms_infer.bundle.stages import StageSpec, rows_name
from ms_infer.errors import BundleError, MissingExtraError


def load_openvino() -> Any:
    """The openvino module; MissingExtraError names the extra."""
    try:
        import openvino
    except ImportError:
        raise MissingExtraError("OpenVINO is not installed: pip install 'ms-infer[cpu]'") from None
    return openvino


def make_core() -> Any:
    """A core that reads our graphs: the two nodes that OpenVINO does not know are converted here."""
    openvino = load_openvino()
    from openvino.frontend.onnx import ConversionExtension

    core = openvino.Core()
    core.add_extension(
        [
            ConversionExtension("TensorScatter", _tensor_scatter),
            ConversionExtension(ATTENTION, DOMAIN, _sink_window_attention),
        ]
    )
    return core


def _tensor_scatter(context: Any) -> Any:
    """cache `[1, heads, slots, head_dim]`, update, index `[1]`: rows of axis 2."""
    import openvino.opset13 as ops

    cache, update, index = (context.get_input(i) for i in range(3))
    axis = context.get_attribute("axis", -2)
    tokens = update.get_partial_shape()[axis].get_length()
    rows = ops.add(ops.constant(np.arange(tokens)), index)
    return ops.scatter_update(cache, rows, update, ops.constant(np.int64(axis))).outputs()


def _sink_window_attention(context: Any) -> Any:
    """Attention with a mask of the valid slots (True = attend)."""
    import openvino.opset13 as ops

    q, k, v, n_valid = (context.get_input(i) for i in range(4))
    slots = k.get_partial_shape()[2].get_length()
    numbers = ops.constant(np.arange(slots).reshape(1, 1, 1, slots))
    valid = ops.less(numbers, ops.unsqueeze(n_valid, ops.constant([1, 2, 3])))
    return ops.scaled_dot_product_attention(q, k, v, valid).outputs()


def convert_stage(
    core: Any, graph: Path, spec: StageSpec, target: Path, table: WeightTable, roll: Path | None = None
) -> None:
    """Write `target` (.xml and .bin): the graph, whose caches are inputs that it does not change.

    table: of the file of weights beside the graph. roll: graph that re-rotates the sink; it becomes the first part of
    this one, so that every pass sees the sink where it is now and nobody writes it back.
    """
    openvino = load_openvino()
    model = core.read_model(graph)
    _check_names(model, spec)
    _return_rows(model, spec)
    if roll is not None:
        model = _compose(openvino, core.read_model(roll), model)
    zeros = hollow(openvino, model, table)
    try:
        openvino.save_model(model, target, compress_to_fp16=False)
        del zeros
        fill(target, table, graph.parent / WEIGHTS)
    except (RuntimeError, OSError) as error:  # a full disk, a file that is too large
        reason = str(error).strip().splitlines()[0][:160]
        advice = "free disk space or give another folder"
        raise BundleError(f"cannot write {target.with_suffix('.bin')}: {reason}; {advice}") from None


def _check_names(model: Any, spec: StageSpec) -> None:
    have = [port.get_any_name() for port in model.inputs]
    assert have == [i.name for i in spec.inputs], f"{spec.name}: OpenVINO sees the inputs {have}"


def _return_rows(model: Any, spec: StageSpec) -> None:
    """Let the outputs of caches be the rows that are written there `[1, heads, chunk_tokens, head_dim]`: whoever owns
    a cache puts them into it. Whole caches would have to be copied out of the library and kept twice.
    """
    import openvino.opset13 as ops

    caches = {new: old for old, new in spec.aliases}
    for result in model.get_results():
        written = result.input_value(0)
        name = next(iter(written.get_names() & caches.keys()), None)
        if name is None:
            continue
        parts: list[Any] = []  # one, or one for each latent frame, the last first
        while written.get_node().get_type_name() == "ScatterUpdate":
            parts.insert(0, written.get_node().input_value(2))
            written = written.get_node().input_value(0)
        rows = ops.concat(parts, 2).output(0) if len(parts) > 1 else parts[0]
        result.input(0).replace_source_output(rows)
        result.output(0).set_names({rows_name(caches[name])})
    model.validate_nodes_and_infer_types()


def _compose(openvino: Any, roll: Any, denoise: Any) -> Any:
    """One model: the caches that `roll` writes are those that `denoise` reads."""
    parameters = {p.get_friendly_name(): p for p in roll.get_parameters()}
    inner = {p.get_friendly_name(): p for p in denoise.get_parameters()}
    for result in roll.get_results():
        source = result.input_value(0)
        name = next(iter(source.get_names() & {f"{n}_out" for n in parameters})).removesuffix("_out")
        consumer = inner.pop(name)
        source.set_names(set())  # the name belongs to the output of the whole model
        consumer.output(0).replace(source)
    for name in [n for n in inner if n in parameters]:  # un-rotated sink keys
        inner.pop(name).output(0).replace(parameters[name].output(0))
    return openvino.Model(denoise.get_results(), [*inner.values(), *parameters.values()], "denoise")
