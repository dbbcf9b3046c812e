"""Small checkpoints, and what opens them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from ms_infer.checkpoint import load_student
from ms_infer.config import ModelConfig, StreamConfig, TextConfig, TrackHeadConfig, VaeConfig

GOLDEN = Path(__file__).parent / "golden"
TINY96 = GOLDEN / "weights_tiny96.safetensors"
HEADS = {"num_attention_heads": 3, "attention_head_dim": 32, "ffn_dim": 256, "num_layers": 3}

TRACKED = StreamConfig(
    model=ModelConfig(
        name="tracked",
        dim=32,
        ffn_dim=48,
        heads=2,
        layers=2,
        layout=(("noise", 4), ("mask", 4), ("image", 4), ("track", 4)),
        freq_dim=16,
        image_tokens=5,
        image_dim=24,
        text=TextConfig(kind="words", tokens=6, dim=20, vocabulary=("sea", "sky")),
        vae=VaeConfig(latent_channels=4, decoder_widths=(8, 8, 8, 8), encoder_width=8, blocks=1),
        track_head=TrackHeadConfig(channels=4, id_dim=8, bias=False, convs=2),
    ),
    height=64,
    width=64,
)


def tiny96() -> dict[str, Tensor]:
    return load_file(TINY96)


def tiny96_config() -> StreamConfig:
    return load_student(TINY96).config


def write_shards(folder: Path, weights: dict[str, Tensor], shards: int = 3) -> Path:
    names = [f"diffusion_pytorch_model-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    placed = {name: names[i % shards] for i, name in enumerate(weights)}
    for shard in names:
        save_file({name: weights[name] for name in weights if placed[name] == shard}, folder / shard)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    (folder / "config.json").write_text(json.dumps(HEADS))
    return index
