"""The first frame as the tracks of a chunk move it, by whichever way the model has."""

from __future__ import annotations

from torch import Tensor

from ms_infer.config import ModelConfig
from ms_infer.model.layers import LayerNetwork, move_first_frame
from ms_infer.model.warp import motion_layers, warp_first_frame


def reference_names(model: ModelConfig) -> tuple[str, ...]:
    """What the refiner of the model sees beside the decoded frames, in its order; nothing without a refiner."""
    if model.refiner is None:
        return ()
    return ("moved", "moved_valid") if model.layer_network is not None else ("moved", "moved_valid", "layers")


def move_image(
    model: ModelConfig,
    network: LayerNetwork | None,
    image: Tensor,
    points: Tensor,
    visible: Tensor,
    anchors: Tensor,
) -> dict[str, Tensor]:
    """ "moved" float32 `[B, T, 3, H, W]`, "moved_valid" `[B, T, 1, H, W]` and what else `reference_names` asks for.

    image: float32 `[B, 3, H, W]` in [0, 1]; the tracks as in `warp_first_frame`.
    """
    if network is not None:
        moved, valid = move_first_frame(network, image, points, visible, anchors)
    else:
        moved, valid = warp_first_frame(image, points, visible, anchors)
    found = {"moved": moved, "moved_valid": valid}
    if "layers" in reference_names(model):
        found["layers"] = motion_layers(image, points, visible, anchors)
    return found
