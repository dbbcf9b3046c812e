"""The layer network as a stage of its own: it may be rounded, and the picture at rest stays what it is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ms_export.modules import build_stage
from ms_export.stimulus import example_image, example_player

from ms_infer.engines.base import Array, plan_chunk
from ms_infer.engines.runner import track_stages
from ms_infer.engines.staged import StagedEngine
from ms_infer.model.layers import layers_of
from tests.engines.conftest import Made, opened

pytest.importorskip("openvino", reason="no OpenVINO")

Make = Callable[..., Made]
INDEX = 2
"""Of a chunk in the middle of the example's drag."""


def run_layers(engine: StagedEngine, *, rests: bool) -> dict[str, Array]:
    """All that the stages from points to the moved first frame read and give, in a chunk of the demo's own drag."""
    config, runner = engine.config, engine.runner
    engine.reset()
    engine.set_image(example_image(config.height, config.width))
    tracks = plan_chunk(config, INDEX, example_player(config), 0).tracks
    assert tracks is not None, "the student has a track head"
    for name in ("points", "visible", "ids", "anchors"):
        runner.array("points", name)[0] = getattr(tracks, name)
    if rests:
        runner.array("points", "points")[0] = tracks.anchors[:, None]
    found = {}
    for stage in track_stages(False)[:-1]:
        runner.run(stage)
        found |= {tensor.name: runner.array(stage, tensor.name).copy() for tensor in runner.specs[stage].tensors}
    return found


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino fp32", "openvino bf16"])
def test_a_picture_at_rest_is_the_first_frame_to_the_byte(made: Make, engine: str) -> None:
    found = run_layers(opened(made("tracks")[1], engine), rests=True)
    image, moved = (np.round(255 * found[key]) for key in ("image", "moved"))
    np.testing.assert_array_equal(moved, np.broadcast_to(image[:, None], moved.shape))


def test_rounded_layers_are_near_those_of_pytorch(made: Make) -> None:
    student, manifest = made("tracks")
    found = run_layers(opened(manifest, "openvino bf16"), rests=False)
    spec = manifest.stages["fp32"]["layers"]
    stage = build_stage(spec, student, torch.float32)
    with torch.no_grad():
        logits, paint = stage(*(torch.from_numpy(found[tensor.name]) for tensor in spec.inputs))
    image, made_logits, made_paint = (torch.from_numpy(found[key]) for key in ("image", "layer_logits", "paint"))
    expected, rounded = layers_of(image, logits, paint), layers_of(image, made_logits, made_paint)
    assert not torch.equal(made_logits, logits), "the stage runs in the model's type"
    assert (rounded.weights - expected.weights).abs().max() < 0.02
    assert (rounded.backdrop - expected.backdrop).abs().mean() < 0.01
    assert np.abs(found["moved"] - found["image"][:, None]).max() > 0.1, "something moves"
