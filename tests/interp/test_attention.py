"""sink_window_attention over every fill level, shape, dtype and form."""

from __future__ import annotations

import pytest
import torch
from ms_kernels import reference, sink_window_attention

from tests.interp.guard import DTYPES, assert_close, random

FORMS = ("pointer", "tma")
CACHE_TOKENS, FRAME_TOKENS = 70, 10


def _inputs(guard, dtype, *, batch=2, heads=2, tokens=17, cache=CACHE_TOKENS, dim=32, n_valid=CACHE_TOKENS):
    """Guarded q, k, v and state; slots past n_valid are NaN."""
    q, k, v = (random(batch, heads, n, dim, dtype=dtype, seed=n) for n in (tokens, cache, cache + 1))
    k, v = k.clone(), v[:, :, :cache].clone()
    k[:, :, n_valid:], v[:, :, n_valid:] = float("nan"), float("nan")
    return guard(q), guard(k), guard(v), guard(torch.tensor([n_valid, 5, 0, 1], dtype=torch.int32))


def _expected(q, k, v, state):
    return reference.sink_window_attention(q.double(), k.double(), v.double(), state)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_valid", [1, *range(FRAME_TOKENS, CACHE_TOKENS + 1, FRAME_TOKENS), 31, 32, 33, 64, 65, 69])
def test_every_fill_level_matches_the_twin(guard, form, dtype, n_valid):
    q, k, v, state = _inputs(guard, dtype, n_valid=n_valid)
    out = sink_window_attention(q, k, v, state, out=guard.poison(*q.shape, dtype=dtype), form=form)
    assert_close(out, _expected(q, k, v, state), dtype)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [32, 40, 64, 96, 128])
def test_every_head_size_matches_the_twin(guard, form, dtype, dim):
    q, k, v, state = _inputs(guard, dtype, heads=1, tokens=33, cache=48, dim=dim, n_valid=41)
    out = sink_window_attention(q, k, v, state, form=form)
    assert_close(out, _expected(q, k, v, state), dtype)


@pytest.mark.parametrize("form", FORMS)
def test_large_scores_do_not_overflow(guard, form):
    q, k, v, state = _inputs(guard, torch.float32, n_valid=40)
    q *= 60
    out = sink_window_attention(q, k, v, state, form=form)
    assert_close(out, _expected(q, k, v, state), torch.float16)  # the scores' own rounding grows with them


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_cache_gives_zeros(guard, form):
    q, k, v, state = _inputs(guard, torch.float32, n_valid=0)
    assert torch.equal(sink_window_attention(q, k, v, state, form=form), torch.zeros_like(q))


@pytest.mark.parametrize("form", FORMS)
def test_a_count_past_the_cache_reads_only_the_cache(guard, form):
    q, k, v, state = _inputs(guard, torch.float32)
    expected = _expected(q, k, v, state)
    state[0] = 100_000
    assert_close(sink_window_attention(q, k, v, state, form=form), expected, torch.float32)


@pytest.mark.parametrize("form", FORMS)
def test_strided_queries_and_outputs(guard, form):
    """q is a slice of a fused projection, the output is laid out for the next one."""
    batch, heads, tokens, dim = 2, 2, 19, 32
    fused = guard(random(batch, tokens, 3 * heads * dim))
    q = fused[..., : heads * dim].unflatten(-1, (heads, dim)).transpose(1, 2)
    _, k, v, state = _inputs(guard, torch.float32, n_valid=50)
    rows = guard.poison(batch, tokens, heads, dim, dtype=torch.float32)
    sink_window_attention(q, k, v, state, out=rows.transpose(1, 2), form=form)
    assert_close(rows.transpose(1, 2), _expected(q, k, v, state), torch.float32)


def test_the_new_output_is_ready_for_the_projection(guard):
    q, k, v, state = _inputs(guard, torch.float32)
    assert sink_window_attention(q, k, v, state).transpose(1, 2).is_contiguous()


def test_key_order_does_not_matter(guard):
    q, k, v, state = _inputs(guard, torch.float32, n_valid=60)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    expected = sink_window_attention(q, k, v, state)
    k[:, :, :60], v[:, :, :60] = k[:, :, order].clone(), v[:, :, order].clone()
    assert_close(sink_window_attention(q, k, v, state), expected.double(), torch.float32)


def test_the_twin_is_torch_attention():
    q, k, v = (random(2, 3, n, 32, dtype=torch.float64) for n in (5, 40, 40))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k[:, :, :23], v[:, :, :23])
    result = reference.sink_window_attention(q, k, v, torch.tensor([23], dtype=torch.int32))
    assert torch.allclose(result, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a | {"q": a["q"].double()}, "float64"),
        (lambda a: a | {"q": a["q"][..., ::2]}, "head_dim 16"),
        (lambda a: a | {"q": a["q"].transpose(-1, -2).contiguous().transpose(-1, -2)}, "packed"),
        (lambda a: a | {"k_cache": a["k_cache"][:, :, ::2]}, "v_cache has shape"),
        (lambda a: a | {"k_cache": a["k_cache"].half()}, "differ in dtype"),
        (lambda a: a | {"state": a["state"].long()}, "int64"),
        (lambda a: a | {"state": a["state"][:0]}, "state is empty"),
        (lambda a: a | {"form": "flash"}, "'pointer' or 'tma'"),
        (lambda a: a | {"out": a["q"][:, :, :3]}, "out has shape"),
    ],
)
def test_wrong_input_is_refused(guard, change, words):
    q, k, v, state = _inputs(guard, torch.float32)
    with pytest.raises(ValueError, match=words):
        sink_window_attention(**change({"q": q, "k_cache": k, "v_cache": v, "state": state}))
