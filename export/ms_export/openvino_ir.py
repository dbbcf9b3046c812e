"""From ONNX stages to OpenVINO IR that needs no extension: caches inside the model as states."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ms_export.modules import ATTENTION, DOMAIN
from ms_export.openvino_weights import fill, hollow
from ms_export.weights import WEIGHTS, WeightTable
from ms_infer.bundle.stages import StageSpec
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
    """Write `target` (.xml and .bin): the graph with its caches as states.

    table: of the file of weights beside the graph. roll: graph that re-rotates the sink; states belong to one model,
    so it becomes the first part of this one.
    """
    openvino = load_openvino()
    from openvino.passes import MakeStateful, Manager

    model = core.read_model(graph)
    _check_names(model, spec)
    if roll is not None:
        model = _compose(openvino, core.read_model(roll), model)
    if spec.aliases:
        manager = Manager()
        manager.register_pass(MakeStateful(dict(spec.aliases)))
        manager.run_passes(model)
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
    for name in [n for n in inner if n in parameters]:  # un-rotated sink keys: read by both, written by denoise
        inner.pop(name).output(0).replace(parameters[name].output(0))
    return openvino.Model(denoise.get_results(), [*inner.values(), *parameters.values()], "denoise")
