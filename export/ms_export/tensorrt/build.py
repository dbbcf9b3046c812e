"""TensorRT engines of exported stages: build, log, and the entry in the bundle."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ms_export.store import Store, graph_path
from ms_export.tensorrt import network as networks
from ms_infer.bundle.manifest import EngineSpec
from ms_infer.bundle.stages import StageSpec
from ms_infer.engines.tensorrt.library import Kind, TensorRt, errors_of, listening, load
from ms_infer.environment import cache_folder, env
from ms_infer.errors import BundleError, ConfigError, DeviceError, MissingExtraError

if TYPE_CHECKING:
    from ms_export.tensorrt.fp8 import Fp8Scales
    from ms_infer.checkpoint import Student

logger = logging.getLogger(__name__)

Specs = Mapping[str, Mapping[str, StageSpec]]
"""Graph precision -> stage -> its inputs and outputs."""
GRAPHS = {"fp32": "fp32", "fp16": "fp16", "bf16": "bf16", "fp8": "bf16"}
"""Precision of an engine -> precision of the graphs it is built from; fp8 is put around the matrix products."""
PORTABLE = "any"
"""Architecture of engines without named targets: TensorRT-RTX compiles their kernels on the user's GPU."""
_FP8_FROM = 89


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """What an engine is built for."""

    dtype: str = "bf16"
    """fp32, fp16, bf16, or fp8 (matrix products of the transformer's blocks; the rest is bf16)."""
    targets: tuple[str, ...] = ()
    """sm_80, ... of TensorRT-RTX; empty means any GPU it supports. TensorRT builds for the GPU of this machine."""
    attention: Literal["native", "plugin"] = "native"
    """TensorRT's own attention, or the Triton kernel as an ahead-of-time plugin (TensorRT only)."""

    def check(self, library: TensorRt) -> None:
        """ConfigError for what this library cannot build."""
        if self.dtype not in GRAPHS:
            raise ConfigError(f"--dtype {self.dtype!r} is not one of {', '.join(GRAPHS)}")
        unknown = [target for target in self.targets if target not in library.targets]
        if unknown:
            raise ConfigError(
                f"{library.name} {library.version} builds for {', '.join(library.targets) or 'the GPU of this machine'}"
                f", not for {', '.join(unknown)}; leave the architecture out"
            )
        old = [target for target in self.targets if int(target[3:]) < _FP8_FROM]
        if self.dtype == "fp8" and old:
            raise ConfigError(f"fp8 needs sm_{_FP8_FROM} or later, not {', '.join(old)}; use --dtype bf16")
        if self.attention == "plugin" and not library.has_plugins:
            raise ConfigError(f"{library.name} takes no plugins; use the native attention, or --target trt")


@dataclass(frozen=True)
class Plan:
    """A serialized engine and how it came to be."""

    data: Any
    """Buffer with the bytes of the plan."""
    layers: Mapping[str, int]
    """Layers of the network by type, before the builder fused them."""
    log: str
    seconds: float


def build_plan(
    library: TensorRt,
    graph: Path,
    spec: StageSpec,
    options: PlanOptions,
    *,
    scales: Fp8Scales | None = None,
    timing_cache: Path | None = None,
) -> Plan:
    """Build the engine of one stage.

    scales: ranges of the matrix products' inputs, needed for fp8. timing_cache: file with measured kernels, read and
    added to. ConfigError: options that the library refuses. BundleError: the graph cannot be parsed or built.
    """
    options.check(library)
    start = time.perf_counter()
    with listening(library.kind) as messages:
        plugins = options.attention == "plugin"
        network = networks.parse(library, graph, plugins=plugins)
        kept = networks.repair(library, network)  # numbers that the network refers to until it is built
        counts = networks.check(library, network, spec, plugins=plugins)
        if options.dtype == "fp8" and spec.name == "denoise":
            if scales is None:
                raise ConfigError("fp8 needs scales from a calibration: see ms_export.tensorrt.fp8.calibrate")
            from ms_export.tensorrt.fp8 import quantise

            kept += quantise(library, network, graph, scales)
        config = _config(library, network, spec, options, timing_cache)
        data = _serialize(library, network, config, timing_cache)
        del kept
        if data is None:
            raise _refusal(library, spec, options, errors_of(messages))
    seconds = time.perf_counter() - start
    return Plan(data, dict(counts), _log(library, spec, options, network, messages, seconds), seconds)


def _config(
    library: TensorRt, network: networks.Network, spec: StageSpec, options: PlanOptions, timing_cache: Path | None
) -> Any:
    trt = library.module
    config = network.builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.attention == "plugin":
        config.set_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, True)
    if spec.precise:
        config.clear_flag(trt.BuilderFlag.TF32)  # ten bits of mantissa would move coordinates
    if hasattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION"):
        config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)  # so that every engine can be captured
    if options.targets:
        config.num_compute_capabilities = len(options.targets)
        for index, target in enumerate(options.targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{target[3:]}"), index)
    if timing_cache is not None:
        known = timing_cache.read_bytes() if timing_cache.is_file() else b""
        for blob in (known, b""):  # a cache of another GPU or version is refused: begin a new one
            cache = config.create_timing_cache(blob)
            if cache is not None and config.set_timing_cache(cache, False):
                break
    return config


def _serialize(library: TensorRt, network: networks.Network, config: Any, timing_cache: Path | None) -> Any:
    """The plan, or None when the builder refused; polygraphy merges the timing cache under a file lock."""
    polygraphy = _polygraphy(library.kind)
    if timing_cache is not None:
        timing_cache.parent.mkdir(parents=True, exist_ok=True)
    from polygraphy.exception import PolygraphyException
    from polygraphy.logger import G_LOGGER

    build = polygraphy.EngineBytesFromNetwork(
        (network.builder, network.definition),
        config=config,
        save_timing_cache=None if timing_cache is None else str(timing_cache),
    )
    with G_LOGGER.verbosity(G_LOGGER.CRITICAL + 1):  # it prints to stdout; TensorRT's own log is kept by us
        try:
            return build()
        except PolygraphyException:
            return None


def _polygraphy(kind: Kind) -> Any:
    """polygraphy's loaders for this TensorRT; which of the two it drives is fixed by its first import."""
    try:
        from polygraphy import config
    except ImportError:
        raise MissingExtraError(f"polygraphy is not installed: pip install 'ms-infer[{kind}]'") from None
    config.USE_TENSORRT_RTX = kind == "rtx"
    from polygraphy.backend import trt

    return trt


def _refusal(library: TensorRt, spec: StageSpec, options: PlanOptions, reason: str) -> Exception:
    if "cudaError 35" in reason or "no CUDA-capable device" in reason:
        return DeviceError(
            f"{library.name} builds for the GPU of the machine, and there is none here ({reason}); use --target rtx"
        )
    built_for = ", ".join(options.targets) or PORTABLE
    who = f"{library.name} {library.version}"
    return BundleError(f"{who} cannot build {spec.name} {options.dtype} ({built_for}): {reason}")


def _log(
    library: TensorRt,
    spec: StageSpec,
    options: PlanOptions,
    network: networks.Network,
    messages: list[tuple[int, str]],
    seconds: float,
) -> str:
    """Text kept beside the plan: what was built, its layers, what TensorRT said."""
    lines = [
        f"stage {spec.name}, {options.dtype}, attention {options.attention}, {library.name} {library.version}, "
        f"targets {', '.join(options.targets) or PORTABLE}, {seconds:.1f} s",
        "",
        "inputs and outputs",
        *(f"  {t.name} {t.dtype} {list(t.shape)}" for t in (*spec.inputs, *spec.outputs)),
        "",
        "layers before fusion",
        *(_layer_line(layer) for layer in network.layers()),
        "",
        "messages",
        *(f"  {logging.getLevelName(level)} {' '.join(text.split())}" for level, text in messages),
    ]
    return "\n".join(lines) + "\n"


def _layer_line(layer: Any) -> str:
    outputs = (layer.get_output(i) for i in range(layer.num_outputs))
    made = ", ".join(f"{t.name} {str(t.dtype).rpartition('.')[2]} {list(t.shape)}" for t in outputs if t is not None)
    return f"  {networks.layer_type(layer)} {layer.name}: {made}"


def build_engines(
    store: Store, student: Student, specs: Specs, target: Kind, *, dtype: str, writes: str
) -> tuple[str, EngineSpec]:
    """Build every stage of a bundle in the making; finished plans are kept. Returns the engines' name and entry."""
    library = load(target)
    options = PlanOptions(dtype=dtype, attention=_attention_of(writes, library))
    options.check(library)
    arch = "+".join(options.targets) or (PORTABLE if library.builds_without_gpu else _this_gpu())
    if options.attention == "plugin":
        from ms_export.tensorrt.plugin import register

        register(library, arch, GRAPHS[options.dtype])
    name = f"{library.name}-{arch}-{'.'.join(map(str, library.release))}-{options.dtype}"
    folder = Path("engines") / name
    (store.folder / folder).mkdir(parents=True, exist_ok=True)
    scales = _scales(student) if options.dtype == "fp8" else None
    stages = {}
    wanted = specs[GRAPHS[options.dtype]].values()
    for number, spec in enumerate(wanted, 1):
        path = stages[spec.name] = (folder / f"{spec.name}.plan").as_posix()
        if not store.has(path):
            with store.timed(path, number, len(wanted)):
                _build_stage(store, library, spec, options, scales, path)
    entry = EngineSpec(
        kind="tensorrt",
        arch=arch,
        version=library.version,
        dtype=options.dtype,
        stages=stages,
        options={"library": library.name, "graphs": GRAPHS[options.dtype], "attention": options.attention},
    )
    return name, entry


def _build_stage(
    store: Store,
    library: TensorRt,
    spec: StageSpec,
    options: PlanOptions,
    scales: Fp8Scales | None,
    path: str,
) -> None:
    graph = store.folder / graph_path(GRAPHS[options.dtype], spec.name)
    cache = None  # TensorRT-RTX measures nothing when it builds
    if not library.builds_without_gpu:
        cache = cache_folder() / "timing" / f"{library.name}-{library.version}.cache"
    plan = build_plan(library, graph, spec, options, scales=scales, timing_cache=cache)
    store.write(Path(path).with_suffix(".log").as_posix(), plan.log.encode())
    store.write(path, plan.data)


def _attention_of(writes: str, library: TensorRt) -> Literal["native", "plugin"]:
    """Native, unless the caches are written in several runs per pass, which only a plugin can do in place."""
    plugin = library.has_plugins and writes == "frame"
    return "plugin" if plugin or env("TRT_ATTENTION") == "plugin" else "native"


def _scales(student: Student) -> Fp8Scales:
    from ms_export.tensorrt.fp8 import calibrate

    return calibrate(student)


def _this_gpu() -> str:
    from ms_infer.engines.tensorrt.cuda import Cuda

    with Cuda() as cuda:
        return cuda.arch
