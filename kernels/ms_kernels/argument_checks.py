"""Checks that launchers and twins share: each failure says what came and what to do."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
FP8 = torch.float8_e4m3fn
FP8_MAX = 448.0


def need(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless the condition holds."""
    if not condition:
        raise ValueError(message)


def need_shape(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """The tensor has exactly this shape."""
    need(tuple(tensor.shape) == tuple(shape), f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")


def need_rank(name: str, tensor: Tensor, axes: str) -> None:
    """The tensor has one dimension for every word of `axes`."""
    need(tensor.dim() == len(axes.split()), f"{name} has shape {tuple(tensor.shape)}, expected [{axes}]")


def need_dtype(name: str, tensor: Tensor, *dtypes: torch.dtype) -> None:
    """The tensor has one of these dtypes."""
    need(tensor.dtype in dtypes, f"{name} is {tensor.dtype}, expected {' or '.join(map(str, dtypes))}; cast it first")


def need_packed_rows(name: str, tensor: Tensor) -> None:
    """The last dimension is contiguous."""
    need(
        tensor.stride(-1) == 1 or tensor.shape[-1] == 1,
        f"{name} has strides {tensor.stride()}, its last dimension must be packed; call .contiguous()",
    )


def need_contiguous(name: str, tensor: Tensor) -> None:
    """The tensor has no gaps."""
    need(tensor.is_contiguous(), f"{name} has strides {tensor.stride()} for {tuple(tensor.shape)}; call .contiguous()")


def need_same(attribute: str, **tensors: Tensor) -> None:
    """All tensors agree in `device` or `dtype`."""
    found = {name: getattr(tensor, attribute) for name, tensor in tensors.items()}
    need(len(set(found.values())) == 1, f"tensors differ in {attribute}: {found}; move them together")


def need_out(out: Tensor, shape: Sequence[int], **like: Tensor) -> None:
    """The tensor given for a result has its shape, no gaps, and the device of the input `like`."""
    need_shape("out", out, shape)
    need_contiguous("out", out)
    need_same("device", **like, out=out)


def need_caches(k_name: str, k: Tensor, v_name: str, v: Tensor) -> None:
    """Keys and values [batch, heads, cache_tokens, head_dim] of one layer: alike and without gaps."""
    need_rank(k_name, k, "batch heads cache_tokens head_dim")
    need_shape(v_name, v, k.shape)
    need_contiguous(k_name, k)
    need_contiguous(v_name, v)


def need_frame_rows(x: Tensor, **rows: Tensor) -> None:
    """x [batch, tokens, dim], and one row of `rows` [batch, frames, dim] for each of its latent frames."""
    need_rank("x", x, "batch tokens dim")
    name, first = next(iter(rows.items()))
    need_rank(name, first, "batch frames dim")
    for name, tensor in rows.items():
        need_shape(name, tensor, (x.shape[0], first.shape[1], x.shape[2]))
    need_float_rows(x=x, **rows)


def need_float_rows(**tensors: Tensor) -> None:
    """Floats with a packed last dimension, all on one device."""
    for name, tensor in tensors.items():
        need_dtype(name, tensor, *FLOATS)
        need_packed_rows(name, tensor)
    need_same("device", **tensors)


def heads_of(dim: int, head_dim: int) -> int:
    """Number of heads, after checking the head size."""
    need(
        head_dim % 8 == 0 and 32 <= head_dim <= 128 and dim % head_dim == 0,
        f"head_dim {head_dim} (of dim {dim}) must be a multiple of 8 within 32..128 that divides dim",
    )
    return dim // head_dim


def frame_tokens(tokens: int, frames: int, name: str) -> int:
    """Tokens of one latent frame when `tokens` belong to `frames` latent frames."""
    need(
        frames >= 1 and tokens % frames == 0 and tokens > 0,
        f"{tokens} tokens do not divide into the {frames} latent frames of {name}",
    )
    return tokens // frames
