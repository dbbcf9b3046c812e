"""FastVideo's causal WanTrack, a whole rollout with image, CLIP and tracks, on every engine that runs on a CPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from ms_infer.bundle import stages
from ms_infer.bundle.manifest import Manifest
from ms_infer.engines.torch import TorchEngine
from tests.golden import wantrack

TOLERANCE = 2e-5
EXPORTED_TOLERANCE = 1e-4
"""Exported graphs multiply in another order; values reach 6."""


@pytest.fixture(autouse=True)
def noise_of_the_case(monkeypatch: pytest.MonkeyPatch) -> None:
    wantrack.use_stored_noise(monkeypatch)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    from ms_export.exporter import checkpoint_digest, export_bundle
    from ms_export.options import ExportOptions

    folder = tmp_path_factory.mktemp("wantrack")
    student = wantrack.student(folder / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "state_shapes", lambda config, kind: [(1,)])  # the stored autoencoder only counts
        return export_bundle(student, checkpoint_digest(student), folder / "bundle", ExportOptions()).manifest


def test_the_rollout_is_that_of_fastvideo(tmp_path: Path) -> None:
    assert max(wantrack.play(TorchEngine(wantrack.student(tmp_path), device="cpu"))) <= TOLERANCE


def test_exported_graphs_on_onnxruntime_make_the_same_rollout(bundle: Manifest) -> None:
    from ms_export.onnx_engine import open_onnx

    assert max(wantrack.play(open_onnx(bundle, threads=1))) <= EXPORTED_TOLERANCE


def test_exported_stages_on_openvino_make_the_same_rollout(bundle: Manifest) -> None:
    from ms_infer.engines.openvino import open_openvino

    assert max(wantrack.play(open_openvino(bundle, precision="fp32", threads=1))) <= EXPORTED_TOLERANCE


@pytest.mark.parametrize("rule", ["first", "every"])
def test_another_image_slot_is_far_off(tmp_path: Path, rule: str) -> None:
    import dataclasses

    student = wantrack.student(tmp_path)
    model = dataclasses.replace(student.config.model, image_at=rule)
    wrong = dataclasses.replace(student, config=dataclasses.replace(student.config, model=model))

    assert max(wantrack.play(TorchEngine(wrong, device="cpu"))) > 1e-2
