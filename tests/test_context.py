"""The [sink | ring] cache against a slow, obvious oracle that recomputes the union from scratch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ms_infer.config import ContextConfig, ModelConfig, StreamConfig, TextConfig
from ms_infer.model.context import ContextCache
from ms_infer.model.rope import axis_angles, axis_dims
from ms_infer.model.transformer import SelfAttention

CELLS = (2, 1)  # token rows and columns of a latent frame
HEADS, HEAD_DIM = 2, 12


def stream_config(context: ContextConfig) -> StreamConfig:
    model = ModelConfig(
        name="oracle", dim=HEADS * HEAD_DIM, ffn_dim=8, heads=HEADS, layers=1, text=TextConfig(tokens=4, dim=8)
    )
    return StreamConfig(model=model, context=context, height=CELLS[0] * 16, width=CELLS[1] * 16)


def turned(x: Tensor, positions: list[int]) -> Tensor:
    """Rotary embedding of `[B, heads, frames * cells, head_dim]`, pair by pair in float64."""
    temporal, height, width = axis_dims(HEAD_DIM)
    out = x.clone()
    rows, columns = CELLS
    for token in range(x.shape[2]):
        frame, cell = divmod(token, rows * columns)
        place = (positions[frame], cell // columns, cell % columns)
        angles = [
            float(angle)
            for value, dims in zip(place, (temporal, height, width), strict=True)
            for angle in axis_angles(torch.tensor([value]).numpy(), dims)[0]
        ]
        for pair, angle in enumerate(angles):
            even, odd = x[:, :, token, 2 * pair], x[:, :, token, 2 * pair + 1]
            out[:, :, token, 2 * pair] = even * math.cos(angle) - odd * math.sin(angle)
            out[:, :, token, 2 * pair + 1] = even * math.sin(angle) + odd * math.cos(angle)
    return out


def oracle(context: ContextConfig, history: dict[int, tuple[Tensor, Tensor]], q: Tensor, start: int) -> Tensor:
    """Attention of the frames from `start` over sink, last window and themselves: section 4 of the paper's rule."""
    frames = q.shape[2] // (CELLS[0] * CELLS[1])
    end = start + frames
    union = sorted(
        {f for f in range(end) if f < context.sink_frames}
        | set(range(max(0, start - context.window_frames), start))
        | set(range(start, end))
    )
    positions = union if context.rope == "absolute" else list(range(len(union)))
    k = torch.cat([history[f][0] for f in union], 2)
    v = torch.cat([history[f][1] for f in union], 2)
    return F.scaled_dot_product_attention(turned(q, positions[-frames:]), turned(k, positions), v)


class Walk:
    """Runs cache and oracle side by side with the same random projections, in float64."""

    def __init__(self, context: ContextConfig, batch: int = 1, seed: int = 0) -> None:
        self.config = stream_config(context)
        self.cache = ContextCache(self.config, batch=batch, dtype=torch.float64)
        self.attention = SelfAttention(self.config.model).double()
        self.generator = torch.Generator().manual_seed(seed)
        self.history: dict[int, tuple[Tensor, Tensor]] = {}
        self.batch = batch

    def random(self, frames: int) -> tuple[Tensor, Tensor, Tensor]:
        shape = (3, self.batch, frames * CELLS[0] * CELLS[1], self.config.model.dim)
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).unbind(0)

    def chunk(self, start: int, frames: int, *, passes: int = 2, compare: bool = True) -> float:
        """A chunk's passes; the largest difference to the oracle."""
        self.cache.place_(start, frames)
        worst = 0.0
        for _ in range(passes):
            q, k, v = self.random(frames)
            with torch.no_grad():
                got = self.cache(0, self.attention, q, k, v)
            q, k, v = self.attention.normed_heads(q, k, v)
            for j, (kj, vj) in enumerate(zip(k.chunk(frames, 2), v.chunk(frames, 2), strict=True)):
                self.history[start + j] = (kj.detach(), vj.detach())
            if compare:
                want = oracle(self.config.context, self.history, q, start).transpose(1, 2).flatten(2)
                worst = max(worst, (got - want).abs().max().item())
        return worst


contexts = st.builds(
    lambda chunk, sink, window, first, rope: ContextConfig(
        chunk_frames=chunk,
        sink_frames=sink,
        window_frames=window,
        first_chunk_frames=min(first, chunk),
        rope=rope,
    ),
    chunk=st.integers(1, 4),
    sink=st.integers(0, 5),
    window=st.integers(0, 7),
    first=st.sampled_from([1, 3, 4]),
    rope=st.sampled_from(["relative", "absolute"]),
)


@settings(max_examples=40, deadline=None)
@given(context=contexts, chunks=st.integers(1, 9), batch=st.integers(1, 2))
def test_ring_equals_the_union_recomputed_from_scratch(context: ContextConfig, chunks: int, batch: int) -> None:
    walk = Walk(context, batch)
    pointers = [t.data_ptr() for t in (walk.cache.k, walk.cache.v, walk.cache.sink_k)]

    worst = max(walk.chunk(context.span(i).start, context.span(i).frames) for i in range(chunks))

    assert worst < 1e-10
    assert pointers == [t.data_ptr() for t in (walk.cache.k, walk.cache.v, walk.cache.sink_k)]


@settings(max_examples=6, deadline=None)
@given(context=contexts)
def test_ring_equals_the_union_past_two_thousand_latent_frames(context: ContextConfig) -> None:
    walk = Walk(context)
    chunks = 2_000 // context.chunk_frames + 4
    for index in range(chunks - 3):
        frames = context.span(index).frames
        walk.chunk(context.span(index).start, frames, passes=1, compare=False)
        for old in [f for f in walk.history if context.sink_frames <= f < context.span(index).start - 12]:
            del walk.history[old]

    worst = max(walk.chunk(context.span(i).start, context.chunk_frames) for i in range(chunks - 3, chunks))

    assert walk.cache.placement.start + context.chunk_frames > 2_000
    assert worst < 1e-9


@pytest.mark.parametrize("rope", ["relative", "absolute"])
def test_a_chunk_at_ten_million_latent_frames_is_exact(rope: str) -> None:
    context = ContextConfig(chunk_frames=3, sink_frames=3, window_frames=3, rope=rope)
    walk = Walk(context)
    walk.chunk(0, 3)
    far = 9_999_999
    worst = max(walk.chunk(start, 3, compare=start > far) for start in (far - 3, far, far + 3))
    # the chunks before `far` stand for the window; sink frames keep their true keys
    assert worst < 1e-8


def test_float32_far_positions_agree_with_float64() -> None:
    """Angles come from float64 tables: float32 streams lose nothing at far positions."""
    context = ContextConfig(chunk_frames=2, sink_frames=2, window_frames=2)
    far = 10_000_000
    double, single = (ContextCache(stream_config(context), dtype=dtype) for dtype in (torch.float64, torch.float32))
    torch.manual_seed(0)
    attention = SelfAttention(stream_config(context).model)
    q, k, v = torch.randn(3, 1, 2 * 2, HEADS * HEAD_DIM)
    outputs = []
    with torch.no_grad():
        for cache in (double, single):
            module = attention.to(cache.k.dtype)
            cache.place_(0, 2)
            cache(0, module, *(t.to(cache.k.dtype) for t in (q, k, v)))
            cache.place_(far, 2)
            outputs.append(cache(0, module, *(t.to(cache.k.dtype) for t in (q, k, v))).double())
    torch.testing.assert_close(outputs[1], outputs[0], atol=1e-5, rtol=0)


@settings(max_examples=60, deadline=None)
@given(context=contexts, index=st.integers(0, 5_000))
def test_relative_positions_never_exceed_the_context(context: ContextConfig, index: int) -> None:
    start, frames = context.span(index).start, context.span(index).frames
    place = context.place(start, frames)

    if context.rope == "relative" and context.sink_frames:
        assert start + frames - 1 - place.sink_position < context.cache_frames
    assert len(set(place.slots)) == frames
    assert max(place.slots) < place.valid_frames <= context.cache_frames


def test_passes_with_gradient_leave_the_cache_alone_and_agree_bit_for_bit() -> None:
    walk = Walk(ContextConfig(chunk_frames=3, sink_frames=2, window_frames=2))
    for start in (0, 3, 6):
        walk.chunk(start, 3)
    walk.cache.place_(9, 3)
    before = walk.cache.k.clone()
    q, k, v = walk.random(3)

    with_gradient = walk.cache(0, walk.attention, q.requires_grad_(), k, v)
    untouched = torch.equal(before, walk.cache.k)
    with torch.no_grad():
        without = walk.cache(0, walk.attention, q, k, v)

    assert untouched
    assert torch.equal(with_gradient, without)
    with_gradient.sum().backward()
    assert q.grad is not None
    assert torch.isfinite(q.grad).all()


def test_a_replaced_sink_is_attended_where_it_now_stands() -> None:
    context = ContextConfig(chunk_frames=2, sink_frames=2, window_frames=2)
    walk = Walk(context)
    for start in range(0, 12, 2):
        walk.chunk(start, 2)
    walk.cache.replace_sink_(6)
    walk.cache.place_(6, 6)
    q, k, v = walk.random(6)
    with torch.no_grad():
        got = walk.cache(0, walk.attention, q, k, v)
    fresh = Walk(context)
    fresh.cache.place_(0, 6)
    with torch.no_grad():
        want = fresh.cache(0, walk.attention, q, k, v)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=0)


def test_recaching_beside_a_kept_sink_does_not_touch_it() -> None:
    context = ContextConfig(chunk_frames=2, sink_frames=3, window_frames=2)
    walk = Walk(context)
    for start in range(0, 12, 2):
        walk.chunk(start, 2)
    sink = walk.cache.sink_k.clone()
    place = walk.cache.place_(5, 7)
    with torch.no_grad():
        walk.cache(0, walk.attention, *walk.random(7))

    assert place.slots == tuple(3 + (f - 3) % 4 for f in range(8, 12))
    assert torch.equal(sink, walk.cache.sink_k)
