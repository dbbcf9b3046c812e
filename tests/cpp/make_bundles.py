"""Makes the bundles that the C++ tests open: `make_bundles.py stand_in|openvino FOLDER`; exit code 77 means skipped."""

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
        track_head=config.TrackHeadConfig(channels=4, content="warp", max_tracks=24, id_dim=8),
    )
    return config.StreamConfig(model=model, height=32, width=48)


def make_openvino(folder: Path) -> None:
    """A tiny student with random weights, exported; a second run with the same inputs is over at once."""
    import torch
    from ms_export.exporter import checkpoint_digest, export_bundle
    from ms_export.options import ExportOptions

    from ms_infer.config import TrackHeadConfig
    from tests.tiny import tiny_student

    torch.set_num_threads(1)
    student = tiny_student(track_head=TrackHeadConfig(content="warp", max_tracks=100, id_dim=8))
    export_bundle(student, checkpoint_digest(student), folder, ExportOptions())


def main() -> int:
    kind, folder = sys.argv[1], Path(sys.argv[2])
    sys.path[:0] = [str(ROOT / part) for part in ("", "kernels", "export")]
    needed = {"stand_in": ["numpy"], "openvino": ["numpy", "torch", "onnx", "onnxscript", "openvino", "safetensors"]}
    missing = [name for name in needed[kind] if find_spec(name) is None]
    if missing:
        print(f"skipped: {sys.executable} has no {', '.join(missing)}")
        return SKIPPED
    {"stand_in": make_stand_in, "openvino": make_openvino}[kind](folder)
    print(f"the {kind} bundle is in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
