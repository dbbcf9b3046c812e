"""Rotary tables against stored tables of the reference, and their exactness far out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from ms_infer.model.rope import Rotation, axis_angles, axis_dims
from ms_infer.model.transformer import timestep_embedding

STORED = load_file(Path(__file__).parent / "golden" / "rope_time.safetensors")


@pytest.mark.parametrize("head_dim", [32, 64, 128])
def test_tables_equal_the_reference(head_dim: int) -> None:
    positions = STORED[f"hd{head_dim}.pos"].numpy().astype(np.int64)

    angles = np.concatenate([axis_angles(positions, dims) for dims in axis_dims(head_dim)], axis=1)

    np.testing.assert_allclose(np.cos(angles), STORED[f"hd{head_dim}.cos"], atol=1e-12, rtol=0)
    np.testing.assert_allclose(np.sin(angles), STORED[f"hd{head_dim}.sin"], atol=1e-12, rtol=0)


@pytest.mark.parametrize("start", [0, 5, 100])
def test_rotation_equals_the_reference(start: int) -> None:
    x = STORED["apply.hd32.x"].transpose(1, 2)  # [1, heads, 72, 32]; 3 latent frames of 4 x 6 tokens
    rotation = Rotation(3, (4, 6), 32)
    rotation.move_to_(start)

    torch.testing.assert_close(rotation(x), STORED[f"apply.hd32.start{start}"].transpose(1, 2), atol=1e-6, rtol=0)


def test_tables_stay_where_they_are() -> None:
    rotation = Rotation(3, (2, 2), 32)
    pointers = rotation.cos.data_ptr(), rotation.sin.data_ptr()
    rotation.move_to_(12_345_678)

    assert (rotation.cos.data_ptr(), rotation.sin.data_ptr()) == pointers
    expected = np.cos(axis_angles(np.array([12_345_678]), axis_dims(32)[0]))[0]
    np.testing.assert_allclose(rotation.cos[0, : len(expected)], expected, atol=1e-7, rtol=0)


@pytest.mark.parametrize("dim", [64, 256])
def test_timestep_embedding_equals_the_reference(dim: int) -> None:
    got = timestep_embedding(STORED["time.t"], dim)

    torch.testing.assert_close(got, STORED[f"time.sinusoid{dim}"], atol=1e-9, rtol=0)
