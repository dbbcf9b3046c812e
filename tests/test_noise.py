"""Counter-based noise: known answers, independence of order, moments."""

from __future__ import annotations

import numpy as np
import pytest

from ms_infer.numerics import noise

KNOWN = [  # Random123's known-answer tests of philox4x32-10: counter, key, words
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, 0xFFFFFFFFFFFFFFFF, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_gives_the_known_answers(counter: tuple[int, ...], key: int, words: tuple[int, ...]) -> None:
    out = noise.philox(np.array(counter, np.uint64)[:, None], key)

    assert tuple(int(w) for w in out[:, 0]) == words


def test_noise_is_standard_normal() -> None:
    values = noise.normal(seed=7, chunk=3, denoise_pass=1, count=400_000).astype(np.float64)

    assert abs(values.mean()) < 0.01
    assert abs(values.std() - 1) < 0.01
    assert abs((values**3).mean()) < 0.05
    assert abs((values**4).mean() - 3) < 0.1
    assert np.isfinite(values).all()


def test_a_prefix_does_not_depend_on_the_count() -> None:
    long, short = (noise.normal(1, 2, 0, count) for count in (1_000, 37))

    assert np.array_equal(long[:37], short)


@pytest.mark.parametrize("other", [(2, 2, 0), (1, 3, 0), (1, 2, 1), (1, 2 + 2**32, 0), (1 + 2**32, 2, 0)])
def test_seed_chunk_and_pass_each_change_the_noise(other: tuple[int, int, int]) -> None:
    first, second = noise.normal(1, 2, 0, 64), noise.normal(*other, 64)

    assert np.abs(first - second).min() > 0
