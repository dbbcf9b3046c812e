"""Run every kernel in Triton's interpreter: decided here, before a kernel is decorated, so for the whole process."""

from __future__ import annotations

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import pytest

from tests.interp.guard import Guard

if "ms_kernels.jit" in sys.modules and not sys.modules["ms_kernels.jit"].INTERPRETED:
    raise pytest.UsageError("the kernels are already loaded for the compiler; run `pytest tests/interp` on its own")


def pytest_configure(config):
    """Known noise of the interpreter: numpy's view of 1-element arrays, and exp of what becomes 0."""
    config.addinivalue_line("filterwarnings", "ignore:Conversion of an array with ndim:DeprecationWarning")
    config.addinivalue_line("filterwarnings", "ignore:overflow encountered in exp:RuntimeWarning")


@pytest.fixture
def guard():
    """Put tensors between sentinels; after the test every sentinel must be as it was."""
    guard = Guard()
    yield guard
    assert guard.tensors, "the test guarded nothing"
    guard.assert_intact()
