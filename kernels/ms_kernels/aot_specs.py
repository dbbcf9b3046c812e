"""What is compiled ahead of time: every kernel's argument types, constants and launch options per architecture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from ms_kernels import cache, fp8_gemm, frames, norm, pointwise, residual, track_scatter, window_attention
from ms_kernels.argument_checks import heads_of
from ms_kernels.jit import block_of
from ms_kernels.layout import TrackGrid
from ms_kernels.tiles import ARCHITECTURES, Form, attention_tile, row_warps

FP8_ARCHITECTURES = tuple(arch for arch in ARCHITECTURES if arch >= 89)
TMA_ARCHITECTURES = tuple(arch for arch in ARCHITECTURES if arch >= 90)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Sizes that are baked into the kernels; the defaults are the 1.3B model's."""

    dtype: Literal["bf16", "fp16"] = "bf16"
    dim: int = 1536
    heads: int = 12
    ffn_dim: int = 8960
    eps: float = 1e-6
    track_channels: int = 16
    id_dim: int = 64
    track_bias: bool = True
    grid: TrackGrid = field(default_factory=lambda: TrackGrid(height=480, width=832, rows=60, columns=104))
    """Only its rules are baked in; sizes are arguments."""

    def __post_init__(self) -> None:
        if self.dtype not in ("bf16", "fp16"):
            raise ValueError(f"dtype must be bf16 or fp16, not {self.dtype!r}")
        for name in ("dim", "ffn_dim"):
            if getattr(self, name) % 16:
                raise ValueError(f"{name} is {getattr(self, name)}; kernels are compiled for multiples of 16")
        if self.heads < 1 or self.dim % self.heads:
            raise ValueError(f"dim {self.dim} does not divide into {self.heads} heads")
        heads_of(self.dim, self.head_dim)
        if self.head_dim % 16:
            raise ValueError(f"head_dim is {self.head_dim}; kernels are compiled for multiples of 16")

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads


@dataclass(frozen=True)
class Spec:
    """One kernel for one architecture."""

    kernel: Any
    types: dict[str, str]
    """Run-time arguments in order: "*bf16" (pointer), "i32", "tensordesc<bf16[64, 128]>"."""
    constants: dict[str, Any]
    grid: tuple[str, ...]
    """Blocks of the grid as formulas over the arguments."""
    warps: int
    stages: int = 1
    fp_fusion: bool = True
    tile: dict[str, int] = field(default_factory=dict)

    sliced: tuple[str, ...] = ()
    """Pointers that may start anywhere."""

    wide: tuple[str, ...] = ()
    """Widths of rows, in elements, that are multiples of 16. Unless it is told, a row may begin anywhere and is read
    element by element."""

    @property
    def aligned(self) -> list[str]:
        """Arguments that must be multiples of 16, as the JIT finds them: pointers (bytes), strides and widths."""
        names = [name for name, kind in self.types.items() if kind.startswith("*") or "_stride" in name]
        return [name for name in (*names, *self.wide) if name not in self.sliced]


def specs(arch: int, profile: Profile) -> dict[str, Spec]:
    """Every kernel that runs on `arch`, by the name of its files."""
    return {name: build(arch, profile) for name, (build, archs) in KERNELS.items() if arch in archs}


def _types(kernel: Any, constants: dict[str, Any], data: str, **others: str) -> dict[str, str]:
    """Types by name: `others` first, then pointers to `data`, then int32."""

    def kind(name: str) -> str:
        return others.get(name) or (f"*{data}" if name.endswith("_ptr") else "i32")

    return {name: kind(name) for name in kernel.arg_names if name not in constants}


def _attention(form: Form) -> Callable[[int, Profile], Spec]:
    def build(arch: int, profile: Profile) -> Spec:
        tile = attention_tile(arch, form, 2)
        constants = window_attention.attention_constants(profile.head_dim, tile)
        kernel = window_attention.sink_window_attention_kernel
        rows: dict[str, str] = {}
        if form == "tma":
            kernel = window_attention.sink_window_attention_tma_kernel
            box = f"tensordesc<{profile.dtype}[{tile.block_k}, {constants['DIM_BLOCK']}]>"
            rows = {"k_rows": box, "v_rows": box}
        types = _types(kernel, constants, profile.dtype, state_ptr="*i32", **rows)
        grid = (f"ceil(tokens / {tile.block_q})", "batch * heads")
        sizes = {"block_q": tile.block_q, "block_k": tile.block_k}
        return Spec(kernel, types, constants, grid, tile.warps, tile.stages, tile=sizes)

    return build


def _write_kv(arch: int, profile: Profile) -> Spec:
    constants = {
        "EPS": profile.eps,
        "DIM": profile.head_dim,
        "DIM_BLOCK": block_of(profile.head_dim),
        "HEADS_BLOCK": block_of(profile.heads),
    }
    types = _types(cache.write_kv_kernel, constants, profile.dtype, state_ptr="*i32", cos_ptr="*fp32", sin_ptr="*fp32")
    return Spec(cache.write_kv_kernel, types, constants, ("tokens", "batch"), row_warps(profile.dim))


def _roll_sink(arch: int, profile: Profile) -> Spec:
    constants = {"DIM": profile.head_dim, "DIM_BLOCK": block_of(profile.head_dim), "BLOCK": cache.ROLL_BLOCK}
    types = _types(cache.roll_sink_kernel, constants, profile.dtype, cos_ptr="*fp32", sin_ptr="*fp32")
    grid = (f"ceil(sink_tokens / {cache.ROLL_BLOCK})", "batch * heads")
    return Spec(cache.roll_sink_kernel, types, constants, grid, warps=4, tile={"block": cache.ROLL_BLOCK})


def _norm_modulate(arch: int, profile: Profile) -> Spec:
    constants = {"EPS": profile.eps, "BLOCK": block_of(profile.dim)}
    types = _types(norm.norm_modulate_kernel, constants, profile.dtype)
    return Spec(norm.norm_modulate_kernel, types, constants, ("tokens", "batch"), row_warps(profile.dim), wide=("dim",))


def _norm_modulate_fp8(arch: int, profile: Profile) -> Spec:
    constants = {"EPS": profile.eps, "BLOCK": block_of(profile.dim)}
    kernel = norm.norm_modulate_fp8_kernel
    types = _types(kernel, constants, profile.dtype, out_ptr="*fp8e4nv", row_scale_ptr="*fp32")
    return Spec(kernel, types, constants, ("tokens", "batch"), row_warps(profile.dim), wide=("dim",))


def _residual_modulate(kernel: Any) -> Callable[[int, Profile], Spec]:
    def build(arch: int, profile: Profile) -> Spec:
        constants = {"EPS": profile.eps, "BLOCK": block_of(profile.dim)}
        quantises = kernel is residual.residual_modulate_fp8_kernel
        rows = {"out_ptr": "*fp8e4nv", "row_scale_ptr": "*fp32"} if quantises else {}
        types = _types(kernel, constants, profile.dtype, **rows)
        return Spec(kernel, types, constants, ("tokens", "batch"), row_warps(profile.dim), wide=("dim",))

    return build


def _rows(kernel: Any, columns: str) -> Callable[[int, Profile], Spec]:
    def build(arch: int, profile: Profile) -> Spec:
        constants = {"BLOCK": block_of(getattr(profile, columns))}
        types = _types(kernel, constants, profile.dtype, out_ptr="*fp8e4nv", scale_ptr="*fp32")
        return Spec(kernel, types, constants, ("rows",), row_warps(getattr(profile, columns)), wide=("columns",))

    return build


def _embed_tracks(arch: int, profile: Profile) -> Spec:
    constants = track_scatter.embed_constants(profile.id_dim, profile.track_channels, profile.grid)
    types = _types(track_scatter.embed_tracks_kernel, constants, profile.dtype, ids_ptr="*i64", table_ptr="*fp32")
    grid = (f"ceil(tracks / {track_scatter.EMBED_TRACKS})", "4")
    return Spec(
        track_scatter.embed_tracks_kernel, types, constants, grid, warps=4, tile={"block": track_scatter.EMBED_TRACKS}
    )


def _scatter_tracks(arch: int, profile: Profile) -> Spec:
    constants = track_scatter.scatter_constants(profile.track_channels, profile.grid, bias=profile.track_bias)
    kernel = track_scatter.scatter_tracks_kernel
    types = _types(kernel, constants, profile.dtype, points_ptr="*fp32", visible_ptr="*u8", table_ptr="*fp32")
    grid, sliced = (f"ceil(rows * columns / {track_scatter.CELLS})", "latent_frames"), ("points_ptr", "visible_ptr")
    return Spec(
        kernel, types, constants, grid, 4, 2, fp_fusion=False, tile={"block": track_scatter.CELLS}, sliced=sliced
    )


def _frames_to_uint8(arch: int, profile: Profile) -> Spec:
    constants = {"BLOCK": frames.BLOCK}
    kernel = frames.frames_to_uint8_kernel
    types = _types(kernel, constants, profile.dtype, out_ptr="*u8")
    grid = (f"ceil(3 * pixels / {frames.BLOCK})", "frames")
    return Spec(kernel, types, constants, grid, warps=4, fp_fusion=False, tile={"block": frames.BLOCK})


KERNELS: dict[str, tuple[Callable[[int, Profile], Spec], tuple[int, ...]]] = {
    "sink_window_attention": (_attention("pointer"), ARCHITECTURES),
    "sink_window_attention_tma": (_attention("tma"), TMA_ARCHITECTURES),
    "write_kv": (_write_kv, ARCHITECTURES),
    "roll_sink": (_roll_sink, ARCHITECTURES),
    "norm_modulate": (_norm_modulate, ARCHITECTURES),
    "norm_modulate_fp8": (_norm_modulate_fp8, FP8_ARCHITECTURES),
    "residual_modulate": (_residual_modulate(residual.residual_modulate_kernel), ARCHITECTURES),
    "residual_modulate_fp8": (_residual_modulate(residual.residual_modulate_fp8_kernel), FP8_ARCHITECTURES),
    "gelu_fp8": (_rows(pointwise.gelu_fp8_kernel, "ffn_dim"), FP8_ARCHITECTURES),
    "quantise_rows": (_rows(fp8_gemm.quantise_rows_kernel, "dim"), FP8_ARCHITECTURES),
    "embed_tracks": (_embed_tracks, ARCHITECTURES),
    "scatter_tracks": (_scatter_tracks, ARCHITECTURES),
    "frames_to_uint8": (_frames_to_uint8, ARCHITECTURES),
}
"""File name -> (builder, architectures). e4m3 needs sm_89, TMA sm_90."""
