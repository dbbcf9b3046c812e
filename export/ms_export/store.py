"""The folder of a bundle in the making: what is finished there, so that an interruption loses no finished file."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ms_infer.bundle.digests import file_digest
from ms_infer.bundle.manifest import MANIFEST, EngineSpec, FileSpec, Manifest, load_manifest
from ms_infer.errors import BundleError
from ms_infer.files import whole_file, write_text

logger = logging.getLogger(__name__)
PROGRESS = ".export.json"


@dataclass
class Store:
    """Knows the folder's finished files and engines, and adds to them."""

    folder: Path
    key: str
    """Digest of all inputs: what was made from others is made again."""
    origin: str = ""
    """Digest of which files and choices the bundle is made from, whatever the files hold."""
    files: dict[str, FileSpec] = field(default_factory=dict)
    engines: dict[str, EngineSpec] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)
    """Files of this run."""

    def keep(self, name: str, digest: str | None = None) -> None:
        """Count a file that was just written, and remember it for a run after an interruption."""
        path = self.folder / name
        self.files[name] = FileSpec(path.stat().st_size, digest or file_digest(path))
        self.made.append(name)
        self._save_progress()

    def has(self, name: str) -> bool:
        """Whether a finished file of the same inputs is there."""
        path = self.folder / name
        return name in self.files and path.is_file() and path.stat().st_size == self.files[name].bytes

    def adopt(self, *, again: bool) -> None:
        """Take over what a run with the same inputs left, unless all is to be made `again`; forget any other bundle."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BundleError(f"cannot make the folder {self.folder}: {error}") from None
        self._forget_others()
        for name in (PROGRESS, MANIFEST):
            record = _read_record(self.folder / name)
            if record.get("key") == self.key and not again:
                self.files = {n: FileSpec(**f) for n, f in record["files"].items()}
                self.engines = {n: EngineSpec(**e) for n, e in record["engines"].items()}
                self.files = {n: f for n, f in self.files.items() if self.has(n)}
                break
        (self.folder / MANIFEST).unlink(missing_ok=True)  # a bundle in the making is no bundle

    def write(self, name: str, data: bytes) -> None:
        """Write a file, whole and on the disk, or not at all, and count it."""
        advice = "; free disk space or give another folder"
        with whole_file(self.folder / name, BundleError, advice=advice, sync=True) as unfinished:
            unfinished.write_bytes(data)
        self.keep(name)

    def add_engine(self, name: str, engine: EngineSpec) -> None:
        """Remember a finished engine."""
        self.engines[name] = engine
        self._save_progress()

    def finish(self, manifest: Manifest) -> None:
        """Make a bundle of the folder."""
        manifest.save(self.folder)
        (self.folder / PROGRESS).unlink(missing_ok=True)

    @contextmanager
    def timed(self, name: str, number: int = 1, of: int = 1) -> Iterator[None]:
        """Log what is being made, as which of how many, and how long it took."""
        start = time.perf_counter()
        logger.info("%s (%d of %d) ...", name, number, of)
        yield
        logger.info("%s  %.1f s", name, time.perf_counter() - start)

    def _save_progress(self) -> None:
        files = {name: vars(spec) for name, spec in self.files.items()}
        engines = {name: dict(vars(engine)) for name, engine in self.engines.items()}
        record = {"key": self.key, "origin": self.origin, "files": files, "engines": engines}
        write_text(self.folder / PROGRESS, json.dumps(record))

    def _forget_others(self) -> None:
        """Remove left-overs of an interruption, and the files of a bundle of other inputs."""
        for unfinished in self.folder.rglob(".*.unfinished*"):
            unfinished.unlink()
        try:
            old = load_manifest(self.folder)
        except BundleError:
            return  # none, or one whose list of files is not to be trusted
        if old.key != self.key:
            for name in old.files:
                (self.folder / name).unlink(missing_ok=True)


def graph_path(dtype: str, stage: str) -> str:
    """Path of a stage's graph in the bundle."""
    return f"onnx/{dtype}/{stage}.onnx"


def _read_record(path: Path) -> dict[str, Any]:
    """A progress file or manifest, or nothing: whatever cannot be read is made again."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        return record if isinstance(record, dict) and isinstance(record.get("files"), dict) else {}
    except (OSError, ValueError):
        return {}
