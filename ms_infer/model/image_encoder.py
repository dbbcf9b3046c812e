"""The first frame to the tokens that a second cross-attention reads: CLIP's vision transformer, and its picture."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ms_infer.config import ImageEncoderConfig
from ms_infer.errors import CheckpointError
from ms_infer.model.transformer import merge_heads, split_heads

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
EPS = 1e-5
HEAD_DIM = 80  # of ViT-H, where no configuration tells the number of heads
_PIL_BITS = 22  # of Pillow's fixed-point weights
_LEVELS = 255.0

_HF = {
    "embeddings.class_embedding": "class_embedding",
    "embeddings.patch_embedding": "patch_embedding",
    "embeddings.position_embedding.weight": "positions",
    "pre_layrnorm": "pre_norm",
}
_HF_BLOCK = {
    "layer_norm1": "norm1",
    "self_attn.q_proj": "q",
    "self_attn.k_proj": "k",
    "self_attn.v_proj": "v",
    "self_attn.out_proj": "o",
    "layer_norm2": "norm2",
    "mlp.fc1": "fc1",
    "mlp.fc2": "fc2",
}
_WAN = {"cls_embedding": "class_embedding", "pos_embedding": "positions"}
_WAN_BLOCK = {"attn.proj": "o", "mlp.0": "fc1", "mlp.2": "fc2"}


class ImageEncoder(nn.Module):
    """CLIP's vision transformer up to its last block but one, before any last norm."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embedding = nn.Conv2d(3, config.width, config.patch, config.patch, bias=False)
        self.class_embedding = nn.Parameter(torch.zeros(config.width))
        self.positions = nn.Parameter(torch.zeros(config.tokens, config.width))
        self.pre_norm = nn.LayerNorm(config.width, eps=EPS)
        self.blocks = nn.ModuleList(_Block(config) for _ in range(config.layers))

    def forward(self, image: Tensor) -> Tensor:
        """image: float32 `[B, 3, H, W]` in 0..1. Returns `[B, tokens, width]` in the weights' dtype."""
        pixels = seen_pixels(image.float(), self.config).to(self.positions.dtype)
        patches = self.patch_embedding(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(patches), 1, -1)
        x: Tensor = self.pre_norm(torch.cat([first, patches], dim=1) + self.positions)
        for block in self.blocks:
            x = block(x)
        return x


class _Block(nn.Module):
    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=EPS) for _ in range(2))
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(width, config.ffn_dim), nn.Linear(config.ffn_dim, width)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (split_heads(layer(y), self.heads) for layer in (self.q, self.k, self.v))
        x = x + self.o(merge_heads(F.scaled_dot_product_attention(q, k, v)))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))  # type: ignore[no-any-return]


def seen_pixels(image: Tensor, config: ImageEncoderConfig) -> Tensor:
    """The normalised square that the encoder sees: float32 `[B, 3, H, W]` in 0..1 -> `[B, 3, pixels, pixels]`.

    Both fits are two matrix products: a resize in one direction is a fixed linear map.
    """
    square = _cropped(image, config.pixels) if config.fit == "crop" else _squashed(image, config.pixels)
    mean, std = (torch.tensor(v, dtype=square.dtype, device=square.device)[:, None, None] for v in (MEAN, STD))
    return (square - mean) / std


def _cropped(image: Tensor, pixels: int) -> Tensor:
    """CLIP's processor: the shorter side to `pixels` with Pillow's bicubic filter in 8-bit steps, then the middle."""
    height, width = image.shape[-2:]
    short = min(height, width)
    rows, columns = (int(pixels * side / short) for side in (height, width))
    top, left = (rows - pixels) // 2, (columns - pixels) // 2
    down = _matrix(_pillow_bicubic(height, rows)[top : top + pixels], image)
    across = _matrix(_pillow_bicubic(width, columns)[left : left + pixels], image)
    levels = (image * _LEVELS).round()
    return _to_levels(down @ _to_levels(levels @ across.T)) / _LEVELS


def _to_levels(x: Tensor) -> Tensor:
    return (x + 0.5).floor().clamp(0.0, _LEVELS)


def _squashed(image: Tensor, pixels: int) -> Tensor:
    """Wan: the whole picture by `F.interpolate(mode="bicubic")`, without anti-aliasing."""
    down, across = (_matrix(_plain_bicubic(side, pixels), image) for side in image.shape[-2:])
    return down @ image @ across.T


def _matrix(weights: NDArray[np.float64], like: Tensor) -> Tensor:
    return torch.tensor(weights.astype(np.float32), device=like.device)


def _pillow_bicubic(size: int, new_size: int) -> NDArray[np.float64]:
    """Pillow's anti-aliased bicubic resize of one direction: `[new_size, size]`, weights in its fixed-point steps."""
    scale = size / new_size
    wide = max(scale, 1.0)
    weights = np.zeros((new_size, size))
    for place in range(new_size):
        centre = (place + 0.5) * scale
        first, end = max(int(centre - 2 * wide + 0.5), 0), min(int(centre + 2 * wide + 0.5), size)
        taps = _cubic((np.arange(first, end) - centre + 0.5) / wide, -0.5)
        weights[place, first:end] = np.round(taps / taps.sum() * (1 << _PIL_BITS)) / (1 << _PIL_BITS)
    return weights


def _plain_bicubic(size: int, new_size: int) -> NDArray[np.float64]:
    """torch's bicubic resize of one direction, `[new_size, size]`: four taps, the border repeated."""
    weights = np.zeros((new_size, size))
    for place in range(new_size):
        centre = (place + 0.5) * size / new_size - 0.5
        taps = math.floor(centre) + np.arange(-1, 3)
        np.add.at(weights[place], taps.clip(0, size - 1), _cubic(taps - centre, -0.75))
    return weights


def _cubic(x: NDArray[np.floating[Any]], a: float) -> NDArray[np.float64]:
    """The cubic convolution kernel."""
    x = np.abs(x)
    near, far = ((a + 2) * x - (a + 3)) * x**2 + 1, a * (((x - 5) * x + 8) * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0)).astype(np.float64)


def image_encoder_of(
    tensors: Mapping[str, Tensor], described: Mapping[str, Any]
) -> tuple[ImageEncoderConfig, dict[str, Tensor]]:
    """Sizes and tensors, under our names, of a CLIP file: Wan's .pth, or transformers' CLIPVisionModel.

    described: the file's config.json. CheckpointError when it is no such file, or has another activation than GELU.
    """
    act = described.get("hidden_act", "gelu")
    if act != "gelu":
        raise CheckpointError(f"the image encoder has the activation {act!r}; expected CLIP ViT-H with 'gelu'")
    renamed = _renamed(tensors)
    shapes = {name: tuple(renamed[name].shape) for name in ("patch_embedding.weight", "positions") if name in renamed}
    blocks = {name.split(".")[1] for name in renamed if name.startswith("blocks.")}
    if len(shapes) < 2 or len(blocks) < 2 or "blocks.0.fc1.weight" not in renamed:
        raise CheckpointError(
            "this is no CLIP vision encoder; expected models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth, or the "
            "folder image_encoder/ of a diffusers repository"
        )
    width, patch = shapes["patch_embedding.weight"][0], shapes["patch_embedding.weight"][-1]
    heads = described.get("num_attention_heads", max(1, width // HEAD_DIM))
    config = ImageEncoderConfig(
        width=width,
        ffn_dim=renamed["blocks.0.fc1.weight"].shape[0],
        heads=heads,
        layers=len(blocks) - 1,
        patch=patch,
        pixels=patch * math.isqrt(shapes["positions"][0] - 1),
    )
    return config, {n: t for n, t in renamed.items() if not n.startswith(f"blocks.{len(blocks) - 1}.")}


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the vision transformer under our names; the rest of the file is left out."""
    found: dict[str, Tensor] = {}
    wan = any(name.startswith("visual.") for name in tensors)
    for name, tensor in tensors.items():
        found |= _from_wan(name, tensor) if wan else _from_transformers(name, tensor)
    return found


def _from_transformers(name: str, tensor: Tensor) -> dict[str, Tensor]:
    name = name.removeprefix("vision_model.")
    if name.startswith("encoder.layers."):
        place, _, rest = name.removeprefix("encoder.layers.").partition(".")
        module, _, leaf = rest.rpartition(".")
        return {f"blocks.{place}.{_HF_BLOCK[module]}.{leaf}": tensor} if module in _HF_BLOCK else {}
    return _first_match(_HF, name, tensor)


def _from_wan(name: str, tensor: Tensor) -> dict[str, Tensor]:
    name = name.removeprefix("visual.")
    if name.startswith("transformer."):
        place, _, rest = name.removeprefix("transformer.").partition(".")
        module, _, leaf = rest.rpartition(".")
        if module == "attn.to_qkv":
            return {f"blocks.{place}.{p}.{leaf}": t for p, t in zip("qkv", tensor.chunk(3), strict=True)}
        return {f"blocks.{place}.{_WAN_BLOCK.get(module, module)}.{leaf}": tensor}
    if name in _WAN:
        return {_WAN[name]: tensor.reshape(tensor.shape[-2:]) if name == "pos_embedding" else tensor.reshape(-1)}
    return {name: tensor} if name.startswith(("patch_embedding.", "pre_norm.")) else {}


def _first_match(table: Mapping[str, str], name: str, tensor: Tensor) -> dict[str, Tensor]:
    for theirs, ours in table.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return {ours + name.removeprefix(theirs): tensor}
    return {}
