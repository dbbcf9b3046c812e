"""Digests of files; a file that is as it was when it was hashed last is not read again."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from ms_infer.environment import cache_folder
from ms_infer.errors import BundleError, ConfigError
from ms_infer.files import write_text


def file_digest(path: Path) -> str:
    """sha256 of a file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error}") from None


def cached_digest(path: Path) -> str:
    """sha256 of a file, from the user's cache where the file is as it was when it was hashed last."""
    stamp = _stamp(path)
    known = _known_digest(path, stamp)
    if known is not None:
        return known
    digest = file_digest(path)
    _remember_digest(path, stamp, digest)
    return digest


def _stamp(path: Path) -> list[int]:
    """What changes when a file does; the change time cannot be set by a program."""
    try:
        status = path.stat()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error}") from None
    return [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]


def _stamp_file(path: Path) -> Path:
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return cache_folder() / "verified" / f"{name}.json"


def _known_digest(path: Path, stamp: list[int]) -> str | None:
    """Digest of the last good hash, if the file is as it was then."""
    try:
        known = json.loads(_stamp_file(path).read_text(encoding="utf-8"))
        return str(known["sha256"]) if known["stamp"] == stamp else None
    except (OSError, ValueError, KeyError, TypeError):  # ConfigError, without a home folder, is a ValueError
        return None  # never hashed here, or the cache was cleared


def _remember_digest(path: Path, stamp: list[int], digest: str) -> None:
    try:
        file = _stamp_file(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps({"stamp": stamp, "sha256": digest}))
    except (OSError, BundleError, ConfigError):
        return  # a read-only home only means that the next start hashes again
