"""The demo model that comes with the package: its weights, its bundle in the user's cache, its first frames."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ms_infer.bundle.digests import cached_digest
from ms_infer.config import preset
from ms_infer.environment import cache_folder


def demo_checkpoint() -> Path | None:
    """The trained demo checkpoint inside the package, where there is one."""
    path = _demo_folder() / "demo.safetensors"
    return path if path.is_file() else None


def demo_bundle() -> Path:
    """Where the demo model's bundle lies in the user's cache: one folder per checkpoint (or settings, without one)."""
    checkpoint = demo_checkpoint()
    if checkpoint is not None:
        return cache_folder() / "bundles" / f"demo-{cached_digest(checkpoint)[:12]}"
    settings = json.dumps(preset("demo").to_dict(), sort_keys=True)
    return cache_folder() / "bundles" / f"demo-random-{hashlib.sha256(settings.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Example:
    """A first frame of the demo with a drag that suits it."""

    image: Path
    prompt: str
    drags: tuple[str, ...]
    """x0,y0:x1,y1 in 0..1."""
    radius: float
    """Of the things that the drags take along, in 0..1."""


def demo_examples() -> list[Example]:
    """First frames that come with the demo; empty where they are absent."""
    folder = _demo_folder()
    path = folder / "drags.json"
    if not path.is_file():
        return []
    document = json.loads(path.read_text())
    height, width = document["size"]
    examples = []
    for entry in document["examples"]:
        ends = [(*drag["start"], *drag["end"]) for drag in entry["drags"]]
        drags = tuple(f"{x0 / width:g},{y0 / height:g}:{x1 / width:g},{y1 / height:g}" for x0, y0, x1, y1 in ends)
        radius = max(drag["radius"] for drag in entry["drags"]) / width
        examples.append(Example(folder / entry["image"], entry["prompt"], drags, radius))
    return examples


def _demo_folder() -> Path:
    return Path(str(files("ms_infer"))) / "assets" / "demo"
