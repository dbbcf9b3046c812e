"""Tile sizes per architecture: a static table instead of autotuning, so that JIT, graphs and AOT run the same code."""

from __future__ import annotations

from typing import Literal, NamedTuple

ARCHITECTURES = (80, 89, 90, 100, 120)
"""Generations that kernels are compiled for; 90, 100 and 120 mean sm_90a, sm_100a and sm_120a."""
SHARED_LIMIT_KIB = {80: 163, 89: 99, 90: 227, 100: 227, 120: 99}
"""Shared memory that one block may use (CUDA C++ Programming Guide, compute capabilities)."""

Form = Literal["pointer", "tma"]


class Tile(NamedTuple):
    """Queries and keys per tile, warps of a block, stages of the load pipeline."""

    block_q: int
    block_k: int
    warps: int
    stages: int


_POINTER = {
    80: Tile(128, 64, 8, 3),
    89: Tile(128, 32, 8, 3),
    90: Tile(128, 64, 8, 3),
    100: Tile(128, 64, 8, 2),
    120: Tile(128, 32, 8, 2),
}
_TMA = {90: Tile(128, 128, 8, 2), 100: Tile(128, 128, 8, 2), 120: Tile(128, 32, 8, 2)}
_FP32 = Tile(16, 32, 8, 1)
_INTERPRETER = Tile(32, 32, 4, 1)


def architecture(major: int, minor: int) -> int:
    """Row of the tables for a compute capability (8.6 has 8.9's shared memory; 10.3 and 12.1 follow 10.0 and 12.0)."""
    if major == 8:
        return 80 if minor in (0, 7) else 89
    known = {9: 90, 10: 100, 11: 100, 12: 120}
    if major not in known:
        raise ValueError(f"compute capability {major}.{minor} has no tile table; known: 8.x to 12.x")
    return known[major]


def attention_tile(arch: int, form: Form, bytes_per_element: int) -> Tile:
    """Tile of `sink_window_attention`; `arch` 0 is the interpreter."""
    if arch == 0:
        return _INTERPRETER
    table = _TMA if form == "tma" else _POINTER
    if arch not in table:
        raise ValueError(f"the {form} form runs on sm_{sorted(table)}, not sm_{arch}; use form='pointer'")
    return _FP32 if bytes_per_element == 4 else table[arch]


def row_warps(columns: int) -> int:
    """Warps of a block that holds one row of `columns` elements in registers (16 to 32 a thread)."""
    return 4 if columns <= 2048 else 8 if columns <= 8192 else 16
