"""The demo model that comes with the package: its weights, its bundle in the user's cache, its first frames."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from ms_infer.bundle.digests import cached_digest
from ms_infer.environment import cache_folder
from ms_infer.tracks import Tracks
from ms_infer.tracks.tracks import Point


def demo_checkpoint() -> Path:
    """The trained demo checkpoint inside the package."""
    return _demo_folder() / "demo.safetensors"


def demo_bundle() -> Path:
    """Where the demo model's bundle lies in the user's cache: one folder per checkpoint."""
    return cache_folder() / "bundles" / f"demo-{cached_digest(demo_checkpoint())[:12]}"


@dataclass(frozen=True)
class Example:
    """A first frame of the demo with a drag that suits it."""

    image: Path
    prompt: str
    drags: tuple[tuple[Point, Point], ...]
    """From where to where, in 0..1."""
    radius: float
    """Of the things that the drags take along, in 0..1."""

    def moved(self, tracks: Tracks, seconds: float) -> Tracks:
        """Tracks over the first frame, with its drags."""
        for start, end in self.drags:
            tracks = tracks.grab(start, end, seconds=seconds, radius=self.radius)
        return tracks


def demo_examples() -> list[Example]:
    """First frames that come with the demo."""
    folder = _demo_folder()
    examples = []
    for entry in json.loads((folder / "drags.json").read_text())["examples"]:
        drags = tuple((_point(drag["start"]), _point(drag["end"])) for drag in entry["drags"])
        examples.append(Example(folder / entry["image"], entry["prompt"], drags, entry["radius"]))
    return examples


def default_example() -> Example:
    """The example to begin with: the one with the fewest drags."""
    return min(demo_examples(), key=lambda one: len(one.drags))


def _point(place: Sequence[float]) -> Point:
    x, y = place
    return x, y


def _demo_folder() -> Path:
    return Path(str(files("ms_infer"))) / "assets" / "demo"
