"""Offsets past 2^31 elements. The tensors span gigabytes of addresses, but only touched pages take memory."""

from __future__ import annotations

import pytest
import torch
from ms_kernels import (
    LayerCache,
    QKNorm,
    frames_to_uint8,
    norm_modulate,
    reference,
    residual_modulate,
    roll_sink,
    sink_window_attention,
    write_kv,
)

from tests.interp.guard import assert_close, random
from tests.interp.rope import rotation

FAR = 2**31
HALF = torch.float16


def _far(*shape: int) -> torch.Tensor:
    """Random [batch, ...] whose second batch lies 2^31 elements behind the first."""
    inner = random(*shape[1:]).stride()
    size = (shape[0] - 1) * FAR + random(*shape[1:]).numel()
    tensor = torch.empty(size, dtype=HALF).as_strided(shape, (FAR, *inner))
    return tensor.copy_(random(*shape))


def test_rows_of_a_far_batch():
    x, rows = _far(2, 2, 40), random(2, 1, 40).half()
    expected = reference.norm_modulate(x.double(), rows.double(), rows.double())
    assert_close(norm_modulate(x, rows, rows), expected, HALF)
    y, after, residual = expected.half(), random(40).half(), x.double()
    twins = (residual, y.double(), *(rows.double() for _ in range(3)), after.double())
    expected = reference.residual_modulate(*twins)
    assert_close(residual_modulate(x, y, rows, rows, rows, after), expected, HALF)
    assert_close(x, residual, HALF)


def test_a_far_frame():
    frames = _far(2, 3, 4, 6)
    assert torch.equal(frames_to_uint8(frames), reference.frames_to_uint8(frames.float()))


HEADS, TOKENS, DIM, FRAME = 3, 2**25 + 32, 32, 2
"""The third head of such a cache begins past 2^31 elements."""


def _far_cache(used: int) -> torch.Tensor:
    cache = torch.empty(1, HEADS, TOKENS, DIM, dtype=HALF)
    cache[:, :, :used] = random(1, HEADS, used, DIM)
    return cache


@pytest.mark.parametrize("form", ["pointer", "tma"])
def test_attention_over_a_far_head(form):
    cache, q = _far_cache(40), random(1, HEADS, 5, DIM).half()
    state = torch.tensor([37], dtype=torch.int32)
    near = cache[:, :, :40].double()
    result = sink_window_attention(q, cache, cache, state, form=form)
    assert_close(result, reference.sink_window_attention(q.double(), near, near, state), HALF)


def test_attention_of_far_queries():
    q, cache, state = _far(2, 1, 5, DIM), random(2, 1, 40, DIM).half(), torch.tensor([40], dtype=torch.int32)
    expected = reference.sink_window_attention(q.double(), cache.double(), cache.double(), state)
    assert_close(sink_window_attention(q, cache, cache, state, out=q), expected, HALF)


def test_writing_to_a_far_head():
    cache = LayerCache(_far_cache(2 * FRAME), _far_cache(2 * FRAME), None, FRAME)
    small = LayerCache(cache.k[:, :, :4].double(), cache.v[:, :, :4].double(), None, FRAME)
    q, k, v = (random(1, FRAME, HEADS * DIM, seed=i).half() for i in range(3))
    norm, table = QKNorm(torch.ones(HEADS * DIM), torch.ones(HEADS * DIM)), rotation([1], 1, FRAME, DIM)
    state = torch.tensor([2 * FRAME, 1, 1], dtype=torch.int32)
    expected = reference.write_kv(q.double(), k.double(), v.double(), norm, table, small, state)
    assert_close(write_kv(q, k, v, norm, table, cache, state), expected, HALF)
    assert_close(cache.k[:, :, :4], small.k, HALF)
    assert_close(cache.v[:, :, :4], small.v, HALF)


def test_a_slot_number_that_overflows_is_not_written():
    """slot * tokens_per_frame passes 2^31: it must not come round to a row of the cache."""
    shape = (1, 1, 8, DIM)
    cache = LayerCache(torch.zeros(shape), torch.zeros(shape), None, 8)
    x, ones = random(1, 8, DIM), torch.ones(DIM)
    state = torch.tensor([1, 0, 2**29], dtype=torch.int32)  # 2^29 * 8 = 2^32, which is 0 in 32 bits
    table = rotation([0], 1, 8, DIM)
    write_kv(x, x, x, QKNorm(ones, ones), table, cache, state)
    assert not cache.k.any()


def test_rolling_the_sink_of_a_far_head():
    sink_k = random(1, HEADS, FRAME, DIM).half()
    cache = LayerCache(_far_cache(2 * FRAME), torch.empty(1, HEADS, TOKENS, DIM, dtype=HALF), sink_k, FRAME)
    table = rotation([9], 1, FRAME, DIM)
    roll_sink(cache, table)
    assert_close(cache.k[:, :, :FRAME], reference.rotate(sink_k.double(), table), HALF)
