"""frames_to_uint8: every level, every tie, odd sizes."""

from __future__ import annotations

import pytest
import torch
from ms_kernels import frames_to_uint8, reference

from tests.interp.guard import DTYPES, random


@pytest.mark.parametrize("shape", [(2, 5, 7), (1, 1, 1), (3, 16, 24), (1, 19, 18)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_frames_match_the_twin(guard, dtype, shape):
    count, height, width = shape
    frames = guard((0.5 + 0.4 * random(count, 3, height, width)).to(dtype))
    out = guard.poison(count, height, width, 3, dtype=torch.uint8)
    assert torch.equal(frames_to_uint8(frames, out=out), reference.frames_to_uint8(frames.float()))


def test_levels_and_ties(guard):
    """Levels come back, halves go to even, the rest is clamped, NaN is black."""
    levels = torch.arange(256) / 255
    special = torch.tensor([0.5, 1.5, 2.5, 253.5, 254.5]) / 255
    outside = torch.tensor([-1.0, 1.7, float("inf"), -float("inf"), float("nan")])
    values = torch.cat([levels, special, outside])
    frames = guard(values.expand(1, 3, 1, -1).contiguous())
    ties = (special * 255).round().int().tolist()
    expected = [*range(256), *ties, 0, 255, 255, 0, 0]
    assert frames_to_uint8(frames)[0, 0, :, 0].tolist() == expected
    assert reference.frames_to_uint8(frames)[0, 0, :, 0].tolist() == expected
    assert ties[:3] == [0, 2, 2]


def test_channels_are_interleaved_and_strides_kept(guard):
    wide = guard(torch.linspace(0, 1, 2 * 5 * 2 * 3).view(2, 5, 2, 3))
    frames = wide[:, 1:4]
    assert torch.equal(frames_to_uint8(frames), (frames * 255).round().byte().permute(0, 2, 3, 1))


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (torch.zeros(2, 4, 5, 6), "4 channels"),
        (torch.zeros(3, 5, 6), "frames 3 height width"),
        (torch.zeros(1, 3, 5, 6, dtype=torch.float64), "float64"),
        (torch.zeros(1, 3, 6, 5).transpose(2, 3), "packed"),
    ],
)
def test_wrong_frames_are_refused(frames, words):
    with pytest.raises(ValueError, match=words):
        frames_to_uint8(frames)
