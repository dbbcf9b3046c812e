"""A bundle is made again when, and only when, something changed that went into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from ms_export.exporter import checkpoint_digest

from ms_infer.checkpoint import load_student
from tests.public_checkpoints import lora, make, tiny_vae, write_shards


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MS_INFER_CACHE", str(tmp_path / "cache"))


def test_replaced_shards_make_the_bundle_again(tmp_path: Path) -> None:
    made = make("wan2.2-5b", tmp_path)
    index = made.root / "diffusion_pytorch_model.safetensors.index.json"
    before = checkpoint_digest(load_student(index))
    tensors = {name: tensor + 1 for name, tensor in made.weights().items()}
    write_shards(made.root, tensors, 2)

    assert checkpoint_digest(load_student(index)) != before
    assert checkpoint_digest(load_student(made.root)) == checkpoint_digest(load_student(index))


@pytest.mark.parametrize("stray", ["README.md", ".DS_Store", "notes/other.safetensors"])
def test_files_that_are_not_read_do_not_make_a_bundle_again(tmp_path: Path, stray: str) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    before = checkpoint_digest(load_student(made.student))
    (made.root / stray).parent.mkdir(exist_ok=True)
    (made.root / stray).write_bytes(b"anything")

    assert checkpoint_digest(load_student(made.student)) == before


def test_everything_that_is_read_or_chosen_is_in_the_digest(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    adapter = lora(made, tmp_path / "adapter", "peft")
    tiny = tiny_vae(tmp_path / "taew2_1.pth")

    def digest(**given: Any) -> str:
        return checkpoint_digest(load_student(made.student, **given))

    seen = [digest(), digest(vae=made.vae), digest(vae=tiny), digest(lora=adapter), digest(lora=adapter, lora_alpha=2)]
    seen.append(digest(dtype=torch.float32))
    described = adapter / "adapter_config.json"
    described.write_text(described.read_text().replace('"lora_alpha": 8.0', '"lora_alpha": 9.0'))
    seen.append(digest(lora=adapter))
    assert len(set(seen)) == len(seen)
