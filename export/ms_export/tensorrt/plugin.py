"""The plugin variant for TensorRT 11: Triton kernels inside the engine, compiled ahead of time, run without Python.

Two plugins: `SinkWindowAttention`, which replaces the fallback function of that node, and `CacheWrite`, which writes
a chunk whose latent frames do not lie in a row of the cache, in place through aliased input and output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import onnx
from onnx import helper

from ms_export.modules import ATTENTION, DOMAIN
from ms_infer.engines.tensorrt.library import TensorRt
from ms_infer.errors import BundleError, ConfigError, MissingExtraError

CACHE_WRITE = "CacheWrite"
TYPES = {"bf16": "BF16", "fp16": "FP16"}
"""Precision -> word of TensorRT's format strings."""


@dataclass(frozen=True)
class Launch:
    """What a kernel is launched with."""

    symbol: str
    ptx: str
    grid: tuple[int, int]
    threads: int
    shared_bytes: int
    integers: tuple[int, ...]
    """Arguments between the input pointers and the output pointer."""


def attention_launch(q: Any, k: Any, arch: int, dtype: str) -> Launch:
    """q `[1, heads, tokens, head_dim]`, k `[1, heads, cache_tokens, head_dim]`: anything with four sizes."""
    aot, specs = _kernels()
    heads, tokens, dim = q[1], q[2], q[3]
    spec = specs.specs(arch, specs.Profile(dtype=dtype, dim=heads * dim, heads=heads))["sink_window_attention"]
    strides = (heads * tokens * dim, tokens * dim, dim)
    grid = (-(-tokens // spec.tile["block_q"]), heads)
    return _launch(aot, spec, arch, grid, (tokens, k[2], heads, *strides, *strides))


def write_launch(cache: Any, update: Any, frames: int, arch: int, dtype: str) -> Launch:
    """cache `[1, heads, cache_tokens, head_dim]`, update `[1, heads, tokens, head_dim]` of `frames` latent frames."""
    aot, specs = _kernels()
    from ms_kernels.jit import block_of
    from ms_kernels.write_frames import ROWS, write_frames_kernel

    heads, tokens, dim = update[1], update[2], update[3]
    pointers = {"cache_in_ptr": f"*{dtype}", "update_ptr": f"*{dtype}", "index_ptr": "*i64"}
    types = {**pointers, "frame_tokens": "i32", "tokens": "i32", "cache_tokens": "i32", "cache_ptr": f"*{dtype}"}
    constants = {"DIM": dim, "DIM_BLOCK": block_of(dim), "BLOCK": ROWS}
    spec = specs.Spec(write_frames_kernel, types, constants, (), warps=4)
    return _launch(aot, spec, arch, (-(-tokens // ROWS), heads), (tokens // frames, tokens, cache[2]))


def _kernels() -> tuple[Any, Any]:
    try:
        from ms_kernels import aot, aot_specs
    except ImportError as error:
        raise MissingExtraError(f"the plugin variant compiles Triton kernels ({error})") from None
    return aot, aot_specs


def _launch(aot: Any, spec: Any, arch: int, grid: tuple[int, int], integers: tuple[int, ...]) -> Launch:
    """Compile, and check that the kernel takes exactly what TensorRT will pass."""
    from ms_kernels import ptx

    kernel = aot.compile_spec(spec, arch)
    meta = kernel.metadata
    text = ptx.drop_hidden_parameters(meta.name, kernel.asm["ptx"])
    kinds = list(spec.types.values())
    pointers = [i for i, kind in enumerate(kinds) if kind.startswith("*")]
    inputs = len(pointers) - 1
    ordered = pointers == [*range(inputs), len(kinds) - 1] and len(integers) == len(kinds) - 1 - inputs
    if not ordered or len(ptx.parameters(meta.name, text)) != len(kinds) or max(integers) >= 1 << 31:
        raise BundleError(
            f"the kernel {meta.name} takes {kinds} and {integers}; TensorRT passes input pointers, int32, one output"
        )
    return Launch(meta.name, text, grid, 32 * meta.num_warps, meta.shared, integers)


def register(library: TensorRt, arch: str, dtype: str, *, lazy: bool = False) -> None:
    """Make both plugins known to TensorRT in this process; its ONNX parser then takes them for our nodes.

    arch: sm_90 of the GPU the engine is built for. lazy: only validate, for a machine without TensorRT's libraries.
    ConfigError for a library or precision without plugins.
    """
    if not library.has_plugins:
        raise ConfigError(f"{library.name} takes no plugins; use the native attention, or --target trt")
    if dtype not in TYPES:
        raise ConfigError(f"the plugins are compiled for {', '.join(TYPES)}, not for {dtype}")
    trtp = import_module(f"{library.name}.plugin")
    number = int(arch.removeprefix("sm_"))
    _register(trtp, ATTENTION, _attention_functions(trtp, number, dtype), lazy)
    _register(trtp, CACHE_WRITE, _write_functions(trtp, number, dtype), lazy)


def _register(trtp: Any, name: str, functions: tuple[Callable[..., Any], ...], lazy: bool) -> None:
    describe, autotune, implement = functions
    identity = f"{DOMAIN}::{name}"
    trtp.register(identity, lazy_register=lazy)(describe)
    trtp.autotune(identity)(autotune)
    trtp.aot_impl(identity)(implement)


def _attention_functions(trtp: Any, arch: int, dtype: str) -> tuple[Callable[..., Any], ...]:
    """Output like q; n_valid is int64 and the kernel reads its low word, little-endian."""
    word = TYPES[dtype]

    def describe(q, k, v, n_valid):  # type: ignore[no-untyped-def]
        return q.like()

    def autotune(q, k, v, n_valid, outputs):  # type: ignore[no-untyped-def]
        return [trtp.AutoTuneCombination(f"{word}, {word}, {word}, INT64, {word}", "LINEAR", [1])]

    def implement(q, k, v, n_valid, outputs, tactic):  # type: ignore[no-untyped-def]
        return _arguments(trtp, attention_launch(q.shape, k.shape, arch, dtype))

    tensors = dict.fromkeys(("q", "k", "v", "n_valid"), trtp.TensorDesc)
    return _annotated(trtp, (describe, autotune, implement), tensors)


def _write_functions(trtp: Any, arch: int, dtype: str) -> tuple[Callable[..., Any], ...]:
    """The output is the cache itself: one memory under two names."""
    word = TYPES[dtype]

    def describe(cache, update, index):  # type: ignore[no-untyped-def]
        return cache.aliased()

    def autotune(cache, update, index, outputs):  # type: ignore[no-untyped-def]
        return [trtp.AutoTuneCombination(f"{word}, {word}, INT64, {word}", "LINEAR", [1])]

    def implement(cache, update, index, outputs, tactic):  # type: ignore[no-untyped-def]
        return _arguments(trtp, write_launch(cache.shape, update.shape, index.shape[0], arch, dtype))

    tensors = dict.fromkeys(("cache", "update", "index"), trtp.TensorDesc)
    return _annotated(trtp, (describe, autotune, implement), tensors)


def _annotated(trtp: Any, functions: tuple[Any, ...], tensors: Mapping[str, Any]) -> tuple[Callable[..., Any], ...]:
    """TensorRT reads the types at run time; ours would be strings, and exist only once it is imported."""
    describe, autotune, implement = functions
    describe.__annotations__ = {**tensors, "return": trtp.TensorDesc}
    autotune.__annotations__ = {**tensors, "return": list[trtp.AutoTuneCombination]}
    launch = tuple[str, str, trtp.KernelLaunchParams, trtp.SymIntExprs]
    implement.__annotations__ = {**tensors, "tactic": int, "return": launch}
    return describe, autotune, implement


def _arguments(trtp: Any, launch: Launch) -> tuple[str, str, Any, Any]:
    """A launch in TensorRT's words."""
    sizes = trtp.KernelLaunchParams(
        grid_x=launch.grid[0], grid_y=launch.grid[1], block_x=launch.threads, shared_mem=launch.shared_bytes
    )
    integers = trtp.SymIntExprs.from_tuple([trtp.SymInt32(value) for value in launch.integers])
    return launch.symbol, launch.ptx, sizes, integers


def with_cache_writes(model: onnx.ModelProto) -> int:
    """Replace every run of TensorScatter nodes over one cache by one `CacheWrite`; returns how many there were.

    Runs of one node stay: TensorRT writes those in place by itself.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    inner = {node.input[0] for node in model.graph.node if node.op_type == "TensorScatter"}
    replaced: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        if node.op_type == "TensorScatter" and node.output[0] not in inner:
            run = _run_of(node, makers)
            if len(run) > 1:
                replaced[node.output[0]] = run
    gone = {node.output[0] for run in replaced.values() for node in run}
    nodes = []
    for node in model.graph.node:
        if node.output[0] in replaced:
            nodes.append(_cache_write(replaced[node.output[0]], makers))
        elif node.output[0] not in gone:
            nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return len(replaced)


def _run_of(last: onnx.NodeProto, makers: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """The writes that end in `last`, in order."""
    run = [last]
    while run[0].input[0] in makers and makers[run[0].input[0]].op_type == "TensorScatter":
        run.insert(0, makers[run[0].input[0]])
    return run


def _cache_write(run: list[onnx.NodeProto], makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    wholes = []
    for index in (1, 2):  # update and index: the parts of one split each, in order
        split = makers.get(run[0].input[index])
        parts = [node.input[index] for node in run]
        if split is None or split.op_type != "Split" or list(split.output) != parts:
            raise BundleError(f"the writes of {run[0].input[0]} are not the parts of one chunk; export the graph again")
        wholes.append(split.input[0])
    return helper.make_node(
        CACHE_WRITE,
        [run[0].input[0], *wholes],
        [run[-1].output[0]],
        name=f"{run[-1].output[0]}_write",
        domain=DOMAIN,
        plugin_namespace=DOMAIN,
        aot=1,
    )
