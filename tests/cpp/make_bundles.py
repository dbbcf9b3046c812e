"""Makes the bundles that C++ tests open: `make_bundles.py stand_in|openvino|grey FOLDER`; exit code 77: skipped."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ms_infer.config import StreamConfig

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = 77


def make_stand_in(folder: Path) -> None:
    """A bundle without graphs: only the tests' own engine runs it. Needs numpy alone."""
    from ms_infer.bundle.digests import file_digest
    from ms_infer.bundle.manifest import EngineSpec, FileSpec, Manifest
    from ms_infer.bundle.stages import resolve_writes, stage_specs

    config = stand_in_config()
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights.bin"
    weights.write_bytes(bytes(range(256)) * 64)
    Manifest(
        config=config,
        writes=resolve_writes(config, "auto"),
        checkpoint={"name": "tiny", "format": "none", "sha256": "0" * 64},
        key="stand-in",
        stages={"fp32": stage_specs(config, dtype="fp32")},
        graphs={},
        engines={
            k: EngineSpec(k, "any", "1", "fp32", {"denoise": weights.name}) for k in ("stand_in", "stand_in_whole")
        },
        files={weights.name: FileSpec(weights.stat().st_size, file_digest(weights))},
        folder=folder,
    ).save(folder)


def stand_in_config() -> StreamConfig:
    """A model with every kind of control, narrow enough for thousands of chunks a second."""
    from ms_infer import config

    model = config.ModelConfig(
        name="stand-in",
        dim=24,
        ffn_dim=32,
        heads=2,
        layers=2,
        layout=(("noise", 4), ("track", 4), ("image", 4)),
        image_at="every",
        freq_dim=16,
        text=config.TextConfig(kind="words", tokens=6, dim=8, vocabulary=("a", "cat", "dog", "night", "snow")),
        vae=config.VaeConfig(latent_channels=4, decoder_widths=(8, 8, 8, 8), encoder_width=8, blocks=1),
        track_head=config.TrackHeadConfig(channels=4, content="layers", max_tracks=24, id_dim=8),
        layer_network=config.LayersConfig(widths=(4, 4, 4, 4, 4), painter=(4, 4)),
    )
    return config.StreamConfig(model=model, height=32, width=64)


def make_openvino(folder: Path) -> None:
    """A tiny student with random weights, exported; a second run with the same inputs is over at once."""
    import torch
    from ms_export.exporter import checkpoint_digest, export_bundle
    from ms_export.options import ExportOptions

    from ms_infer.config import TrackHeadConfig
    from tests.tiny import tiny_student

    torch.set_num_threads(1)
    student = tiny_student(track_head=TrackHeadConfig(content="layers", max_tracks=100, id_dim=8))
    export_bundle(student, checkpoint_digest(student), folder, ExportOptions())


def make_grey(folder: Path) -> None:
    """A student conditioned as Track-v0 is: image tokens, grey frames after the image, a window that moves."""
    import torch
    from ms_export.exporter import checkpoint_digest, export_bundle
    from ms_export.options import ExportOptions

    from ms_infer.config import ContextConfig, ImageEncoderConfig, TrackHeadConfig
    from tests.tiny import tiny_student

    torch.set_num_threads(1)
    student = tiny_student(
        layers=3,
        context=ContextConfig(sink_frames=1, window_frames=2, first_chunk_frames=1),
        image_tokens=5,
        image_dim=12,
        image_encoder=ImageEncoderConfig(width=12, ffn_dim=16, heads=2, layers=1, pixels=28),
        image_at="grey",
        layout=(("noise", 16), ("mask", 4), ("image", 16), ("track", 16)),
        track_head=TrackHeadConfig(
            max_tracks=24, id_dim=8, rounding="round", first_frame="zero_pad", bias=False, convs=2
        ),
    )
    export_bundle(student, checkpoint_digest(student), folder, ExportOptions(writes="chunk"))


def main() -> int:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    sys.path[:0] = [str(ROOT / part) for part in ("", "kernels", "export")]
    exporter = ["numpy", "torch", "onnx", "onnxscript", "openvino", "safetensors"]
    needed = {"stand_in": ["numpy"], "openvino": exporter, "grey": exporter}
    missing = [name for name in needed[kind] if find_spec(name) is None]
    if missing:
        print(f"skipped: {sys.executable} has no {', '.join(missing)}")
        return SKIPPED
    {"stand_in": make_stand_in, "openvino": make_openvino, "grey": make_grey}[kind](folder)
    print(f"the {kind} bundle is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
