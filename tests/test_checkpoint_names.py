"""Names of weights map both ways, and wrappers' prefixes go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from ms_infer.checkpoint.names import normalised, strip_wrappers, to_original
from ms_infer.errors import CheckpointError
from tests.diffusers_names import to_diffusers

GOLDEN = Path(__file__).parent / "golden"
KEY_MAP = [(o, t) for o, t, _ in json.loads((GOLDEN / "diffusers_key_map.json").read_text())["key_map"]]
IMAGE_KEY_MAP = [(o, t) for o, t, _ in json.loads((GOLDEN / "wan21_i2v_extra_keys.json").read_text())]


@pytest.mark.parametrize(("ours", "theirs"), KEY_MAP + IMAGE_KEY_MAP)
def test_names_map_both_ways(ours: str, theirs: str) -> None:
    assert to_original(theirs) == ours
    assert to_diffusers(ours) == theirs


@pytest.mark.parametrize(
    "name",
    [
        "model.blocks.0.ffn.0.weight",
        "module.model.blocks.0.ffn.0.weight",
        "_orig_mod.blocks.0.ffn.0.weight",
        "model._fsdp_wrapped_module.blocks.0._fsdp_wrapped_module._checkpoint_wrapped_module.ffn.0.weight",
        "model.diffusion_model.blocks.0.ffn.0.weight",
    ],
)
def test_wrapper_prefixes_are_stripped(name: str) -> None:
    assert strip_wrappers(name) == "blocks.0.ffn.0.weight"


def test_names_that_are_original_or_unknown_stay() -> None:
    for name in [*(ours for ours, _ in KEY_MAP), "blocks.0.surprise.weight", "surprise"]:
        assert to_original(name) == name


def test_fused_text_and_image_projections_are_split() -> None:
    stacked = torch.arange(12.0).reshape(4, 3)
    fused = {
        "condition_embedder.time_proj.bias": torch.ones(1),
        "blocks.0.attn2.to_kv.weight": stacked,
        "blocks.0.attn2.to_added_kv.weight": -stacked,
    }

    split = normalised(fused)

    assert torch.equal(split["blocks.0.cross_attn.k.weight"], stacked[:2])
    assert torch.equal(split["blocks.0.cross_attn.v.weight"], stacked[2:])
    assert torch.equal(split["blocks.0.cross_attn.v_img.weight"], -stacked[2:])
    assert len(split) == 5


def test_a_fused_projection_beside_its_parts_is_left_over() -> None:
    names = ["blocks.0.self_attn.to_qkv.weight", "blocks.0.self_attn.q.weight"]

    assert list(normalised({name: torch.ones(3) for name in names})) == names


def test_a_fused_projection_that_cannot_be_split_is_refused() -> None:
    with pytest.raises(CheckpointError, match="expected 3 stacked projections"):
        normalised({"blocks.0.self_attn.to_qkv.weight": torch.ones(4, 2)})
