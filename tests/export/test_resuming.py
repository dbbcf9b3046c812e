"""An export makes what is absent or outdated, and nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from ms_export import weights
from ms_export.exporter import export_bundle
from ms_export.options import ExportOptions
from ms_export.store import PROGRESS, Store

from ms_infer.bundle.manifest import load_manifest
from ms_infer.checkpoint import Student
from tests.export.conftest import again


def test_unchanged_inputs_are_up_to_date(copied: Path, student: Student) -> None:
    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*")}
    assert again(student, copied).made == ()
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*")} == before


def test_another_checkpoint_makes_the_bundle_again(copied: Path, student: Student) -> None:
    old = load_manifest(copied).key
    made = export_bundle(student, "e" * 64, copied, ExportOptions(targets=("onnx",))).made
    assert len(made) == len(load_manifest(copied).files)
    assert load_manifest(copied).key != old


def test_finished_files_survive_an_interruption(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "bundle"

    def interrupted(self: Store, name: str, digest: str | None = None) -> None:
        keep(self, name, digest)
        if name.endswith("condition.onnx"):
            raise KeyboardInterrupt

    keep = Store.keep
    monkeypatch.setattr(Store, "keep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        again(student, folder)
    assert not (folder / "manifest.json").exists()
    monkeypatch.setattr(Store, "keep", keep)
    made = again(student, folder).made
    assert "onnx/fp32/weights.bin" not in made
    assert "onnx/fp32/condition.onnx" not in made
    assert "onnx/fp32/denoise.onnx" in made
    load_manifest(folder).verify()


def test_a_half_written_file_is_never_taken_for_a_whole_one(
    copied: Path, student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    (copied / "manifest.json").rename(copied / PROGRESS)  # as an interrupted run leaves it
    graph = copied / "onnx" / "fp32" / "decode.onnx"
    graph.write_bytes(graph.read_bytes()[:-10])
    assert again(student, copied).made == ("onnx/fp32/decode.onnx",)
    load_manifest(copied).verify()


def test_progress_names_each_file_and_how_much_of_the_weights_is_written(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weights, "SECONDS_BETWEEN_LINES", -1.0)
    with caplog.at_level(logging.INFO, logger="ms_export"):
        again(student, tmp_path)
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "onnx/fp32/weights.bin (1 of 1) ..."
    assert said[1] == "  weights.bin  0 of 0 MiB"
    assert "onnx/fp32/decode.onnx (6 of 6) ..." in said
    assert any(line.startswith("onnx/fp32/decode.onnx  ") and line.endswith(" s") for line in said)
