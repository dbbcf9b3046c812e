"""The attention context of a stream: `[sink | ring]` keys and values, written in place.

A chunk's keys overwrite the oldest ring slots; nothing is moved, concatenated or re-allocated.
Keys are rotated once, at their true latent frame. In relative mode the sink alone is re-rotated
once per chunk from an un-rotated copy, which keeps its distance to the queries constant; only
position differences matter to rotary attention, so this equals positions by slot in the context
(MotionStream section 3.2). Softmax does not care about key order: valid slots are a prefix.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ms_infer.config import Placement, StreamConfig
from ms_infer.model.rope import Rotation
from ms_infer.model.transformer import SelfAttention, merge_heads


class ContextCache:
    """Keys and values of every layer, and the slots of the current pass in them.

    `k`, `v`: `[layers, batch, heads, cache_tokens, head_dim]`, allocated once.
    Use: `place_()` for a chunk, then any number of passes with the cache as the transformer's
    `attend`; each pass rewrites the chunk's slots before it attends. With gradients enabled the
    stored keys are constants and nothing is written: call a last pass under `no_grad`.
    """

    def __init__(
        self,
        config: StreamConfig,
        *,
        batch: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        model = config.model
        self.config = config
        self.sink_start = 0
        shape = (model.layers, batch, model.heads)
        self.k = torch.zeros(*shape, config.cache_tokens, model.head_dim, device=device, dtype=dtype)
        self.v = torch.zeros_like(self.k)
        relative = config.context.rope == "relative" and config.sink_tokens > 0
        self.sink_k = torch.zeros(
            *shape, config.sink_tokens if relative else 0, model.head_dim, device=device, dtype=dtype
        )
        tables = torch.float64 if dtype == torch.float64 else torch.float32
        self._sink_rotation = Rotation(
            config.context.sink_frames, config.token_grid, model.head_dim, device=device, dtype=tables
        )
        self._rotations: dict[int, Rotation] = {}
        self._slot_tokens = torch.empty(0, dtype=torch.int64, device=device)
        self._tables = tables
        self.placement = self.place_(0, config.context.opening_frames)

    def place_(self, start: int, frames: int) -> Placement:
        """Make the latent frames [start, start + frames) the current ones; re-rotate the sink."""
        self.placement = self.config.context.place(start, frames, sink_start=self.sink_start)
        cells = self.config.tokens_per_frame
        slots = torch.tensor(self.placement.slots, dtype=torch.int64)
        tokens = slots[:, None] * cells + torch.arange(cells)
        self._slot_tokens = tokens.flatten().to(self.k.device)
        self._rotation(frames).move_to_(start)
        self._roll_sink_()
        return self.placement

    def replace_sink_(self, start: int) -> None:
        """Let the latent frames from `start` on be the new sink; the next pass must write them."""
        self.sink_start = start

    def __call__(self, layer: int, attention: SelfAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write this pass's keys and values, then attend to the valid prefix (see `Attend`)."""
        return merge_heads(self._attend(*self._written(layer, attention, q, k, v)))

    def write(self, layer: int, attention: SelfAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Write this pass's keys and values (see `ContextAttend`)."""
        return self._written(layer, attention, q, k, v)[0]

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        valid = self.placement.valid_frames * self.config.tokens_per_frame
        return F.scaled_dot_product_attention(q, keys[:, :, :valid], values[:, :, :valid])

    def _written(
        self, layer: int, attention: SelfAttention, q: Tensor, k: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries, and all keys and values of the layer with this pass's in them."""
        q, k, v = attention.normed_heads(q, k, v)
        rotation = self._rotation(self.placement.frames)
        written = self._slot_tokens.shape[0]
        k, v = k[:, :, k.shape[2] - written :], v[:, :, v.shape[2] - written :]
        if torch.is_grad_enabled():
            keys = self.k[layer].index_copy(2, self._slot_tokens, rotation(k))
            values = self.v[layer].index_copy(2, self._slot_tokens, v)
        else:
            keys, values = self.k[layer], self.v[layer]
            keys.index_copy_(2, self._slot_tokens, rotation(k))
            values.index_copy_(2, self._slot_tokens, v)
            self._keep_sink_(layer, k)
        return rotation(q), keys, values

    def _keep_sink_(self, layer: int, k: Tensor) -> None:
        """Copy un-rotated keys that belong to the sink."""
        sink_frames = self.config.context.sink_frames
        first = self.placement.slots[0] if self.placement.slots else sink_frames
        in_sink = min(max(0, sink_frames - first), len(self.placement.slots))
        if in_sink and self.sink_k.shape[3]:
            cells = self.config.tokens_per_frame
            self.sink_k[layer, :, :, first * cells : (first + in_sink) * cells] = k[:, :, : in_sink * cells]

    def _roll_sink_(self) -> None:
        if self.placement.sink_position > self.sink_start:
            self.rotate_sink_(self.placement.sink_position)

    def rotate_sink_(self, position: int | None = None) -> None:
        """Rotate the sink's keys to a temporal position, None: their own, from the un-rotated ones."""
        if self.sink_k.shape[3]:
            self._sink_rotation.move_to_(self.sink_start if position is None else position)
            self.k[:, :, :, : self.sink_k.shape[3]] = self._sink_rotation(self.sink_k)

    def _rotation(self, frames: int) -> Rotation:
        if frames not in self._rotations:
            self._rotations[frames] = Rotation(
                frames, self.config.token_grid, self.config.model.head_dim, device=self.k.device, dtype=self._tables
            )
        return self._rotations[frames]
