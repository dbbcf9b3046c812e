"""Where a bundle goes without -o: a readable name under `bundles/` that no other export uses."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from pathlib import Path

from ms_export.options import ExportOptions
from ms_export.store import PROGRESS
from ms_infer.bundle.manifest import MANIFEST
from ms_infer.checkpoint import Student

_SUFFIXES = re.compile(r"(\.safetensors\.index\.json|\.safetensors|\.pth|\.pt|\.bin|\.ckpt)$")
_COMMON = re.compile(
    r"(diffusion_pytorch_)?model([_-].*)?|transformer|checkpoints?|generator|pytorch_model", re.IGNORECASE
)
"""Names that many checkpoints have: the folder's name is put before them."""


def origin_of(student: Student, options: ExportOptions) -> str:
    """Digest of what a bundle was made from: which files, not what they hold, and the choices that shape it."""
    files = [str(file.resolve()) for file in student.files] or [student.source]
    parts = [*files, *student.choices, str(options.size), str(options.context)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def default_folder(source: str, origin: str, bundles: Path = Path("bundles")) -> Path:
    """The folder for a source: the one of an earlier export with this origin, else the first that no other has."""
    name = bundle_name(source)
    for count in itertools.count(1):
        folder = bundles / (name if count == 1 else f"{name}-{count}")
        if _origin_in(folder) in (None, origin):
            return folder
    raise AssertionError("there are always more numbers")


def bundle_name(source: str) -> str:
    """A readable name: that of the file or folder, of the repository in a hub cache, or with the folder's before it."""
    path = Path(source).absolute()
    for part in (path, *path.parents):
        if part.parent.name == "snapshots" and part.parent.parent.name.startswith("models--"):
            inner = [_SUFFIXES.sub("", name) for name in path.relative_to(part).parts]
            return "-".join([part.parent.parent.name.split("--")[-1], *inner])
    name = _SUFFIXES.sub("", path.name)
    return f"{bundle_name(str(path.parent))}-{name}" if _COMMON.fullmatch(name) and path.parent.name else name


def _origin_in(folder: Path) -> str | None:
    """The origin of the bundle in a folder, "" where it does not say; None where there is none."""
    for name in (MANIFEST, PROGRESS):
        try:
            record = json.loads((folder / name).read_text(encoding="utf-8"))
            return str(record.get("checkpoint", record).get("origin", ""))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, AttributeError):
            return ""
    return None
