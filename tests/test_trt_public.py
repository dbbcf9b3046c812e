"""Public models at their true widths and sizes, two layers deep, become TensorRT-RTX engines here, without a GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

pytest.importorskip("tensorrt_rtx", reason="needs the extra [rtx]")

from ms_export.exporter import export_bundle
from ms_export.options import ExportOptions

from ms_infer import preset
from ms_infer.bundle.manifest import Manifest
from ms_infer.bundle.stages import contiguous_writes
from ms_infer.checkpoint import random_student
from ms_infer.config import StreamConfig, VaeConfig

pytestmark = pytest.mark.timeout(1800)
LAYERS = 2


def built(config: StreamConfig, folder: Path) -> Manifest:
    options = ExportOptions(targets=("rtx",), dtype="bf16")
    return export_bundle(random_student(config), "0" * 64, folder, options).manifest


def layers_of(manifest: Manifest, stage: str) -> list[str]:
    """Types of the layers of a stage's engine before they were fused."""
    file = manifest.engines["tensorrt_rtx-any-1.7-bf16"].stages[stage]
    lines = manifest.path(str(Path(file).with_suffix(".log"))).read_text().splitlines()
    return [line.split()[0] for line in lines if line.startswith("  ")]


def test_track_v0_with_wans_autoencoder_builds_whole(tmp_path: Path) -> None:
    """Sink 1, window 2, chunk 3: no chunk would lie in a row of the cache if its window did not move."""
    public = preset("track-v0")
    assert public.model.image_encoder is not None
    encoder = dataclasses.replace(public.model.image_encoder, layers=LAYERS)
    vae = VaeConfig(kind="wan2.1")
    model = dataclasses.replace(public.model, layers=LAYERS, image_encoder=encoder, vae=vae)
    manifest = built(dataclasses.replace(public, model=model), tmp_path)
    engine = manifest.engines["tensorrt_rtx-any-1.7-bf16"]

    assert not contiguous_writes(manifest.config)
    assert manifest.writes == "chunk"
    assert set(engine.stages) == set(manifest.stages["bf16"]) >= {"look", "encode", "encode_grey", "tracks", "decode"}
    kinds = layers_of(manifest, "denoise")
    assert kinds.count("ATTENTION_INPUT") == 3 * LAYERS, "its own context, the text, the image"
    assert kinds.count("KV_CACHE_UPDATE") == 3 * LAYERS, "keys, values, un-rotated keys of the sink"


def test_wan22s_autoencoder_builds_at_half_its_widths(tmp_path: Path) -> None:
    """One head of 320 in its encoder, one of 512 in its decoder. At full widths its plans are 2.5 GB."""
    public = preset("wan2.2-5b")
    vae = dataclasses.replace(public.model.vae, base_dim=80, decoder_dim=128)
    model = dataclasses.replace(public.model, layers=1, dim=96, heads=3, ffn_dim=128, vae=vae)
    manifest = built(dataclasses.replace(public, model=model, height=352, width=640), tmp_path)

    assert set(manifest.engines["tensorrt_rtx-any-1.7-bf16"].stages) >= {"encode", "decode_first", "decode"}


def test_an_image_to_video_student_in_multiples_of_the_chunk_builds(tmp_path: Path) -> None:
    """LongLive's context: a given first latent frame shifts the ring by one, which is the runner's to mend."""
    public = preset("wan2.1-1.3b")
    model = dataclasses.replace(public.model, layers=1, dim=96, heads=3, ffn_dim=128)
    context = dataclasses.replace(public.context, sink_frames=3, window_frames=6)
    config = dataclasses.replace(public, model=model, context=context, height=64, width=64)
    manifest = built(config, tmp_path)

    assert not contiguous_writes(config, given=1)
    assert "decode_given" in manifest.engines["tensorrt_rtx-any-1.7-bf16"].stages
