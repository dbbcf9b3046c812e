"""Makes a bundle: weights, graphs, engines, manifest; finished files survive an interruption."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch

from ms_export.options import ExportOptions, configured
from ms_export.places import origin_of
from ms_export.plan import check_student, estimate_bytes
from ms_export.store import Store, graph_path
from ms_export.weights import WEIGHTS, WeightTable, named_tensors, release_pages, write_weights
from ms_infer._version import __version__
from ms_infer.bundle.digests import cached_digest
from ms_infer.bundle.manifest import MANIFEST, EngineSpec, Manifest, load_manifest
from ms_infer.bundle.stages import GRAPH_DTYPES, StageSpec, stage_specs
from ms_infer.checkpoint import Student
from ms_infer.checkpoint.complete import resized
from ms_infer.errors import BundleError, MissingExtraError
from ms_infer.numerics.schedule import denoise_steps

logger = logging.getLogger(__name__)

GRAPH_VERSION = 6
"""Counts changes of the exported graphs: a new number makes old bundles out of date."""


@dataclass(frozen=True)
class Result:
    """What an export did."""

    manifest: Manifest
    made: tuple[str, ...]
    """Files written by this run; empty when the bundle was up to date."""
    seconds: float


def export_bundle(student: Student, digest: str, folder: Path, options: ExportOptions) -> Result:
    """Make or complete the bundle in `folder`.

    digest: sha256 of the checkpoint. Equal inputs give "up to date"; finished files of an interrupted run with the
    same inputs are kept. Raises ConfigError, MissingExtraError, BundleError (full disk).
    """
    start = time.perf_counter()
    student = resized(student, configured(student.config, options))
    check_student(student, options)
    exporter = Exporter(student, digest, folder, options)
    if not options.force and (found := exporter.up_to_date()) is not None:
        return Result(found, (), time.perf_counter() - start)
    exporter.run()
    return Result(load_manifest(folder), tuple(exporter.store.made), time.perf_counter() - start)


def checkpoint_digest(student: Student) -> str:
    """sha256 of the files that a student was read from and of the choices made meanwhile; else of its tensors."""
    if not student.files:
        digest = hashlib.sha256()
        for name, tensor in named_tensors(student):
            digest.update(name.encode() + tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()
    parts = [*(cached_digest(file) for file in student.files), *student.choices]
    return parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest()


@dataclass
class Exporter:
    """One export: makes what its store does not hold yet."""

    student: Student
    digest: str
    folder: Path
    options: ExportOptions

    def __post_init__(self) -> None:
        self.config = self.student.config
        self.writes = self.options.resolved_writes(self.config)
        self.specs = {d: stage_specs(self.config, dtype=d, writes=self.writes) for d in self.options.graph_dtypes()}
        self.origin = origin_of(self.student, self.options)
        self.store = Store(self.folder, self.key, self.origin)

    @property
    def key(self) -> str:
        """Digest of everything that the graphs depend on."""
        parts = {
            "checkpoint": self.digest,
            "config": self.config.to_dict(),
            "writes": self.writes,
            "graphs": GRAPH_VERSION,
            "tools": {name: tool_versions().get(name) for name in ("torch", "onnx", "onnxscript", "openvino")},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def up_to_date(self) -> Manifest | None:
        """The finished bundle, when there is nothing to do."""
        if not (self.folder / MANIFEST).is_file():
            return None
        try:
            manifest = load_manifest(self.folder)
        except BundleError as error:
            logger.info("making the bundle again: %s", error)
            return None
        graphs = all(dtype in manifest.graphs for dtype in self.options.graph_dtypes())
        engines = all(self._is_built(manifest, target) for target in self.options.targets)
        return manifest if manifest.key == self.key and graphs and engines else None

    def _is_built(self, manifest: Manifest, target: str) -> bool:
        """Whether the bundle holds the engines of a target."""
        if target == "onnx":
            return True
        wanted = {"cpu": ("openvino", "fp32"), "rtx": ("tensorrt_rtx", self.options.dtype or "bf16")}
        wanted["trt"] = ("tensorrt", self.options.dtype or "bf16")
        built = [(engine.options.get("library", engine.kind), engine.dtype) for engine in manifest.engines.values()]
        return wanted[target] in built

    def run(self) -> None:
        """Make everything that is not there yet, then the manifest."""
        store = self.store
        store.adopt(again=self.options.force)
        if store.files:
            logger.info("%d finished files are kept", len(store.files))
        self._check_disk()
        for dtype in self.specs:
            self._export_graphs(dtype)
        for target in self.options.targets:
            if target == "cpu":
                self._convert_openvino()
            elif target in ("rtx", "trt"):
                self._build_tensorrt(target)
        store.finish(self.manifest())

    def manifest(self) -> Manifest:
        """The manifest of what is there now."""
        steps = tuple(vars(step) for step in denoise_steps(self.config.schedule))
        graphs: dict[str, dict[str, str]] = {}
        for dtype in GRAPH_DTYPES:
            stages = stage_specs(self.config, dtype=dtype, writes=self.writes)
            paths = {stage: graph_path(dtype, stage) for stage in stages}
            if all(path in self.store.files for path in paths.values()):
                graphs[dtype] = paths
        return Manifest(
            config=self.config,
            writes=self.writes,
            checkpoint={
                "format": self.student.source,
                "sha256": self.digest,
                "name": self.config.model.name,
                "origin": self.origin,
            },
            key=self.key,
            stages={d: stage_specs(self.config, dtype=d, writes=self.writes) for d in graphs},
            graphs=graphs,
            engines=dict(self.store.engines),
            files=dict(self.store.files),
            tools=tool_versions(),
            steps=steps,
            folder=self.folder,
        )

    def _check_disk(self) -> None:
        needed = estimate_bytes(self.student.config, WeightTable.of(self.student, torch.float32), self.options)
        needed -= sum(spec.bytes for spec in self.store.files.values())
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise BundleError(
                f"the bundle needs {needed >> 20} MiB more in {self.folder}, free are {free >> 20} MiB; make room or "
                "give another folder with -o"
            )

    def _export_graphs(self, dtype: str) -> None:
        kind = getattr(torch, GRAPH_DTYPES[dtype])
        table = WeightTable.of(self.student, kind)
        weights = f"onnx/{dtype}/{WEIGHTS}"
        (self.folder / weights).parent.mkdir(parents=True, exist_ok=True)
        if not self.store.has(weights):
            with self.store.timed(weights):
                self.store.keep(weights, write_weights(self.student, table, self.folder / weights))
        release_pages(self.student)  # graphs and engines refer to the file that was written
        missing = [spec for spec in self.specs[dtype].values() if not self.store.has(graph_path(dtype, spec.name))]
        if missing:
            self._trace(missing, dtype, table)

    def _trace(self, specs: list[StageSpec], dtype: str, table: WeightTable) -> None:
        from ms_export.trace import module_parts, trace_stage

        parts = module_parts(self.student, table.dtype)  # precise stages have no weights
        weights = self.folder / f"onnx/{dtype}/{WEIGHTS}"
        for number, spec in enumerate(specs, 1):
            name = graph_path(dtype, spec.name)
            with self.store.timed(name, number, len(specs)):
                kind = torch.float32 if spec.precise else table.dtype
                graph = trace_stage(spec, parts, kind, table, weights)
                self.store.write(name, graph.SerializeToString())

    def _convert_openvino(self) -> None:
        from ms_export.openvino_ir import convert_stage, load_openvino, make_core

        installed = load_openvino().__version__.split("-")[0]
        name = f"openvino-cpu-{'.'.join(installed.split('.')[:2])}-fp32"
        specs = self.specs["fp32"]
        folder = Path("engines") / name
        (self.folder / folder).mkdir(parents=True, exist_ok=True)
        core, table = make_core(), WeightTable.of(self.student, torch.float32)
        stages: dict[str, str] = {}
        converted = [spec for spec in specs.values() if spec.name != "roll"]  # part of denoise
        for number, spec in enumerate(converted, 1):
            stages[spec.name] = (folder / f"{spec.name}.xml").as_posix()
            if self.store.has(stages[spec.name]) and self.store.has((folder / f"{spec.name}.bin").as_posix()):
                continue
            with self.store.timed(stages[spec.name], number, len(converted)):
                rolls = spec.name == "denoise" and "roll" in specs
                roll = self.folder / graph_path("fp32", "roll") if rolls else None
                unfinished = self.folder / folder / f".{spec.name}.unfinished.xml"
                graph = self.folder / graph_path("fp32", spec.name)
                convert_stage(core, graph, spec, unfinished, table, roll)
                for suffix in (".bin", ".xml"):
                    unfinished.with_suffix(suffix).replace(self.folder / folder / f"{spec.name}{suffix}")
                    self.store.keep((folder / f"{spec.name}{suffix}").as_posix())
        self.store.add_engine(name, EngineSpec("openvino", "cpu", installed, "fp32", stages))

    def _build_tensorrt(self, target: Literal["rtx", "trt"]) -> None:
        try:
            from ms_export.tensorrt.build import build_engines
        except ImportError as error:
            raise MissingExtraError(f"target {target} needs pip install 'ms-infer[{target}]' ({error})") from None
        dtype = self.options.dtype or "bf16"
        name, engine = build_engines(self.store, self.student, self.specs, target, dtype=dtype, writes=self.writes)
        self.store.add_engine(name, engine)


def tool_versions() -> dict[str, str]:
    """Installed versions of everything that shapes a bundle."""
    found = {"ms-infer": __version__}
    for name in ("torch", "onnx", "onnxscript", "onnxruntime", "openvino"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
