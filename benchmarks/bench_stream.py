"""A whole chunk in the steady state, per engine."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.conftest import DEVICE, Timed
from benchmarks.peers.reference import ReferenceEngine
from ms_infer import Stream
from ms_infer.bench.run import BenchPlan, start
from ms_infer.checkpoint import Student
from ms_infer.engines.torch import TorchEngine
from ms_infer.engines.torch.captured import FusedEngine

ENGINES = {"torch": TorchEngine, "torch-fused": FusedEngine, "reference": ReferenceEngine}
PRECISIONS = ["fp32", "bf16"]


@pytest.fixture
def sized(benchmark: Any, request: pytest.FixtureRequest) -> Student:
    """The demo where times are taken, a tiny student in a smoke test."""
    chosen: Student = request.getfixturevalue("small" if benchmark.disabled else "student")
    return chosen


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("engine", ENGINES)
def test_chunk(engine: str, precision: str, sized: Student, timed: Timed, benchmark: Any) -> None:
    if engine == "torch-fused" and DEVICE == "cpu" and not benchmark.disabled:
        pytest.skip("on a CPU the fused engine runs the kernels' slow twins")
    with Stream(ENGINES[engine](sized, device=DEVICE, precision=precision)) as stream:
        start(stream, BenchPlan(grid=4))
        for _ in range(4):
            stream.step()
        timed(stream.step)
        assert stream.step().frames.any()
