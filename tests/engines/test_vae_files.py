"""A full encoder beside a tiny decoder, of raw latents or a super one, runs from exported stages as in PyTorch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from ms_export.exporter import checkpoint_digest, export_bundle
from ms_export.options import ExportOptions
from ms_export.verify import verify_bundle

from ms_infer.checkpoint import load_student
from ms_infer.config import ContextConfig, ScheduleConfig
from tests.public_checkpoints import make, super_vae, tiny_vae


def raw(folder: Path) -> Path:
    return tiny_vae(folder / "lighttaew2_1.safetensors", decoder_only=True)


def larger(folder: Path) -> Path:
    return super_vae(folder / "taew2_2_super.pth", decoder_only=True)


@pytest.mark.parametrize(
    ("name", "tiny", "targets"), [("wan2.1-1.3b", raw, ("onnx",)), ("wan2.2-5b", larger, ("onnx", "cpu"))]
)
def test_a_pair_of_autoencoders_survives_the_export(
    tmp_path: Path, name: str, tiny: Callable[[Path], Path], targets: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MS_INFER_CACHE", str(tmp_path / "cache"))
    made = make(name, tmp_path)
    assert made.vae is not None
    decoder = tiny(tmp_path)
    small = dataclasses.replace(
        load_student(made.student).config,
        height=64,
        width=64,
        context=ContextConfig(chunk_frames=1, sink_frames=1, window_frames=1),
        schedule=ScheduleConfig(timesteps=(1000.0, 500.0)),
    )
    student = load_student(made.student, preset=small, vae=[made.vae, decoder])
    options = ExportOptions(targets=targets)

    manifest = export_bundle(student, checkpoint_digest(student), tmp_path / "bundle", options).manifest

    checks = verify_bundle(student, manifest, chunks=2)
    assert {"encode", "decode_first", "decode"} <= {check.name for check in checks}
    assert [check.name for check in checks if not check.passed] == []
    assert manifest.config == student.config
