"""gelu_fp8 over odd shapes."""

from __future__ import annotations

import pytest
from ms_kernels import gelu_fp8, reference

from tests.interp.fp8 import assert_same_codes
from tests.interp.guard import DTYPES, random


@pytest.mark.parametrize("shape", [(3, 40), (2, 5, 130), (1, 1)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_fp8_matches_the_twin(guard, dtype, shape):
    x = guard(3 * random(*shape, dtype=dtype))
    assert_same_codes(*gelu_fp8(x), *reference.gelu_fp8(x.double()))


def test_wrong_input_is_refused(guard):
    x = guard(random(4, 6))
    with pytest.raises(ValueError, match="contiguous"):
        gelu_fp8(x.t())
    with pytest.raises(ValueError, match="float64"):
        gelu_fp8(x.double())
