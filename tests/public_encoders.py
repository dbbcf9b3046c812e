"""Writes the text encoder, tokenizer and image encoder of a publisher's folder, and shards with their index."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tests import public_weights as pw

BF16 = torch.bfloat16
SHARD = "diffusion_pytorch_model"


def write_shards(folder: Path, tensors: Mapping[str, Tensor], shards: int, stem: str = SHARD) -> None:
    """One safetensors file, or shards and their index."""
    folder.mkdir(parents=True, exist_ok=True)
    if shards == 1:
        save_file(dict(tensors), folder / f"{stem}.safetensors", {"format": "pt"})
        return
    names = list(tensors)
    files = [f"{stem}-{i + 1:05d}-of-{shards:05d}.safetensors" for i in range(shards)]
    placed = {name: files[i * shards // len(names)] for i, name in enumerate(names)}
    for file in files:
        save_file({n: tensors[n] for n in names if placed[n] == file}, folder / file, {"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    write_json(folder / f"{stem}.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": placed})


def write_t5(folder: Path, dim: int) -> Path:
    config = {
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        "d_model": dim,
        "d_kv": pw.TEXT_HEAD_DIM,
        "d_ff": 96,
        "num_heads": pw.TEXT_HEADS,
        "num_layers": 2,
        "vocab_size": len(pw.VOCABULARY),
        "feed_forward_proj": "gated-gelu",
        "is_gated_act": True,
        "dense_act_fn": "gelu_new",
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "layer_norm_epsilon": 1e-6,
        "pad_token_id": 0,
        "eos_token_id": 1,
    }
    write_json(folder / "config.json", config)
    weights = pw.random_weights(pw.t5_shapes(dim), BF16)
    write_shards(folder, {pw.t5_to_transformers(name): t for name, t in weights.items()}, 2, "model")
    return folder


def write_clip(folder: Path, dim: int) -> Path:
    config = {
        "architectures": ["CLIPVisionModel"],
        "model_type": "clip_vision_model",
        "hidden_act": "gelu",
        "hidden_size": dim,
        "image_size": 224,
        "intermediate_size": 4 * dim,
        "num_attention_heads": dim // pw.CLIP_HEAD_DIM,
        "num_hidden_layers": 2,
        "patch_size": pw.CLIP_PATCH,
    }
    write_json(folder / "config.json", config)
    tensors = pw.clip_to_transformers(pw.random_weights(pw.clip_shapes(dim), torch.float16))
    write_shards(folder, tensors, 1, "model")
    write_json(folder.parent / "image_processor/preprocessor_config.json", _CLIP_PROCESSOR)
    return folder


_CLIP_PROCESSOR = {
    "crop_size": {"height": 224, "width": 224},
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_processor_type": "CLIPImageProcessor",
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "resample": 3,
    "size": {"shortest_edge": 224},
}


def write_tokenizer(folder: Path) -> Path:
    """A tokenizer.json of umT5's kind with `public_weights.VOCABULARY`, and the files beside it."""
    special = [
        {"id": i, "content": piece, "special": True, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False}
        for i, piece in enumerate(pw.SPECIAL)
    ]  # fmt: skip
    scores = [0.0 if i < len(pw.SPECIAL) else -2.0 - 0.01 * i for i in range(len(pw.VOCABULARY))]
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    end = {"SpecialToken": {"id": "</s>", "type_id": 0}}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": special,
        "normalizer": {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "},
        "pre_tokenizer": metaspace,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}}, end],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, end, {"Sequence": {"id": "B", "type_id": 0}}, end],
            "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
        },
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "byte_fallback": False,
                  "vocab": [list(pair) for pair in zip(pw.VOCABULARY, scores, strict=True)]},
    }  # fmt: skip
    named = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    write_json(folder / "tokenizer.json", tokenizer)
    write_json(folder / "special_tokens_map.json", named)
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "T5Tokenizer", **named})
    return folder


def write_json(file: Path, value: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2), encoding="utf-8")
