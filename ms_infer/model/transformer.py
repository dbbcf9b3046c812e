"""The causal Wan student: one pass over the latent frames of a chunk.

Parameter names are those of the original Wan checkpoints. How tokens attend to each other is not
decided here: `forward` takes an `attend` function, so that the same weights run over the
[sink | ring] cache, over a whole clip with a mask, or inside an exported graph.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ms_infer.config import PATCH, ModelConfig

CrossKeys = Sequence[tuple[Tensor, ...]]
"""Per layer: text keys and values `[B, heads, tokens, head_dim]`, then those of the image, or the bias of
`CrossAttention.imageless`."""


class Attend(Protocol):
    """Self-attention of one layer, from projections to the mixed values."""

    def __call__(self, layer: int, attention: SelfAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q, k (before qk-norm), v: `[B, tokens, dim]`. Returns `[B, tokens, dim]`."""


class ContextAttend(Attend, Protocol):
    """An `attend` over a context that can also be written alone."""

    def write(self, layer: int, attention: SelfAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write keys and values, which later passes attend to. Returns the queries `[B, heads, tokens, head_dim]`."""


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[B, tokens, dim]` -> `[B, heads, tokens, head_dim]`."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge_heads(x: Tensor) -> Tensor:
    """`[B, heads, tokens, head_dim]` -> `[B, tokens, dim]`."""
    return x.transpose(1, 2).flatten(2)


def timestep_embedding(timestep: Tensor, dim: int) -> Tensor:
    """Sinusoids `[..., dim]` in float64, cosines first: angle = t x 10000^(-i / (dim / 2))."""
    half = dim // 2
    exponent = torch.arange(half, dtype=torch.float64, device=timestep.device) / -half
    angles = timestep.double()[..., None] * torch.pow(10_000.0, exponent)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class RmsNorm(nn.Module):
    """x / rms(x) * weight over the last dimension."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class SelfAttention(nn.Module):
    """Projections and full-dim qk-norm; the attention itself is the caller's `attend`."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = RmsNorm(config.dim, config.eps)
        self.norm_k = RmsNorm(config.dim, config.eps)

    def normed_heads(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """qk-norm over the full width, then `[B, heads, tokens, head_dim]` each."""
        q, k = self.norm_q(q), self.norm_k(k)
        return split_heads(q, self.heads), split_heads(k, self.heads), split_heads(v, self.heads)

    def forward(self, x: Operand, layer: int, attend: Attend, operations: Operations) -> Tensor:
        return operations.linear(self.o, attend(layer, self, *operations.project(x, self.q, self.k, self.v)))


class CrossAttention(nn.Module):
    """Unmasked attention to the text, plus a second one to image tokens where the model has them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads = config.heads
        self.q, self.k, self.v, self.o = (nn.Linear(config.dim, config.dim) for _ in range(4))
        self.norm_q = RmsNorm(config.dim, config.eps)
        self.norm_k = RmsNorm(config.dim, config.eps)
        if config.image_tokens:
            self.k_img, self.v_img = (nn.Linear(config.dim, config.dim) for _ in range(2))
            self.norm_k_img = RmsNorm(config.dim, config.eps)

    def keys(self, text: Tensor, image: Tensor | None) -> tuple[Tensor, ...]:
        """Keys and values of the text `[B, tokens, dim]` and, where present, of the image."""
        kv = [self.norm_k(self.k(text)), self.v(text)]
        if image is not None:
            kv += [self.norm_k_img(self.k_img(image)), self.v_img(image)]
        return tuple(split_heads(x, self.heads) for x in kv)

    def imageless(self, image: Tensor) -> Tensor:
        """Bias `[dim]` of the output where all image tokens are the same one, `[1, 1, dim]`.

        They get the same share of every query, so what they add is a constant.
        """
        return F.linear(self.v_img(image), self.o.weight, self.o.bias)[0, 0]

    def forward(self, x: Tensor, operand: Operand, keys: Sequence[Tensor], operations: Operations) -> Residual:
        """x `[B, F, tokens, dim]` with what the text, and the image, have to say to `operand`, its norm."""
        q = split_heads(self.norm_q(operations.linear(self.q, operand)), self.heads)
        mixed = operations.cross_attend(q, keys[0], keys[1])
        if len(keys) == 4:
            mixed = mixed + operations.cross_attend(q, keys[2], keys[3])
        return operations.add_linear(x, self.o, merge_heads(mixed), self.bias(keys))

    def bias(self, keys: Sequence[Tensor]) -> Tensor:
        """Bias `[dim]` of the output."""
        return keys[2] if len(keys) == 3 else self.o.bias


def norm_modulate(x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
    """LN(x) * (1 + scale) + shift; x `[B, F, tokens, dim]`, scale and shift `[B, F, dim]`."""
    normed = F.layer_norm(x, x.shape[-1:], eps=eps)
    return normed * (1 + scale.unsqueeze(2)) + shift.unsqueeze(2)


def gate_residual(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    """x + y * gate; x, y `[B, F, tokens, dim]`, gate `[B, F, dim]`."""
    return x + y * gate.unsqueeze(2)


Operand = Tensor | tuple[Tensor, Tensor]
"""What goes into a matrix product: `[B, F * tokens, dim]`, or the same quantised, with its scales."""


class Residual(NamedTuple):
    """The residual stream `[B, F, tokens, dim]`, and what is still to be added: `y * gate`, or `y` without a gate."""

    x: Tensor
    y: Tensor | None = None
    """`[B, F * tokens, dim]`"""
    gate: Tensor | None = None
    """`[B, F, dim]`"""

    def added(self) -> Tensor:
        """All of it."""
        if self.y is None:
            return self.x
        y = self.y.view_as(self.x)
        return self.x + y if self.gate is None else gate_residual(self.x, y, self.gate)


class Operations:
    """What stands between the matrix products, and these products. These lines are the maths.

    An engine may pass a subclass that fuses or quantises them (`engines/torch/fused.py`). What `modulate` and `norm`
    return beside x goes into `linear`, `project` and `feed_forward` only.
    """

    def modulate(self, rest: Residual, scale: Tensor, shift: Tensor, eps: float) -> tuple[Tensor, Operand]:
        """x with all that is left, and its modulated norm; scale and shift `[B, F, dim]`."""
        x = rest.added()
        return x, norm_modulate(x, scale, shift, eps).flatten(1, 2)

    def modulate_last(self, rest: Residual, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        """The modulated norm `[B, F, tokens, dim]` of all that is left, for the head."""
        return norm_modulate(rest.added(), scale, shift, eps)

    def norm(self, rest: Residual, layer: nn.LayerNorm, bias: Tensor) -> tuple[Tensor, Operand]:
        """x with all that is left, and its norm. bias: that of the `add_linear` that follows, which may add it here."""
        x = rest.added()
        return x, layer(x).flatten(1, 2)

    def add_linear(self, x: Tensor, layer: nn.Linear, y: Tensor, bias: Tensor) -> Residual:
        """x + layer(y), with this bias."""
        return Residual(x + F.linear(y, layer.weight, bias).view_as(x))

    def cross_attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attention to all keys; `[B, heads, tokens, head_dim]` each."""
        return F.scaled_dot_product_attention(q, k, v)

    def feed_forward(self, ffn: nn.Sequential, operand: Operand) -> Tensor:
        inner, _, outer = ffn
        return self.linear(outer, F.gelu(self.linear(inner, operand), approximate="tanh"))  # type: ignore[arg-type]

    def linear(self, layer: nn.Linear, operand: Operand) -> Tensor:
        out: Tensor = layer(operand)
        return out

    def project(self, operand: Operand, *layers: nn.Linear) -> tuple[Tensor, ...]:
        """The same through several layers."""
        return tuple(self.linear(layer, operand) for layer in layers)


PLAIN = Operations()


class Block(nn.Module):
    """Self-attention, cross-attention and feed-forward, modulated per latent frame."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.self_attn = SelfAttention(config)
        self.norm3 = nn.LayerNorm(config.dim, eps=config.eps)
        self.cross_attn = CrossAttention(config)
        self.ffn = nn.Sequential(
            nn.Linear(config.dim, config.ffn_dim),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_dim, config.dim),
        )
        self.modulation = nn.Parameter(torch.zeros(1, 6, config.dim))

    def forward(
        self,
        rest: Residual,
        modulation: Tensor,
        keys: Sequence[Tensor],
        layer: int,
        attend: Attend,
        operations: Operations = PLAIN,
    ) -> Residual:
        """modulation `[B, F, 6, dim]` of the timestep."""
        do = operations
        shift_sa, scale_sa, gate_sa, shift_ffn, scale_ffn, gate_ffn = (self.modulation + modulation).unbind(2)
        x, operand = do.modulate(rest, scale_sa, shift_sa, self.eps)
        y = self.self_attn(operand, layer, attend, do)
        x, operand = do.norm(Residual(x, y, gate_sa), self.norm3, self.cross_attn.bias(keys))
        x, operand = do.modulate(self.cross_attn(x, operand, keys, do), scale_ffn, shift_ffn, self.eps)
        return Residual(x, do.feed_forward(self.ffn, operand), gate_ffn)

    def write(
        self, rest: Residual, modulation: Tensor, layer: int, attend: ContextAttend, operations: Operations = PLAIN
    ) -> None:
        """Only the keys and values of the layer, for later passes."""
        shift, scale = (self.modulation + modulation).unbind(2)[:2]
        attention = self.self_attn
        _, operand = operations.modulate(rest, scale, shift, self.eps)
        attend.write(layer, attention, *operations.project(operand, attention.q, attention.k, attention.v))


class Head(nn.Module):
    """Modulated norm and projection to 2 x 2 latent pixels."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.eps = config.eps
        self.head = nn.Linear(config.dim, PATCH * PATCH * config.latent_channels)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.dim))

    def forward(self, rest: Residual, embedded_time: Tensor, operations: Operations = PLAIN) -> Tensor:
        shift, scale = (self.modulation + embedded_time.unsqueeze(2)).unbind(2)
        out: Tensor = self.head(operations.modulate_last(rest, scale, shift, self.eps))
        return out


class ImageEmbedding(nn.Module):
    """Image-encoder tokens to the transformer's width (Wan 2.1 image-to-video)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width = config.image_dim
        self.proj = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, config.dim),
            nn.LayerNorm(config.dim),
        )

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.proj(tokens)
        return out


class Transformer(nn.Module):
    """Predicts the flow (noise - x0) of a run of latent frames."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.dim
        self.patch_embedding = nn.Conv3d(config.in_channels, dim, (1, PATCH, PATCH), (1, PATCH, PATCH))
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text.dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim)
        )
        self.time_embedding = nn.Sequential(nn.Linear(config.freq_dim, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(dim, 6 * dim))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.head = Head(config)
        if config.image_tokens:
            self.img_emb = ImageEmbedding(config)

    def condition(self, text: Tensor, image: Tensor | None = None, *, imageless: bool = False) -> CrossKeys:
        """Cross-attention keys and values of all layers, once per prompt.

        text: `[B, tokens, text_dim]`, zero-padded to the model's length and never masked;
        image: `[B, image_tokens, image_dim]` for models with an image encoder; imageless: such a model sees no image,
        as tokens of zeros, which are one constant a layer (`CrossAttention.imageless`).
        """
        text = self.text_embedding(text)
        image = self.img_emb(image) if image is not None else None
        attentions: list[CrossAttention] = [block.cross_attn for block in self.blocks]  # type: ignore[misc]
        keys = [attention.keys(text, image) for attention in attentions]
        if not imageless:
            return keys
        token = self.img_emb(text.new_zeros(1, 1, self.config.image_dim))
        return [(*own, attention.imageless(token)) for own, attention in zip(keys, attentions, strict=True)]

    def forward(
        self, x: Tensor, timestep: Tensor, keys: CrossKeys, attend: Attend, operations: Operations = PLAIN
    ) -> Tensor:
        """One pass. x: `[B, F, in_channels, h, w]`; timestep: `[B, F]` in 0..1000.

        Returns the flow `[B, F, latent_channels, h, w]`.
        """
        embedded_time = self.embed_time(timestep)
        modulation = self.time_projection(embedded_time).unflatten(-1, (6, -1))
        rest = Residual(self.patchify(x))
        for layer, block in enumerate(self.blocks):
            rest = block(rest, modulation, keys[layer], layer, attend, operations)
        return self.unpatchify(self.head(rest, embedded_time, operations), x.shape[-2:])

    def write(
        self, x: Tensor, timestep: Tensor, keys: CrossKeys, attend: ContextAttend, operations: Operations = PLAIN
    ) -> None:
        """A pass for its keys and values alone: it ends where the last layer's are written."""
        modulation = self.time_projection(self.embed_time(timestep)).unflatten(-1, (6, -1))
        rest, last = Residual(self.patchify(x)), len(self.blocks) - 1
        for layer, block in enumerate(self.blocks[:last]):
            rest = block(rest, modulation, keys[layer], layer, attend, operations)
        self.blocks[last].write(rest, modulation, last, attend, operations)  # type: ignore[operator]

    def embed_time(self, timestep: Tensor) -> Tensor:
        """`[B, F]` -> `[B, F, dim]`."""
        sinusoids = timestep_embedding(timestep, self.config.freq_dim)
        out: Tensor = self.time_embedding(sinusoids.to(self.patch_embedding.weight.dtype))
        return out

    def patchify(self, x: Tensor) -> Tensor:
        """`[B, F, C, h, w]` -> tokens `[B, F, h/2 * w/2, dim]`, rows first."""
        patches = x.unflatten(-1, (-1, PATCH)).unflatten(-3, (-1, PATCH))  # B F C h p w q
        patches = patches.permute(0, 1, 3, 5, 2, 4, 6).flatten(4).flatten(2, 3)
        return F.linear(patches, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)

    def unpatchify(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """Tokens `[B, F, h/2 * w/2, (p, q, c)]` -> `[B, F, C, h, w]`."""
        height, width = size
        pixels = x.unflatten(-1, (PATCH, PATCH, -1)).unflatten(2, (height // PATCH, width // PATCH))
        return pixels.permute(0, 1, 6, 2, 4, 3, 5).flatten(5, 6).flatten(3, 4)


def full_attention(rotation: Callable[[Tensor], Tensor], mask: Tensor | None = None) -> Attend:
    """Attention of a whole clip to itself; mask `[tokens, tokens]`, True = attend.

    For bidirectional teachers (no mask) and block-causal training.
    """

    def attend(layer: int, attention: SelfAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = attention.normed_heads(q, k, v)
        return merge_heads(F.scaled_dot_product_attention(rotation(q), rotation(k), v, attn_mask=mask))

    return attend
