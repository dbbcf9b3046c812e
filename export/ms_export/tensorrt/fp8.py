"""fp8 for TensorRT: ranges measured on real rollouts, then explicit quantise and dequantise around the big products."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn
from torch.overrides import TorchFunctionMode

from ms_infer.checkpoint import Student
from ms_infer.engines.tensorrt.library import TensorRt
from ms_infer.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from ms_export.tensorrt.network import Network

logger = logging.getLogger(__name__)

E4M3_MAX = 448.0
"""Largest number of float8 e4m3fn (OCP 8-bit floating point specification, table 1)."""
PRODUCTS = (
    "self_attn.q",
    "self_attn.k",
    "self_attn.v",
    "self_attn.o",
    "cross_attn.q",
    "cross_attn.o",
    "ffn.0",
    "ffn.2",
)
"""Linear layers of a block that run in every pass; keys and values of the text are made once per prompt."""


@dataclass(frozen=True)
class Fp8Scales:
    """Largest magnitudes, by the name of the linear layer (`blocks.0.ffn.2`)."""

    inputs: dict[str, float]
    """Of what went into the layer in the rollouts."""
    weights: dict[str, NDArray[np.float32]]
    """Of each row of its weight `[out]`."""


def calibrate(student: Student, *, chunks: int = 8, seed: int = 0) -> Fp8Scales:
    """Measure ranges in a rollout of `chunks` chunks of the demo's own picture and drag, in fp32 on the CPU.

    ConfigError when a layer never ran or saw a number that is not finite.
    """
    from ms_export.stimulus import example_image, example_tracks
    from ms_infer.engines.torch import TorchEngine
    from ms_infer.stream import Stream

    config = student.config
    ranges: dict[str, float] = {}
    with Stream(TorchEngine(student, device="cpu", precision="fp32"), seed=seed) as stream, _Watch(student, ranges):
        stream.start(example_image(config.height, config.width), _prompt(student), example_tracks(config))
        for _ in range(chunks):
            stream.step()
    names = [f"blocks.{i}.{product}" for i in range(config.model.layers) for product in PRODUCTS]
    wrong = [name for name in names if not 0 < ranges.get(name, 0.0) < float("inf")]
    if wrong:
        raise ConfigError(f"the calibration saw no usable numbers in {', '.join(wrong[:4])}; is the checkpoint whole?")
    logger.info("calibrated %d layers on %d chunks", len(names), chunks)
    layers = dict(student.transformer.named_modules())
    rows = {name: layers[name].weight.detach().float().abs().amax(1) for name in names}  # type: ignore[union-attr,operator]
    return Fp8Scales({name: ranges[name] for name in names}, {name: row.numpy() for name, row in rows.items()})


def _prompt(student: Student) -> Any:
    """The example's prompt where the model reads words; else a random embedding of the usual size."""
    from ms_export.stimulus import example_prompt

    text = student.config.model.text
    if text.kind == "words":
        return example_prompt()
    return np.random.default_rng(0).standard_normal((32, text.dim)).astype(np.float32) * 0.1


class _Watch(TorchFunctionMode):
    """Records the largest magnitude that goes into every linear product of the blocks, whoever computes it."""

    def __init__(self, student: Student, ranges: dict[str, float]) -> None:
        super().__init__()
        self._ranges = ranges
        self._names = {
            id(module.weight): name
            for name, module in student.transformer.named_modules()
            if isinstance(module, nn.Linear) and name.startswith("blocks.") and name.endswith(PRODUCTS)
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = self._names.get(id(args[1])) if func is F.linear and len(args) > 1 else None
        if name is not None:
            self._ranges[name] = max(self._ranges.get(name, 0.0), float(args[0].detach().abs().amax()))
        return func(*args, **(kwargs or {}))


def quantise(library: TensorRt, network: Network, graph: Path, scales: Fp8Scales) -> list[Any]:
    """Put quantise and dequantise round both sides of the scaled products of a parsed network.

    Returns the numbers that must stay alive until the engine is built. BundleError when a layer is not found.
    """
    products = products_of(graph)
    kept: list[Any] = []
    done = set()
    for layer in list(network.layers()):
        name = products.get(layer.name)
        if layer.type != library.module.LayerType.MATRIX_MULTIPLY or name not in scales.inputs:
            continue
        rows = scales.weights[name]
        for index, values, axis in ((0, np.float32(scales.inputs[name]), None), (1, rows, -1)):
            tensor = layer.get_input(index)
            layer.set_input(index, _rounded(library, network, tensor, np.asarray(values), axis, kept))
        done.add(name)
    missing = sorted(set(scales.inputs) - done)
    if missing:
        raise BundleError(f"{graph} has no matrix product for {', '.join(missing[:4])}; export the graphs again")
    return kept


def _rounded(
    library: TensorRt, network: Network, tensor: Any, largest: NDArray[np.float32], axis: int | None, kept: list[Any]
) -> Any:
    """The tensor after a way through fp8 and back."""
    trt, definition = library.module, network.definition
    scale = np.ascontiguousarray(np.maximum(largest, 1e-12) / E4M3_MAX, np.float32)
    kept.append(scale)
    constant = definition.add_constant(scale.shape, trt.Weights(scale)).get_output(0)
    down = definition.add_quantize(tensor, constant, trt.fp8)
    up = definition.add_dequantize(down.get_output(0), constant, tensor.dtype)
    if axis is not None:
        down.axis = up.axis = len(tensor.shape) + axis
    return up.get_output(0)


def products_of(graph: Path) -> dict[str, str]:
    """MatMul node -> name of the linear layer whose weight it multiplies with, for the transformer's layers."""
    model = onnx.load(graph, load_external_data=False)
    weights = {tensor.name for tensor in model.graph.initializer}
    makers = {output: node for node in model.graph.node for output in node.output}
    found = {}
    for node in model.graph.node:
        if node.op_type != "MatMul":
            continue
        source = node.input[1]
        while source in makers and makers[source].op_type in ("Transpose", "Identity"):
            source = makers[source].input[0]
        if source in weights and source.startswith("transformer.") and source.endswith(".weight"):
            found[node.name] = source.removeprefix("transformer.").removesuffix(".weight")
    return found
