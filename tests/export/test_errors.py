"""What an export refuses, and how it says so."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest
from ms_export import plan
from ms_export.exporter import export_bundle
from ms_export.options import ExportOptions, parse_context, parse_size

from ms_infer import BundleError, CheckpointError, ConfigError, ContextConfig, MissingExtraError
from ms_infer.checkpoint import Student
from ms_infer.config import RefinerConfig
from tests.export.conftest import again
from tests.tiny import tiny_student


def test_no_disk_space_is_said_before_anything_is_written(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1 << 20))
    with pytest.raises(BundleError, match=r"needs \d+ MiB more in .*free are 1 MiB"):
        again(student, tmp_path / "bundle")
    assert list((tmp_path / "bundle").iterdir()) == []


@pytest.mark.parametrize(("target", "extra"), [("cpu", "cpu"), ("rtx", "rtx"), ("trt", "trt"), ("onnx", "export")])
def test_a_missing_extra_is_named(
    student: Student, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, extra: str
) -> None:
    absent = {"cpu": "openvino", "rtx": "tensorrt_rtx", "trt": "tensorrt", "onnx": "onnx"}[target]
    monkeypatch.setattr(plan, "find_spec", lambda name: None if name == absent else find_spec("json"))
    with pytest.raises(MissingExtraError, match=rf"{absent}: pip install 'ms-infer\[{extra}\]'"):
        export_bundle(student, "d" * 64, tmp_path, ExportOptions(targets=(target,)))  # type: ignore[arg-type]


def test_a_checkpoint_without_an_autoencoder_is_refused(student: Student, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no autoencoder; give one with --vae"):
        again(replace(student, vae=None), tmp_path)


def test_a_checkpoint_without_its_track_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no track head, which tiny needs"):
        again(replace(tiny_student(), track_head=None), tmp_path)


def test_a_checkpoint_without_its_refiner_is_refused(tmp_path: Path) -> None:
    student = tiny_student(refiner=RefinerConfig(widths=(8, 8, 8)))
    with pytest.raises(CheckpointError, match="has no refiner, which tiny needs"):
        again(replace(student, refiner=None), tmp_path)


@pytest.mark.parametrize("text", ["480", "x832", "480x", "axb", "480*832", "-16x32"])
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not HEIGHTxWIDTH"):
        parse_size(text)


@pytest.mark.parametrize("text", ["3s3w3", "c", "c3q1", "c3c3", "c3 s3", "cs3"])
def test_a_context_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not like c3s3w3"):
        parse_context(text, ContextConfig())


def test_a_context_keeps_what_it_does_not_name() -> None:
    base = ContextConfig(rope="absolute", window_frames=12)
    assert parse_context("c4s0", base) == replace(base, chunk_frames=4, sink_frames=0)
