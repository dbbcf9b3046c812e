"""What a moving camera does to points of the picture: pan, zoom, roll and dolly as 2-D motion. Pure numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ms_infer.errors import ConfigError

NEAREST = 0.05  # share of a point's distance at which a camera that comes closer has passed it
MAX_ZOOM = 100.0

DoubleArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Move:
    """A whole camera move; `apply` runs it from progress 0 to 1. ConfigError on values that cannot be."""

    pan: tuple[float, float] = (0.0, 0.0)
    """How far the content moves, in the units of the coordinates."""
    zoom: float = 1.0
    """Factor by which the content grows."""
    roll: float = 0.0
    """Degrees by which the content turns clockwise."""
    dolly: float = 0.0
    """Distance by which the camera moves forward, in the unit of the depth."""

    def __post_init__(self) -> None:
        if np.shape(self.pan) != (2,) or not np.isfinite(np.asarray(self.pan, np.float64)).all():
            raise ConfigError(f"pan must be (dx, dy), not {self.pan!r}")
        if not (math.isfinite(self.zoom) and 1 / MAX_ZOOM <= self.zoom <= MAX_ZOOM):
            raise ConfigError(f"zoom must be a factor within {1 / MAX_ZOOM:g}..{MAX_ZOOM:g}, not {self.zoom!r}")
        if not (math.isfinite(self.roll) and math.isfinite(self.dolly)):
            raise ConfigError(f"roll and dolly must be finite, not {self.roll!r} and {self.dolly!r}")


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The picture that the camera sees: its coordinates, its shape and, if known, its distances."""

    size: tuple[int, int] | None = None
    """(height, width) of the coordinates in pixels; None: 0..1."""
    aspect: float | None = None
    """width / height; needed for roll with 0..1 coordinates."""
    depth: ArrayLike | None = None
    """[H, W] positive distances over the whole picture, of any resolution; None: 1 everywhere."""

    @property
    def extent(self) -> tuple[float, float]:
        """(width, height) in the units of the coordinates."""
        return (1.0, 1.0) if self.size is None else (float(self.size[1]), float(self.size[0]))

    def stretch(self, roll: float) -> float:
        """Factor that makes one unit of x as long as one of y."""
        if self.size is not None:
            return 1.0
        if self.aspect is None and roll != 0:
            raise ConfigError(
                "roll turns the picture, so its shape must be known: "
                "make the tracks with size=(height, width) or pass aspect=width/height"
            )
        aspect = 1.0 if self.aspect is None else float(self.aspect)
        if not (math.isfinite(aspect) and aspect > 0):
            raise ConfigError(f"aspect must be width / height > 0, not {self.aspect!r}")
        return aspect

    def distances(self, points: DoubleArray) -> DoubleArray:
        """Distance [N] at the points [N, 2] by bilinear sampling (clamped at the border)."""
        if self.depth is None:
            return np.ones(len(points))
        depth = np.asarray(self.depth)
        if depth.ndim != 2 or depth.size == 0 or depth.dtype.kind not in "iuf":
            raise ConfigError(f"depth must be a numeric map [H, W], got shape {list(depth.shape)} of {depth.dtype}")
        if not (np.isfinite(depth).all() and (depth > 0).all()):
            raise ConfigError(
                "depth must hold positive, finite distances; it has zeros, negative values, NaN or infinity"
            )
        return sample(depth.astype(np.float64), points / self.extent)


def sample(values: DoubleArray, points: DoubleArray) -> DoubleArray:
    """Bilinear samples [N] of a map [H, W] at points [N, 2] = (x, y) in 0..1, clamped at the border."""
    height, width = values.shape
    x = np.clip(points[:, 0] * width - 0.5, 0, width - 1)
    y = np.clip(points[:, 1] * height - 0.5, 0, height - 1)
    left, top = np.floor(x).astype(np.int64), np.floor(y).astype(np.int64)
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    upper = values[top, left] + (values[top, right] - values[top, left]) * (x - left)
    lower = values[bottom, left] + (values[bottom, right] - values[bottom, left]) * (x - left)
    return np.asarray(upper + (lower - upper) * (y - top))


def apply(
    move: Move, scene: Scene, points: ArrayLike, first: int, progress: DoubleArray
) -> tuple[DoubleArray, BoolArray]:
    """Points [N, T, 2] after the move and whether each [N, T] is still before the camera.

    p' = centre + u * pan + R(u * roll) * zoom^u * Z / (Z - u * dolly) * (p - centre) with u = progress [T] and Z the
    distance at the point's position in RGB frame `first` (pinhole camera that looks along the centre of the picture).
    """
    before = np.asarray(points, np.float64)
    centre = np.asarray(scene.extent) / 2
    stretch = scene.stretch(move.roll)
    distance = scene.distances(before[:, first])[:, None]
    left = distance - progress[None] * move.dolly
    seen = left >= NEAREST * distance
    grown, cosine, sine = _turned(move, progress)
    scale = grown * distance / np.maximum(left, NEAREST * distance)
    x, y = (before[..., 0] - centre[0]) * stretch * scale, (before[..., 1] - centre[1]) * scale
    turned = np.stack([(x * cosine - y * sine) / stretch, x * sine + y * cosine], -1)
    return centre + turned + progress[None, :, None] * np.asarray(move.pan), seen


def _turned(move: Move, progress: DoubleArray) -> DoubleArray:
    """Zoom, cosine and sine [3, T] at each progress, by the C library: numpy's last bit depends on the machine."""
    angles = [float(angle) for angle in np.deg2rad(move.roll) * progress]
    zooms = [math.pow(move.zoom, float(one)) for one in progress]
    return np.array([zooms, [math.cos(angle) for angle in angles], [math.sin(angle) for angle in angles]])
