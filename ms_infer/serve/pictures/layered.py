"""The thing under a click by a model's own layer network: what it would take along with tracks that begin there."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ms_infer.bundle.digests import cached_digest
from ms_infer.bundle.manifest import load_manifest
from ms_infer.config import StreamConfig
from ms_infer.demo import demo_checkpoint
from ms_infer.serve.pictures.masks import Mask, part_at, spread

if TYPE_CHECKING:
    from ms_infer.model.layers import LayerNetwork

logger = logging.getLogger(__name__)
Points = NDArray[np.float64]

RINGS = 0.05, 0.08  # of the picture: radii of the tracks about a click that follow the thing
AROUND = 8  # tracks on a ring
UNKNOWN = 0.11  # of the picture: so far beyond a ring nobody knows yet what tracks do
GRID = 10  # resting tracks a side, as the page has them
CLEAR = 0.02  # of the picture: tracks so near to a mask that is tried again are left out
SPREAD = 48  # tracks on a mask that is tried again
PREFIX = "layer_network."


def open_layers(source: str, config: StreamConfig) -> LayeredPicker | None:
    """The picker of a source's model; None where it has no layer network, or its weights are not at hand.

    They are read from the checkpoint itself: that of a bundle when it is the demo's.
    """
    settings = config.model.layer_network
    file = _checkpoint(Path(source)) if source != "demo" else demo_checkpoint()
    if settings is None or file is None:
        return None
    try:
        from safetensors import safe_open

        from ms_infer.model.layers import LayerNetwork
    except ImportError:
        logger.info("without PyTorch, things are picked by their colours alone")
        return None
    with safe_open(file, "pt") as stored:
        names = [name for name in stored.keys() if name.startswith(PREFIX)]  # noqa: SIM118  (it is no mapping)
        values = {name.removeprefix(PREFIX): stored.get_tensor(name) for name in names}
    if not values:
        return None
    network = LayerNetwork(settings.widths)
    network.load_state_dict({name: value.float() for name, value in values.items()})
    return LayeredPicker(network)


def _checkpoint(source: Path) -> Path | None:
    """The safetensors file of a source: itself, or the one that a bundle was made from, when that is the demo's."""
    if source.suffix == ".safetensors" and source.is_file():
        return source
    if not (source / "manifest.json").is_file():
        return None
    made_from = load_manifest(source).checkpoint.get("sha256")
    return demo_checkpoint() if made_from == cached_digest(demo_checkpoint()) else None


class LayeredPicker:
    """Proposes masks in one picture after the other; any thread."""

    def __init__(self, network: LayerNetwork) -> None:
        self._network = network.eval().requires_grad_(False)

    def masks(self, picture: NDArray[np.uint8], place: tuple[float, float], tried: Mask | None) -> list[Mask]:
        """What moves with tracks about a place, for every ring, and with tracks upon the mask `tried`.

        picture: uint8 `[H, W, 3]`, H and W multiples of 32; place: in shares of it; the masks are bool `[H, W]`.
        """
        size = np.array(picture.shape[1::-1], np.float64)
        at = np.array(place) * size
        grid = _grid() * size
        rings = [(_ring(at, r * size[1]), _beyond(grid, at, (r + UNKNOWN) * size[1])) for r in RINGS]
        first = self._ask(picture, at, rings)
        again = [mask for mask in (*first, tried) if mask is not None and mask.sum() >= SPREAD]
        return self._ask(picture, at, [(spread(mask, SPREAD), _off(mask, grid, CLEAR * size[1])) for mask in again])

    def _ask(self, picture: NDArray[np.uint8], at: Points, tracks: Sequence[tuple[Points, Points]]) -> list[Mask]:
        """The part at a place of what moves, for every pair of moving and resting tracks `[N, 2]` in pixels."""
        import torch

        if not tracks:
            return []
        count = max(len(moved) + len(rest) for moved, rest in tracks)
        anchors, shares = np.zeros((len(tracks), count, 2)), np.zeros((len(tracks), 1 + 3, count))
        for row, (moved, rest) in enumerate(tracks):
            anchors[row, : len(moved) + len(rest)] = np.concatenate([moved, rest])
            shares[row, 1, : len(moved)] = 1
            shares[row, 0, len(moved) : len(moved) + len(rest)] = 1
        image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            follows, starts = torch.from_numpy(shares).float(), torch.from_numpy(anchors).float()
            found = self._network(image.expand(len(tracks), -1, -1, -1), follows, starts)
        column, row = (min(max(int(p), 0), int(side) - 1) for p, side in zip(at, picture.shape[1::-1], strict=True))
        return [part_at(one, row, column) for one in (found.weights[:, 1] > 0.5).numpy()]


def _grid() -> Points:
    middles = (np.arange(GRID) + 0.5) / GRID
    return np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2)


def _ring(at: Points, radius: float) -> Points:
    """A place and points around it."""
    angles = np.arange(AROUND) * (2 * np.pi / AROUND)
    return np.concatenate([at[None], at + radius * np.stack([np.cos(angles), np.sin(angles)], -1)])


def _beyond(points: Points, at: Points, radius: float) -> Points:
    return points[np.hypot(*(points - at).T) > radius]


def _off(mask: Mask, points: Points, clear: float) -> Points:
    """Points that lie outside of a mask and not near it."""
    import cv2

    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    columns, rows = points.astype(int).T
    return points[away[rows, columns] > clear]
