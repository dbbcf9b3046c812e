"""Matrix products whose epilogue does what would be a pass over memory: GELU, and the sum with a residual stream."""

from __future__ import annotations

import torch
from torch import Tensor

from ms_kernels.argument_checks import need


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(x weight^T + bias) in its tanh form, in one product.

    x [..., k], weight [n, k], bias [n], of one floating type. Returns [..., n]. CUDA only: on a CPU the same function
    of PyTorch has another GELU; `ms_kernels.reference.linear_gelu` runs anywhere.
    """
    need(x.is_cuda, f"x is on {x.device}; the product with GELU needs CUDA: use ms_kernels.reference.linear_gelu")
    rows = x.reshape(-1, x.shape[-1])
    return torch._addmm_activation(bias, rows, weight.t(), use_gelu=True).view(*x.shape[:-1], weight.shape[0])


def add_linear(x: Tensor, y: Tensor, weight: Tensor) -> None:
    """x += y weight^T, in place, rounded once; x [..., n] contiguous, y [..., k], weight [n, k], of one type."""
    need(x.is_contiguous(), f"x has strides {x.stride()}; the residual stream is contiguous")
    x.view(-1, x.shape[-1]).addmm_(y.reshape(-1, y.shape[-1]), weight.t())
