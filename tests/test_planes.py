"""Pictures whose channels are planes: the same values as channel by channel."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from ms_infer.model.planes import means, spread


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_spread_places_are_shuffled_pixels(layout: torch.memory_format) -> None:
    folded = torch.arange(2 * 12 * 3 * 5.0).view(2, 12, 3, 5).contiguous(memory_format=layout)
    assert torch.equal(spread(folded, 2), F.pixel_shuffle(folded, 2))


def test_a_mean_counts_the_pixels_that_are_there() -> None:
    ramp = torch.arange(4.0).expand(2, 3, 4, 4) + torch.arange(6.0).view(2, 3, 1, 1)
    found = means(ramp, 3) - torch.arange(6.0).view(2, 3, 1, 1)
    torch.testing.assert_close(found, torch.tensor([0.5, 1, 2, 2.5]).expand(2, 3, 4, 4))


def test_means_of_cells_mix_no_channels_and_no_pictures() -> None:
    cells = torch.arange(2 * 3 * 2 * 2.0).view(2, 3, 2, 2)
    torch.testing.assert_close(means(cells.repeat_interleave(4, 2).repeat_interleave(4, 3), 4, stride=4), cells)
