"""The smallest student and its ONNX graphs, exported once per test run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from ms_export import exporter as bundle
from ms_export.exporter import export_bundle
from ms_export.options import ExportOptions

from ms_infer import ContextConfig
from ms_infer.checkpoint import Student, save_student
from tests.tiny import tiny_student, without_tracks


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MS_INFER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def student() -> Student:
    """The smallest student: two latent-frame sizes, no tracks."""
    context = ContextConfig(chunk_frames=1, sink_frames=1, window_frames=1)
    return without_tracks(layers=1, image_input="slot", context=context)


@pytest.fixture(scope="session")
def exported(student: Student, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its ONNX graphs."""
    folder = tmp_path_factory.mktemp("exported")
    export_bundle(student, "d" * 64, folder, ExportOptions(targets=("onnx",)))
    return folder


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    shutil.copytree(exported, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    save_student(tiny_student(), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def again(student: Student, folder: Path, **options: Any) -> bundle.Result:
    return export_bundle(student, "d" * 64, folder, ExportOptions(targets=("onnx",), **options))
