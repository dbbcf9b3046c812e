"""Whole streams through the cache kernels and attention, against attention over an independently kept history."""

from __future__ import annotations

import pytest
import torch
from ms_kernels import ChunkState, LayerCache, QKNorm, reference, roll_sink, sink_window_attention, write_kv

from tests.interp.guard import assert_close, random
from tests.interp.rope import rotation

ROWS, COLUMNS, HEADS, DIM = 1, 2, 2, 32
FRAME = ROWS * COLUMNS
CONTEXTS = {"c3s3w3": (3, 3, 3, 3), "c3s1w2 first 1": (3, 1, 2, 1), "c2s0w3": (2, 0, 3, 2), "c3s2w0": (3, 2, 0, 3)}


def _chunks(chunk, first, count):
    """(start, frames) of the chunks of a stream."""
    start, frames = 0, first
    for _ in range(count):
        yield start, frames
        start, frames = start + frames, chunk


def _heads(x):
    return x.unflatten(-1, (HEADS, DIM)).transpose(1, 2)


class Oracle:
    """Keeps every clean frame's normalised keys and values, fp64, and attends over the union of the context."""

    def __init__(self, sink, window, relative):
        self.sink, self.window, self.relative = sink, window, relative
        self.k, self.v = {}, {}

    def attend(self, start, q, k, v):
        frames = q.shape[2] // FRAME
        for i in range(frames):
            tokens = slice(i * FRAME, (i + 1) * FRAME)
            self.k[start + i], self.v[start + i] = k[:, :, tokens], v[:, :, tokens]
        past = range(max(0, start - self.window), start)
        union = sorted({*range(min(self.sink, start)), *past, *range(start, start + frames)})
        places = list(range(len(union))) if self.relative else union
        keys = reference.rotate(
            torch.cat([self.k[f] for f in union], 2), rotation(places, ROWS, COLUMNS, DIM, torch.float64)
        )
        values = torch.cat([self.v[f] for f in union], 2)
        queries = reference.rotate(q, rotation(places[-frames:], ROWS, COLUMNS, DIM, torch.float64))
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values)


def _run_stream(guard, dtype, name, *, relative, batch):
    """Fill-up, wrap-around and two passes a chunk (the second rewrites the first's slots)."""
    chunk, sink, window, first = CONTEXTS[name]
    ring = window + chunk
    shape = (batch, HEADS, (sink + ring) * FRAME, DIM)
    sink_k = guard.poison(batch, HEADS, sink * FRAME, DIM, dtype=dtype) if relative and sink else None
    cache = LayerCache(guard.poison(*shape, dtype=dtype), guard.poison(*shape, dtype=dtype), sink_k, FRAME)
    # Weights around 0.5: scores of a size whose rounding in bf16 keys stays within the tolerance.
    norm = QKNorm(*(guard((0.5 + 0.1 * random(HEADS * DIM, seed=s)).to(dtype)) for s in (1, 2)))
    oracle = Oracle(sink, window, relative)
    for index, (start, frames) in enumerate(_chunks(chunk, first, 5)):
        state = ChunkState.of(start, frames, sink_frames=sink, ring_frames=ring, tokens_per_frame=FRAME)
        shift = max(0, start + frames - sink - ring)
        if sink_k is not None and shift:
            roll_sink(cache, rotation(list(range(shift, shift + sink)), ROWS, COLUMNS, DIM))
        table = rotation(list(range(start, start + frames)), ROWS, COLUMNS, DIM)
        numbers = guard(torch.tensor(state.to_list(), dtype=torch.int32))
        for step in range(2):
            seed = 100 * index + 10 * step
            q, k, v = (guard(random(batch, frames * FRAME, HEADS * DIM, dtype=dtype, seed=seed + i)) for i in range(3))
            result = sink_window_attention(write_kv(q, k, v, norm, table, cache, numbers), cache.k, cache.v, numbers)
            normed = [_heads(reference.rms_norm(x.double(), w, norm.eps)) for x, w in zip((q, k), norm, strict=False)]
            assert_close(result, oracle.attend(start, *normed, _heads(v.double())), dtype)


@pytest.mark.parametrize("name", CONTEXTS)
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_a_stream_equals_attention_over_its_history(guard, relative, name):
    _run_stream(guard, torch.float32, name, relative=relative, batch=1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_a_half_precision_stream_of_two_pictures(guard, dtype, relative):
    _run_stream(guard, dtype, "c3s1w2 first 1", relative=relative, batch=2)


def test_absolute_and_relative_positions_differ_once_the_sink_is_left_behind():
    """Guards the test above: the two oracles must not be the same function."""
    q, k, v = (random(1, HEADS, FRAME, DIM, dtype=torch.float64, seed=s) for s in range(3))
    outputs = []
    for relative in (True, False):
        oracle = Oracle(1, 1, relative)
        for frame in range(6):
            out = oracle.attend(frame, q, k + frame, v * (frame + 1))
        outputs.append(out)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-3
