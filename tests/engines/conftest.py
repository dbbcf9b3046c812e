"""Bundles of tiny students, exported once per test run, and engines of them, compiled once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ms_infer.bundle.manifest import Manifest
from ms_infer.checkpoint import Student
from ms_infer.config import ContextConfig, ImageEncoderConfig, TrackHeadConfig
from ms_infer.engines.staged import StagedEngine
from tests.test_recompute import AGAIN
from tests.tiny import refined_student, tiny_student, without_tracks

Made = tuple[Student, Manifest]

STUDENTS: dict[str, Callable[[], Student]] = {
    "tracks": tiny_student,
    "short_first_chunk": lambda: without_tracks(
        layers=1,
        image_input="slot",
        context=ContextConfig(sink_frames=1, window_frames=2, first_chunk_frames=1),
    ),
    "prefill": lambda: without_tracks(
        layers=1, context=ContextConfig(chunk_frames=2, sink_frames=0, window_frames=3, rope="absolute")
    ),
    "pin": lambda: without_tracks(layers=1, image_input="pin", context=ContextConfig(chunk_frames=2, window_frames=2)),
    "refined": refined_student,
    "mask": lambda: tiny_student(
        layers=1,
        image_tokens=5,
        image_dim=12,
        image_encoder=ImageEncoderConfig(width=12, ffn_dim=16, heads=2, layers=1, pixels=28),
        image_at="grey",
        layout=(("noise", 16), ("mask", 4), ("image", 16), ("track", 16)),
        track_head=TrackHeadConfig(
            max_tracks=24, id_dim=8, rounding="round", first_frame="zero_pad", bias=False, convs=2
        ),
    ),
}
"""One student for every way in which the stages differ."""

MORE: dict[str, Callable[[], Student]] = {
    "deep": lambda: without_tracks(
        layers=8, image_input="slot", context=ContextConfig(sink_frames=1, window_frames=2, rope="absolute")
    ),
    "again": lambda: without_tracks(context=AGAIN),
}
"""Students of single tests."""

_OPENED: dict[tuple[Path, str], StagedEngine] = {}


def opened(manifest: Manifest, engine: str) -> StagedEngine:
    """An engine for a bundle as it was exported, "onnxruntime" or "openvino" and a precision, with a state of its own.

    A twin of one that no test gets: to compile the stages of a bundle takes longer than most tests.
    """
    key = manifest.folder, engine
    if key not in _OPENED:
        _OPENED[key] = newly_opened(manifest, engine)
    twin = _OPENED[key].twin()
    assert twin is not None
    return twin


def newly_opened(manifest: Manifest, engine: str) -> StagedEngine:
    """As `opened`, with nothing compiled before."""
    from ms_export.onnx_engine import open_onnx

    from ms_infer.engines.openvino import open_openvino

    if engine == "onnxruntime":
        return open_onnx(manifest, threads=1)
    return open_openvino(manifest, precision=engine.split()[1], threads=1)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Made]:
    """made(name) exports a student of STUDENTS or MORE once, with its graphs and OpenVINO stages."""
    from ms_export.exporter import checkpoint_digest, export_bundle
    from ms_export.options import ExportOptions

    done: dict[tuple[Any, ...], Made] = {}

    def make(name: str, **options: Any) -> Made:
        key = (name, *sorted(options.items()))
        if key not in done:
            student = {**STUDENTS, **MORE}[name]()
            folder: Path = tmp_path_factory.mktemp(name)
            result = export_bundle(student, checkpoint_digest(student), folder, ExportOptions(**options))
            done[key] = (student, result.manifest)
        return done[key]

    return make
