"""norm_modulate and its FP8 form over odd shapes."""

from __future__ import annotations

import pytest
import torch
from ms_kernels import norm_modulate, norm_modulate_fp8, reference

from tests.interp.fp8 import assert_same_codes
from tests.interp.guard import DTYPES, assert_close, random

SHAPES = [(2, 6, 40, 3), (1, 5, 96, 1), (1, 4, 130, 4), (2, 3, 1, 3)]


def _inputs(guard, dtype, shape):
    """x [batch, tokens, dim]; scale and shift are slices of a modulation [batch, frames, 6, dim]."""
    batch, tokens, dim, frames = shape
    modulation = guard(0.3 * random(batch, frames, 6, dim, dtype=dtype))
    return guard(3 * random(batch, tokens, dim, dtype=dtype) + 5), modulation[:, :, 1], modulation[:, :, 0]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_norm_modulate_matches_the_twin(guard, dtype, shape):
    x, scale, shift = _inputs(guard, dtype, shape)
    out = norm_modulate(x, scale, shift, out=guard.poison(*x.shape, dtype=dtype))
    assert_close(out, reference.norm_modulate(x.double(), scale.double(), shift.double()), dtype)


def test_fp32_modulation_of_bf16_tokens(guard):
    x, scale, shift = _inputs(guard, torch.bfloat16, SHAPES[0])
    scale, shift = guard(scale.float()), guard(shift.float())
    expected = reference.norm_modulate(x.double(), scale.double(), shift.double())
    assert_close(norm_modulate(x, scale, shift), expected, torch.bfloat16)


def test_rows_of_a_wider_tensor(guard):
    wide = guard(random(2, 6, 64))
    scale, shift = guard(random(2, 2, 40)), guard(random(2, 2, 40))
    x = wide[..., 8:48]
    assert_close(norm_modulate(x, scale, shift), reference.norm_modulate(x.double(), scale, shift), torch.float32)


def test_a_constant_row_has_no_variance(guard):
    x, scale, shift = guard(torch.full((1, 2, 40), 7.0)), guard(random(1, 1, 40)), guard(random(1, 1, 40))
    assert torch.allclose(norm_modulate(x, scale, shift), shift.expand_as(x), atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_fp8_form_matches_the_twin(guard, dtype, shape):
    x, scale, shift = _inputs(guard, dtype, shape)
    codes, scales = norm_modulate_fp8(x, scale, shift)
    assert_same_codes(codes, scales, *reference.norm_modulate_fp8(x.double(), scale.double(), shift.double()))


def test_the_twin_takes_each_frame_its_own_row():
    x = torch.zeros(1, 4, 2, dtype=torch.float64)
    shift = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]], dtype=torch.float64)
    expected = torch.tensor([[[1.0, 2.0], [1.0, 2.0], [3.0, 4.0], [3.0, 4.0]]], dtype=torch.float64)
    assert torch.equal(reference.norm_modulate(x, shift, shift), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, a, b: (x[0], a, b), "batch tokens dim"),
        (lambda x, a, b: (x, a[:, :, 1:], b), "scale has shape"),
        (lambda x, a, b: (x, a, b[:, 1:]), "shift has shape"),
        (lambda x, a, b: (x[:, 1:], a, b), "do not divide"),
        (lambda x, a, b: (x.double(), a, b), "float64"),
        (lambda x, a, b: (x.transpose(1, 2).contiguous().transpose(1, 2), a, b), "packed"),
    ],
)
@pytest.mark.parametrize("function", [norm_modulate, norm_modulate_fp8])
def test_wrong_input_is_refused(guard, function, change, words):
    x, scale, shift = _inputs(guard, torch.float32, SHAPES[0])
    with pytest.raises(ValueError, match=words):
        function(*change(x, scale, shift))
