"""Triton kernels of a streamed chunk. `ms_kernels.reference` holds their PyTorch twins and needs no Triton."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ms_kernels.cache import roll_sink, write_kv
    from ms_kernels.fp8_gemm import fp8_linear, quantise_rows
    from ms_kernels.frames import frames_to_uint8
    from ms_kernels.gemm import add_linear, linear_gelu
    from ms_kernels.layout import ChunkState, LayerCache, QKNorm, Rotation, TrackGrid
    from ms_kernels.norm import norm_modulate, norm_modulate_fp8
    from ms_kernels.pointwise import gelu_fp8
    from ms_kernels.residual import residual_modulate, residual_modulate_fp8
    from ms_kernels.track_scatter import scatter_tracks
    from ms_kernels.window_attention import sink_window_attention

_NAMES = {
    "cache": "roll_sink write_kv",
    "fp8_gemm": "fp8_linear quantise_rows",
    "frames": "frames_to_uint8",
    "gemm": "add_linear linear_gelu",
    "layout": "ChunkState LayerCache QKNorm Rotation TrackGrid",
    "norm": "norm_modulate norm_modulate_fp8",
    "pointwise": "gelu_fp8",
    "residual": "residual_modulate residual_modulate_fp8",
    "track_scatter": "scatter_tracks",
    "window_attention": "sink_window_attention",
}
_HOME = {name: module for module, names in _NAMES.items() for name in names.split()}
__all__ = [
    "ChunkState",
    "LayerCache",
    "QKNorm",
    "Rotation",
    "TrackGrid",
    "add_linear",
    "fp8_linear",
    "frames_to_uint8",
    "gelu_fp8",
    "linear_gelu",
    "norm_modulate",
    "norm_modulate_fp8",
    "quantise_rows",
    "residual_modulate",
    "residual_modulate_fp8",
    "roll_sink",
    "scatter_tracks",
    "sink_window_attention",
    "write_kv",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'ms_kernels' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(f"ms_kernels.{_HOME[name]}"), name)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] != "triton":
            raise
        raise ImportError(
            "the GPU kernels need Triton, which is not installed: pip install 'ms-infer[kernels]' "
            f"(ms_kernels.reference.{name} is the same in plain PyTorch)",
            name="triton",
        ) from error
