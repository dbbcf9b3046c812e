"""What a file is, by the names of its tensors: a student, or something that people take for one."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple


class Kind(NamedTuple):
    """Words for a file and what it is given as."""

    words: str
    option: str


STUDENT = Kind("a Wan transformer", "the checkpoint itself")
TINY_VAE = Kind("a tiny autoencoder (TAEHV)", "vae=")
WAN_VAE = Kind("a Wan autoencoder", "vae=")
TEXT = Kind("a umT5 text encoder", "text_encoder=")
IMAGE = Kind("a CLIP image encoder", "image_encoder=")
LORA = Kind("a LoRA adapter", "lora= beside its base model")


def kind_of(names: Collection[str]) -> Kind | None:
    """The kind of a file with these tensor names, wrappers stripped; None for something else."""
    has = set(names)
    if any(".lora_" in name or ".lora." in name or name.endswith((".diff", ".diff_b", ".diff_m")) for name in has):
        return LORA
    if any(name.startswith(("blocks.0.self_attn.", "blocks.0.attn1.")) for name in has):
        return STUDENT
    if {"decoder.1.weight", "decoder.1.conv.0.weight", "encoder.0.weight"} & has:
        return TINY_VAE
    if {"decoder.conv1.weight", "decoder.conv_in.weight", "encoder.conv1.weight", "encoder.conv_in.weight"} & has:
        return WAN_VAE
    if {"token_embedding.weight", "shared.weight", "encoder.embed_tokens.weight"} & has:
        return TEXT
    if any(name.startswith(("visual.", "vision_model.")) for name in has):
        return IMAGE
    return None
