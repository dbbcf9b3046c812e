"""How e4m3 results are compared."""

from __future__ import annotations

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn


def _order(codes: Tensor) -> Tensor:
    """Codes as whole numbers that count e4m3 steps from zero."""
    bits = codes.view(torch.uint8).int()
    return torch.where(bits >= 128, 128 - bits, bits)


def assert_same_codes(codes: Tensor, scales: Tensor, expected: Tensor, expected_scales: Tensor) -> None:
    """Scales to 1e-5, codes equal but for ties that fp32 decides otherwise: one step, at most one in fifty."""
    assert codes.dtype == expected.dtype == FP8
    assert codes.shape == expected.shape
    torch.testing.assert_close(scales, expected_scales.float(), rtol=1e-5, atol=0)
    steps = (_order(codes) - _order(expected)).abs()
    assert steps.max() <= 1
    assert steps.sum() <= max(1, codes.numel() // 50)
