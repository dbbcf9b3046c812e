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
from ms_infer.serve.pictures.masks import Mask, Place, parts_at, pixel_at, spread

if TYPE_CHECKING:
    from ms_infer.model.layers import LayerNetwork

logger = logging.getLogger(__name__)
Points = NDArray[np.float64]

RINGS = 0.05, 0.08  # of the picture: radii of the tracks about a click that follow the thing
AROUND = 8  # tracks on a ring
APART = 0.04  # of the picture: tracks so near to a place that is left out do not follow the thing
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
    network = LayerNetwork(settings.widths, settings.painter)
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

    def masks(
        self, picture: NDArray[np.uint8], add: Sequence[Place], omit: Sequence[Place], tried: Mask | None
    ) -> list[Mask]:
        """What moves with tracks about `add[0]` and at the further places, for every ring, and upon the mask `tried`.

        picture: uint8 `[H, W, 3]`, H and W multiples of 32; at `omit` tracks rest; the masks are bool `[H, W]`.
        """
        size = np.array(picture.shape[1::-1], np.float64)
        at, left_out = _pixels(add, size), _pixels(omit, size)
        grid, unknown = _grid() * size, UNKNOWN * size[1]

        def asked(moved: Points, rest: Points) -> tuple[Points, Points]:
            return _beyond(moved, left_out, APART * size[1]), np.concatenate([rest, left_out])

        around = _beyond(grid, at[1:], unknown)
        first = self._ask(
            picture,
            add,
            [
                asked(np.concatenate([_ring(at[0], reach), at[1:]]), _beyond(around, at[:1], reach + unknown))
                for reach in np.array(RINGS) * size[1]
            ],
        )
        again = [mask for mask in (*first, tried) if mask is not None and mask.sum() >= SPREAD]
        off = [asked(spread(mask, SPREAD), _off(mask, grid, CLEAR * size[1])) for mask in again]
        return self._ask(picture, add, off)

    def _ask(
        self, picture: NDArray[np.uint8], add: Sequence[Place], tracks: Sequence[tuple[Points, Points]]
    ) -> list[Mask]:
        """The parts at places of what moves, for every pair of moving and resting tracks `[N, 2]` in pixels."""
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
            # One look a proposal: many of them are compared anyway.
            weights = self._network.logits(image.expand(len(tracks), -1, -1, -1), follows, starts).softmax(1)
        pixels = [pixel_at(place, *picture.shape[:2]) for place in add]
        return [parts_at(one, pixels) for one in (weights[:, 1] > 0.5).numpy()]


def _grid() -> Points:
    middles = (np.arange(GRID) + 0.5) / GRID
    return np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2)


def _ring(at: Points, radius: float) -> Points:
    """A place and points around it."""
    angles = np.arange(AROUND) * (2 * np.pi / AROUND)
    return np.concatenate([at[None], at + radius * np.stack([np.cos(angles), np.sin(angles)], -1)])


def _pixels(places: Sequence[Place], size: Points) -> Points:
    return np.array(places, np.float64).reshape(-1, 2) * size


def _beyond(points: Points, places: Points, radius: float) -> Points:
    """Points `[N, 2]` that are farther than a radius from all places `[M, 2]`."""
    return points[(np.hypot(*(points[:, None] - places).transpose(2, 0, 1)) > radius).all(1)]


def _off(mask: Mask, points: Points, clear: float) -> Points:
    """Points that lie outside of a mask and not near it."""
    import cv2

    away = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, 3)
    columns, rows = points.astype(int).T
    return points[away[rows, columns] > clear]
