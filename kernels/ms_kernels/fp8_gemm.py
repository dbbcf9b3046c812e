"""FP8 GEMMs: row-wise e4m3 quantisation and the scaled matrix product."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ms_kernels.argument_checks import FP8, need, need_contiguous, need_dtype, need_same, need_shape
from ms_kernels.jit import quantised, row_scale
from ms_kernels.pointwise import row_launch


@triton.jit
def quantise_rows_kernel(x_ptr, columns, x_stride, out_ptr, scale_ptr, BLOCK: tl.constexpr):
    """scale = max |x| / 448;  out = e4m3(x / scale), one row a program."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * x_stride + column, mask=column < columns, other=0.0).to(tl.float32)
    scale = row_scale(x)
    tl.store(out_ptr + row * columns + column, quantised(x, scale), mask=column < columns)
    tl.store(scale_ptr + row, scale)


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """e4m3 rows and their scales: x is about q * scale.

    x [..., columns] contiguous, fp16, bf16 or fp32 -> (e4m3 alike, fp32 [..., 1]); scale = max |row| / 448, ties to
    even. sm_89 and later (older generations have no e4m3).
    """
    return row_launch(quantise_rows_kernel, x)


def fp8_linear(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    out_dtype: torch.dtype = torch.bfloat16,
) -> Tensor:
    """(x * x_scale) @ (weight * weight_scale)^T + bias through `torch._scaled_mm`.

    Partial sums stay in the tensor cores (`use_fast_accum`), which round them coarser than fp32 and finer than e4m3.

    x [..., k] e4m3 and x_scale [..., 1] fp32 from `quantise_rows` or a fused kernel; weight [n, k] e4m3 and
    weight_scale [n, 1] fp32 from `quantise_rows(weight)`; bias [n] in out_dtype. k and n are multiples of 16.
    Returns [..., n] in out_dtype (bf16). CUDA, sm_89 and later; `ms_kernels.reference.fp8_linear` runs anywhere.
    """
    check_fp8_linear(x, x_scale, weight, weight_scale, bias, out_dtype)
    need(x.is_cuda, f"x is on {x.device}; FP8 GEMMs need CUDA: use ms_kernels.reference.fp8_linear")
    capability = torch.cuda.get_device_capability(x.device)
    need(capability >= (8, 9), f"FP8 GEMMs need sm_89 or later, this device is sm_{capability[0]}{capability[1]}")
    rows = x.reshape(-1, x.shape[-1])
    product = torch._scaled_mm(
        rows,
        weight.t(),
        scale_a=x_scale.reshape(-1, 1),
        scale_b=weight_scale.reshape(1, -1),
        bias=bias,
        out_dtype=out_dtype,
        use_fast_accum=True,
    )
    return product.view(*x.shape[:-1], weight.shape[0])


def check_fp8_linear(
    x: Tensor,
    x_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> None:
    """Raise ValueError unless `fp8_linear` can take these tensors (on any device)."""
    need(weight.dim() == 2 and x.dim() >= 1, f"weight has shape {tuple(weight.shape)}, expected [n, k]")
    outputs, inputs = weight.shape
    need(
        inputs % 16 == 0 and outputs % 16 == 0,
        f"FP8 GEMMs need k and n in multiples of 16, got k {inputs} and n {outputs}; keep this layer in bf16",
    )
    need_shape("x", x, (*x.shape[:-1], inputs))
    need_shape("x_scale", x_scale, (*x.shape[:-1], 1))
    need_shape("weight_scale", weight_scale, (outputs, 1))
    for name, tensor, dtype in (
        ("x", x, FP8),
        ("weight", weight, FP8),
        ("x_scale", x_scale, torch.float32),
        ("weight_scale", weight_scale, torch.float32),
    ):
        need_dtype(name, tensor, dtype)
        need_contiguous(name, tensor)
    need(out_dtype == torch.bfloat16, f"row-wise scaled products come out in torch.bfloat16, not {out_dtype}")
    tensors = {"x": x, "x_scale": x_scale, "weight": weight, "weight_scale": weight_scale}
    if bias is not None:
        need_shape("bias", bias, (outputs,))
        need_dtype("bias", bias, out_dtype)
        tensors["bias"] = bias
    need_same("device", **tensors)
