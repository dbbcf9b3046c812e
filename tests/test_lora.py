"""A LoRA adapter merges as peft merges it, and one that does not fit is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ms_infer.checkpoint import load_student
from ms_infer.checkpoint.lora import merge_lora, read_lora
from ms_infer.errors import CheckpointError
from tests.diffusers_names import to_diffusers

GOLDEN = Path(__file__).parent / "golden"
TINY96 = GOLDEN / "weights_tiny96.safetensors"
CASE = load_file(GOLDEN / "lora_merge.safetensors")
META = json.loads((GOLDEN / "lora_merge.json").read_text())
ADAPTER = {name.removeprefix("lora."): tensor for name, tensor in CASE.items() if name.startswith("lora.")}
MERGED = {name.removeprefix("merged."): tensor for name, tensor in CASE.items() if name.startswith("merged.")}
DOWN = "base_model.model.blocks.0.ffn.0.lora_A.weight"
UP = "base_model.model.blocks.0.ffn.0.lora_B.weight"


def weights() -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in load_file(TINY96).items()}


def write(folder: Path, content: Any) -> Path:
    torch.save(content, folder / "lora.pt")
    return folder / "lora.pt"


@pytest.mark.parametrize("wrapped", [True, False])
def test_merge_reproduces_peft(tmp_path: Path, wrapped: bool) -> None:
    content = {"generator_lora": ADAPTER, "critic_lora": {}} if wrapped else ADAPTER

    merged = merge_lora(weights(), read_lora(write(tmp_path, content)), alpha=META["alpha"], rank=META["rank"])

    assert len(MERGED) == 3
    for name, expected in MERGED.items():
        torch.testing.assert_close(merged[name], expected, atol=1e-6, rtol=0)


def test_weights_that_the_adapter_does_not_name_are_passed_on_uncopied(tmp_path: Path) -> None:
    before = weights()

    merged = merge_lora(before, read_lora(write(tmp_path, ADAPTER)), alpha=8)

    changed = {name for name in before if merged[name] is not before[name]}
    assert len(changed) == 30
    assert torch.equal(before["blocks.0.self_attn.q.weight"], weights()["blocks.0.self_attn.q.weight"])


def test_load_student_merges_a_longlive_pair(tmp_path: Path) -> None:
    torch.save({"generator": {f"model.{name}": tensor for name, tensor in weights().items()}}, tmp_path / "base.pt")
    adapter = write(tmp_path, {"generator_lora": ADAPTER})

    student = load_student(
        tmp_path / "base.pt", preset=load_student(TINY96).config, lora=adapter, lora_alpha=8, lora_rank=4
    )

    for name, expected in MERGED.items():
        torch.testing.assert_close(student.transformer.state_dict()[name], expected, atol=1e-6, rtol=0)


def test_bfloat16_weights_merge_without_rounding_into_float32(tmp_path: Path) -> None:
    student = load_student(TINY96, lora=write(tmp_path, ADAPTER), lora_alpha=8, dtype=torch.float32)

    for name, expected in MERGED.items():
        torch.testing.assert_close(student.transformer.state_dict()[name], expected, atol=1e-6, rtol=0)


def test_a_peft_folder_states_its_alpha(tmp_path: Path) -> None:
    renamed = {name.replace(".weight", ".default.weight"): tensor for name, tensor in ADAPTER.items()}
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8}))

    merged = merge_lora(weights(), read_lora(tmp_path))

    for name, expected in MERGED.items():
        torch.testing.assert_close(merged[name], expected, atol=1e-6, rtol=0)


def test_a_diffusers_adapter_with_its_own_alphas_merges(tmp_path: Path) -> None:
    adapter: dict[str, Tensor] = {}
    for name, tensor in ADAPTER.items():
        module, factor = name.removeprefix("base_model.model.").split(".lora_")
        renamed = to_diffusers(module)
        adapter[f"transformer.{renamed}.lora_{'down' if factor[0] == 'A' else 'up'}.weight"] = tensor
        adapter[f"transformer.{renamed}.alpha"] = torch.tensor(8.0)
    save_file(adapter, tmp_path / "lora.safetensors")

    merged = merge_lora(weights(), read_lora(tmp_path / "lora.safetensors"))

    for name, expected in MERGED.items():
        torch.testing.assert_close(merged[name], expected, atol=1e-6, rtol=0)


def without(name: str) -> dict[str, Tensor]:
    return {key: tensor for key, tensor in ADAPTER.items() if key != name}


BROKEN = {
    "does not state its alpha": (ADAPTER, {}),
    "has rank 4, not 256": (ADAPTER, {"rank": 256, "alpha": 256}),
    "only one of the two LoRA factors of blocks.0.ffn.0": (without(UP), {"alpha": 8}),
    "has the ranks 3 and 4": ({**ADAPTER, DOWN: torch.ones(3, 96)}, {"alpha": 8}),
    "does not fit the weight": ({**ADAPTER, DOWN: torch.ones(4, 95)}, {"alpha": 8}),
    "NaN or infinite": ({**ADAPTER, DOWN: torch.full((4, 96), torch.nan)}, {"alpha": 8}),
    "no LoRA factors: blocks.0.ffn.0.magnitude": ({**ADAPTER, "blocks.0.ffn.0.magnitude": torch.ones(4)}, {"alpha": 8}),
    "changes what the model has not: blocks.9.cross_attn.k": (
        {name.replace("blocks.2.", "blocks.9."): tensor for name, tensor in ADAPTER.items()},
        {"alpha": 8},
    ),
    "alpha is nan": (ADAPTER, {"alpha": float("nan")}),
}


@pytest.mark.parametrize("message", BROKEN)
def test_an_adapter_that_does_not_fit_is_refused(tmp_path: Path, message: str) -> None:
    content, given = BROKEN[message]

    with pytest.raises(CheckpointError, match=message):
        merge_lora(weights(), read_lora(write(tmp_path, content)), **given)


def test_variants_of_lora_are_refused_by_name(tmp_path: Path) -> None:
    save_file(ADAPTER, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 8, "use_dora": True}))

    with pytest.raises(CheckpointError, match="use_dora"):
        read_lora(tmp_path)


def test_an_adapter_is_no_base_model(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="give this as lora="):
        load_student(write(tmp_path, ADAPTER))
