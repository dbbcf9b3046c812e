"""residual_modulate and its FP8 form over odd shapes."""

from __future__ import annotations

import pytest
import torch
from ms_kernels import reference, residual_modulate, residual_modulate_fp8

from tests.interp.fp8 import assert_same_codes
from tests.interp.guard import DTYPES, assert_close, random, same_bits

SHAPES = [(2, 6, 40, 3), (1, 5, 130, 1), (1, 4, 96, 4), (1, 2, 1, 2)]


def _inputs(guard, dtype, shape):
    """x, y [batch, tokens, dim]; gate, scale and shift slices of a modulation [batch, frames, 6, dim]; after [dim]."""
    batch, tokens, dim, frames = shape
    x, y = (guard(random(batch, tokens, dim, dtype=dtype, seed=seed)) for seed in (1, 2))
    modulation = guard(0.3 * random(batch, frames, 6, dim, dtype=dtype, seed=3))
    return [x, y, *modulation.unbind(2)[:3], guard(random(dim, dtype=dtype, seed=4))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_residual_modulate_matches_the_twin(guard, dtype, shape):
    inputs = _inputs(guard, dtype, shape)
    twins, others = [value.clone() for value in inputs], [value.clone() for value in inputs[1:]]
    expected = reference.residual_modulate(*twins)
    got = residual_modulate(*inputs)

    assert_close(got, expected.double(), dtype)
    assert_close(inputs[0], twins[0].double(), dtype)
    assert all(same_bits(now, before) for now, before in zip(inputs[1:], others, strict=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fp8_form_matches_the_twin(guard, dtype, shape):
    inputs = _inputs(guard, dtype, shape)
    twins = [value.clone() for value in inputs]
    expected = reference.residual_modulate_fp8(*twins)
    got = residual_modulate_fp8(*inputs)
    if dtype == torch.float32:
        assert_same_codes(*got, *expected)
    else:  # x is rounded first: where two sums lie on either side of a tie, codes differ by more
        values, wanted = (codes.float() * scales for codes, scales in (got, expected))
        torch.testing.assert_close(values, wanted, rtol=0.13, atol=0.02)
    assert_close(inputs[0], twins[0].double(), dtype)


def test_rows_that_every_frame_shares(guard):
    """An affine norm and no gate: rows of one frame, expanded over all."""
    x, y, *_, after = _inputs(guard, torch.bfloat16, SHAPES[0])
    gate, scale, shift = (guard(random(40, seed=seed)).expand(2, 3, 40) for seed in (5, 6, 7))
    twins = [value.clone() for value in (x, y)]
    expected = reference.residual_modulate(*twins, gate, scale, shift, after)
    assert_close(residual_modulate(x, y, gate, scale, shift, after), expected.double(), torch.bfloat16)


def test_only_the_columns_of_x_change(guard):
    whole = guard(random(2, 6, 64))
    before = whole.clone()
    _, *others = _inputs(guard, torch.float32, SHAPES[0])
    residual_modulate(whole[..., 8:48], *others)
    assert same_bits(whole[..., :8], before[..., :8])
    assert same_bits(whole[..., 48:], before[..., 48:])
    assert not torch.equal(whole[..., 8:48], before[..., 8:48])


@pytest.mark.parametrize(
    ("place", "change", "words"),
    [
        (1, lambda t: t[:, 1:], "y has shape"),
        (2, lambda t: t[:, :, 1:], "gate has shape"),
        (3, lambda t: t[:, 1:], "scale has shape"),
        (5, lambda t: t[1:], "after has shape"),
        (0, lambda t: t.long(), "int64"),
    ],
)
def test_wrong_residuals_are_refused(guard, place, change, words):
    inputs = _inputs(guard, torch.float32, SHAPES[0])
    inputs[place] = change(inputs[place])
    with pytest.raises(ValueError, match=words):
        residual_modulate(*inputs)
