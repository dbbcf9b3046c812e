"""Run every kernel in Triton's interpreter: decided here, before a kernel is decorated, so for the whole process."""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import pytest

from tests.interp.guard import Guard

if "ms_kernels.jit" in sys.modules and not sys.modules["ms_kernels.jit"].INTERPRETED:
    raise pytest.UsageError("the kernels are already loaded for the compiler; run `pytest tests/interp` on its own")


@pytest.fixture
def guard():
    """Put tensors between sentinels; after the test every sentinel must be as it was."""
    guard = Guard()
    yield guard
    assert guard.tensors, "the test guarded nothing"
    guard.assert_intact()
