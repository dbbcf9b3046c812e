"""The sizes of a model follow from its tensors: presets, layouts, WanTrack's encoder."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from ms_infer.checkpoint import Student, load_student, random_student
from ms_infer.checkpoint.sizes import Sizes, stream_config
from ms_infer.config import PRESETS
from ms_infer.model.transformer import Transformer
from tests.checkpoints import TRACKED, tiny96_config
from tests.diffusers_names import to_diffusers


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_recognised_by_its_shapes(name: str) -> None:
    with torch.device("meta"):
        tensors = Transformer(PRESETS[name].model).state_dict()

    found = stream_config(Sizes.of_tensors(tensors), {}, None)
    assert found == PRESETS[name]
    assert stream_config(Sizes.of_tensors(tensors), {}, name) == PRESETS[name]


@pytest.mark.parametrize(
    ("in_channels", "slots"),
    [(16, "noise"), (48, "noise track image"), (52, "noise mask image track"), (36, "noise mask image")],
)
def test_the_layout_follows_from_the_channels(in_channels: int, slots: str) -> None:
    sizes = dataclasses.replace(Sizes.of_model(tiny96_config().model), in_channels=in_channels)

    assert [slot for slot, _ in stream_config(sizes, {}, None).model.layout] == slots.split()


def test_the_golden_with_48_latent_channels_gets_the_wan_2_2_autoencoder() -> None:
    sizes = dataclasses.replace(Sizes.of_model(tiny96_config().model), in_channels=48, latent_channels=48)

    model = stream_config(sizes, {}, None).model

    assert model.layout == (("noise", 48),)
    assert (model.vae.kind, model.vae.latent_channels, model.image_input) == ("wan2.2", 48, "pin")


TRACKED_SIZES = {"num_attention_heads": 2, "attention_head_dim": 16, "ffn_dim": 48, "num_layers": 2}


def wantrack_tensors(student: Student, *, id_dim: int = 8, bias: bool) -> dict[str, Tensor]:
    tensors = {to_diffusers(name): tensor for name, tensor in student.transformer.state_dict().items()}
    tensors["track_encoder.temporal_conv.weight"] = torch.randn(4, id_dim, 4, 1, 1)
    tensors["track_encoder.proj.weight"] = torch.randn(4, 4, 1, 1, 1)
    if bias:
        tensors["track_encoder.temporal_conv.bias"] = torch.randn(4)
        tensors["track_encoder.proj.bias"] = torch.randn(4)
    return tensors


@pytest.mark.parametrize("bias", [False, True])
def test_wantrack_export_gives_the_same_track_latents_as_its_own_convolutions(tmp_path: Path, bias: bool) -> None:
    torch.manual_seed(0)
    tensors = wantrack_tensors(random_student(TRACKED), bias=bias)
    tensors["blocks.0.attn2.norm_added_q.weight"] = torch.zeros(32)  # diffusers has it, Wan does not use it
    save_file(tensors, tmp_path / "diffusion_pytorch_model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({**TRACKED_SIZES, "track_config": {"max_track_id": 500}}))

    student = load_student(tmp_path, preset=TRACKED)

    head = student.track_head
    assert head is not None
    assert student.source == "FastVideo WanTrack (diffusers names)"
    assert student.unused == ("blocks.0.attn2.norm_added_q.weight",)
    assert student.config.model.track_head is not None
    assert (student.config.model.track_head.bias, student.config.model.track_head.id_range) == (bias, 500)
    points, visible, ids = torch.rand(1, 9, 8, 2) * 64, torch.rand(1, 9, 8) > 0.3, torch.randperm(500)[None, :9]
    volume = head.scatter(points, visible, ids).permute(0, 4, 1, 2, 3)
    expected = F.conv3d(
        volume,
        tensors["track_encoder.temporal_conv.weight"],
        tensors.get("track_encoder.temporal_conv.bias"),
        stride=(4, 1, 1),
    )
    expected = F.conv3d(expected, tensors["track_encoder.proj.weight"], tensors.get("track_encoder.proj.bias"))
    torch.testing.assert_close(
        head(points, visible, ids, opening=False), expected.transpose(1, 2), atol=1e-5, rtol=1e-5
    )


def test_a_wantrack_of_unknown_size_needs_no_preset(tmp_path: Path) -> None:
    tensors = wantrack_tensors(random_student(TRACKED), id_dim=6, bias=False)
    save_file(tensors, tmp_path / "model.safetensors", {"config": json.dumps({"num_attention_heads": 2})})

    config = load_student(tmp_path / "model.safetensors").config

    assert config.model.track_head is not None
    assert (config.model.name, config.model.track_head.id_dim, config.model.track_head.convs) == ("custom", 6, 2)
    assert config.context.first_chunk_frames == 1
