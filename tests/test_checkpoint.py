"""Every checkpoint format opens to the same weights, and our own format keeps everything."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ms_infer.checkpoint import Student, load_student, random_student, save_student
from ms_infer.config import VaeConfig
from ms_infer.errors import CheckpointError
from ms_infer.model.autoencoders import build_vae
from ms_infer.model.taehv import TinyVae
from tests.checkpoints import GOLDEN, TINY96, TRACKED, tiny96, tiny96_config, write_shards
from tests.diffusers_names import to_diffusers

DIFFUSERS96 = json.loads((GOLDEN / "weights_tiny96_diffusers.json").read_text())
"""Name in diffusers -> original name, for each of tiny96's weights."""
BIDIRECTIONAL = json.loads((GOLDEN / "diffusers_key_map.json").read_text())


def assert_holds(student: Student, expected: dict[str, Tensor]) -> None:
    state = student.transformer.state_dict()
    assert state.keys() == expected.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, expected[name]), name


def test_tiny96_loads_strictly_with_the_sizes_of_its_metadata() -> None:
    student = load_student(TINY96)

    assert_holds(student, tiny96())
    model = student.config.model
    assert (model.heads, model.layers, model.text.tokens, model.layout) == (3, 3, 32, (("noise", 16),))
    assert model.image_input == "prefill"
    assert student.source == "Wan (original names)"
    assert student.missing == ("vae",)
    assert student.unused == ()


@pytest.mark.parametrize("inside", ["transformer", "."])
def test_a_diffusers_folder_holds_the_same_weights_as_the_original_names(tmp_path: Path, inside: str) -> None:
    folder = tmp_path / inside
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(BIDIRECTIONAL["diffusers_config"]))
    renamed = {name: tiny96()[original] for name, original in DIFFUSERS96.items()}
    save_file(renamed, folder / "diffusion_pytorch_model.safetensors")

    student = load_student(tmp_path)

    assert_holds(student, tiny96())
    assert student.source == "diffusers WanTransformer3DModel"
    assert student.config.model.heads == 3


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def fsdp_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"model._fsdp_wrapped_module.{n.replace('blocks.1.', 'blocks.1._checkpoint_wrapped_module.')}": t
            for n, t in tensors.items()}  # fmt: skip


def zeros(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def self_forcing(weights: dict[str, Tensor]) -> dict[str, Any]:
    return {"generator": prefixed("model.", zeros(weights)), "generator_ema": prefixed("model.", weights)}


def raw_trainer(weights: dict[str, Tensor]) -> dict[str, Any]:
    return {"generator_ema": fsdp_names(weights), "generator": {}, "critic": prefixed("model.", zeros(weights))}


def longlive_2(weights: dict[str, Tensor]) -> dict[str, Any]:
    return {
        "generator": prefixed("model.", weights),
        "checkpoint_format": "longlive_generator_merged_lora",
        "merged_lora": True,
        "dtype": "bfloat16",
    }


PICKLED = {
    "Self-Forcing (generator_ema)": self_forcing,
    "Self-Forcing (generator_ema) ": raw_trainer,
    "Self-Forcing, LongLive or CausVid (generator)": lambda w: {"generator": prefixed("model.", w)},
    "LongLive 2 (merged LoRA)": longlive_2,
    "Wan (original names)": lambda w: w,
    "Wan (original names) ": lambda w: {"state_dict": prefixed("module.", w)},
    "Wan (original names)  ": lambda w: {"model": {"state_dict": prefixed("_orig_mod.", w)}},
}


@pytest.mark.parametrize("source", PICKLED)
def test_pickled_wrappers_open_to_the_same_weights(tmp_path: Path, source: str) -> None:
    torch.save(PICKLED[source](tiny96()), tmp_path / "model.pt")

    student = load_student(tmp_path / "model.pt", preset=tiny96_config())

    assert_holds(student, tiny96())
    assert student.source == source.strip()


def test_what_stands_beside_the_chosen_weights_is_listed_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    content = raw_trainer({**tiny96(), "blocks.0.extra": torch.ones(2)})
    torch.save(content, tmp_path / "model.pt")

    with caplog.at_level(logging.WARNING, "ms_infer"):
        student = load_student(tmp_path / "model.pt", preset=tiny96_config())

    assert set(student.unused) == {"critic.*", "blocks.0.extra"}
    assert "blocks.0.extra" in caplog.text


def test_an_old_pickle_without_zip_container_opens(tmp_path: Path) -> None:
    torch.save({"generator": tiny96()}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)

    assert_holds(load_student(tmp_path / "old.pth", preset=tiny96_config()), tiny96())


@pytest.mark.parametrize("diffusers", [False, True])
def test_fused_projections_are_split(tmp_path: Path, diffusers: bool) -> None:
    weights = tiny96()
    for block in range(3):
        for leaf in ("weight", "bias"):
            names = [f"blocks.{block}.self_attn.{part}.{leaf}" for part in "qkv"]
            weights[f"blocks.{block}.self_attn.to_qkv.{leaf}"] = torch.cat([weights.pop(name) for name in names])
    rename = to_diffusers if diffusers else lambda name: "model." + name
    save_file({rename(name): tensor for name, tensor in weights.items()}, tmp_path / "krea.safetensors")

    student = load_student(tmp_path / "krea.safetensors", preset=tiny96_config())

    assert_holds(student, tiny96())
    assert student.source.startswith("fused projections")


@pytest.mark.parametrize("give_folder", [True, False])
def test_shards_open_through_their_index(tmp_path: Path, give_folder: bool) -> None:
    index = write_shards(tmp_path, tiny96())

    assert_holds(load_student(tmp_path if give_folder else index), tiny96())


def test_our_own_format_keeps_settings_and_every_part(tmp_path: Path) -> None:
    student = random_student(TRACKED, seed=5)

    save_student(student, tmp_path / "student.safetensors")
    loaded = load_student(tmp_path / "student.safetensors")

    assert (loaded.config, loaded.source) == (TRACKED, "ms_infer.student/1")
    assert loaded.missing == loaded.unused == ()
    for part in ("transformer", "track_head", "text_encoder", "vae"):
        before, after = getattr(student, part).state_dict(), getattr(loaded, part).state_dict()
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before), part


def test_a_student_without_a_part_says_so(tmp_path: Path) -> None:
    student = random_student(TRACKED)
    save_student(dataclasses.replace(student, vae=None, track_head=None), tmp_path / "student.safetensors")

    loaded = load_student(tmp_path / "student.safetensors")

    assert loaded.missing == ("track_head", "vae")
    assert loaded.vae is None


def test_a_saved_student_can_be_saved_over_itself_in_another_dtype(tmp_path: Path) -> None:
    path = tmp_path / "student.safetensors"
    save_student(random_student(TRACKED), path)

    save_student(load_student(path), path, dtype=torch.bfloat16)

    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.bfloat16}
    assert [file.name for file in tmp_path.iterdir()] == ["student.safetensors"]


def test_loaded_modules_are_in_eval_mode_without_gradients() -> None:
    student = load_student(TINY96)

    assert not student.transformer.training
    assert not any(parameter.requires_grad for parameter in student.transformer.parameters())


def mapped_ranges(path: Path) -> list[range]:
    """Addresses of this process at which a file is mapped."""
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(path))]
    return [range(*(int(address, 16) for address in line[0].split("-"))) for line in lines]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux's list of mapped files")
@pytest.mark.parametrize("name", ["model.safetensors", "model.pt"])
def test_weights_are_mapped_from_the_file_and_not_copied(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    (save_file if path.suffix == ".safetensors" else torch.save)(tiny96(), path)

    student = load_student(path, preset=tiny96_config())

    ranges = mapped_ranges(path)
    for parameter in student.transformer.parameters():
        assert any(parameter.data_ptr() in addresses for addresses in ranges)


def test_dtype_none_keeps_that_of_every_tensor(tmp_path: Path) -> None:
    weights = tiny96()
    weights["blocks.0.modulation"] = weights["blocks.0.modulation"].double()
    torch.save(weights, tmp_path / "model.pt")

    kept = load_student(tmp_path / "model.pt", preset=tiny96_config()).transformer.state_dict()
    cast = load_student(tmp_path / "model.pt", preset=tiny96_config(), dtype=torch.float64).transformer

    assert {name: tensor.dtype for name, tensor in kept.items()} == {n: t.dtype for n, t in weights.items()}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in kept.items())
    assert {p.dtype for p in cast.parameters()} == {torch.float64}


def test_random_weights_depend_on_the_seed_and_not_on_the_dtype() -> None:
    first, again, other = (random_student(TRACKED, seed=seed).transformer for seed in (1, 1, 2))
    half = random_student(TRACKED, seed=1, dtype=torch.bfloat16).transformer

    assert torch.equal(first.head.head.weight, again.head.head.weight)
    assert not torch.equal(first.head.head.weight, other.head.head.weight)
    assert torch.equal(first.head.head.weight.bfloat16(), half.head.head.weight)
    assert first.blocks[0].ffn[0].weight.std().item() == pytest.approx(32**-0.5, rel=0.1)


def test_the_autoencoder_of_another_file_is_added(tmp_path: Path) -> None:
    config = VaeConfig(latent_channels=16, decoder_widths=(12, 8, 8, 8), encoder_width=8, blocks=1)
    vae = TinyVae(config)
    tensors = vae.state_dict()
    grow = next(name for name in tensors if name.endswith("conv.weight") and tensors[name].shape[:2] == (12, 12))
    older = {**tensors, grow: torch.cat([torch.zeros_like(tensors[grow]), tensors[grow]])}  # bigger, as old files have
    torch.save(older, tmp_path / "tiny.pth")

    student = load_student(TINY96, vae=tmp_path / "tiny.pth")

    assert student.vae is not None
    assert student.missing == ()
    assert student.config.model.vae == config
    assert torch.equal(student.vae.state_dict()[grow], tensors[grow])


def test_a_wan_autoencoder_file_is_added_with_its_constants(tmp_path: Path) -> None:
    config = VaeConfig(kind="wan2.1", base_dim=8)
    torch.save(build_vae(config).state_dict(), tmp_path / "Wan2.1_VAE.pth")

    vae = load_student(TINY96, vae=tmp_path / "Wan2.1_VAE.pth", dtype=torch.bfloat16).vae

    assert vae is not None
    assert vae.config == config
    constants = dict(build_vae(config).named_buffers())
    assert constants.keys() == {"scale.mean", "scale.std"}
    for name, buffer in vae.bfloat16().named_buffers():
        assert buffer.dtype == torch.float32
        assert torch.equal(buffer, constants[name])


def test_an_autoencoder_with_other_latents_is_refused(tmp_path: Path) -> None:
    torch.save(TinyVae(TRACKED.model.vae).state_dict(), tmp_path / "tiny.pth")

    with pytest.raises(CheckpointError, match="4 latent channels, the model has 16"):
        load_student(TINY96, vae=tmp_path / "tiny.pth")
