"""What `ms-stream --tour` shows: a thing dragged on a path, the camera moved, a photograph's main thing dragged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ms_infer.demo import Example
    from ms_infer.tracks import Tracks

SECONDS = 6.0
MOVING = 0.85  # of a scene; then it rests
ARCH = ((0.47, 0.5), (0.22, 0.82))  # where the ball goes, in 0..1
PAN, ZOOM = (-0.08, 0.02), 1.12


@dataclass(frozen=True)
class TourScene:
    """One part of the tour."""

    words: str
    """What is to be seen."""
    example: Example
    tracks: Tracks


def tour_scenes(grid: Tracks, seconds: float) -> list[TourScene]:
    """The scenes, each `seconds` long; `grid`: points over a whole picture, in 0..1."""
    from ms_infer.demo import demo_examples

    examples = {example.image.stem: example for example in demo_examples()}
    moves: dict[str, tuple[str, Callable[[Example, Tracks, float], Tracks]]] = {
        "football": ("a ball is dragged on a path", _on_a_path),
        "kite": ("the camera moves", lambda _, points, time: points.camera(pan=PAN, zoom=ZOOM, seconds=time)),
        "coffee": ("a photograph: its cup is dragged", lambda example, points, time: example.moved(points, time)),
    }
    return [
        TourScene(words, examples[name], move(examples[name], grid, MOVING * seconds))
        for name, (words, move) in moves.items()
    ]


def _on_a_path(example: Example, points: Tracks, seconds: float) -> Tracks:
    """From the start of the example's drag over the corners of ARCH."""
    place, part = example.drags[0][0], seconds / len(ARCH)
    for number, corner in enumerate(ARCH):
        points = points.grab(place, corner, radius=example.radius, seconds=part, start=number * part)
        place = corner
    return points
