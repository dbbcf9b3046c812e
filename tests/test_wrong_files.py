"""One wrong thing in a publisher's folder gives one line that names it."""

from __future__ import annotations

import dataclasses
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ms_infer import ConfigError, Stream
from ms_infer.checkpoint import load_student, random_student, save_student
from ms_infer.errors import CheckpointError
from tests.checkpoints import TRACKED
from tests.public_checkpoints import FORMATS, Published, fp8_scaled, lfs_pointer, lora, make, tiny_vae, truncate


def refused(*arguments: object, **options: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_student(*arguments, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


WHOLE = sorted(set(FORMATS) - {"wan2.2-a14b", "diffusers-a14b"})


@pytest.mark.parametrize("name", WHOLE)
def test_a_truncated_file_is_named(tmp_path: Path, name: str) -> None:
    made = make(name, tmp_path)
    file = largest(made)
    truncate(file)

    assert f"{file.name} is not a complete" in refused(made.student)


@pytest.mark.parametrize("name", WHOLE)
def test_a_git_lfs_pointer_is_named(tmp_path: Path, name: str) -> None:
    made = make(name, tmp_path)
    file = largest(made)
    lfs_pointer(file)

    assert f"{file.name} is a Git LFS pointer, not the file itself; run `git lfs pull`" in refused(made.student)


def largest(made: Published) -> Path:
    """The transformer's file, or its last shard."""
    if made.student.is_file():
        return made.student
    return sorted(made.root.rglob("diffusion_pytorch_model*.safetensors"))[-1 if made.vae != made.root / "vae" else 1]


def test_a_git_lfs_pointer_in_place_of_an_autoencoder_is_named(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    assert made.vae is not None
    lfs_pointer(made.vae)

    assert "Wan2.1_VAE.pth is a Git LFS pointer" in refused(made.student, vae=made.vae)


def test_an_fp8_scaled_checkpoint_is_named(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    file = fp8_scaled(made, tmp_path / "wan2.1_t2v_1.3B_fp8_scaled.safetensors")

    message = refused(file)
    assert "fp8_scaled.safetensors" in message
    assert "float8_e4m3fn" in message


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("vae", "a Wan autoencoder, not a Wan student; give it as vae="),
        ("text_encoder", "a umT5 text encoder, not a Wan student; give it as text_encoder="),
        ("image_encoder", "a CLIP image encoder, not a Wan student; give it as image_encoder="),
    ],
)
@pytest.mark.parametrize("name", ["wan2.1-i2v-14b", "diffusers-i2v"])
def test_another_part_given_as_a_student_is_named(tmp_path: Path, name: str, part: str, words: str) -> None:
    file = getattr(make(name, tmp_path), part)

    assert words in refused(file)


def test_other_files_given_as_a_student_or_an_autoencoder_are_named(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    tiny = tiny_vae(tmp_path / "taew2_1.pth")
    adapter = lora(made, tmp_path / "lora.safetensors", "kohya")

    assert "taew2_1.pth is a tiny autoencoder (TAEHV), not a Wan student" in refused(tiny)
    assert "lora.safetensors is a LoRA adapter, not a Wan student; give it as lora=" in refused(adapter)
    assert "is a Wan transformer; give a TAEHV or Wan VAE file as vae=" in refused(made.student, vae=made.student)
    assert "is a umT5 text encoder; give a TAEHV" in refused(made.student, vae=made.text_encoder)
    save_file({"anything": torch.ones(2)}, tmp_path / "x.safetensors")
    assert "x.safetensors is no autoencoder (it holds anything)" in refused(
        made.student, vae=tmp_path / "x.safetensors"
    )


@pytest.mark.parametrize("name", WHOLE)
def test_the_adapter_of_another_model_is_named(tmp_path: Path, name: str) -> None:
    made = make(name, tmp_path)
    other = dataclasses.replace(made, widths=dataclasses.replace(made.widths, dim=384))
    wrong = lora(other, tmp_path / "wrong.safetensors", "comfyui")

    assert "wrong.safetensors" in refused(made.student, lora=wrong)


def test_a_pair_of_autoencoders_that_does_not_fit_is_named(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    alone = tiny_vae(tmp_path / "decoder.pth", decoder_only=True)
    other = tiny_vae(tmp_path / "taew2_2.pth", latent_channels=48, patch=2)

    assert "decoder.pth has no encoder; give the full autoencoder first" in refused(made.student, vae=[alone, alone])
    assert "taew2_2.pth do not go together: encoder and decoder differ" in refused(made.student, vae=[made.vae, other])
    assert "3 autoencoders are given" in refused(made.student, vae=[alone] * 3)


@pytest.mark.parametrize("name", ["wan2.2-a14b", "diffusers-a14b"])
@pytest.mark.parametrize("inside", [0, 1, None])
def test_half_of_a_model_of_two_transformers_is_never_opened(tmp_path: Path, name: str, inside: int | None) -> None:
    made = make(name, tmp_path)
    halves = ("high_noise_model", "low_noise_model") if name == "wan2.2-a14b" else ("transformer", "transformer_2")
    folder = made.root if inside is None else made.root / halves[inside]

    message = refused(folder)
    assert "is Wan2.2-A14B, which needs two transformers" in message
    assert all(f"{half} is there" in message for half in halves)
    file = next((made.root / halves[0]).glob("*.safetensors"))
    assert "Wan2.2-A14B" in refused(file)


@pytest.mark.parametrize("missing", ["high_noise_model", "low_noise_model"])
def test_the_missing_half_is_named(tmp_path: Path, missing: str) -> None:
    made = make("wan2.2-a14b", tmp_path)
    (made.root / missing).rename(tmp_path / "elsewhere")

    assert f"{missing} is missing" in refused(made.root)


def test_a_single_file_of_a_half_is_named(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    file = tmp_path / "wan2.2_t2v_high_noise_14B_fp16.safetensors"
    save_file(made.weights(), file)

    assert "this is the high_noise half, the low_noise half is missing" in refused(file)


STRAY = {
    "another model": {"dim": 5120, "ffn_dim": 384, "num_layers": 1, "num_heads": 4, "eps": 0.5},
    "another depth": {"dim": 256, "ffn_dim": 384, "num_layers": 40, "num_heads": 4, "eps": 0.5},
    "another ffn": {"num_attention_heads": 4, "attention_head_dim": 64, "ffn_dim": 1, "num_layers": 1, "eps": 0.5},
    "a language model": {"num_attention_heads": 4, "hidden_size": 256, "num_hidden_layers": 1, "eps": 0.5},
}


@pytest.mark.parametrize("kind", STRAY)
def test_a_configuration_of_other_weights_is_not_believed(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    (made.root / "config.json").write_text(json.dumps(STRAY[kind]))

    with caplog.at_level(logging.WARNING, "ms_infer"):
        model = load_student(made.student).config.model

    assert (model.heads, model.eps) == (2, 1e-6)
    assert "config.json is of other weights" in caplog.text


def test_a_configuration_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    made = make("wan2.1-1.3b", tmp_path)
    config = made.root / "config.json"
    config.write_text(config.read_text().replace('"num_heads": 2', '"num_heads": 4'), encoding="utf-8-sig")

    assert load_student(made.student).config.model.heads == 4


def test_a_file_name_may_be_as_long_as_the_system_allows(tmp_path: Path) -> None:
    path = tmp_path / f"{'ä' * 120}.safetensors"
    assert len(path.name.encode()) == 252

    save_student(random_student(TRACKED), path)

    assert load_student(path).config == TRACKED
    assert list(tmp_path.iterdir()) == [path]


FULL_DISK = """
import sys
from pathlib import Path
from ms_export.exporter import checkpoint_digest, export_bundle
from ms_export.options import ExportOptions
from ms_infer.config import ContextConfig
from ms_infer.cli.run import run_command
from tests.tiny import without_tracks
import resource, signal, ms_export.openvino_ir as ir
student = without_tracks(context=ContextConfig(chunk_frames=1, sink_frames=1, window_frames=1))
convert = ir.convert_stage
def on_a_full_disk(*arguments):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
    return convert(*arguments)
ir.convert_stage = on_a_full_disk
sys.exit(run_command("ms-export", lambda: str(export_bundle(student, "d" * 64, Path(sys.argv[1]), ExportOptions()))))
"""


def test_a_full_disk_while_an_engine_is_written_is_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "bundle")], capture_output=True, text=True, check=False
    )

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "ms-export: failed: cannot write" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", WHOLE)
def test_a_missing_autoencoder_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=r"has no autoencoder; give one as vae= \(--vae\)") as caught:
        Stream(load_student(make(name, tmp_path).student))
    assert "\n" not in str(caught.value)
