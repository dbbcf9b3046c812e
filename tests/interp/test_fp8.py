"""quantise_rows against e4m3's definition, and the checks and the twin of fp8_linear."""

from __future__ import annotations

import pytest
import torch
from ms_kernels import fp8_linear, quantise_rows, reference
from ms_kernels.fp8_gemm import check_fp8_linear

from tests.interp.fp8 import FP8, assert_same_codes
from tests.interp.guard import DTYPES, random


@pytest.mark.parametrize("shape", [(3, 40), (2, 3, 130), (1, 1), (4, 16)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantise_rows_matches_the_twin(guard, dtype, shape):
    x = guard((random(*shape) * torch.logspace(-3, 1, shape[-1])).to(dtype))
    assert_same_codes(*quantise_rows(x), *reference.quantise_rows(x.double()))


def test_every_code_survives(guard):
    """Each finite e4m3 number, in a row whose largest is 448, comes back as itself."""
    codes = torch.arange(256, dtype=torch.uint8).view(FP8)
    values = codes.float()[codes.float().isfinite()]
    result, scale = quantise_rows(guard(values[None]))
    assert scale.item() == 1.0
    assert torch.equal(result.float()[0], values)


def test_ties_go_to_even(guard):
    x = guard(torch.tensor([[448.0, 17.0, 19.0, -17.0, 2.0**-10, 3 * 2.0**-10]]))
    result, _ = quantise_rows(x)
    assert result.float()[0].tolist() == [448.0, 16.0, 20.0, -16.0, 0.0, 2.0**-8]


def test_a_row_of_zeros_stays_zero(guard):
    result, scale = quantise_rows(guard(torch.zeros(2, 24)))
    assert torch.equal(result.float(), torch.zeros(2, 24))
    assert (scale > 0).all()


def test_the_error_is_at_most_half_a_step(guard):
    x = guard(random(5, 128))
    codes, scale = quantise_rows(x)
    error = (codes.float() * scale - x).abs()
    assert (error <= torch.maximum(x.abs() / 16, scale * 2.0**-10) * (1 + 1e-5)).all()


def _linear_inputs(tokens=5, inputs=32, outputs=48):
    x, w = random(2, tokens, inputs), random(outputs, inputs) / inputs**0.5
    return *reference.quantise_rows(x), *reference.quantise_rows(w), random(outputs).bfloat16(), x, w


def test_the_twin_of_fp8_linear_is_close_to_the_exact_product():
    qx, sx, qw, sw, bias, x, w = _linear_inputs()
    exact = x @ w.t() + bias.float()
    result = reference.fp8_linear(qx, sx, qw, sw, bias)
    assert result.dtype == torch.bfloat16
    assert (result.float() - exact).abs().max() < 0.2
    without = reference.fp8_linear(qx, sx, qw, sw, out_dtype=torch.float32)
    torch.testing.assert_close(result.float() - bias.float(), without, atol=0.05, rtol=0.02)


def test_fp8_linear_names_the_twin_on_a_cpu():
    qx, sx, qw, sw, bias, *_ = _linear_inputs()
    with pytest.raises(ValueError, match=r"reference\.fp8_linear"):
        fp8_linear(qx, sx, qw, sw, bias)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": torch.zeros(2, 5, 16, dtype=FP8)}, "x has shape"),
        ({"x": torch.zeros(2, 5, 32)}, "float32"),
        ({"x_scale": torch.ones(2, 5)}, "x_scale has shape"),
        ({"weight_scale": torch.ones(48)}, "weight_scale has shape"),
        ({"weight": torch.zeros(48, 33, dtype=FP8)}, "multiples of 16"),
        ({"bias": torch.zeros(48)}, "bias is torch.float32"),
        ({"bias": torch.zeros(47).bfloat16()}, "bias has shape"),
        ({"out_dtype": torch.float32}, "bfloat16"),
    ],
)
def test_wrong_products_are_refused(change, words):
    qx, sx, qw, sw, bias, *_ = _linear_inputs()
    good = {"x": qx, "x_scale": sx, "weight": qw, "weight_scale": sw, "bias": bias, "out_dtype": torch.bfloat16}
    check_fp8_linear(**good)
    with pytest.raises(ValueError, match=words):
        check_fp8_linear(**good | change)
