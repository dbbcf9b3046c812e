"""A bundle is made again when, and only when, something changed that went into it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from ms_export.exporter import checkpoint_digest, export_bundle
from ms_export.options import ExportOptions
from ms_export.places import bundle_name, default_folder, origin_of

from ms_infer.bundle.digests import file_digest
from ms_infer.bundle.manifest import load_manifest
from ms_infer.checkpoint import load_student, save_student
from ms_infer.config import ContextConfig
from tests.public_checkpoints import lora, make, tiny_vae, write_shards
from tests.tiny import without_tracks

SOURCES = {
    "checkpoints/Wan2.2-TI2V-5B": "Wan2.2-TI2V-5B",
    "checkpoints/Wan2.1-I2V-14B-480P/": "Wan2.1-I2V-14B-480P",
    "Self-Forcing/checkpoints/self_forcing_dmd.pt": "self_forcing_dmd",
    "CausVid/autoregressive_checkpoint/model.pt": "autoregressive_checkpoint-model",
    "a/diffusion_pytorch_model.safetensors.index.json": "a-diffusion_pytorch_model",
    "Track/transformer": "Track-transformer",
    "LongLive-2/model_bf16.pt": "LongLive-2-model_bf16",
    "hub/models--Wan-AI--Wan2.2-TI2V-5B/snapshots/0123": "Wan2.2-TI2V-5B",
    "hub/models--x--LongLive/snapshots/0123/models/longlive_base.pt": "LongLive-models-longlive_base",
    "wan2.1_t2v_1.3B_fp16.safetensors": "wan2.1_t2v_1.3B_fp16",
    "demo": "demo",
}


@pytest.mark.parametrize("source", SOURCES)
def test_a_bundle_is_named_after_what_tells_its_source(source: str) -> None:
    assert bundle_name(source) == SOURCES[source]


def test_bundles_of_two_sources_never_share_a_folder(tmp_path: Path) -> None:
    context = ContextConfig(chunk_frames=1, sink_frames=1, window_frames=1)
    onnx = ExportOptions(targets=("onnx",))
    files = [tmp_path / folder / "same.safetensors" for folder in ("a", "b")]
    for seed, file in enumerate(files):
        file.parent.mkdir()
        save_student(without_tracks(context=context, seed=seed), file)

    def export(file: Path, options: ExportOptions = onnx) -> Path:
        student = load_student(file)
        folder = default_folder(str(file), origin_of(student, options), tmp_path / "bundles")
        export_bundle(student, checkpoint_digest(student), folder, options)
        return folder

    first, second = (export(file) for file in files)
    smaller = export(files[0], replace(onnx, size="16x16"))

    assert [folder.name for folder in (first, second, smaller)] == ["same", "same-2", "same-3"]
    assert [load_manifest(folder).checkpoint["sha256"] for folder in (first, second)] == list(map(file_digest, files))
    save_student(without_tracks(context=context, seed=5), files[0])
    assert export(files[0]) == first
    assert load_manifest(first).checkpoint["sha256"] == file_digest(files[0])
    load_manifest(second).verify()


@pytest.mark.parametrize("content", ["", "{", "[1]", "{}", '{"checkpoint": 3}'])
def test_a_folder_with_another_manifest_is_left_alone(tmp_path: Path, content: str) -> None:
    (tmp_path / "same").mkdir()
    (tmp_path / "same/manifest.json").write_text(content)

    assert default_folder("same.pt", "0123", tmp_path) == tmp_path / "same-2"


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
