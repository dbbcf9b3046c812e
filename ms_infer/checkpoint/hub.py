"""Repositories of the Hugging Face hub: what of them is on this machine, and, when asked for, fetching the rest."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ms_infer.environment import hub_folder
from ms_infer.errors import CheckpointError, MissingExtraError

_ID = re.compile(r"[\w.-]+/[\w.-]+")


def is_hub_id(source: str) -> bool:
    """Whether a source that is no path may be OWNER/NAME on the hub."""
    return _ID.fullmatch(source) is not None and not source.startswith(".")


def snapshot(source: str | Path) -> Path | None:
    """The newest local snapshot of OWNER/NAME, or of a `models--OWNER--NAME` folder; None where there is none."""
    folder = Path(source)
    if not folder.is_dir():
        folder = hub_folder() / f"models--{str(source).replace('/', '--')}"
    main = folder / "refs" / "main"
    if main.is_file() and (named := folder / "snapshots" / main.read_text().strip()).is_dir():
        return named
    found = sorted((folder / "snapshots").glob("*"), key=lambda one: one.stat().st_mtime)
    return found[-1] if found else None


def fetch(repository: str, patterns: Sequence[str]) -> Path:
    """Download the files of a repository that match, into the hub's cache; CheckpointError when that fails."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise MissingExtraError("downloads need huggingface_hub: pip install huggingface_hub") from None
    try:
        return Path(snapshot_download(repository, allow_patterns=list(patterns)))
    except Exception as error:  # the client raises its own, requests' and OSError's
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise CheckpointError(f"{repository} could not be downloaded ({reason})") from None
