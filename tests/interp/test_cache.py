"""write_kv and roll_sink: numbers against the twin, and every other slot untouched bit for bit."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from ms_kernels import ChunkState, LayerCache, QKNorm, Rotation, reference, roll_sink, write_kv

from tests.interp.guard import DTYPES, assert_close, random, same_bits
from tests.interp.rope import rotation

ROWS, COLUMNS = 1, 3
FRAME = ROWS * COLUMNS
SINK, RING, CHUNK = 2, 5, 3


def _cache(guard, dtype, *, batch=2, heads=3, dim=32, relative=True):
    """A guarded cache full of known noise, so that a stray write shows."""
    shape = (batch, heads, (SINK + RING) * FRAME, dim)
    sink_k = guard(random(batch, heads, SINK * FRAME, dim, dtype=dtype, seed=3)) if relative else None
    return LayerCache(
        guard(random(*shape, dtype=dtype, seed=1)), guard(random(*shape, dtype=dtype, seed=2)), sink_k, FRAME
    )


def _double(cache):
    sink_k = None if cache.sink_k is None else cache.sink_k.double()
    return LayerCache(cache.k.double(), cache.v.double(), sink_k, cache.tokens_per_frame)


def _chunk(guard, dtype, cache, frames, seed=0):
    batch, heads, _, dim = cache.k.shape
    return tuple(guard(random(batch, frames * FRAME, heads * dim, dtype=dtype, seed=seed + i)) for i in range(3))


def _norm(guard, dtype, cache):
    size = cache.k.shape[1] * cache.k.shape[3]
    return QKNorm(guard(random(size, dtype=dtype, seed=8)), guard(random(size, dtype=dtype, seed=9)))


def _rotation(guard, frames, dim):
    return Rotation(*(guard(table) for table in rotation(frames, ROWS, COLUMNS, dim)))


def _state(guard, chunk):
    return guard(torch.tensor(chunk.to_list(), dtype=torch.int32))


def _of(start, frames):
    return ChunkState.of(start, frames, sink_frames=SINK, ring_frames=RING, tokens_per_frame=FRAME)


def _run(guard, dtype, cache, chunk):
    """Kernel and fp64 twin on the same numbers: (result, expected, cache of the twin)."""
    q, k, v = _chunk(guard, dtype, cache, len(chunk.slots))
    norm, dim = _norm(guard, dtype, cache), cache.k.shape[3]
    table = _rotation(guard, list(range(chunk.start_frame, chunk.start_frame + len(chunk.slots))), dim)
    twin = _double(cache)
    expected = reference.write_kv(q.double(), k.double(), v.double(), norm, table, twin, _state(guard, chunk))
    out = guard.poison(*expected.shape, dtype=dtype)
    write_kv(q, k, v, norm, table, cache, _state(guard, chunk), out=out)
    return out, expected, twin


def _assert_only_slots_changed(before, cache, slots):
    kept = torch.ones(cache.k.shape[2], dtype=torch.bool)
    for slot in slots:
        kept[slot * FRAME : (slot + 1) * FRAME] = slot < 0
    for name in ("k", "v"):
        assert same_bits(getattr(before, name)[:, :, kept], getattr(cache, name)[:, :, kept])
    if cache.sink_k is not None:
        in_sink = kept[: cache.sink_k.shape[2]]
        assert same_bits(before.sink_k[:, :, in_sink], cache.sink_k[:, :, in_sink])


def _copy(cache):
    return dataclasses.replace(
        cache, k=cache.k.clone(), v=cache.v.clone(), sink_k=None if cache.sink_k is None else cache.sink_k.clone()
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("start", [0, 1, 2, 3, 4, 5, 6, 9, 12, 1_000_000], ids=lambda start: f"frame{start}")
@pytest.mark.parametrize("relative", [True, False], ids=["relative", "absolute"])
def test_every_place_in_the_ring_matches_the_twin(guard, dtype, start, relative):
    cache = _cache(guard, dtype, relative=relative)
    before, chunk = _copy(cache), _of(start, CHUNK)
    out, expected, twin = _run(guard, dtype, cache, chunk)
    assert_close(out, expected, dtype)
    assert_close(cache.k, twin.k, dtype)
    assert_close(cache.v, twin.v, dtype)
    if relative:
        assert_close(cache.sink_k, twin.sink_k, dtype)
    _assert_only_slots_changed(before, cache, chunk.slots)


@pytest.mark.parametrize(("heads", "dim", "batch"), [(1, 32, 1), (5, 40, 1), (3, 64, 2), (2, 96, 1), (12, 128, 1)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_head_counts_and_sizes(guard, dtype, heads, dim, batch):
    cache = _cache(guard, dtype, batch=batch, heads=heads, dim=dim)
    out, expected, twin = _run(guard, dtype, cache, _of(5, 1))
    assert_close(out, expected, dtype)
    assert_close(cache.k, twin.k, dtype)


def test_values_are_stored_bit_for_bit(guard):
    cache = _cache(guard, torch.bfloat16)
    chunk = _of(2, 1)
    _, _, v = _chunk(guard, torch.bfloat16, cache, 1)
    _run(guard, torch.bfloat16, cache, chunk)
    stored = cache.v[:, :, chunk.slots[0] * FRAME : (chunk.slots[0] + 1) * FRAME]
    assert same_bits(stored, v.unflatten(-1, (3, 32)).transpose(1, 2).contiguous())


def test_a_frame_that_only_asks_is_rotated_but_not_stored(guard):
    cache = _cache(guard, torch.float32)
    before, chunk = _copy(cache), ChunkState(FRAME, 7, (-1, 2))
    out, expected, twin = _run(guard, torch.float32, cache, chunk)
    assert_close(out, expected, torch.float32)
    assert_close(cache.k, twin.k, torch.float32)
    _assert_only_slots_changed(before, cache, chunk.slots)


def test_a_slot_past_the_cache_is_not_written(guard):
    cache = _cache(guard, torch.float32)
    before = _copy(cache)
    _run(guard, torch.float32, cache, ChunkState(FRAME, 0, (SINK + RING, 2_000_000)))
    _assert_only_slots_changed(before, cache, ())


def test_slices_of_a_fused_projection(guard):
    cache = _cache(guard, torch.float32)
    twin, dim = _double(cache), 3 * 32
    fused = guard(random(2, FRAME, 3 * dim))
    q, k, v = fused.split(dim, dim=-1)
    norm, table, state = _norm(guard, torch.float32, cache), _rotation(guard, [4], 32), _state(guard, _of(4, 1))
    out = write_kv(q, k, v, norm, table, cache, state)
    expected = reference.write_kv(q.double(), k.double(), v.double(), norm, table, twin, state)
    assert_close(out, expected, torch.float32)
    assert_close(cache.v, twin.v, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [32, 40, 128])
def test_roll_sink_matches_the_twin_and_moves_only_the_sink(guard, dtype, dim):
    cache = _cache(guard, dtype, dim=dim)
    before, twin = _copy(cache), _double(cache)
    table = _rotation(guard, [10_000_000, 10_000_001], dim)
    roll_sink(cache, table)
    reference.roll_sink(twin, table)
    assert_close(cache.k, twin.k, dtype)
    assert same_bits(before.k[:, :, SINK * FRAME :], cache.k[:, :, SINK * FRAME :])
    assert same_bits(before.v, cache.v)
    assert same_bits(before.sink_k, cache.sink_k)


def test_rolling_twice_leaves_no_trace_of_the_first(guard):
    cache = _cache(guard, torch.bfloat16)
    roll_sink(cache, _rotation(guard, [700, 701], 32))
    roll_sink(cache, _rotation(guard, [9, 10], 32))
    twice = cache.k.clone()
    cache.k.zero_()
    roll_sink(cache, _rotation(guard, [9, 10], 32))
    assert same_bits(twice[:, :, : SINK * FRAME], cache.k[:, :, : SINK * FRAME])


def test_state_numbers():
    assert _of(4, 3).to_list() == [7 * FRAME, 4, 4, 5, 6]
    assert _of(6, 3).to_list() == [7 * FRAME, 6, 6, 2, 3]
    assert ChunkState.length(3) == 5


@pytest.mark.parametrize(
    ("numbers", "words"), [((1, 0, ()), "at least one"), ((1, 0, (-2,)), "within"), ((1, 0, (3, 3)), "share")]
)
def test_impossible_states_are_refused(numbers, words):
    with pytest.raises(ValueError, match=words):
        ChunkState(*numbers)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a | {"q": a["q"][:, :2]}, "q has shape|k has shape"),
        (lambda a: a | {"q": a["q"].half()}, "differ in dtype"),
        (lambda a: a | {"state": a["state"][:2]}, "need 3"),
        (lambda a: a | {"rotation": Rotation(a["rotation"].cos[1:], a["rotation"].sin)}, "rotation.cos has shape"),
        (lambda a: a | {"rotation": Rotation(*(t.double() for t in a["rotation"]))}, "float64"),
        (lambda a: a | {"norm": QKNorm(a["norm"].q_weight[1:], a["norm"].k_weight)}, "q_weight has shape"),
        (lambda a: a | {"cache": dataclasses.replace(a["cache"], tokens_per_frame=5)}, "no number of frames"),
        (lambda a: a | {"cache": dataclasses.replace(a["cache"], v=a["cache"].v[:, :1])}, "cache.v has shape"),
    ],
)
def test_wrong_input_is_refused(guard, change, words):
    cache = _cache(guard, torch.float32)
    q, k, v = _chunk(guard, torch.float32, cache, 1)
    arguments = {
        "q": q, "k": k, "v": v, "norm": _norm(guard, torch.float32, cache), "rotation": _rotation(guard, [0], 32),
        "cache": cache, "state": _state(guard, _of(0, 1)),
    }  # fmt: skip
    with pytest.raises(ValueError, match=words):
        write_kv(**change(arguments))


def test_absolute_mode_has_no_sink_to_roll(guard):
    cache = _cache(guard, torch.float32, relative=False)
    with pytest.raises(ValueError, match="absolute mode"):
        roll_sink(cache, _rotation(guard, [0, 1], 32))
