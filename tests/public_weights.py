"""Names, shapes and random values of the weights that publishers of Wan models ship."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.diffusers_names import to_diffusers

Shapes = dict[str, tuple[int, ...]]

LETTERS = [chr(code) for code in range(33, 127)]
WORDS = ["▁a", "▁cat", "▁dog", "▁in", "▁snow", "▁night", "▁the", "▁sea", "ing", "▁walk"]
SPECIAL = ["<pad>", "</s>", "<s>", "<unk>"]
VOCABULARY = [*SPECIAL, "▁", *LETTERS, *WORDS]
"""Pieces of the tiny tokenizer, in the order of its ids."""

TEXT_HEADS = 2
TEXT_HEAD_DIM = 64
CLIP_PATCH = 14
CLIP_TOKENS = 257
CLIP_HEAD_DIM = 80


@dataclass(frozen=True)
class Widths:
    """Sizes of a Wan transformer and of its helpers."""

    dim: int
    ffn: int
    in_channels: int = 16
    out_channels: int = 16
    text: int = 4096
    image: int = 0
    """Width of the image encoder; 0 without a second cross-attention."""

    def tiny(self) -> Widths:
        """The same model, narrow: 2 heads of the published 128."""
        return Widths(256, 384, self.in_channels, self.out_channels, text=64, image=160 if self.image else 0)


def transformer_shapes(widths: Widths, layers: int) -> Shapes:
    """A Wan transformer under original names."""
    dim, out = widths.dim, 4 * widths.out_channels
    shapes: Shapes = {"patch_embedding.weight": (dim, widths.in_channels, 1, 2, 2), "patch_embedding.bias": (dim,)}
    shapes |= _linear("text_embedding.0", dim, widths.text) | _linear("text_embedding.2", dim, dim)
    shapes |= _linear("time_embedding.0", dim, 256) | _linear("time_embedding.2", dim, dim)
    shapes |= _linear("time_projection.1", 6 * dim, dim)
    for layer in range(layers):
        shapes |= _block(f"blocks.{layer}.", widths)
    shapes |= _linear("head.head", out, dim) | {"head.modulation": (1, 2, dim)}
    if widths.image:
        shapes |= _linear("img_emb.proj.1", widths.image, widths.image) | _linear("img_emb.proj.3", dim, widths.image)
        shapes |= _norm("img_emb.proj.0", widths.image) | _norm("img_emb.proj.4", dim)
    return shapes


def _block(prefix: str, widths: Widths) -> Shapes:
    dim = widths.dim
    shapes: Shapes = {f"{prefix}modulation": (1, 6, dim)} | _norm(f"{prefix}norm3", dim)
    for attention in ("self_attn", "cross_attn"):
        for part in "qkvo":
            shapes |= _linear(f"{prefix}{attention}.{part}", dim, dim)
        shapes |= {f"{prefix}{attention}.norm_{part}.weight": (dim,) for part in "qk"}
    if widths.image:
        shapes |= _linear(f"{prefix}cross_attn.k_img", dim, dim) | _linear(f"{prefix}cross_attn.v_img", dim, dim)
        shapes[f"{prefix}cross_attn.norm_k_img.weight"] = (dim,)
    return shapes | _linear(f"{prefix}ffn.0", widths.ffn, dim) | _linear(f"{prefix}ffn.2", dim, widths.ffn)


def track_encoder_shapes(channels: int = 16, id_dim: int = 64) -> Shapes:
    """FastVideo's head of tracks."""
    return {
        "track_encoder.temporal_conv.weight": (channels, id_dim, 4, 1, 1),
        "track_encoder.proj.weight": (channels, channels, 1, 1, 1),
    }


def t5_shapes(dim: int, layers: int = 2) -> Shapes:
    """The encoder of umT5 as Wan's models_t5_umt5-xxl-enc-bf16.pth names it."""
    inner, ffn = TEXT_HEADS * TEXT_HEAD_DIM, 96
    shapes: Shapes = {"token_embedding.weight": (len(VOCABULARY), dim), "norm.weight": (dim,)}
    for layer in range(layers):
        prefix = f"blocks.{layer}."
        shapes |= {f"{prefix}norm{i}.weight": (dim,) for i in (1, 2)}
        shapes |= {f"{prefix}attn.{part}.weight": (inner, dim) for part in "qkv"}
        shapes |= {
            f"{prefix}attn.o.weight": (dim, inner),
            f"{prefix}ffn.gate.0.weight": (ffn, dim),
            f"{prefix}ffn.fc1.weight": (ffn, dim),
            f"{prefix}ffn.fc2.weight": (dim, ffn),
            f"{prefix}pos_embedding.embedding.weight": (32, TEXT_HEADS),
        }
    return shapes


T5_TO_TRANSFORMERS = {
    "norm1": "layer.0.layer_norm",
    "norm2": "layer.1.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


def t5_to_transformers(name: str) -> str:
    """Name of a T5 weight in a transformers folder."""
    if name == "token_embedding.weight":
        return "shared.weight"
    if name == "norm.weight":
        return "encoder.final_layer_norm.weight"
    _, layer, rest = name.split(".", 2)
    return f"encoder.block.{layer}.{T5_TO_TRANSFORMERS[rest.removesuffix('.weight')]}.weight"


def clip_shapes(dim: int, layers: int = 2) -> Shapes:
    """The vision tower of Wan's CLIP file, and a little of its text tower, which nobody reads."""
    shapes: Shapes = {
        "log_scale": (),
        "visual.cls_embedding": (1, 1, dim),
        "visual.pos_embedding": (1, CLIP_TOKENS, dim),
        "visual.patch_embedding.weight": (dim, 3, CLIP_PATCH, CLIP_PATCH),
        "visual.head": (dim, 32),
        "textual.token_embedding.weight": (8, 32),
    }
    shapes |= _norm("visual.pre_norm", dim) | _norm("visual.post_norm", dim)
    for layer in range(layers):
        prefix = f"visual.transformer.{layer}."
        shapes |= _norm(f"{prefix}norm1", dim) | _norm(f"{prefix}norm2", dim)
        shapes |= _linear(f"{prefix}attn.to_qkv", 3 * dim, dim) | _linear(f"{prefix}attn.proj", dim, dim)
        shapes |= _linear(f"{prefix}mlp.0", 4 * dim, dim) | _linear(f"{prefix}mlp.2", dim, 4 * dim)
    return shapes


_CLIP = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.proj": "self_attn.out_proj",
    "mlp.0": "mlp.fc1",
    "mlp.2": "mlp.fc2",
}


def clip_to_transformers(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same vision tower as transformers' CLIPVisionModel holds it."""
    top = {
        "visual.pre_norm": "vision_model.pre_layrnorm",
        "visual.post_norm": "vision_model.post_layernorm",
        "visual.patch_embedding": "vision_model.embeddings.patch_embedding",
    }
    renamed: dict[str, Tensor] = {
        "vision_model.embeddings.class_embedding": tensors["visual.cls_embedding"].reshape(-1),
        "vision_model.embeddings.position_embedding.weight": tensors["visual.pos_embedding"][0],
    }
    for name, tensor in tensors.items():
        module, _, leaf = name.rpartition(".")
        if module in top:
            renamed[f"{top[module]}.{leaf}"] = tensor
        if not name.startswith("visual.transformer."):
            continue
        _, _, layer, rest = module.split(".", 3)
        prefix = f"vision_model.encoder.layers.{layer}."
        if rest == "attn.to_qkv":
            parts = zip("qkv", tensor.chunk(3), strict=True)
            renamed |= {f"{prefix}self_attn.{part}_proj.{leaf}": piece for part, piece in parts}
        else:
            renamed[f"{prefix}{_CLIP[rest]}.{leaf}"] = tensor
    return {name: tensor.clone() for name, tensor in renamed.items()}


def vae_to_diffusers(name: str, *, nested: bool) -> str:
    """Name of a Wan VAE's weight in diffusers' AutoencoderKLWan; nested: Wan 2.2."""
    if name.startswith(("conv1.", "conv2.")):
        return name.replace("conv1", "quant_conv").replace("conv2", "post_quant_conv")
    coder, part, rest = name.split(".", 2)
    if part in ("conv1", "head"):
        name = {"conv1": "conv_in", "head.0": "norm_out", "head.2": "conv_out"}[
            part if part == "conv1" else f"head.{rest.split('.')[0]}"
        ]
        return f"{coder}.{name}.{rest.split('.')[-1]}"
    numbers = rest.split(".")
    if part == "middle":
        place = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}[numbers[0]]
        return f"{coder}.mid_block.{place}.{_leaf('.'.join(numbers[1:]))}"
    if nested:
        stage, index, leaf = int(numbers[0]), int(numbers[2]), ".".join(numbers[3:])
        last, kind = (2, "down") if coder == "encoder" else (3, "up")
        inner = f"{kind}sampler" if index == last else f"resnets.{index}"
        return f"{coder}.{kind}_blocks.{stage}.{inner}.{_leaf(leaf)}"
    index, leaf = int(numbers[0]), ".".join(numbers[1:])
    if coder == "encoder":
        return f"{coder}.down_blocks.{index}.{_leaf(leaf)}"
    inner = "upsamplers.0" if index % 4 == 3 else f"resnets.{index % 4}"
    return f"{coder}.up_blocks.{index // 4}.{inner}.{_leaf(leaf)}"


def _leaf(name: str) -> str:
    parts = {"residual.0": "norm1", "residual.2": "conv1", "residual.3": "norm2", "residual.6": "conv2"}
    for ours, theirs in {**parts, "shortcut": "conv_shortcut"}.items():
        if name.startswith(ours + "."):
            return theirs + name.removeprefix(ours)
    return name


def random_weights(shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, seed: int = 0) -> dict[str, Tensor]:
    """Seeded values: Gaussian / sqrt(fan in), norms about 1, small biases. A name's values depend on it alone."""
    return {name: _random(name, shape, seed).to(dtype) for name, shape in shapes.items()}


def diffusers_named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A transformer's weights under diffusers' names."""
    return {to_diffusers(name): tensor for name, tensor in tensors.items()}


def _random(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
    values = torch.randn(shape, generator=generator)
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "gamma" or (leaf == "weight" and len(shape) == 1):
        return 1 + 0.05 * values
    if leaf == "bias" or len(shape) <= 1:
        return 0.02 * values
    return values / (shape[-1] if leaf == "modulation" else math.prod(shape[1:])) ** 0.5


def _linear(name: str, outputs: int, inputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
