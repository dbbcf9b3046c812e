"""The plain reference loop of causal Wan inference, as the public code bases do it: the yardstick.

Per pass and layer: unfused norms in fp32, rotary embedding by complex numbers in double precision, keys and values
of sink, window and chunk concatenated, attention by PyTorch. After a chunk the window is cut with a copy. Keys are
kept un-rotated and rotated at their place in the context in every pass (LongLive's relative positions), or kept
rotated at their true place (Self-Forcing). Nothing is captured, fused or written in place. Written from a
description of these loops, on our weights and behind our own `Engine` interface, so that the numbers must agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ms_infer.checkpoint import Student
from ms_infer.engines.base import Array
from ms_infer.engines.torch import TorchEngine
from ms_infer.errors import ConfigError
from ms_infer.model.rope import axis_angles, axis_dims
from ms_infer.model.transformer import Block, CrossAttention, Residual, RmsNorm, SelfAttention, timestep_embedding

Cache = tuple[Tensor, Tensor]
"""Keys and values `[B, tokens, heads, head_dim]` of the sink and the window."""


class ReferenceEngine(TorchEngine):
    """A `torch` engine whose passes and caches are those of the reference loop.

    compiled: run each pass through `torch.compile`. No snapshots and no re-caching: it exists to be measured.
    """

    name = "reference"

    def __init__(
        self, student: Student, *, device: str | None = None, precision: str | None = None, compiled: bool = False
    ) -> None:
        super().__init__(student, device=device, precision=precision)
        self._pass = torch.compile(self._forward) if compiled else self._forward
        self.name = "reference compiled" if compiled else "reference"  # type: ignore[misc]

    def reset(self) -> None:
        super().reset()
        self._caches: list[Cache | None] = [None] * self.config.model.layers
        self._fresh: list[Cache] = []
        self._kept: list[int] = []

    def _run(self, timestep: Tensor) -> Tensor:
        frames = self._x.shape[1]
        start = self._plan.placement.start
        self._input[:, :frames, self._slots["noise"]] = self._x
        positions = [*self._kept, *range(start, start + frames)]
        if self.config.context.rope == "relative":
            positions = list(range(len(positions)))
        flow, self._fresh = self._pass(self._input[:, :frames], timestep, self._turns(positions), self._caches)
        return flow

    def _write(self, timestep: Tensor) -> None:
        self._run(timestep)

    def _turns(self, positions: Sequence[int]) -> Tensor:
        """Unit complex numbers `[frames * cells, 1, head_dim / 2]` at temporal positions, in double precision."""
        rows, columns = self.config.token_grid
        grids = torch.meshgrid(torch.tensor(positions), torch.arange(rows), torch.arange(columns), indexing="ij")
        parts = [
            torch.from_numpy(axis_angles(grid.flatten().numpy(), dims))
            for grid, dims in zip(grids, axis_dims(self.config.model.head_dim), strict=True)
        ]
        angles = torch.cat(parts, dim=1).to(self.device)
        return torch.polar(torch.ones_like(angles), angles)[:, None]

    def _forward(
        self, x: Tensor, timestep: Tensor, turns: Tensor, caches: Sequence[Cache | None]
    ) -> tuple[Tensor, list[Cache]]:
        """One pass; returns the flow and the chunk's own keys and values of every layer."""
        model = self.transformer
        sinusoids = timestep_embedding(timestep, model.config.freq_dim).to(x.dtype)
        embedded = model.time_embedding(sinusoids)
        modulation = model.time_projection(embedded).unflatten(-1, (6, -1))
        tokens, fresh = model.patchify(x), []
        for index, block in enumerate(model.blocks):
            assert isinstance(block, Block), "the transformer is made of blocks"
            tokens, own = self._block(block, tokens, modulation, self._keys[index], turns, caches[index])
            fresh.append(own)
        return model.unpatchify(model.head(Residual(tokens), embedded), x.shape[-2:]), fresh

    def _block(
        self,
        block: Block,
        x: Tensor,
        modulation: Tensor,
        keys: Sequence[Tensor],
        turns: Tensor,
        cache: Cache | None,
    ) -> tuple[Tensor, Cache]:
        e = (block.modulation.float() + modulation.float()).unsqueeze(3).unbind(2)
        shape = x.shape
        y = layer_norm(x, block.eps) * (1 + e[1]) + e[0]
        y, own = self._self_attention(block.self_attn, y.to(x.dtype).flatten(1, 2), turns, cache)
        x = (x.float() + y.view(shape).float() * e[2]).to(x.dtype)
        y = layer_norm(x, block.eps) * block.norm3.weight.float() + block.norm3.bias.float()
        x = x + cross_attention(block.cross_attn, y.to(x.dtype).flatten(1, 2), keys).view(shape)
        y = layer_norm(x, block.eps) * (1 + e[4]) + e[3]
        y = block.ffn(y.to(x.dtype))
        return (x.float() + y.float() * e[5]).to(x.dtype), own

    def _self_attention(
        self, attention: SelfAttention, x: Tensor, turns: Tensor, cache: Cache | None
    ) -> tuple[Tensor, Cache]:
        heads = attention.heads
        q = rms_norm(attention.norm_q, attention.q(x)).unflatten(-1, (heads, -1))
        k = rms_norm(attention.norm_k, attention.k(x)).unflatten(-1, (heads, -1))
        v = attention.v(x).unflatten(-1, (heads, -1))
        all_k = k if cache is None else torch.cat([cache[0], k], dim=1)
        all_v = v if cache is None else torch.cat([cache[1], v], dim=1)
        q, all_k = rotate(q, turns[-q.shape[1] :]), rotate(all_k, turns)
        mixed = F.scaled_dot_product_attention(q.transpose(1, 2), all_k.transpose(1, 2), all_v.transpose(1, 2))
        out: Tensor = attention.o(mixed.transpose(1, 2).flatten(2))
        return out, (k, v)

    def _adopt(self) -> None:
        """Append the clean pass's keys and values; keep the sink and the last window, by a copy."""
        placement = self._plan.placement
        self._caches = [
            self._cut(*own)
            if cache is None
            else self._cut(*(torch.cat(pair, dim=1) for pair in zip(cache, own, strict=True)))
            for cache, own in zip(self._caches, self._fresh, strict=True)
        ]
        context = self.config.context
        frames = [*self._kept, *range(placement.start, placement.start + placement.frames)]
        gone = max(0, len(frames) - context.sink_frames - context.window_frames)
        self._kept = frames[: context.sink_frames] + frames[context.sink_frames + gone :]
        super()._adopt()

    def _cut(self, k: Tensor, v: Tensor) -> Cache:
        context, cells = self.config.context, self.config.tokens_per_frame
        sink, window = context.sink_frames * cells, context.window_frames * cells
        if k.shape[1] <= sink + window:
            return k.clone(), v.clone()
        return tuple(torch.cat([t[:, :sink], t[:, t.shape[1] - window :]], dim=1).clone() for t in (k, v))  # type: ignore[return-value]

    def recache(self, *, replace_sink: bool) -> None:
        raise ConfigError("the reference loop does not re-cache; it exists to be measured")

    def restore(self, state: Mapping[str, Array]) -> None:
        raise ConfigError("the reference loop keeps no snapshots; it exists to be measured")


def layer_norm(x: Tensor, eps: float) -> Tensor:
    """LayerNorm without affine in fp32, step by step."""
    wide = x.float()
    centred = wide - wide.mean(-1, keepdim=True)
    return centred * torch.rsqrt(centred.pow(2).mean(-1, keepdim=True) + eps)


def rms_norm(layer: RmsNorm, x: Tensor) -> Tensor:
    """x / rms(x) * weight, in fp32 step by step, back to x's dtype."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + layer.eps)).to(x.dtype) * layer.weight


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary embedding of x `[B, tokens, heads, head_dim]` as a complex product in double precision."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns).flatten(-2).to(x.dtype)


def cross_attention(attention: CrossAttention, x: Tensor, keys: Sequence[Tensor]) -> Tensor:
    """Attention to the text's (and image's) cached keys."""
    q = rms_norm(attention.norm_q, attention.q(x)).unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(q, keys[0], keys[1])
    if len(keys) == 4:
        mixed = mixed + F.scaled_dot_product_attention(q, keys[2], keys[3])
    return F.linear(mixed.transpose(1, 2).flatten(2), attention.o.weight, attention.bias(keys))
