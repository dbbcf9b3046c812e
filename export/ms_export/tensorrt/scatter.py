"""Rewrites scatter-add, which TensorRT's parser refuses, as comparisons and matrix products."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ms_infer.errors import BundleError


def without_scatter_add(model: onnx.ModelProto) -> bool:
    """Replace every `ScatterElements` that adds into the rows of `[1, frames, cells, width]`; True when there was one.

    sum over points of (cell of the point == cell) x value of the point, one RGB frame at a time: for 2500 points and
    6240 cells the comparisons of a frame are 62 MB, those of a chunk together would be 749 MB.
    BundleError for another reduction or axis.
    """
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        reduction = _attribute(node, "reduction")
        if node.op_type == "ScatterElements" and reduction not in (None, b"none"):
            nodes += _as_products(node, shapes)
        else:
            nodes.append(node)
    changed = len(nodes) != len(model.graph.node)
    if changed:
        del model.graph.node[:]
        model.graph.node.extend(nodes)
    return changed


def _attribute(node: onnx.NodeProto, name: str) -> object:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), None)


def _as_products(node: onnx.NodeProto, shapes: Mapping[str, list[int]]) -> list[onnx.NodeProto]:
    data, indices, values = node.input
    size = shapes.get(data, [])
    if _attribute(node, "reduction") != b"add" or _attribute(node, "axis") not in (2, -2) or len(size) != 4:
        raise BundleError(
            f"the node {node.name} scatters with {_attribute(node, 'reduction')!r} into {size}, which TensorRT cannot "
            "read; of the track heads, only those with collision='sum' can be built"
        )
    _, frames, cells, _ = size
    work = _Nodes(node.output[0])
    zero, one = work.constant("zero", [0]), work.constant("one", [1])
    last = work.constant("last", [3])
    turned = work.add("Transpose", [work.add("Slice", [indices, zero, one, last])], perm=[0, 1, 3, 2])  # [1, T, 1, N]
    every_cell = work.constant("cells", np.arange(cells).reshape(1, 1, cells, 1))
    sums = []
    for frame in range(frames):
        bounds = [work.constant(f"from{frame}", [frame]), work.constant(f"to{frame}", [frame + 1]), one]
        here = work.add("Slice", [turned, *bounds])
        same = work.add("Cast", [work.add("Equal", [here, every_cell])], to=onnx.TensorProto.FLOAT)
        sums.append(work.add("MatMul", [same, work.add("Slice", [values, *bounds])]))
    total = work.add("Concat", sums, axis=1)
    work.nodes.append(helper.make_node("Add", [data, total], [node.output[0]], name=f"{node.output[0]}_sum"))
    return work.nodes


class _Nodes:
    """Nodes under construction, named after the tensor they make."""

    def __init__(self, prefix: str) -> None:
        self.prefix, self.nodes = prefix, list[onnx.NodeProto]()

    def add(self, kind: str, inputs: list[str], **attributes: object) -> str:
        name = f"{self.prefix}_{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def constant(self, name: str, values: object) -> str:
        tensor = numpy_helper.from_array(np.asarray(values, np.int64))
        output = f"{self.prefix}_{name}"
        self.nodes.append(helper.make_node("Constant", [], [output], name=output, value=tensor))
        return output
