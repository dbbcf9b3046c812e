"""The encoder of umT5, which turns the tokens of a prompt into the rows that Wan's cross-attention reads."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ms_infer.errors import CheckpointError

EPS = 1e-6
MAX_DISTANCE = 128
_LAYER = re.compile(r"encoder\.block\.(\d+)\.layer\.(.+)\.weight")
_ORIGINAL = {
    "0.layer_norm": "norm1",
    "1.layer_norm": "norm2",
    **{f"0.SelfAttention.{part}": f"attn.{part}" for part in "qkvo"},
    "0.SelfAttention.relative_attention_bias": "pos_embedding.embedding",
    "1.DenseReluDense.wi_0": "ffn.gate.0",
    "1.DenseReluDense.wi_1": "ffn.fc1",
    "1.DenseReluDense.wo": "ffn.fc2",
}
_TOP = {
    "shared.weight": "token_embedding.weight",
    "encoder.embed_tokens.weight": "token_embedding.weight",
    "encoder.final_layer_norm.weight": "norm.weight",
}


class Umt5Encoder:
    """Runs from the tensors as they are, so a mapped file stays on the disk: a layer at a time becomes float32.

    tensors: under Wan's names (`models_t5_umt5-xxl-enc-bf16.pth`) or those of transformers. CheckpointError: a weight
    is missing or does not fit.
    """

    def __init__(self, tensors: Mapping[str, Tensor], origin: str) -> None:
        self._tensors = {_original_name(name): tensor for name, tensor in tensors.items()}
        self.origin = origin
        self.layers = len({name.split(".")[1] for name in self._tensors if name.startswith("blocks.")})
        self.vocabulary, self.dim = self._shape("token_embedding.weight", 2)
        self._check()

    @torch.no_grad()
    def __call__(self, tokens: list[int]) -> Tensor:
        """Rows float32 `[len(tokens), dim]`: those of the padded prompt too, whose padding is never seen."""
        x = self._tensors["token_embedding.weight"][torch.tensor(tokens)].float()
        buckets = _buckets(len(tokens), self._shape("blocks.0.pos_embedding.embedding.weight", 2)[0])
        for layer in range(self.layers):
            x = x + self._attention(f"blocks.{layer}.", x, buckets)
            x = x + self._feed_forward(f"blocks.{layer}.", x)
        return self._norm("norm.weight", x)

    def _attention(self, layer: str, x: Tensor, buckets: Tensor) -> Tensor:
        bias = self._tensors[f"{layer}pos_embedding.embedding.weight"][buckets].float().permute(2, 0, 1)
        normed = self._norm(f"{layer}norm1.weight", x)
        q, k, v = (self._product(f"{layer}attn.{part}", normed).unflatten(1, (len(bias), -1)) for part in "qkv")
        scores = torch.einsum("qhd,khd->hqk", q, k) + bias  # umT5 does not scale by the width
        return self._product(f"{layer}attn.o", torch.einsum("hqk,khd->qhd", scores.softmax(-1), v).flatten(1))

    def _feed_forward(self, layer: str, x: Tensor) -> Tensor:
        normed = self._norm(f"{layer}norm2.weight", x)
        gate = F.gelu(self._product(f"{layer}ffn.gate.0", normed), approximate="tanh")
        return self._product(f"{layer}ffn.fc2", gate * self._product(f"{layer}ffn.fc1", normed))

    def _product(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self._tensors[f"{name}.weight"].float())

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return F.rms_norm(x, (self.dim,), self._tensors[name].float(), EPS)

    def _shape(self, name: str, ndim: int) -> tuple[int, ...]:
        tensor = self._tensors.get(name)
        if tensor is None or tensor.ndim != ndim:
            found = "is missing" if tensor is None else f"has shape {list(tensor.shape)}"
            raise CheckpointError(
                f"{self.origin} is no umT5 encoder: {name} {found}; expected models_t5_umt5-xxl-enc-bf16.pth or the "
                "text_encoder/ folder of a Wan repository"
            )
        return tuple(tensor.shape)

    def _check(self) -> None:
        """Every weight of every layer is there and fits."""
        heads = self._shape("blocks.0.pos_embedding.embedding.weight", 2)[1]
        inner, ffn = self._shape("blocks.0.attn.q.weight", 2)[0], self._shape("blocks.0.ffn.fc1.weight", 2)[0]
        dim = self.dim
        square: dict[str, tuple[int, ...]] = {f"attn.{part}": (inner, dim) for part in "qkv"}
        square |= {"attn.o": (dim, inner), "ffn.fc2": (dim, ffn)}
        square |= {"ffn.gate.0": (ffn, dim), "ffn.fc1": (ffn, dim), "norm1": (dim,), "norm2": (dim,)}
        square["pos_embedding.embedding"] = self._shape("blocks.0.pos_embedding.embedding.weight", 2)
        wanted = {f"blocks.{i}.{name}.weight": shape for i in range(self.layers) for name, shape in square.items()}
        for name, shape in {**wanted, "norm.weight": (dim,)}.items():
            if self._shape(name, len(shape)) != shape or inner % heads:
                raise CheckpointError(
                    f"{self.origin}: {name} has shape {list(self._shape(name, len(shape)))}, expected {list(shape)}; "
                    "the file is damaged or of another model"
                )


def _original_name(name: str) -> str:
    match = _LAYER.fullmatch(name)
    if match:
        return f"blocks.{match[1]}.{_ORIGINAL.get(match[2], match[2])}.weight"
    return _TOP.get(name, name)


def _buckets(length: int, count: int) -> Tensor:
    """Bucket `[query, key]` of every distance: exact when near, logarithmic up to 128, one half for each direction."""
    places = torch.arange(length)
    distance = places[None] - places[:, None]
    half = count // 2
    exact = half // 2
    far = distance.abs().clamp(min=1).float()
    grown = exact + (torch.log(far / exact) / math.log(MAX_DISTANCE / exact) * (half - exact)).long()
    bucket = torch.where(distance.abs() < exact, distance.abs(), grown.clamp(max=half - 1))
    return bucket + half * (distance > 0)
