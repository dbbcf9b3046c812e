"""gate_residual, gelu and gelu_fp8 over odd shapes."""

from __future__ import annotations

import pytest
import torch
from ms_kernels import gate_residual, gelu, gelu_fp8, reference

from tests.interp.fp8 import assert_same_codes
from tests.interp.guard import DTYPES, assert_close, random, same_bits


@pytest.mark.parametrize("shape", [(2, 6, 40, 3), (1, 5, 130, 1), (1, 2, 1, 2)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gate_residual_matches_the_twin(guard, dtype, shape):
    batch, tokens, dim, frames = shape
    x, y = (guard(random(batch, tokens, dim, dtype=dtype, seed=s)) for s in (1, 2))
    gate = guard(random(batch, frames, 6, dim, dtype=dtype))[:, :, 2]
    expected, before = x.double(), y.clone()
    reference.gate_residual(expected, y.double(), gate.double())
    gate_residual(x, y, gate)
    assert_close(x, expected, dtype)
    assert same_bits(before, y)


def test_a_residual_in_fp32_takes_bf16_updates(guard):
    x, y, gate = guard(random(1, 4, 40)), guard(random(1, 4, 40, dtype=torch.bfloat16)), guard(random(1, 2, 40))
    expected = x.double()
    reference.gate_residual(expected, y.double(), gate.double())
    gate_residual(x, y, gate)
    assert_close(x, expected, torch.float32)


def test_gate_residual_changes_only_its_columns(guard):
    whole = guard(random(2, 4, 64))
    before = whole.clone()
    y, gate = guard(random(2, 4, 40)), guard(random(2, 2, 40))
    gate_residual(whole[..., 8:48], y, gate)
    assert same_bits(whole[..., :8], before[..., :8])
    assert same_bits(whole[..., 48:], before[..., 48:])
    assert not torch.equal(whole[..., 8:48], before[..., 8:48])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x, y, g: (x, y[:, 1:], g), "y has shape"),
        (lambda x, y, g: (x, y, g[:, :, 1:]), "gate has shape"),
        (lambda x, y, g: (x[:, 1:], y[:, 1:], g), "do not divide"),
        (lambda x, y, g: (x.long(), y, g), "int64"),
    ],
)
def test_wrong_residuals_are_refused(guard, change, words):
    x, y, gate = guard(random(1, 4, 40)), guard(random(1, 4, 40)), guard(random(1, 2, 40))
    with pytest.raises(ValueError, match=words):
        gate_residual(*change(x, y, gate))


@pytest.mark.parametrize("shape", [(3,), (2, 5, 41), (1024,), (1025,)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_matches_the_twin(guard, dtype, shape):
    x = guard(3 * random(*shape, dtype=dtype))
    assert_close(gelu(x, out=guard.poison(*shape, dtype=dtype)), reference.gelu(x.double()), dtype)


def test_gelu_of_large_numbers_is_finite(guard):
    x = guard(torch.tensor([-1e4, -100.0, -0.0, 0.0, 100.0, 1e4]))
    assert torch.equal(gelu(x), torch.tensor([0.0, 0.0, 0.0, 0.0, 100.0, 1e4]))


def test_gelu_in_place(guard):
    x = guard(random(7, 9))
    expected = reference.gelu(x.double())
    assert gelu(x, out=x) is x
    assert_close(x, expected, torch.float32)


@pytest.mark.parametrize("shape", [(3, 40), (2, 5, 130), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_fp8_matches_the_twin(guard, dtype, shape):
    x = guard(3 * random(*shape, dtype=dtype))
    assert_same_codes(*gelu_fp8(x), *reference.gelu_fp8(x.double()))


@pytest.mark.parametrize("function", [gelu, gelu_fp8])
def test_wrong_input_is_refused(guard, function):
    x = guard(random(4, 6))
    with pytest.raises(ValueError, match="contiguous"):
        function(x.t())
    with pytest.raises(ValueError, match="float64"):
        function(x.double())
