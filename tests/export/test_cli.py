"""`ms-export`: its words, exit codes, and a fast start."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from ms_export import cli, plan, verify
from ms_export import exporter as bundle

from ms_infer.bundle.manifest import FORMAT
from ms_infer.checkpoint import Student, save_student
from tests.tiny import tiny_config, tiny_student


def code(*args: str | Path) -> int:
    return cli.main([str(arg) for arg in args])


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--preset", "wan9"), "unknown preset 'wan9'; known: wan2.1-1.3b"),
        (("--preset", "wan2.1-1.3b"), "dim 24 (wanted 1536)"),
        (("--size", "33x32"), "multiples of 32; nearest: 32x32"),
        (("--size", "big"), "is not HEIGHTxWIDTH"),
        (("--context", "c0"), "chunk_frames must be at least 1"),
    ],
)
def test_wrong_wishes_are_one_line_and_code_1(
    file: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], words: str
) -> None:
    assert code(file, "--dry-run", *args) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("ms-export: failed: ")
    assert words in error


def test_missing_keys_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    save_student(tiny_student(), tmp_path / "tiny.safetensors")
    tensors = load_file(tmp_path / "tiny.safetensors")
    metadata = {"format": "ms_infer.student/1", "config": json.dumps(tiny_config().to_dict())}
    del tensors["transformer.blocks.1.ffn.2.bias"]
    save_file(tensors, tmp_path / "broken.safetensors", metadata)
    assert code(tmp_path / "broken.safetensors", "--dry-run") == 1
    assert "blocks.1.ffn.2.bias" in capsys.readouterr().err


def test_an_absent_checkpoint_is_code_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(tmp_path / "none.pt") == 1
    assert "does not exist" in capsys.readouterr().err


def test_a_missing_extra_is_code_3(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "find_spec", lambda name: None)
    assert code(file, "-o", tmp_path / "out") == 3
    assert "pip install 'ms-infer[export]'" in capsys.readouterr().err


def test_bad_usage_is_code_2() -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["x.pt", "--target", "gpu"])
    assert stopped.value.code == 2


def test_a_dry_run_lists_stages_and_makes_nothing(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(plan, "find_spec", lambda name: None)  # no engine library is needed
    assert code(file, "--dry-run", "--json", "--target", "cpu", "rtx", "--size", "32x64", "-o", tmp_path / "b") == 0
    described = json.loads(capsys.readouterr().out)
    assert described["size"] == [32, 64]
    assert described["graphs"] == ["fp32", "bf16"]
    assert list(described["stages"])[-2:] == ["decode_first", "decode"]
    assert described["stages"]["decode"]["outputs"]["frames"] == "uint8 [12, 32, 64, 3]"
    assert described["bytes"]["caches fp32"] == 2 * described["bytes"]["caches bf16"]
    assert not (tmp_path / "b").exists()


def test_a_dry_run_in_words(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(file, "--dry-run") == 0
    words = capsys.readouterr().out
    assert "tiny from ms_infer.student/1" in words
    assert "32x32; latent frames: chunk 3, sink 3, window 3; relative positions" in words


def test_a_bundle_is_listed(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(copied, "--list") == 0
    assert "onnx/fp32/denoise.onnx" in capsys.readouterr().out
    assert code(copied, "--list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["format"] == FORMAT


def test_listing_needs_a_folder(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(file, "--list") == 1
    assert "--list takes a bundle" in capsys.readouterr().err


@pytest.fixture
def checkpoint(student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The student's file, with the digest that the copied bundle names."""
    save_student(student, tmp_path / "student.safetensors")
    monkeypatch.setattr(bundle, "checkpoint_digest", lambda *_: "d" * 64)
    return tmp_path / "student.safetensors"


def test_the_last_line_says_what_was_made(
    copied: Path,
    checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    logging.getLogger("ms_export").setLevel(logging.NOTSET)
    assert code(checkpoint, "-o", copied, "--target", "onnx") == 0
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith(f"ms-export: up to date → {copied} (6 graphs, 0 engine stages, ")


def test_a_failed_verification_is_code_1(
    copied: Path,
    checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(verify, "STAGE_LIMITS", {"fp32": -1.0})
    arguments = (checkpoint, "-o", copied, "--target", "onnx", "--verify", "--json")
    assert code(*arguments) == 1
    printed = capsys.readouterr()
    assert "verification failed: text, condition" in printed.err
    assert any(not check["passed"] for check in json.loads(printed.out)["checks"])


def test_a_verification_passes(copied: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(checkpoint, "-o", copied, "--target", "onnx", "--verify", "--json") == 0
    checks = json.loads(capsys.readouterr().out)["checks"]
    assert {check["name"] for check in checks} >= {"condition", "roll", "denoise", "decode_first", "decode", "6 chunks"}
    assert all(check["passed"] for check in checks)


@pytest.mark.parametrize("module", ["ms_export.cli", "ms_infer.engines.openvino", "ms_infer.bundle.manifest"])
def test_what_starts_fast_does_not_import_torch(module: str) -> None:
    script = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_help_does_not_import_torch() -> None:
    script = (
        "import sys\nfrom ms_export.cli import main\ntry:\n    main(['--help'])\nexcept SystemExit:\n"
        "    sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "--dry-run" in done.stdout
