"""The manifest of a bundle: what the folder holds, checked before anything in it is used."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ms_infer.bundle.digests import cached_digest, file_digest
from ms_infer.bundle.stages import GRAPH_DTYPES, ITEM_BYTES, ROLES, StageSpec, TensorSpec
from ms_infer.config import StreamConfig
from ms_infer.errors import BundleError, ConfigError
from ms_infer.files import write_text
from ms_infer.progress import Progress, silent

MANIFEST = "manifest.json"
FORMAT = 4
"""Bundles of this format are read: since 4 the layer network is a stage of its own."""

_MAX_BYTES = 16 << 20


@dataclass(frozen=True)
class FileSpec:
    """Size and digest of a file of the bundle."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class EngineSpec:
    """Engines of one kind inside the bundle."""

    kind: str
    """openvino or tensorrt."""
    arch: str
    """What they run on: cpu, sm_90, any."""
    version: str
    """Version of the library that built them."""
    dtype: str
    """Type of weights, caches and states: fp32, bf16, fp16 or fp8."""
    stages: Mapping[str, str]
    """Stage -> file."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else the engine has to know; each engine documents its own."""


@dataclass(frozen=True)
class Manifest:
    """Everything that `manifest.json` says; `load_manifest` reads and checks it."""

    config: StreamConfig
    writes: str
    """"chunk": one cache index per pass; "frame": one per latent frame."""
    checkpoint: Mapping[str, str]
    """name, format and sha256 of the weights the bundle was made from."""
    key: str
    """Digest of everything that went into the export: equal keys need no new export."""
    stages: Mapping[str, Mapping[str, StageSpec]]
    """Graph precision -> stage -> its inputs and outputs."""
    graphs: Mapping[str, Mapping[str, str]]
    """Graph precision -> stage -> ONNX file."""
    engines: Mapping[str, EngineSpec]
    """Name (`openvino-cpu-2026.4-fp32`) -> engines."""
    files: Mapping[str, FileSpec]
    """Path relative to the bundle -> size and digest; holds every other file named here."""
    tools: Mapping[str, str] = field(default_factory=dict)
    """Versions of the libraries that made the bundle."""
    steps: tuple[Mapping[str, float], ...] = ()
    """Denoising passes: timestep, sigma, next_sigma."""
    folder: Path = Path()

    def path(self, name: str) -> Path:
        """A file of the bundle, safe to use: its content is what the manifest says.

        The file is hashed unless its size, inode and times are those of the last good hash on this machine (kept
        in the user's cache, never in the bundle). BundleError when it was changed.
        """
        path, spec = self.folder / name, self.files[name]
        digest = cached_digest(path)
        if digest != spec.sha256:
            raise BundleError(
                f"{path} was changed after the export (sha256 {digest[:12]}..., manifest {spec.sha256[:12]}...); "
                "copy the bundle again or run ms-export --force"
            )
        return path

    def check(self, names: Sequence[str], progress: Progress = silent) -> None:
        """`path` of all these files, before any is used. BundleError names the first that was changed."""
        total = sum(self.files[name].bytes for name in names) or 1
        done = 0
        for name in names:
            progress(f"checking {name}", done / total)
            self.path(name)
            done += self.files[name].bytes

    def verify(self) -> None:
        """Hash every file, whatever is remembered. BundleError names the first that was changed."""
        for name, spec in self.files.items():
            if file_digest(self.folder / name) != spec.sha256:
                raise BundleError(f"{self.folder / name} was changed after the export; run ms-export --force")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = dataclasses.asdict(dataclasses.replace(self, config=None, folder=None))  # type: ignore[arg-type]
        del values["folder"]
        return {"format": FORMAT, **values, "config": self.config.to_dict(), "sizes": derived_sizes(self.config)}

    def save(self, folder: Path) -> None:
        """Write `manifest.json`, whole or not at all."""
        write_text(folder / MANIFEST, json.dumps(self.to_dict(), indent=1))


def derived_sizes(config: StreamConfig) -> dict[str, int]:
    """Sizes that follow from the settings, for readers that do not want to work them out."""
    context = config.context
    return {
        "latent_height": config.latent_height,
        "latent_width": config.latent_width,
        "latent_channels": config.model.latent_channels,
        "tokens_per_frame": config.tokens_per_frame,
        "chunk_tokens": config.chunk_tokens,
        "sink_tokens": config.sink_tokens,
        "cache_tokens": config.cache_tokens,
        "cache_frames": context.cache_frames,
        "ring_frames": context.ring_frames,
        "opening_frames": context.opening_frames,
        "head_dim": config.model.head_dim,
    }


def load_manifest(folder: str | Path) -> Manifest:
    """Read and check the manifest of a bundle, and that every file is there with the right size.

    Reads no content of the files: `Manifest.path` hashes each before its first use. BundleError: not a bundle, another
    format, a tensor without its role, a path that leaves the folder, a missing file, a wrong size.
    """
    folder = Path(folder)
    values = _read_json(folder / MANIFEST)
    found = values.get("format")
    if not isinstance(found, int) or isinstance(found, bool):
        raise BundleError(f"{folder / MANIFEST} has the format {found!r}; expected a number, so this is no bundle")
    _check_format(found, folder)
    try:
        manifest = _parse(values, folder)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{folder / MANIFEST} is damaged ({type(error).__name__}: {error}); export again") from None
    _check_files(manifest)
    return manifest


def _check_format(found: int, folder: Path) -> None:
    if found > FORMAT:
        raise BundleError(
            f"{folder} is a bundle of format {found}, this ms-infer reads {FORMAT}; update ms-infer or run ms-export "
            "again with this version"
        )
    if found < FORMAT:
        raise BundleError(
            f"{folder} is a bundle of the older format {found}, this ms-infer reads {FORMAT}; run the same ms-export "
            "command into this folder again: graphs and engines that still fit are kept"
        )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise BundleError(f"{path} is larger than {_MAX_BYTES >> 20} MiB; this is no manifest")
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{path.parent} holds no {MANIFEST}: make a bundle with ms-export") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(f"{path} cannot be read as JSON: {error}") from None
    if not isinstance(values, dict):
        raise BundleError(f"{path} holds a JSON {type(values).__name__}; expected an object")
    return values


def _parse(values: Mapping[str, Any], folder: Path) -> Manifest:
    try:
        config = StreamConfig.from_dict(values["config"])
    except ConfigError as error:
        raise BundleError(f"{folder / MANIFEST} holds settings that cannot work: {error}") from None
    files = {str(name): FileSpec(int(f["bytes"]), str(f["sha256"])) for name, f in values["files"].items()}
    manifest = Manifest(
        config=config,
        writes=str(values["writes"]),
        checkpoint=dict(values["checkpoint"]),
        key=str(values["key"]),
        stages={d: {n: _stage(s) for n, s in stages.items()} for d, stages in values["stages"].items()},
        graphs={d: dict(graphs) for d, graphs in values["graphs"].items()},
        engines={name: EngineSpec(**engine) for name, engine in values["engines"].items()},
        files=files,
        tools=dict(values["tools"]),
        steps=tuple(dict(step) for step in values["steps"]),
        folder=folder,
    )
    _check_structure(manifest)
    return manifest


def _stage(values: Mapping[str, Any]) -> StageSpec:
    stage = StageSpec(
        name=str(values["name"]),
        inputs=tuple(_tensor(v) for v in values["inputs"]),
        outputs=tuple(_tensor(v) for v in values["outputs"]),
        aliases=tuple((str(a), str(b)) for a, b in values["aliases"]),
        states=tuple((str(a), str(b)) for a, b in values["states"]),
        precise=bool(values["precise"]),
    )
    _check_pairs(stage, stage.aliases, "cache")
    _check_pairs(stage, stage.states, "state")
    return stage


def _check_pairs(stage: StageSpec, pairs: tuple[tuple[str, str], ...], role: str) -> None:
    """BundleError unless both tensors of a pair are there, alike, and of the role that pairs of this kind have."""
    tensors = {tensor.name: tensor for tensor in stage.tensors}
    for old, new in pairs:
        if old not in tensors or new not in tensors:
            raise BundleError(f"the manifest pairs {old} and {new} of {stage.name}, which has no such tensors")
        one, other = tensors[old], tensors[new]
        if (one.shape, one.dtype, one.role) != (other.shape, other.dtype, role) or other.role != role:
            raise BundleError(
                f"the manifest pairs {old} ({one.role}) and {new} ({other.role}) of {stage.name}, which are not two "
                f"tensors of one shape with the role {role}; export again"
            )


def _tensor(values: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(int(n) for n in values["shape"])
    if values["dtype"] not in ITEM_BYTES or not shape or min(shape) < 1:
        raise BundleError(f"the manifest describes an impossible tensor: {values}")
    if values["role"] not in ROLES:
        raise BundleError(f"the manifest gives {values['name']} the role {values['role']!r}; known: {', '.join(ROLES)}")
    return TensorSpec(str(values["name"]), shape, str(values["dtype"]), values["role"])


def _check_structure(manifest: Manifest) -> None:
    if manifest.writes not in ("chunk", "frame"):
        raise BundleError(f"the manifest names the writes {manifest.writes!r}; expected chunk or frame")
    unknown = [d for d in (*manifest.stages, *manifest.graphs) if d not in GRAPH_DTYPES]
    if unknown:
        raise BundleError(f"the manifest names unknown graph types {unknown}; known: {list(GRAPH_DTYPES)}")
    named = [path for graphs in manifest.graphs.values() for path in graphs.values()]
    named += [path for engine in manifest.engines.values() for path in engine.stages.values()]
    missing = sorted(set(named) - set(manifest.files))
    if missing:
        raise BundleError(f"the manifest names files without a digest: {', '.join(missing[:5])}; export again")


def _content_root(folder: Path) -> Path:
    """Where the files of a bundle may lie: in its folder, or among the blobs of the hub cache that holds it.

    A hub cache is `models--ORG--NAME/snapshots/REVISION/...`, whose files are links to `../../blobs/DIGEST`.
    """
    for snapshots in folder.absolute().parents:
        repository = snapshots.parent
        if snapshots.name == "snapshots" and repository.name.startswith("models--") and (repository / "blobs").is_dir():
            return repository.resolve()
    return folder.resolve()


def _check_files(manifest: Manifest) -> None:
    root = _content_root(manifest.folder)
    for name, spec in manifest.files.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name or not path.parts:
            raise BundleError(f"the manifest names the path {name!r}, which leaves the bundle; do not use this bundle")
        target = manifest.folder / path
        if not target.resolve().is_relative_to(root):
            raise BundleError(f"{target} links to a place outside the bundle; do not use this bundle")
        if not target.is_file():
            raise BundleError(f"{target} is missing; the bundle is incomplete: copy it again or run ms-export")
        size = target.stat().st_size
        if size != spec.bytes:
            raise BundleError(f"{target} has {size} bytes, the manifest says {spec.bytes}; copy the bundle again")
