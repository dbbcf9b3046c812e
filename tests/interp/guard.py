"""Guard bands and tolerances for the kernels' tests."""

from __future__ import annotations

import torch
from torch import Tensor

BAND = 512
"""Sentinel elements on either side: more than a masked tile can overshoot in a row."""
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
DTYPES = tuple(TOLERANCE)


class Guard:
    """Copies tensors into larger buffers whose other elements are NaN (or a huge number): reading them spoils the
    result, writing them is found by `assert_intact`."""

    def __init__(self) -> None:
        self.tensors: list[tuple[Tensor, Tensor, int]] = []

    def __call__(self, tensor: Tensor) -> Tensor:
        """A contiguous copy of the tensor between two sentinel bands."""
        whole = torch.empty(tensor.numel() + 2 * BAND, dtype=tensor.dtype)
        whole.fill_(_sentinel(tensor.dtype))
        inside = whole[BAND : BAND + tensor.numel()].view(tensor.shape)
        inside.copy_(tensor)
        self.tensors.append((whole, whole.clone(), tensor.numel()))
        return inside

    def poison(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """A guarded tensor that is all sentinel itself: an output, or a cache before its first write."""
        return self(torch.full(shape, _sentinel(dtype), dtype=dtype))

    def assert_intact(self) -> None:
        """No sentinel has changed, bit for bit."""
        for whole, before, count in self.tensors:
            for part in (slice(0, BAND), slice(BAND + count, None)):
                assert torch.equal(_bits(whole[part]), _bits(before[part])), f"written outside {tuple(whole.shape)}"


def _sentinel(dtype: torch.dtype) -> float | int:
    if dtype.is_floating_point:
        return float("nan")
    return 1 if dtype == torch.bool else 0x5A if dtype == torch.uint8 else 2**30 + 7


def _bits(tensor: Tensor) -> Tensor:
    return tensor.contiguous().view(torch.uint8)


def assert_close(result: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """|result - expected| <= tolerance(dtype) * max(1, |expected|); NaN fails. `expected` is fp64."""
    assert expected.dtype == torch.float64, "compare with the fp64 twin"
    assert result.shape == expected.shape
    error = ((result.double() - expected).abs() / expected.abs().clamp(min=1)).max().item()
    assert error <= TOLERANCE[dtype], f"error {error:.2e} for {dtype}"


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit, NaN included."""
    return a.shape == b.shape and torch.equal(_bits(a), _bits(b))


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Normal numbers from a seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)
