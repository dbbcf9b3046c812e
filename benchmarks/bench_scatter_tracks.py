"""Time points to track latents."""

from __future__ import annotations

import torch
from ms_kernels import TrackGrid

from benchmarks.kernels import Case, Maker, bytes_of, time_on_gpu, time_twin


def build(make: Maker) -> Case:
    """The tracks of one chunk, anywhere in the picture."""
    size = make.sizes
    rows, columns, channels = 2 * size.rows, 2 * size.columns, 16
    grid = TrackGrid(height=8 * rows, width=8 * columns, rows=rows, columns=columns)
    corner = torch.tensor([grid.width, grid.height], device=make.device)
    points = make.uniform(size.tracks, 4 * size.frames, 2) * corner
    visible = make.uniform(size.tracks, 4 * size.frames) > 0.2
    ids = (make.uniform(size.tracks) * 100_000).long()
    weight, bias = make.normal(channels, 4 * 64), make.normal(channels)
    written = size.frames * channels * rows * columns * weight.element_size()
    return Case(
        lambda: make.functions.scatter_tracks(points, visible, ids, weight, grid, bias=bias),
        bytes_of(points, visible, ids, weight, bias) + written,
    )


def test_scatter_tracks(benchmark):
    time_on_gpu(benchmark, build)


def test_scatter_tracks_twin(benchmark):
    time_twin(benchmark, build)
